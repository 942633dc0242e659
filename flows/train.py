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
from isdh.device import choose_device, describe, hardware, peak_memory
from isdh.method import FittedMethod, Method
from isdh.settings import INPUT_DTYPES
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
    rows = manifest.training_rows(manifest.read_splits(WORKSPACE.manifest(cell.dataset)))
    dtype = INPUT_DTYPES[card["inputs"]["kind"]]
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
    training = settings.training(cell.dataset, cell.method)
    network, method = start(cell, settings, data)
    if method.remark:
        stage.say(f"{cell.method}: {method.remark}")
    history: dict[str, Any] = {
        "fingerprint": name,
        "method": {"name": cell.method, **methods.settings(method)},
        "training": training.model_dump(),
        "rows": len(data.rows),
        "device": describe(device),
        "hardware": hardware(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
    }
    epochs = 1 if isinstance(method, FittedMethod) else training.epochs
    progress = stage.Progress(epochs, unit="epochs")
    checkpoint = WORKSPACE.checkpoints(cell) / f"{name}.pt"
    for other in WORKSPACE.checkpoints(cell).glob("*.pt"):
        if other != checkpoint:
            other.unlink()  # of another training: it will not go on

    def descend() -> list[Record]:
        torch.set_num_threads(training.threads)
        records = []
        for record in fit(
            network,
            method,
            data,
            training,
            seed=cell.seed,
            device=device,
            checkpoint=checkpoint,
        ):
            records.append(record)
            progress.advance(loss=f"{record.get('loss', 0):.4f}")
            live.tell(records)
        return records

    with tracked.Live(settings, cell, history) as live:
        records = await stage.aside(descend, progress)
    seconds = sum(record["seconds"] for record in records)
    totals = {
        "training_seconds": seconds,
        "rows_per_second": len(records) * len(data.rows) / seconds,
        **peak_memory(device),
    }
    return network, {**history, "totals": totals, "epochs": records}


def start(
    cell: Cell, settings: params.Params, data: TrainingRows
) -> tuple[networks.Network, Method]:
    """The untrained network, the same for every method at equal seed and bits, and the method."""
    card = read_json(WORKSPACE.data(cell.dataset) / "inputs.json")
    weights = card["inputs"].get("weights") if card["inputs"]["kind"] == "images" else None
    torch.manual_seed(cell.seed)
    network = networks.build(
        input_shape=card["shape"],
        bits=cell.bits,
        weights=Path(weights) if weights else None,
        **settings.section(cell.dataset).network.model_dump(),
    )
    classes = data.labels.shape[1]
    hyper = settings.hyper(cell.dataset, cell.method)
    return network, methods.build(cell.method, bits=cell.bits, num_classes=classes, **hyper)


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
        inputs=card["inputs"],
        settings=settings.section(cell.dataset).network,
        input_shape=card["shape"],
        labels=card["labels"],
        head=methods.METHODS[cell.method].head,
        backbone_sha256=card.get("backbone_sha256"),
    )
    write_json(folder / "history.json", history)


if __name__ == "__main__":
    stage.main(train)
