"""Stage `encode`: a trained model and all inputs -> codes/<dataset>/<cell>."""

from __future__ import annotations

import numpy as np
import torch
from prefect import flow

from flows import stage
from flows.stage import WORKSPACE
from isdh import encoding, models
from isdh.artifacts import Cell, read_array, read_json, write_codes
from isdh.device import choose_device


@flow(name="encode", flow_run_name="encode {dataset} {method} {bits} seed {seed}")
async def encode(dataset: str, method: str, bits: int, seed: int) -> None:
    """Encode every row of the manifest."""
    cell = Cell(dataset, method, bits, seed)
    write_codes(WORKSPACE.codes(cell), await codes_of(cell), bits=bits)


@stage.task(name="encode")
async def codes_of(cell: Cell) -> np.ndarray:
    """Codes uint8 (N, ceil(bits / 8)) of all stored inputs."""
    model = read_json(WORKSPACE.model(cell) / "model.json")
    dtype = np.uint8 if model["inputs"]["kind"] == "images" else np.float16
    inputs = read_array(WORKSPACE.data(cell.dataset) / "inputs.npy", dtype=dtype)
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
