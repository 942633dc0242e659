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

if TYPE_CHECKING:
    import pandas as pd


@flow(name="dataset", flow_run_name="dataset {dataset}")
async def dataset(dataset: str) -> None:
    """Read one dataset's layout, check every rule of the manifest and write it."""
    settings = params.load()
    rows = await read(dataset, settings)
    source = settings.section(dataset).source
    options = datasets.options(source, where=f"dataset.{dataset}.source")
    if options.damaged:
        rows = await leave_out(dataset, settings, rows, options.damaged)
    manifest.write(rows, WORKSPACE.manifest(dataset))
    counts = rows["split"].value_counts().to_dict()
    left_out = {name: rows.attrs.get(name, 0) for name in ("unlabelled", "unlisted", "missing")}
    left_out["damaged"] = len(rows.attrs.get("damaged", {}))
    stage.say(f"{dataset}: {counts}; left out: {left_out}")


@stage.task(name="read and check", retries=2, retry_delay_seconds=10)
async def read(dataset: str, settings: Params) -> pd.DataFrame:
    """The manifest's rows, each file's sha256 among them."""
    source = settings.section(dataset).source
    options = datasets.options(source, where=f"dataset.{dataset}.source")
    root = settings.root(dataset)
    reader = source["reader"]
    return manifest.check(datasets.READERS[reader].read(root, options), root, reader=reader)


@stage.task(name="leave out damaged files", retries=2, retry_delay_seconds=10)
async def leave_out(
    dataset: str, settings: Params, rows: pd.DataFrame, share: float
) -> pd.DataFrame:
    """The rows whose files decode; the others are named, and kept in `attrs["damaged"]`."""
    from isdh.images import decoders
    from isdh.rows import Rows, limit, sources
    from isdh.store import Pictures, undecodable

    root = settings.root(dataset)
    pictures = Pictures(root, list(rows["path"]), list(rows["sha256"]), size=32)
    recipe = {"decodes": True, **decoders(), **sources("isdh.images", "isdh.store")}
    known = Rows(WORKSPACE.state("rows"), recipe, limit=limit(os.environ))
    progress = stage.Progress(len(rows), unit="images")
    look = partial(undecodable, pictures, share=share, rows=known, on_progress=progress.reach)
    damage = await stage.aside(look, progress)
    for reason in damage.values():
        stage.say(f"left out: {reason}")
    return manifest.without(rows, damage)


if __name__ == "__main__":
    stage.main(dataset)
