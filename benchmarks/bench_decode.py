"""How fast pictures become an image store: isdh, bare Pillow, and simplejpeg with Pillow's resize.

JPEGs of 500 pixels, generated unless a folder of them is given. isdh reads each file, compares
its digest, decodes and writes the store; the others read, decode and resize into an array. All go
through the files in the same threads. simplejpeg decodes at any eighth that leaves twice the size,
Pillow at a half, a quarter or an eighth.

    python benchmarks/bench_decode.py [--pictures FOLDER] [--count 2000] [--sizes 32 128 224]
        [--rounds 5]
"""

from __future__ import annotations

import argparse
import hashlib
import io
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import numpy as np
import simplejpeg
from PIL import Image
from record import record

from isdh.images import decoders
from isdh.store import Pictures, build_store, cores

ROOT = Path(__file__).resolve().parents[1]
CHUNK = 64  # pictures a task, as many as in a batch of build_store
LONG, SHORT = 500, 375
Decode = Callable[[bytes, int], np.ndarray]


def generate(folder: Path, count: int) -> None:
    """Write pictures with detail at every scale, as photographs have it: about 100 kB each."""

    def write(number: int) -> None:
        generator = np.random.default_rng(number)
        pixels = np.zeros((SHORT, LONG, 3))
        for exponent in range(9):
            side = 2**exponent
            noise = generator.integers(0, 256, (side, side, 3), dtype=np.uint8)
            layer = Image.fromarray(noise).resize((LONG, SHORT), Image.Resampling.BICUBIC)
            pixels += (np.asarray(layer) - 127.5) * 2 ** -(exponent / 4)
        image = Image.fromarray(np.clip(127.5 + pixels, 0, 255).astype(np.uint8))
        if number % 4 == 0:
            image = image.transpose(Image.Transpose.ROTATE_90)
        image.save(folder / f"{number}.jpg", quality=90)

    with ThreadPoolExecutor(cores()) as pool:
        list(pool.map(write, range(count)))


def bare_pillow(data: bytes, size: int) -> np.ndarray:
    image = Image.open(io.BytesIO(data))
    image.draft("RGB", (2 * size, 2 * size))
    image = image if image.mode == "RGB" else image.convert("RGB")
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))


def with_simplejpeg(data: bytes, size: int) -> np.ndarray:
    pixels = simplejpeg.decode_jpeg(
        data, "RGB", min_height=2 * size, min_width=2 * size, min_factor=1
    )
    small = Image.fromarray(pixels).resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(small)


def in_threads(decode: Decode, pictures: Pictures, threads: int) -> None:
    """Read and decode every file into one array."""
    size = pictures.size
    array = np.empty((len(pictures), size, size, 3), dtype=np.uint8)

    def work(start: int) -> None:
        for row in range(start, min(start + CHUNK, len(pictures))):
            array[row] = decode((pictures.root / pictures.paths[row]).read_bytes(), size)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, range(0, len(pictures), CHUNK)))


def isdh_store(pictures: Pictures, threads: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        build_store(pictures, Path(folder) / "inputs.npy", threads=threads)


def measure(pictures: Pictures, threads: int, rounds: int) -> dict[str, dict[str, float]]:
    """Medians of pictures a second of wall time and of CPU time; rounds take turns."""
    ways: dict[str, Callable[[], None]] = {
        "isdh": lambda: isdh_store(pictures, threads),
        "pillow": lambda: in_threads(bare_pillow, pictures, threads),
        "simplejpeg": lambda: in_threads(with_simplejpeg, pictures, threads),
    }
    rates: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            wall, cpu = time.perf_counter(), time.process_time()
            way()
            spent = time.perf_counter() - wall, time.process_time() - cpu
            if number:  # the first round is the warm-up
                rates[name].append((len(pictures) / spent[0], len(pictures) / spent[1]))
    return {
        name: {
            "per_second": round(median(wall for wall, _ in values), 1),
            "per_cpu_second": round(median(cpu for _, cpu in values), 1),
        }
        for name, values in rates.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=Path)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--sizes", type=int, nargs="+", default=[32, 128, 224])
    parser.add_argument("--rounds", type=int, default=5)
    words = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = words.pictures or Path(temporary)
        if words.pictures is None:
            generate(folder, words.count)
        files = sorted(folder.rglob("*.jpg"))[: words.count]
        paths = [str(file.relative_to(folder)) for file in files]
        digests = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
        mean_bytes = round(sum(file.stat().st_size for file in files) / len(files))
        results = []
        for size in words.sizes:
            for threads in sorted({1, cores()}):
                rates = measure(Pictures(folder, paths, digests, size), threads, words.rounds)
                share = {
                    unit: round(rates["isdh"][unit] / rates["pillow"][unit], 3)
                    for unit in ("per_second", "per_cpu_second")
                }
                row = {"size": size, "threads": threads, **rates, "isdh_to_pillow": share}
                results.append(row)
                print(row)
    record(
        "decode",
        packages=("pillow", "simplejpeg"),
        decoders=decoders(),
        pictures={
            "count": len(files),
            "generated": words.pictures is None,
            "mean_bytes": mean_bytes,
        },
        rounds=words.rounds,
        results=results,
    )


if __name__ == "__main__":
    main()
