"""What scores depend on beside the model, as a digest; a registered model scored anew on it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from isdh import manifest
from isdh.artifacts import Cell, Workspace, read_array, read_json
from isdh.errors import InputError
from isdh.params import Params
from isdh.rows import sources
from isdh.tracking.provenance import Lock

if TYPE_CHECKING:
    from isdh.metrics import Scores
    from isdh.tracking.package import Package

SCORING = ("isdh._kernels", "isdh._ranks", "isdh.codes", "isdh.metrics")  # the source of scores


class IncomparableError(InputError):
    """A registered model cannot be scored on today's data."""


def protocol(workspace: Workspace, params: Params, dataset: str) -> str | None:
    """A digest, 32 characters, of all that scores depend on beside the model.

    Inputs and labels, which rows are asked for and which are searched, cut-offs, and the code of
    the metrics.

    Returns:
        None if the data is not here.
    """
    card, rows = workspace.data(dataset) / "inputs.json", workspace.manifest(dataset)
    if not (card.exists() and rows.exists()):
        return None
    digests = read_json(card)["sha256"]
    splits = manifest.read_splits(rows)
    places = [manifest.query_rows(splits).tolist(), manifest.database_rows(splits).tolist()]
    content = [
        [digests["inputs.npy"], digests["labels.npy"]],
        hashlib.sha256(json.dumps(places).encode()).hexdigest(),
        params.evaluate.cutoffs,
        sources(*SCORING),
    ]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]


def is_stale(lock: Lock, cell: Cell) -> bool:
    """Whether a cell was encoded or scored from other files than dvc.lock has now.

    What the lock does not hold is taken to be as it should.
    """
    makers = (f"dataset@{cell.dataset}", f"preprocess@{cell.dataset}", cell.address("encode"))
    return _differ(lock, makers, (cell.address("encode"), cell.address("evaluate")))


def inputs_are_stale(lock: Lock, dataset: str) -> bool:
    """Whether inputs were made from another manifest than dvc.lock has now."""
    return _differ(lock, [f"dataset@{dataset}"], [f"preprocess@{dataset}"])


def _differ(lock: Lock, makers: Sequence[str], users: Sequence[str]) -> bool:
    """Whether some stages made other files than others used."""
    made, used = _hashes(lock, makers, "outs"), _hashes(lock, users, "deps")
    return any(made.get(path, digest) != digest for path, digest in used.items())


def _hashes(lock: Lock, stages: Sequence[str], kind: str) -> dict[str, Any]:
    files = [file for stage in stages for file in lock.get(stage, {}).get(kind, [])]
    return {file["path"]: file.get(file.get("hash", "md5")) for file in files}


def per_query(
    workspace: Workspace, cells: Sequence[Cell], metric: str
) -> NDArray[np.float64] | None:
    """Means over cells, query by query, float64 (Q,); None: not all have values of such queries."""
    found = []
    for cell in cells:
        with np.load(workspace.scores(cell).with_suffix(".npz"), allow_pickle=False) as arrays:
            if metric not in arrays:
                return None
            found.append(np.asarray(arrays[metric], dtype=np.float64))
    if len({values.shape for values in found}) != 1:
        return None
    return np.mean(found, axis=0)  # type: ignore[no-any-return]


def measure(workspace: Workspace, params: Params, dataset: str, package: Package) -> Scores:
    """Score a registered model on today's data, as the stages `encode` and `evaluate` do.

    Raises:
        IncomparableError: data or pictures are not here, or today's code cannot use the model.
    """
    from isdh import encoded, metrics

    try:
        labels = read_array(workspace.data(dataset) / "labels.npy", dtype=bool)
        splits = manifest.read_splits(workspace.manifest(dataset))
        query, database = manifest.query_rows(splits), manifest.database_rows(splits)
        raw = workspace.root / params.root(dataset)
        codes = encoded.codes(workspace, dataset, raw, package.model, package.backbone)
        return metrics.evaluate(
            codes[query],
            labels[query],
            codes[database],
            labels[database],
            bits=read_json(package.model / "model.json")["bits"],
            cutoffs=params.evaluate.cutoffs,
        )
    except (KeyError, OSError, RuntimeError, ValueError) as error:  # of a model of older code, too
        raise IncomparableError(str(error)) from error
