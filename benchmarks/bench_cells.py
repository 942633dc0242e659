"""The pipeline's cells side by side against one after another: wall seconds, and the same bytes.

The matrix of params.yaml as shipped, 12 cells of the built-in dataset, whose inputs are made
before: by the pipeline with N workers, with one, and by `dvc repro` alone, each to the reports.
Nothing is recorded at a Prefect server. What a cell takes beside its training is start-up (imports
counted), encoding, evaluation, publishing, orchestration, and its part of the report.

    python benchmarks/bench_cells.py [--workers N]
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from record import ROOT, record

from isdh import params
from isdh.artifacts import Workspace, read_json, sha256
from isdh.store import cores


def run(folder: Path, *words: str) -> dict[str, float]:
    """Wall and processor seconds of a module and all processes it waited for."""
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(folder),
        "PREFECT_API_URL": "http://127.0.0.1:9",
    }
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, "-m", *words], cwd=folder, env=environment, check=True)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall_s": round(wall, 1), "cpu_s": round(cpu, 1)}


def results(folder: Path) -> dict[str, str]:
    """Digests of all codes and scores."""
    return {
        str(path.relative_to(folder)): sha256(path)
        for pattern in ("codes/**/codes.npy", "metrics/**/*.json")
        for path in sorted(folder.glob(pattern))
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=cores())
    workers = parser.parse_args().workers
    with tempfile.TemporaryDirectory() as temporary:
        ready = Path(temporary) / "ready"
        subprocess.run(["git", "clone", "-q", str(ROOT), str(ready)], check=True)
        (ready / "dvc.lock").unlink(missing_ok=True)
        run(ready, "dvc", "repro", "-q", "preprocess@digits")
        took, made, training = {}, {}, 0.0
        for name, words in {
            "side_by_side": ("flows.pipeline", str(workers)),
            "dvc_repro": ("dvc", "repro", "-q"),
            "serial": ("flows.pipeline", "1"),
        }.items():
            folder = Path(temporary) / name
            shutil.copytree(ready, folder, symlinks=True)
            took[name] = run(folder, *words)
            made[name] = results(folder)
        settings = params.load(folder / "params.yaml")
        cells = [cell for name in settings.datasets for cell in settings.cells(name)]
        for cell in cells:
            history = read_json(Workspace(folder).model(cell) / "history.json")
            training += history["totals"]["training_seconds"]
    serial, parallel = took["serial"]["wall_s"], took["side_by_side"]["wall_s"]
    path = record(
        "cells",
        packages=("torch", "prefect", "dvc", "mlflow"),
        cells=len(cells),
        workers=workers,
        **took,
        speed_up=round(serial / parallel, 2),
        speed_up_over_dvc_repro=round(took["dvc_repro"]["wall_s"] / parallel, 2),
        training_s_serial=round(training, 1),
        beside_training_s_per_cell=round((serial - training) / len(cells), 2),
        wall_s_per_cell_side_by_side=round(parallel / len(cells), 2),
        equal_results=made["serial"] == made["side_by_side"] == made["dvc_repro"],
    )
    print(path.read_text())


if __name__ == "__main__":
    main()
