"""What scores depend on beside the model, as a digest; a registered model scored anew on it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from isdh import manifest
from isdh.artifacts import Cell, Workspace, read_array, read_json
from isdh.errors import InputError
from isdh.params import Params
from isdh.rows import sources
from isdh.settings import INPUT_DTYPES
from isdh.tracking.provenance import Lock

if TYPE_CHECKING:
    from isdh.metrics import Scores
    from isdh.tracking.package import Package

SCORING = ("isdh._kernels", "isdh._ranks", "isdh.codes", "isdh.metrics")  # the source of scores
PICTURES = 32  # encoded at once


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
    made = _hashes(lock, makers, "outs")
    used = _hashes(lock, (cell.address("encode"), cell.address("evaluate")), "deps")
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

    Where its network reads what inputs.npy holds, these are encoded; else the pictures, by the
    model's own way from them to inputs.

    Raises:
        IncomparableError: data or pictures are not here, or today's code cannot use the model.
    """
    from isdh import metrics

    folder = workspace.data(dataset)
    try:
        labels = read_array(folder / "labels.npy", dtype=bool)
        splits = manifest.read_splits(workspace.manifest(dataset))
        query, database = manifest.query_rows(splits), manifest.database_rows(splits)
        card, today = read_json(package.model / "model.json"), read_json(folder / "inputs.json")
        if _reads(card, today):
            codes = _codes_of_inputs(workspace, dataset, package)
        else:
            rows = np.union1d(query, database)
            codes = _codes_of_pictures(workspace, params, dataset, package, rows)
        return metrics.evaluate(
            codes[query],
            labels[query],
            codes[database],
            labels[database],
            bits=card["bits"],
            cutoffs=params.evaluate.cutoffs,
        )
    except (KeyError, OSError, RuntimeError, ValueError) as error:  # of a model of older code, too
        raise IncomparableError(str(error)) from error


def _reads(card: Mapping[str, Any], today: Mapping[str, Any]) -> bool:
    """Whether a model was made for inputs like today's."""
    keys = ("kind", "size", "channels", "backbone")
    return all(
        (
            [card["inputs"].get(key) for key in keys] == [today["inputs"].get(key) for key in keys],
            card["input_shape"] == today["shape"],
            card["backbone_sha256"] == today["backbone_sha256"],
        )
    )


def _codes_of_inputs(workspace: Workspace, dataset: str, package: Package) -> np.ndarray:
    """Codes of every row."""
    from isdh import encoding, models
    from isdh.device import choose_device

    kind = read_json(package.model / "model.json")["inputs"]["kind"]
    inputs = read_array(workspace.data(dataset) / "inputs.npy", dtype=INPUT_DTYPES[kind])
    return encoding.encode(models.load(package.model), inputs, device=choose_device())


def _codes_of_pictures(
    workspace: Workspace, params: Params, dataset: str, package: Package, rows: np.ndarray
) -> np.ndarray:
    """Codes of some rows, in their places; those of the others are 0."""
    from isdh.device import choose_device
    from isdh.encoder import Encoder
    from isdh.store import Pictures

    bits = read_json(package.model / "model.json")["bits"]
    frame = manifest.read(workspace.manifest(dataset))
    encoder = Encoder.load(package.model, package.backbone, choose_device().type)
    root = workspace.root / params.root(dataset)
    pictures = Pictures(root, list(frame["path"]), list(frame["sha256"]), encoder.inputs.size)
    codes = np.zeros((len(frame), -(-bits // 8)), dtype=np.uint8)
    for start in range(0, len(rows), PICTURES):
        some = rows[start : start + PICTURES]
        codes[some] = encoder.encode([pictures.read(row) for row in some])
    return codes
