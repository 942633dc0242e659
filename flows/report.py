"""Stage `report`: scores, histories and codes of today's cells -> reports/<dataset>/index.html."""

from __future__ import annotations

from pathlib import Path

from prefect import flow

from flows import stage
from flows.stage import WORKSPACE
from isdh import params
from isdh import report as page


@flow(name="report", flow_run_name="report {dataset}")
async def report(dataset: str) -> None:
    """Write one dataset's report."""
    path = await write(dataset)
    await stage.show_markdown(
        f"[{path.name} of {dataset}]({path.resolve().as_uri()})",
        key=f"report-{dataset}",
        description="Results table, curves and gallery, one self-contained page",
    )


@stage.task(name="write report")
async def write(dataset: str) -> Path:
    """Table, plots and gallery on one page."""
    return page.build(WORKSPACE, params.load(), dataset)


if __name__ == "__main__":
    stage.main(report)
