"""What each method costs: a step of its loss beside that of the network, or its fit.

Random outputs, features and labels of MIRFLICKR-25K's sizes: batches of 256, 48 bits, 38 labels,
4,000 training rows of 1,280 features; one thread. The limit is the network's own step.

    python benchmarks/bench_losses.py
"""

from __future__ import annotations

import json
import platform
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import torch

from isdh import networks
from isdh.method import Batch, FittedMethod
from isdh.methods import METHODS, build

ROOT = Path(__file__).resolve().parents[1]
ROWS, BATCH, BITS, LABELS, FEATURES, HIDDEN = 4000, 256, 48, 38, 1280, 512


def milliseconds(step: Callable[[], None], repeats: int) -> float:
    """Median CPU time of a call, after one that is not counted."""
    step()
    spent = []
    for _ in range(repeats):
        start = time.process_time()
        step()
        spent.append(1000 * (time.process_time() - start))
    return round(median(spent), 2)


def loss_step(name: str, labels: torch.Tensor) -> Callable[[], None]:
    """Loss and gradient of one batch, memories and auxiliary heads included."""
    method = build(name, bits=BITS, num_classes=LABELS)
    method.prepare(labels, HIDDEN)
    rows = torch.arange(BATCH)
    views = (torch.randn(BATCH, BITS),) * method.views
    batch = Batch(rows, 0, 1000, 0, torch.randn(BATCH, HIDDEN), views)
    outputs = torch.randn(BATCH, BITS, requires_grad=True)

    def step() -> None:
        method(outputs, labels[:BATCH], batch).total.backward()

    return step


def network_step() -> Callable[[], None]:
    """Forward and backward of the network with a hidden layer."""
    network = networks.build(
        input_shape=(FEATURES,),
        bits=BITS,
        hidden=HIDDEN,
        dropout=0.6,
        hidden_dropout=0.4,
        batch_norm=True,
    )
    inputs = torch.randn(BATCH, FEATURES).half()

    def step() -> None:
        network(inputs).sum().backward()

    return step


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    labels = torch.rand(ROWS, LABELS) < 4.8 / LABELS
    features = torch.randn(ROWS, FEATURES) + labels.float() @ torch.randn(LABELS, FEATURES)
    steps, fits = {"network": milliseconds(network_step(), 20)}, {}
    for name in METHODS:
        method = build(name, bits=BITS, num_classes=LABELS)
        if isinstance(method, FittedMethod):
            start = time.process_time()
            method.fit(features, labels, generator=torch.Generator().manual_seed(0))
            fits[name] = round(time.process_time() - start, 2)
        else:
            steps[name] = milliseconds(loss_step(name, labels), 20)
    date = datetime.now(UTC).strftime("%Y-%m-%d")
    commit = ["git", "rev-parse", "--short", "HEAD"]
    result = {
        "date": date,
        "commit": subprocess.check_output(commit, cwd=ROOT, text=True).strip(),
        "machine": platform.machine(),
        "torch": torch.__version__,
        "sizes": {
            "rows": ROWS,
            "batch": BATCH,
            "bits": BITS,
            "labels": LABELS,
            "features": FEATURES,
        },
        "step_cpu_ms": dict(sorted(steps.items(), key=lambda item: item[1])),
        "fit_cpu_s": dict(sorted(fits.items(), key=lambda item: item[1])),
    }
    path = ROOT / "benchmarks" / "results" / f"{date}-losses.json"
    path.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
