"""MLflow runs -> comparisons with what their plots show beside the tables."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from isdh.artifacts import Cell, Workspace
from isdh.significance import Direction
from isdh.tracking.comparison import (
    REFERENCE,
    Comparison,
    Gathered,
    ScoredRun,
    Selection,
    columns,
    gather,
    per_query,
    tabulate,
)

SECONDS = "training_seconds"  # a metric of runs
# of what queries and database were, `evaluate` puts beside the scores
CARRIED = ("query_labels", "label_names", "database_size")


@dataclass(frozen=True, eq=False)
class ByLabel:
    """Scores over the queries that carry a label, at the longest code length.

    Attributes:
        bits: that code length.
        queries: label -> how many queries carry it, at least one; the most frequent first.
        means: method -> mean over those queries and seeds, float64, a label each; of the methods
            that were scored on the same queries as the best.
    """

    bits: int
    queries: Mapping[str, int]
    means: Mapping[str, NDArray[np.float64]]


@dataclass(frozen=True, eq=False)
class Illustrated:
    """A comparison and what else is known of its runs.

    Attributes:
        comparison: the results table.
        seconds: method -> bits -> seconds of training, mean over the seeds that tell them.
        by_label: None: no run holds the labels of its queries, or this score query by query.
        database: how many codes were searched; None: no run tells.
    """

    comparison: Comparison
    seconds: Mapping[str, Mapping[int, float]]
    by_label: ByLabel | None
    database: int | None


def illustrated(
    workspace: Workspace,
    dataset: str,
    metrics: Mapping[str, Direction],
    *,
    cells: Collection[Cell] | None,
    only: Selection,
    reference: str = REFERENCE,
) -> list[Illustrated]:
    """What `comparisons` returns for the same arguments, with what plots show beside it.

    Raises:
        InputError: as `comparisons`.
    """
    found = gather(
        workspace, dataset, metrics, cells=cells, only=only, also=(SECONDS,), arrays=CARRIED
    )
    seconds, database = _seconds(found), _database(found)
    return [
        Illustrated(each, seconds, _by_label(found, each), database)
        for each in tabulate(found, dataset, metrics, reference)
    ]


def _seconds(found: Gathered) -> dict[str, dict[int, float]]:
    told: dict[str, dict[int, list[float]]] = {}
    for cell, run in found.runs.items():
        if SECONDS in run.record.metrics:
            of_method = told.setdefault(cell.method, {})
            of_method.setdefault(cell.bits, []).append(run.record.metrics[SECONDS])
    return {
        method: {bits: fmean(of_seeds) for bits, of_seeds in sorted(of_method.items())}
        for method, of_method in told.items()
    }


def _database(found: Gathered) -> int | None:
    """As the run says that was published anew last."""
    telling = [run for run in found.runs.values() if "database_size" in run.more]
    latest = max(telling, key=lambda run: run.record.since, default=None)
    return int(latest.more["database_size"]) if latest else None


def _by_label(found: Gathered, comparison: Comparison) -> ByLabel | None:
    bits = max(comparison.bits, default=0)
    groups = columns(found.runs, comparison.metric).get(bits, {})
    values, queries = per_query(groups, comparison.metric)
    sign = 1 if comparison.direction == "max" else -1
    leader = max(values, key=lambda m: sign * comparison.methods[m][bits].mean, default="")
    same = {method: rows for method, rows in values.items() if queries[method] == queries[leader]}
    told = _labels([run for method in same for run in groups[method]])
    if told is None:
        return None
    names, labels = told
    means = {
        method: rows.mean(axis=0) @ labels / labels.sum(axis=0)
        for method, rows in same.items()
        if rows.shape[1] == len(labels)
    }
    queries_of = dict(zip(names, labels.sum(axis=0).tolist(), strict=True))
    return ByLabel(bits, queries_of, means)


def _labels(runs: Sequence[ScoredRun]) -> tuple[list[str], NDArray[np.int64]] | None:
    """Of runs on the same queries: the labels, most frequent first, and who carries them, (Q, C).

    None: no run tells.
    """
    run = next((run for run in runs if {"query_labels", "label_names"} <= run.more.keys()), None)
    if run is None:
        return None
    names = run.more["label_names"].tolist()
    packed = run.more["query_labels"]
    labels = np.unpackbits(packed, axis=1, count=len(names), bitorder="little").astype(np.int64)
    counts = labels.sum(axis=0)
    order = sorted(np.flatnonzero(counts), key=lambda label: (-counts[label], names[label]))
    return [names[label] for label in order], labels[:, order]
