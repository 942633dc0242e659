"""Stage `dataset`: raw pictures and labels as they came -> data/<dataset>/manifest.parquet."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING

from prefect import flow

from flows import stage
from flows.stage import WORKSPACE
from isdh import datasets, manifest, params
from isdh.params import Params
from isdh.settings import Source

if TYPE_CHECKING:
    import pandas as pd


@flow(name="dataset", flow_run_name="dataset {dataset}")
async def dataset(dataset: str) -> None:
    """Read one dataset's layout, check every rule of the manifest, and that every file decodes."""
    settings = params.load()
    rows = await decodable(dataset, settings, await read(dataset, settings))
    manifest.write(rows, WORKSPACE.manifest(dataset))
    counts = rows["split"].value_counts().to_dict()
    left_out = {name: rows.attrs.get(name, 0) for name in ("unlabelled", "unlisted", "missing")}
    left_out["damaged"] = len(rows.attrs.get("damaged", {}))
    stage.say(f"{dataset}: {counts}; left out: {left_out}")


@stage.task(name="read and check", retries=2, retry_delay_seconds=10)
async def read(dataset: str, settings: Params) -> pd.DataFrame:
    """The manifest's rows, each file's sha256 among them."""
    reader, root = settings.section(dataset).source["reader"], settings.root(dataset)
    rows = datasets.READERS[reader].read(root, options(dataset, settings))
    return manifest.check(rows, root, reader=reader)


@stage.task(name="look at files", retries=2, retry_delay_seconds=10)
async def decodable(dataset: str, settings: Params, rows: pd.DataFrame) -> pd.DataFrame:
    """The rows whose files decode; a share of others is left out and named in `attrs["damaged"]`.

    Here and not in `preprocess`: of a dataset that is refused, the last arrays stay.
    """
    from isdh.duplicates import SIDE  # so small, `preprocess` wants them again
    from isdh.rows import Rows, limit
    from isdh.store import Pictures, undecodable

    root = settings.root(dataset)
    pictures = Pictures(root, list(rows["path"]), list(rows["sha256"]), SIDE, channels=1)
    known = Rows(WORKSPACE.state("rows"), pictures.recipe, limit=limit(os.environ))
    share = options(dataset, settings).damaged
    progress = stage.Progress(len(rows), unit="images")
    look = partial(undecodable, pictures, share=share, rows=known, on_progress=progress.reach)
    damage = await stage.aside(look, progress)
    for reason in damage.values():
        stage.say(f"left out: {reason}")
    return manifest.without(rows, damage) if damage else rows


def options(dataset: str, settings: Params) -> Source:
    """What params.yaml says of a dataset's raw files."""
    source = settings.section(dataset).source
    return datasets.options(source, where=f"dataset.{dataset}.source")


if __name__ == "__main__":
    stage.main(dataset)
