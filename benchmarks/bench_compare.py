"""How long `isdh compare` takes over a thousand runs, beside MLflow's own search over the same.

The runs are published by the project itself, from invented files as large as real ones: 70 epochs,
27 scores, values per query of 1,000 queries, DVC's hashes. Every figure is of a whole process,
start and imports included; the smallest of several is told, since other work only adds.

    python benchmarks/bench_compare.py [--runs 1000] [--queries 1000] [--times 5] [--folder FOLDER]

FOLDER: where runs are kept for another time; without it they are made in a temporary one.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from record import record

from isdh import params, tracking
from isdh.artifacts import Cell, Workspace, replacing, sha256, write_json
from isdh.methods import METHODS

ROOT = Path(__file__).resolve().parents[1]
DATASET = "mirflickr_mlp"
EPOCHS, STARTED = 70, 1_700_000_000_000
KINDS = ("map", "wap", "acg", "ndcg", "precision", "recall")
NAMES = [f"{kind}_at_{cutoff}" for kind in KINDS for cutoff in ("100", "1000", "5000", "all")]
NAMES += ["precision_within_r2", "recall_within_r2"]
SEARCH = """
import sys
from mlflow import MlflowClient
client = MlflowClient(tracking_uri=sys.argv[1])
number = client.get_experiment_by_name("isdh/mirflickr_mlp").experiment_id
found, token = 0, None
while True:
    page = client.search_runs([number], max_results=1000, page_token=token)
    found, token = found + len(page), page.token
    if not token:
        break
sys.stdout.write(str(found))
"""


def write_params(root: Path, runs: int) -> params.Params:
    """25 methods at 4 code lengths, and as many seeds as make so many runs."""
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    methods, bits = sorted(METHODS)[:25], [12, 24, 36, 48]
    content |= {"datasets": {DATASET: f"raw/{DATASET}"}, "methods": methods, "bits": bits}
    content["method"] = {name: content["method"].get(name, {}) for name in methods}
    content["seeds"] = list(range(max(1, runs // (len(methods) * len(bits)))))
    (root / "params.yaml").write_text(yaml.safe_dump(content))
    return params.load(root / "params.yaml")


def write_cell(workspace: Workspace, settings: params.Params, cell: Cell, queries: int) -> None:
    """What training and evaluation leave."""
    section = settings.section(DATASET)
    folder = workspace.model(cell)
    folder.mkdir(parents=True)
    (folder / "weights.safetensors").write_text(f"{cell}" * 1000)
    weights = sha256(folder / "weights.safetensors")
    card = {"inputs": section.inputs.model_dump(), "network": section.network.model_dump()}
    write_json(folder / "model.json", {**card, "weights_sha256": weights})
    curve = ("loss", "pairwise", "quantisation", "learning_rate", "seconds")
    epochs = [
        {"epoch": epoch, "timestamp": STARTED + 300 * epoch, **{name: 1 / epoch for name in curve}}
        for epoch in range(1, EPOCHS + 1)
    ]
    history = {
        "fingerprint": hashlib.sha256(str(cell).encode()).hexdigest(),
        "method": {"name": cell.method, "alpha": 0.1},
        "training": settings.training(DATASET, cell.method).model_dump(),
        "rows": 4000,
        "device": "cpu",
        "hardware": {"processor": "x86", "cores": 2, "memory_bytes": 1 << 34},
        "versions": {"python": "3.11.7", "torch": "2.14.1", "numpy": "2.4.6"},
        "totals": {"training_seconds": 21.0, "peak_memory_bytes": 1 << 29},
    }
    write_json(folder / "history.json", {**history, "epochs": epochs})
    level = 0.3 + settings.methods.index(cell.method) // 3 / 100 + cell.bits / 1000
    noise = np.random.default_rng([cell.seed, cell.bits]).normal(0, 0.1, (len(NAMES), queries))
    values = dict(zip(NAMES, level + noise, strict=True))
    means = {name: float(row.mean()) for name, row in values.items()}
    write_json(workspace.scores(cell), {**means, "queries_without_relevant": 0})
    with replacing(workspace.scores(cell).with_suffix(".npz")) as stream:
        curves = {f"{name}_by_radius": np.zeros(cell.bits + 1) for name in ("precision", "recall")}
        np.savez(stream, weights_sha256=weights, **values, **curves)


def write_lock(root: Path, cells: list[Cell]) -> None:
    """DVC's hashes: of the data that cells were trained on, and of what their stages wrote."""

    def files(*paths: str) -> list[dict[str, str]]:
        return [{"path": path, "hash": "md5", "md5": "0" * 32} for path in paths]

    names = ("inputs.json", "inputs.npy", "labels.npy", "manifest.parquet", "mirrored.npy")
    data = files(*[f"data/{DATASET}/{name}" for name in names])
    stages: dict[str, Any] = {}
    for cell in cells:
        scores = f"metrics/{DATASET}/{cell.name}"
        stages[cell.address("train")] = {
            "deps": data,
            "outs": files(f"models/{DATASET}/{cell.name}"),
        }
        stages[cell.address("encode")] = {"outs": files(f"codes/{DATASET}/{cell.name}")}
        stages[cell.address("evaluate")] = {"outs": files(f"{scores}.json", f"{scores}.npz")}
    (root / "dvc.lock").write_text(json.dumps({"stages": stages}) + "\n")


def build(root: Path, runs: int, queries: int) -> None:
    """A workspace whose cells are all published."""
    root.mkdir(parents=True, exist_ok=True)
    workspace, settings = Workspace(root), write_params(root, runs)
    digests = {name: "0" * 64 for name in ("inputs.npy", "mirrored.npy", "labels.npy")}
    write_json(workspace.data(DATASET) / "inputs.json", {"sha256": digests})
    cells = settings.cells(DATASET)
    for cell in cells:
        write_cell(workspace, settings, cell, queries)
    write_lock(root, cells)
    start = time.perf_counter()
    print(tracking.publish_all(workspace, settings), f"{time.perf_counter() - start:.0f} s")


def measure(words: list[str], folder: Path, uri: str, *, times: int) -> dict[str, float]:
    """Seconds of a whole process: from start to end, and of the processors; the smallest of each.

    A first time, not counted, brings files into memory.
    """
    environment = {**os.environ, "MLFLOW_TRACKING_URI": uri, "PYTHONPATH": str(ROOT)}
    walls, processors = [], []
    for _ in range(times + 1):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        start = time.perf_counter()
        subprocess.run(
            [sys.executable, *words],
            cwd=folder,
            env=environment,
            check=True,
            stdout=subprocess.DEVNULL,
        )
        walls.append(time.perf_counter() - start)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        processors.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return {
        "wall_seconds": round(min(walls[1:]), 2),
        "cpu_seconds": round(min(processors[1:]), 2),
    }


@contextmanager
def served(folder: Path, *more: str) -> Iterator[str]:
    """The same database behind an MLflow server on loopback, with more on its command line."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["server", "--port", str(port), "--workers", "1", *more]
    store = ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db"]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    server = subprocess.Popen(
        [sys.executable, "-m", "mlflow", *words, *store],
        cwd=folder,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(120):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1).close()
                break
            except OSError:
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--folder", type=Path)
    words = parser.parse_args()
    held = nullcontext(words.folder) if words.folder else tempfile.TemporaryDirectory()
    with held as folder:
        root = Path(folder).resolve()
        if not (root / "mlflow.db").exists():
            shutil.rmtree(root, ignore_errors=True)
            build(root, words.runs, words.queries)
        local = f"sqlite:///{root}/mlflow.db"
        with served(root, "--app-name", "isdh") as ours, served(root) as theirs:
            places = {"database": local, "server with --app-name isdh": ours, "server": theirs}
            results = {
                place: {
                    name: measure(command, root, uri, times=words.times)
                    for name, command in commands(uri)
                }
                for place, uri in places.items()
            }
    path = record(
        "compare",
        packages=("mlflow", "numpy", "scipy", "sqlalchemy"),
        runs=words.runs,
        queries=words.queries,
        epochs=EPOCHS,
        times=words.times,
        results=results,
    )
    print(path.read_text())


def commands(uri: str) -> Iterator[tuple[str, list[str]]]:
    """What is measured: name -> words of Python's command line."""
    isdh = [str(Path(sys.executable).with_name("isdh"))]
    metrics = ("map_at_all", "map_at_5000", "acg_at_100", "ndcg_at_100", "precision_within_r2")
    yield "isdh compare", [*isdh, "compare"]
    yield "isdh compare, five metrics", [
        *isdh, "compare", "--csv", *[word for name in metrics for word in ("--metric", name)]
    ]  # fmt: skip
    yield "isdh diff", [*isdh, "diff", f"{DATASET}/isdh-48-0", f"{DATASET}/dhn-48-0"]
    yield "MLflow's search alone", ["-c", SEARCH, uri]


if __name__ == "__main__":
    main()
