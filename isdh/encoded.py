"""A trained model and a dataset -> codes of all rows, where the stage `encode` has not made them.

That stage makes the codes of each cell's newest model. A model of before, and one that is used on
newer data, encodes here; what it made is kept in .isdh/codes/ until the data becomes other again.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from isdh import encoding, manifest, models
from isdh.artifacts import Workspace, read_array, read_codes, read_json, write_codes
from isdh.device import choose_device
from isdh.encoder import Encoder
from isdh.errors import InputError
from isdh.settings import INPUT_DTYPES
from isdh.store import Pictures, Progress

PICTURES = 32  # encoded at once


def codes(
    workspace: Workspace,
    dataset: str,
    raw: Path,
    model: Path,
    backbone: Path | None = None,
    *,
    on_progress: Progress = lambda done, total: None,
) -> NDArray[np.uint8]:
    """Codes of the manifest's rows by a model, kept ones or new ones.

    Where its network reads what inputs.npy holds, these are encoded; else the pictures, by the
    model's own way from them to inputs.

    Args:
        workspace: where the data lies.
        dataset: whose.
        raw: the folder of its pictures.
        model: holds weights.safetensors and model.json.
        backbone: the frozen backbone's weights file; by default where model.json says.
        on_progress: called with rows encoded and in all.

    Returns:
        uint8 (N, ceil(bits / 8)).

    Raises:
        InputError: data or pictures are not here, files are altered, or today's code cannot use
            the model.
    """
    card, today = (
        read_json(model / "model.json"),
        read_json(workspace.data(dataset) / "inputs.json"),
    )
    frame = manifest.read(workspace.manifest(dataset))
    weights, inputs = card["weights_sha256"], today["sha256"]["inputs.npy"]
    folder = workspace.state("codes", dataset, f"{weights[:16]}-{inputs[:16]}")
    try:
        return read_codes(folder, bits=card["bits"], rows=len(frame))
    except InputError:
        pass  # none, or damaged
    made, done = [], 0
    try:
        if _reads(card, today):
            batches = _of_inputs(workspace, dataset, model, len(frame))
        else:
            batches = _of_pictures(frame, raw, model, backbone)
        for batch in batches:
            made.append(batch)
            done += len(batch)
            on_progress(done, len(frame))
    except (KeyError, RuntimeError) as error:
        raise InputError(
            f"{dataset}: today's code cannot encode it with this model, {error!r}; use a newer one"
        ) from error
    whole = np.concatenate(made)
    with suppress(OSError):  # as where the folder is not to be written to
        for old in folder.parent.glob(f"{weights[:16]}-*"):
            shutil.rmtree(old)
        write_codes(folder, whole, bits=card["bits"], weights_sha256=weights)
    return whole


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


def _of_inputs(
    workspace: Workspace, dataset: str, model: Path, rows: int
) -> Iterator[NDArray[np.uint8]]:
    kind = read_json(model / "model.json")["inputs"]["kind"]
    path = workspace.data(dataset) / "inputs.npy"
    inputs = read_array(path, dtype=INPUT_DTYPES[kind], rows=rows)
    return encoding.encode_batches(models.load(model), inputs, device=choose_device())


def _of_pictures(
    frame: pd.DataFrame, raw: Path, model: Path, backbone: Path | None
) -> Iterator[NDArray[np.uint8]]:
    encoder = Encoder.load(model, backbone, choose_device().type)
    pictures = Pictures(raw, list(frame["path"]), list(frame["sha256"]), encoder.inputs.size)
    for start in range(0, len(frame), PICTURES):
        stop = min(start + PICTURES, len(frame))
        yield encoder.encode([pictures.read(row) for row in range(start, stop)])
