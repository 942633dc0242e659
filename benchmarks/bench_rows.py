"""What tomorrow's pictures cost: a dataset made, made again under another name, and with 1 % more.

The stages `dataset` and `preprocess` run as a person runs them, in a folder of their own, without
DVC and servers; each time `data/` is empty, and only kept rows are left of the time before. At the
end everything is made once more without them, and the arrays have to be the same.

    python benchmarks/bench_rows.py [--raw FOLDER] [--weights FILE] [--count 24581] [--more 246]
        [--size 128]

FOLDER: JPEGs, of which the first are taken; without it, pictures are generated. FILE: weights of
torchvision's mobilenet_v2; without it, random ones, which are as fast.
"""

from __future__ import annotations

import argparse
import csv
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image
from record import record

from isdh.artifacts import sha256
from isdh.store import cores

ROOT = Path(__file__).resolve().parents[1]
NOWHERE = "http://127.0.0.1:9/api"
ARRAYS = ("inputs.npy", "mirrored.npy")
TRAIN, QUERY = 0.16, 0.04  # of the pictures, as 4,000 and 1,000 of MIRFLICKR's 24,581


def copy_pictures(raw: Path | None, folder: Path, count: int) -> list[str]:
    """Put pictures into a folder, and return their names."""
    names = [f"{number}.jpg" for number in range(count)]
    if raw is not None:
        files = sorted(raw.rglob("*.jpg"))
        if len(files) < count:
            sys.exit(f"error: {raw}: {len(files):,} JPEGs, want {count:,}; lower --count or --more")
        for name, file in zip(names, files, strict=False):
            shutil.copyfile(file, folder / name)
        return names

    def write(name: str) -> None:
        generator = np.random.default_rng(int(name.removesuffix(".jpg")))
        noise = generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((128, 128)).save(folder / name, quality=90)

    with ThreadPoolExecutor(cores()) as pool:
        list(pool.map(write, names))
    return names


def write_table(folder: Path, names: list[str]) -> None:
    """The table of the reader `folder`: two labels, and the splits as they always were."""
    with (folder / "labels.csv").open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["path", "labels", "split"])
        for number, name in enumerate(names):
            share = number % 100 / 100
            split = "train" if share < TRAIN else "query" if share < TRAIN + QUERY else "database"
            table.writerow([name, "odd" if number % 2 else "even", split])


def write_weights(path: Path, given: Path | None) -> None:
    path.parent.mkdir()
    if given is not None:
        shutil.copyfile(given, path)
        return
    import torch
    import torchvision

    torch.manual_seed(0)
    torch.save(torchvision.models.mobilenet_v2(weights=None).state_dict(), path)


def params(size: int) -> dict[str, Any]:
    """Four datasets over the same folder: pictures and features, each under two names."""
    weights = "weights/mobilenet_v2.pth"
    pictures = {
        "inputs": {"kind": "images", "size": size},
        "network": {"backbone": "convnet"},
    }
    features = {
        "inputs": {"kind": "features", "size": size, "weights": weights},
        "network": {},
    }
    sections = {
        f"{kind}{again}": {"source": {"reader": "folder"}, "training": {}, **section}
        for kind, section in {"pictures": pictures, "features": features}.items()
        for again in ("", "_again")
    }
    base = yaml.safe_load((ROOT / "params.yaml").read_text())
    return {
        **base,
        "datasets": dict.fromkeys(sections, "raw"),
        "methods": ["isdh"],
        "dataset": sections,
        "method": {"isdh": {}},
    }


def make(folder: Path, dataset: str, environment: dict[str, str]) -> dict[str, Any]:
    """Run both stages of a dataset; seconds of each, rows made, and digests of the arrays."""
    shutil.rmtree(folder / "data" / dataset, ignore_errors=True)
    result: dict[str, Any] = {}
    for stage in ("dataset", "preprocess"):
        start = time.perf_counter()
        run = subprocess.run(
            [sys.executable, "-m", f"flows.{stage}", dataset],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PREFECT_API_URL": NOWHERE, **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        if run.returncode:
            sys.exit(run.stderr)
        result[f"{stage}_seconds"] = round(time.perf_counter() - start, 2)
    told = re.findall(r"(\S+\.npy): ([\d,]+) rows made, ([\d,]+) kept", run.stderr)
    result["rows_made"] = {  # what is none of the arrays: the pictures compared for near copies
        name if name in ARRAYS else "small": int(made.replace(",", "")) for name, made, _ in told
    }
    result["sha256"] = {name: sha256(folder / "data" / dataset / name) for name in ARRAYS}
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--raw", type=Path)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--count", type=int, default=24_581)
    parser.add_argument("--more", type=int, default=246)
    parser.add_argument("--size", type=int, default=128)
    words = parser.parse_args()
    results = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "raw").mkdir()
        names = copy_pictures(words.raw, folder / "raw", words.count + words.more)
        write_weights(folder / "weights" / "mobilenet_v2.pth", words.weights)
        (folder / "params.yaml").write_text(yaml.safe_dump(params(words.size)))
        for kind in ("pictures", "features"):
            write_table(folder / "raw", names[: words.count])
            steps = {"first": make(folder, kind, {}), "again": make(folder, f"{kind}_again", {})}
            write_table(folder / "raw", names)
            steps["with_more"] = make(folder, kind, {})
            steps["with_more_and_no_rows_kept"] = make(folder, kind, {"ISDH_ROWS_BYTES": "0"})
            assert steps["first"]["sha256"] == steps["again"]["sha256"]
            assert steps["with_more"]["sha256"] == steps["with_more_and_no_rows_kept"]["sha256"]
            for name, step in steps.items():
                step.pop("sha256")
                print(kind, name, step)
            results[kind] = steps
        kept = sum(file.stat().st_size for file in (folder / ".isdh" / "rows").iterdir())
    record(
        "rows",
        packages=("pillow", "torch", "onnxruntime"),
        pictures={
            "generated": words.raw is None,
            "first": words.count,
            "more": words.more,
            "size": words.size,
        },
        results=results,
        bytes_of_kept_rows=kept,
    )


if __name__ == "__main__":
    main()
