"""Metrics, codes and histories of a dataset's cells -> reports/<dataset>/index.html, one file.

The page is self-contained (no request leaves it) and deterministic: the same files below it give
the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from isdh import artifacts
from isdh.artifacts import Workspace
from isdh.report import emphasis, plots, vocabulary
from isdh.report import evidence as files
from isdh.report.evidence import Evidence
from isdh.report.gallery import gallery
from isdh.report.rendering import render
from isdh.report.svg import Panel
from isdh.report.tables import Table, table

if TYPE_CHECKING:
    from isdh.params import Params

_MOST_LABELS = 40  # of the drawing of label frequencies
_SPLITS = {"train": "training", "query": "queries", "database": "database"}


def build(workspace: Workspace, params: Params, dataset: str) -> Path:
    """Write one dataset's report from the files of the cells in today's matrix.

    Returns:
        The page's path.

    Raises:
        InputError: an unknown dataset, or a file that is missing or broken.
    """
    evidence = files.read(workspace, params, dataset)
    path = workspace.report(dataset) / "index.html"
    page = render("report.html", _context(workspace, evidence))
    with artifacts.replacing(path) as stream:
        stream.write(page.encode())
    return path


def _context(workspace: Workspace, evidence: Evidence) -> dict[str, Any]:
    """All that the template names."""
    metrics = list(next(iter(evidence.scores.values())))
    results = [table(evidence, metric) for metric in vocabulary.principal(metrics)]
    headline = vocabulary.headline(metrics)
    looks, shown = emphasis.looks(evidence), emphasis.in_colour(evidence, headline)
    grey = len(evidence.methods) - len(shown)
    statistics = evidence.statistics
    labels = sorted(statistics["labels"], key=lambda name: (-statistics["labels"][name], name))
    return {
        "evidence": evidence,
        "gallery": gallery(workspace, evidence),  # first: it reads files, and may refuse one
        "statistics": statistics,
        "bits": max(evidence.bits),
        "results": [(each, _by_code_length(each, evidence.bits)) for each in results],
        "headline": _headline(evidence, next(t for t in results if t.metric == headline)),
        "shown": shown,
        "grey": grey,
        "own": emphasis.OWN,
        "metrics": metrics,
        "beyond": [k for k in vocabulary.cutoffs(metrics) if k and k > len(evidence.database)],
        "legend": plots.legend(looks, grey=grey > 0),
        "by_radius": _by_radius(evidence, emphasis.looks_by(evidence, headline)),
        "losses": _losses(evidence, looks),
        "similarity": plots.soft_similarity(statistics["similarity"]),
        "labels": labels,
        "frequencies": plots.labels_by_split(
            statistics["labels_by_split"], statistics["rows"], labels[:_MOST_LABELS]
        ),
        "splits": plots.splits(_SPLITS),
        "names": _SPLITS,
        "shown_labels": _MOST_LABELS,
        "cutoffs": vocabulary.cutoffs(metrics),
        "settings": _settings(evidence),
        "training": _shared_training(evidence),
        "kinds": vocabulary.KINDS,
        "radius": vocabulary.RADIUS,
    }


def _by_code_length(results: Table, bits: Sequence[int]) -> Panel:
    means = {
        method: {
            length: (entry.mean, entry.deviation) for length, entry in zip(bits, row, strict=True)
        }
        for method, row in results.rows.items()
    }
    return plots.by_code_length(results.metric, means, results.looks, chance=results.chance)


def _by_radius(evidence: Evidence, looks: Mapping[str, int]) -> list[Panel]:
    """At the longest code length."""
    bits = max(evidence.bits)

    def over_seeds(name: str) -> dict[str, NDArray[np.float64]]:
        return {
            method: np.mean(
                [evidence.arrays[cell][name] for cell in evidence.runs(method, bits)], axis=0
            )
            for method in looks
        }

    return plots.by_radius(
        over_seeds("precision_by_radius"),
        over_seeds("recall_by_radius"),
        looks,
        chance=evidence.chance.get("precision_within_r2"),
    )


def _losses(evidence: Evidence, looks: Mapping[str, int]) -> list[Panel]:
    """At the longest code length."""
    bits = max(evidence.bits)
    runs = {
        method: [evidence.histories[cell]["epochs"] for cell in evidence.runs(method, bits)]
        for method in evidence.methods
    }
    return plots.losses(runs, looks, bits)


def _headline(evidence: Evidence, results: Table) -> dict[str, Any]:
    """The best method at the longest code length, and those level with it."""
    column = evidence.bits.index(max(evidence.bits))
    entries = {method: row[column] for method, row in results.rows.items()}
    leader = max(entries, key=lambda method: entries[method].mean)
    return {
        "metric": results.metric,
        "method": leader,
        "mean": entries[leader].mean,
        "chance": results.chance,
        "level": [m for m, e in entries.items() if m != leader and (e.level or e.best)],
    }


def _shared_training(evidence: Evidence) -> dict[str, Any]:
    """What is the same in the training of all methods."""
    first, *others = [history["training"] for history in evidence.histories.values()]
    return {
        key: value
        for key, value in first.items()
        if all(key in other and other[key] == value for other in others)
    }


def _settings(evidence: Evidence) -> dict[str, dict[str, Any]]:
    """Method -> its hyper-parameters, and how its training differs, at the longest code length."""
    shared = _shared_training(evidence)
    cells = [evidence.runs(method, max(evidence.bits))[0] for method in evidence.methods]
    histories = {cell.method: evidence.histories[cell] for cell in cells}
    return {
        name: {key: value for key, value in history["method"].items() if key != "name"}
        | {key: value for key, value in history["training"].items() if key not in shared}
        for name, history in histories.items()
    }
