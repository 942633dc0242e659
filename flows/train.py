"""Stage `train`: inputs and labels of the training rows -> models/<dataset>/<cell>."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import numpy as np
import torch
from prefect import flow

from flows import stage, tracked
from flows.fingerprint import fingerprint
from flows.stage import WORKSPACE
from isdh import manifest, methods, models, networks, params
from isdh.artifacts import Cell, read_array, read_json, write_json
from isdh.device import choose_device, describe
from isdh.params import DatasetParams
from isdh.settings import Images
from isdh.training import Record, TrainingRows, fit


@flow(name="train", flow_run_name="train {dataset} {method} {bits} seed {seed}")
async def train(dataset: str, method: str, bits: int, seed: int) -> None:
    """Train one cell; a run that was killed goes on from its last checkpoint."""
    cell = Cell(dataset, method, bits, seed)
    settings = params.load()
    device = choose_device()
    name = fingerprint(WORKSPACE, settings, cell, device=device.type)
    rows = await read(cell)
    model, history = await learn(cell, settings, rows, device, name)
    await write(cell, settings, model, history)
    await tracked.publish_unless_later(settings, cell)


@stage.task(name="read inputs and labels", retries=2, retry_delay_seconds=5)
async def read(cell: Cell) -> TrainingRows:
    """Map the arrays and find the training rows."""
    folder = WORKSPACE.data(cell.dataset)
    card = read_json(folder / "inputs.json")
    rows = manifest.training_rows(manifest.read(WORKSPACE.manifest(cell.dataset)))
    dtype = np.uint8 if card["inputs"]["kind"] == "images" else np.float16
    return TrainingRows(
        inputs=read_array(folder / "inputs.npy", dtype=dtype, rows=card["rows"]),
        labels=read_array(folder / "labels.npy", dtype=bool, rows=card["rows"]),
        rows=rows,
        mirrored=read_array(folder / "mirrored.npy", dtype=dtype),
    )


@stage.task(name="train")
async def learn(
    cell: Cell, settings: params.Params, data: TrainingRows, device: torch.device, name: str
) -> tuple[networks.Network, dict[str, Any]]:
    """Descend; returns the network and what history.json will hold."""
    dataset = settings.dataset[cell.dataset]
    hyper = settings.method[cell.method]
    method = methods.build(cell.method, bits=cell.bits, num_classes=data.labels.shape[1], **hyper)
    history: dict[str, Any] = {
        "fingerprint": name,
        "method": {"name": cell.method, **methods.settings(method)},
        "training": dataset.training.model_dump(),
        "rows": len(data.rows),
        "device": describe(device),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
    }
    progress = stage.Progress(dataset.training.epochs, unit="epochs")
    checkpoint = WORKSPACE.checkpoints(cell) / f"{name}.pt"
    for other in WORKSPACE.checkpoints(cell).glob("*.pt"):
        if other != checkpoint:
            other.unlink()  # of another training: it will not go on

    def descend() -> tuple[networks.Network, list[Record]]:
        torch.set_num_threads(dataset.training.threads)
        network = start(cell, dataset, data)
        records = []
        for record in fit(
            network,
            method,
            data,
            dataset.training,
            seed=cell.seed,
            device=device,
            checkpoint=checkpoint,
        ):
            records.append(record)
            progress.advance(loss=f"{record['loss']:.4f}")
            live.tell(records)
        return network, records

    with tracked.Live(settings, cell, history) as live:
        network, records = await stage.aside(descend, progress)
    seconds = sum(record["seconds"] for record in records)
    return network, {**history, "seconds": seconds, "epochs": records}


def start(cell: Cell, dataset: DatasetParams, data: TrainingRows) -> networks.Network:
    """The untrained network: the same for every method at equal seed and bits."""
    torch.manual_seed(cell.seed)
    weights = dataset.inputs.weights if isinstance(dataset.inputs, Images) else None
    return networks.build(
        input_shape=data.inputs.shape[1:],
        bits=cell.bits,
        weights=Path(weights) if weights else None,
        **dataset.network.model_dump(),
    )


@stage.task(name="write model", retries=2, retry_delay_seconds=5)
async def write(
    cell: Cell, settings: params.Params, network: networks.Network, history: dict[str, Any]
) -> None:
    """Write weights, the card that says how to read them, and the history."""
    card = read_json(WORKSPACE.data(cell.dataset) / "inputs.json")
    folder = WORKSPACE.model(cell)
    models.save(
        folder,
        network,
        bits=cell.bits,
        inputs=settings.dataset[cell.dataset].inputs,
        settings=settings.dataset[cell.dataset].network,
        input_shape=card["shape"],
        labels=card["labels"],
        backbone_sha256=card.get("backbone_sha256"),
    )
    write_json(folder / "history.json", history)


if __name__ == "__main__":
    stage.main(train)
