"""Stage `evaluate`: codes and labels -> metrics/<dataset>/<cell>.json and .npz."""

from __future__ import annotations

from typing import Any

import numpy as np
from prefect import flow

from flows import stage, tracked
from flows.stage import WORKSPACE
from isdh import manifest, metrics, params
from isdh.artifacts import Cell, read_array, read_codes, read_json, replacing, write_json


@flow(name="evaluate", flow_run_name="evaluate {dataset} {method} {bits} seed {seed}")
async def evaluate(dataset: str, method: str, bits: int, seed: int) -> None:
    """Score one cell's codes: every metric exact under ties."""
    cell = Cell(dataset, method, bits, seed)
    settings = params.load()
    scores = await score(cell, settings)
    await write(cell, scores)
    await stage.show_table(
        [{"metric": name, "score": round(value, 4)} for name, value in scores.as_dict().items()],
        key=f"scores-{dataset}-{cell.name}",
        description=f"Scores of {cell}, exact under ties",
    )
    await tracked.publish_unless_later(settings, cell)


@stage.task(name="score")
async def score(cell: Cell, settings: params.Params) -> metrics.Scores:
    """Rank the database for every query by Hamming distance."""
    labels = read_array(WORKSPACE.data(cell.dataset) / "labels.npy", dtype=bool)
    codes = read_codes(WORKSPACE.codes(cell), bits=cell.bits, rows=len(labels))
    rows = manifest.read_splits(WORKSPACE.manifest(cell.dataset))
    query, database = manifest.query_rows(rows), manifest.database_rows(rows)
    return metrics.evaluate(
        codes[query],
        labels[query],
        codes[database],
        labels[database],
        bits=cell.bits,
        cutoffs=settings.evaluate.cutoffs,
    )


@stage.task(name="write scores", retries=2, retry_delay_seconds=5)
async def write(cell: Cell, scores: metrics.Scores) -> None:
    """The means as flat JSON; then values per query and curves, whose and of which queries."""
    path = WORKSPACE.scores(cell)
    write_json(path, scores.as_dict())
    with replacing(path.with_suffix(".npz")) as stream:
        np.savez(
            stream,
            allow_pickle=False,
            weights_sha256=read_json(WORKSPACE.codes(cell) / "codes.json")["weights_sha256"],
            **scores.per_query,
            precision_by_radius=scores.precision_by_radius,
            recall_by_radius=scores.recall_by_radius,
            **asked(cell),
        )


def asked(cell: Cell) -> dict[str, Any]:
    """What was asked for and among how many, for those who have the scores and not the data.

    Returns:
        query_labels: uint8 (Q, ceil(C / 8)), little bit order; label_names: str (C,);
        database_size: int.
    """
    from pyarrow import parquet

    path = WORKSPACE.manifest(cell.dataset)
    rows = manifest.read_splits(path)
    labels = read_array(WORKSPACE.data(cell.dataset) / "labels.npy", dtype=bool)
    names = [name for name in parquet.read_schema(path).names if name not in manifest.FIXED]
    return {
        "query_labels": np.packbits(labels[manifest.query_rows(rows)], axis=1, bitorder="little"),
        "label_names": np.array(names),
        "database_size": len(manifest.database_rows(rows)),
    }


if __name__ == "__main__":
    stage.main(evaluate)
