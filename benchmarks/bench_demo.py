"""How long `make demo` takes on a clean clone, and how much of it is not the work itself.

The same cells are then trained, encoded and evaluated in one process a core; what the demo's
processes used beyond that is start-up (imports counted) and orchestration: DVC, Prefect, its
server, MLflow.

    python benchmarks/bench_demo.py [--keep FOLDER]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from statistics import mean

ROOT = Path(__file__).resolve().parents[1]


def measured(*command: str, folder: Path) -> dict[str, float]:
    """Wall and CPU seconds of a command and all processes it waited for."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, cwd=folder, check=True, stdout=sys.stderr, env=outside())
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall_s": round(time.perf_counter() - start, 2), "cpu_s": round(cpu, 2)}


def outside() -> dict[str, str]:
    """The environment of a person who has not activated anything."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PREFECT_", "MLFLOW_", "VIRTUAL_ENV"))
    }


WORK = """
import json, sys, time
from pathlib import Path
from statistics import mean
import numpy as np, torch
torch.set_num_threads(1)
from isdh import manifest, methods, metrics, networks, params
from isdh.artifacts import Workspace, read_array
from isdh.encoding import encode
from isdh.training import TrainingRows, fit

w, settings, cpu = Workspace(), params.load(), torch.device("cpu")
spent = {"train": 0.0, "encode": 0.0, "evaluate": 0.0}
for dataset in settings.datasets:
    section, folder = settings.dataset[dataset], w.data(dataset)
    rows = manifest.read(w.manifest(dataset))
    inputs = read_array(folder / "inputs.npy", dtype=np.uint8)
    labels = read_array(folder / "labels.npy", dtype=bool)
    query, database = manifest.query_rows(rows), manifest.database_rows(rows)
    metrics.evaluate(np.zeros((2, 1), np.uint8), labels[:2], np.zeros((2, 1), np.uint8),
                     labels[:2], bits=8)  # compiled before the clock starts
    data = TrainingRows(inputs, labels, manifest.training_rows(rows))
    for cell in settings.cells(dataset):
        start = time.process_time()
        torch.manual_seed(cell.seed)
        network = networks.build(input_shape=inputs.shape[1:], bits=cell.bits,
                                 **section.network.model_dump())
        method = methods.build(cell.method, bits=cell.bits, num_classes=labels.shape[1],
                               **settings.hyper(dataset, cell.method))
        training = settings.training(dataset, cell.method)
        for _ in fit(network, method, data, training, seed=cell.seed, device=cpu):
            pass
        trained = time.process_time()
        codes = encode(network, inputs, device=cpu)
        encoded = time.process_time()
        metrics.evaluate(codes[query], labels[query], codes[database], labels[database],
                         bits=cell.bits, cutoffs=settings.evaluate.cutoffs)
        spent["train"] += trained - start
        spent["encode"] += encoded - trained
        spent["evaluate"] += time.process_time() - encoded
cells = sum(len(settings.cells(name)) for name in settings.datasets)
print(json.dumps({"cells": cells, **spent}))
"""


def work(folder: Path) -> dict[str, float]:
    """CPU seconds of the cells' work alone, in one process on one thread.

    As many such processes as cores run side by side, as the demo's cells do, and slow each other
    as they do; the mean over them.
    """
    python = folder / ".venv" / "bin" / "python"
    running = [
        subprocess.Popen(
            [python, "-c", WORK], cwd=folder, stdout=subprocess.PIPE, text=True, env=outside()
        )
        for _ in range(os.cpu_count() or 1)
    ]
    answers = [json.loads(process.communicate()[0]) for process in running]
    return {key: mean(answer[key] for answer in answers) for key in answers[0]}


def beside(
    demo: dict[str, float], once: dict[str, float], work_cpu: float, cells: int
) -> dict[str, float]:
    """Seconds a cell of a demo that are neither work nor spent once for all cells."""
    work_wall = work_cpu / (os.cpu_count() or 1)
    return {
        "cpu_s": round((demo["cpu_s"] - once["cpu_s"] - work_cpu) / cells, 2),
        "wall_s": round((demo["wall_s"] - once["wall_s"] - work_wall) / cells, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", type=Path, help="clone to this folder and leave it there")
    options = parser.parse_args()
    folder = options.keep or Path(tempfile.mkdtemp(prefix="demo-"))
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
    setup = measured("make", "setup", folder=folder)
    demo = measured("make", "demo", folder=folder)
    again = measured("make", "demo", folder=folder)
    (folder / ".isdh" / "published.json").unlink()  # as if only the telling were left
    no_cell = measured("make", "demo", folder=folder)
    alone = work(folder)
    cells = alone.pop("cells")
    spent = sum(alone.values())
    result = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "commit": subprocess.check_output(
            ["git", "rev-parse", "--short", "HEAD"], cwd=folder, text=True
        ).strip(),
        "device": processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "setup": setup,
        "demo": demo,
        "demo_again": again,
        "demo_without_cells": no_cell,
        "cells": cells,
        "work_cpu_s": {name: round(value, 2) for name, value in alone.items()},
        "beside_work_per_cell": beside(demo, no_cell, spent, cells),
        "beside_work_per_cell_servers_and_datasets_included": beside(
            demo, {"cpu_s": 0.0, "wall_s": 0.0}, spent, cells
        ),
    }
    path = ROOT / "benchmarks" / "results" / f"{result['date']}-demo.json"
    path.write_text(json.dumps(result, indent=2) + "\n")
    if not options.keep:
        shutil.rmtree(folder)
    print(json.dumps(result, indent=2))


def processor() -> str:
    """The CPU's name."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


if __name__ == "__main__":
    main()
