"""Stage `encode`: a trained model and all inputs -> codes/<dataset>/<cell>."""

from __future__ import annotations

import shutil

import numpy as np
import torch
from prefect import flow

from flows import stage
from flows.stage import WORKSPACE
from isdh import encoding, models
from isdh.artifacts import Cell, read_array, read_json, write_codes
from isdh.device import choose_device
from isdh.settings import INPUT_DTYPES


@flow(name="encode", flow_run_name="encode {dataset} {method} {bits} seed {seed}")
async def encode(dataset: str, method: str, bits: int, seed: int) -> None:
    """Encode every row of the manifest."""
    cell = Cell(dataset, method, bits, seed)
    shutil.rmtree(WORKSPACE.checkpoints(cell), ignore_errors=True)  # DVC has the model
    model = read_json(WORKSPACE.model(cell) / "model.json")
    codes = await codes_of(cell, model["inputs"]["kind"])
    weights_sha256 = model["weights_sha256"]
    write_codes(WORKSPACE.codes(cell), codes, bits=bits, weights_sha256=weights_sha256)


@stage.task(name="encode")
async def codes_of(cell: Cell, kind: str) -> np.ndarray:
    """Codes uint8 (N, ceil(bits / 8)) of all stored inputs."""
    inputs = read_array(WORKSPACE.data(cell.dataset) / "inputs.npy", dtype=INPUT_DTYPES[kind])
    progress = stage.Progress(len(inputs), unit="images")

    def work() -> np.ndarray:
        torch.set_num_threads(1)  # cells run side by side
        network = models.load(WORKSPACE.model(cell))
        packed = []
        for codes in encoding.encode_batches(network, inputs, device=choose_device()):
            packed.append(codes)
            progress.advance(len(codes))
        return np.concatenate(packed)

    return await stage.aside(work, progress)


if __name__ == "__main__":
    stage.main(encode)
