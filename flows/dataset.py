"""Stage `dataset`: raw pictures and labels as they came -> data/<dataset>/manifest.parquet."""

from __future__ import annotations

import pandas as pd
from prefect import flow

from flows import stage
from flows.stage import WORKSPACE
from isdh import datasets, manifest, params
from isdh.params import Params


@flow(name="dataset", flow_run_name="dataset {dataset}")
async def dataset(dataset: str) -> None:
    """Read one dataset's layout, check every rule of the manifest and write it."""
    rows = await read(dataset, params.load())
    manifest.write(rows, WORKSPACE.manifest(dataset))
    counts = rows["split"].value_counts().to_dict()
    left_out = {name: rows.attrs.get(name, 0) for name in ("unlabelled", "unlisted")}
    stage.say(f"{dataset}: {counts}; left out: {left_out}")


@stage.task(name="read and check", retries=2, retry_delay_seconds=10)
async def read(dataset: str, settings: Params) -> pd.DataFrame:
    """The manifest's rows, each file's sha256 among them."""
    source = settings.section(dataset).source
    options = datasets.options(source, where=f"dataset.{dataset}.source")
    root = settings.root(dataset)
    reader = source["reader"]
    return manifest.check(datasets.READERS[reader].read(root, options), root, reader=reader)


if __name__ == "__main__":
    stage.main(dataset)
