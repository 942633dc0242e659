"""How fast is search in a million codes, and what does it take, beside FAISS's own calls?

On one core, on the same codes and queries, in one run, by process CPU time, medians after a
warm-up, the ways taking turns. Codes are drawn at random, and once more from few centres with some
bits flipped, as learning leaves them; a query is a code of the collection with two bits flipped.

- the 100 nearest: isdh.index.HammingIndex, plain and padded, and faiss.IndexBinaryFlat;
- all within a radius: HammingIndex, whose answers are in order, FAISS's range search of the same,
  which leaves that to others, and faiss.IndexBinaryMultiHash (64 bits), which takes a multiple of
  the memory;
- loading the codes from a folder, digest verified, and the memory that this takes;
- isdh.approximate.ApproximateIndex and its recall.

    python benchmarks/bench_index.py [--rows 1000000] [--queries 32] [--rounds 5]
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import faiss
import numpy as np
from record import record

import isdh.multi_index  # numba is no part of what is measured
from isdh.approximate import ApproximateIndex
from isdh.codes import pack
from isdh.index import HammingIndex

BITS = (12, 24, 36, 48, 64)
RADII = (0, 1, 2, 4)
CENTRES, FLIPPED = 300, 0.03
Codes = np.ndarray


def draw(rows: int, bits: int, kind: str, rng: np.random.Generator) -> Codes:
    """Packed codes: `random`, or `clustered` as learning leaves them."""
    if kind == "random":
        return pack(rng.integers(0, 2, (rows, bits), dtype=np.int8))
    centres = rng.integers(0, 2, (CENTRES, bits), dtype=np.int8)
    shares = 1 / np.arange(1, CENTRES + 1)
    middle = centres[rng.choice(CENTRES, rows, p=shares / shares.sum())]
    return pack(middle ^ (rng.random((rows, bits), np.float32) < FLIPPED))


def ask(codes: Codes, bits: int, count: int, rng: np.random.Generator) -> Codes:
    queries = codes[rng.integers(0, len(codes), count)].copy()
    for query in queries:
        for bit in rng.choice(bits, 2, replace=False):
            query[bit // 8] ^= 1 << bit % 8
    return queries


def milliseconds(ways: dict[str, Callable[[], Any]], queries: int, rounds: int) -> dict[str, float]:
    """Of CPU time for each query; the ways take turns, the first round is the warm-up."""
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            start = time.process_time()
            way()
            if number:
                spent[name].append(1000 * (time.process_time() - start) / queries)
    return {name: round(median(values), 5) for name, values in spent.items()}


def megabytes() -> float:
    """Memory of this process that is no file's."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"RssAnon:\s+(\d+) kB", status)[1]) / 1024


def nearest(codes: Codes, bits: int, queries: Codes, rounds: int) -> dict[str, float]:
    flat = faiss.IndexBinaryFlat(8 * codes.shape[1])
    flat.add(codes)
    index, padded = HammingIndex(codes, bits), HammingIndex(codes, bits, padded=True)
    ways = {
        "isdh": lambda: index.search(queries, 100),
        "isdh_padded": lambda: padded.search(queries, 100),
        "faiss_flat": lambda: flat.search(queries, 100),
    }
    return milliseconds(ways, len(queries), rounds)


def within(codes: Codes, bits: int, queries: Codes, rounds: int) -> list[dict[str, Any]]:
    flat = faiss.IndexBinaryFlat(8 * codes.shape[1])
    flat.add(codes)
    index = HammingIndex(codes, bits)
    index.within(queries, 0)  # the first call of all compiles, or reads what was compiled
    start = time.perf_counter()
    index.within(queries, 2)
    built = time.perf_counter() - start
    found = []
    for radius in RADII:
        lims, _, _ = flat.range_search(queries, radius + 1)
        ours = index.within(queries, radius)[0]
        assert (ours == lims).all()
        ways = {
            "isdh": lambda r=radius: index.within(queries, r),
            "faiss_flat": lambda r=radius: flat.range_search(queries, r + 1),
        }
        one = {
            "isdh": lambda r=radius: [index.within(query[None], r) for query in queries],
            "faiss_flat": lambda r=radius: [
                flat.range_search(query[None], r + 1) for query in queries
            ],
        }
        row = {
            "radius": radius,
            "found": round(int(lims[-1]) / len(queries), 1),
            "ms": milliseconds(ways, len(queries), rounds),
            "ms_one_at_a_time": milliseconds(one, len(queries), rounds),
            "seconds_for_tables": round(built, 3),
        }
        row["times_faster"] = round(row["ms"]["faiss_flat"] / row["ms"]["isdh"], 2)
        found.append(row)
    return found


def multi_hash(codes: Codes, queries: Codes, rounds: int) -> dict[str, Any]:
    """FAISS's own multi-index hashing at 64 bits, four parts of 16, radius 2."""
    start = time.perf_counter()
    index = faiss.IndexBinaryMultiHash(64, 4, 16)
    index.add(codes)
    built = time.perf_counter() - start
    ways = {"faiss_multi_hash": lambda: index.range_search(queries, 3)}
    return {
        "seconds_to_build": round(built, 3),
        "ms": milliseconds(ways, len(queries), rounds),
    }


def loading(codes: Codes, rounds: int) -> dict[str, Any]:
    """Seconds of a verified load; memory in a process that has allocated nothing else."""
    taken = []
    with tempfile.TemporaryDirectory() as folder:
        HammingIndex(codes, 64).save(Path(folder), weights_sha256="0" * 64)
        for _ in range(rounds):
            start = time.perf_counter()
            HammingIndex.load(Path(folder))
            taken.append(time.perf_counter() - start)
        command = [sys.executable, __file__, "--memory", folder]
        told = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout
    return {"seconds": round(median(taken), 3), "megabytes": json.loads(told)}


def memory(folder: Path) -> dict[str, float]:
    """What codes in a folder take, in MB of 2**20 bytes."""
    query = np.zeros((1, 8), np.uint8)
    warm = HammingIndex(np.repeat(query, 1 << 15, axis=0), 64)  # numba's own memory
    warm.search(query, 1)
    warm.within(query, 2)
    steps = [megabytes()]
    index = HammingIndex.load(folder)
    index.search(query, 100)
    steps.append(megabytes())
    index.within(query, 2)
    steps.append(megabytes())
    codes = np.load(folder / "codes.npy", mmap_mode="r")
    hashed = faiss.IndexBinaryMultiHash(64, 4, 16)
    hashed.add(codes)
    steps.append(megabytes())
    flat, tables, multi = np.diff(steps)
    return {
        "codes": round(codes.nbytes / (1 << 20), 2),
        "isdh_flat": round(flat, 2),
        "isdh_tables_of_radius_2": round(tables, 2),
        "faiss_multi_hash": round(multi, 2),
    }


def clusters(codes: Codes, queries: Codes, rounds: int) -> list[dict[str, Any]]:
    found = []
    for probes in (4, 16):
        start = time.perf_counter()
        index = ApproximateIndex(codes, 64, probes=probes, queries=queries)
        row = {"probes": probes, "seconds_to_build": round(time.perf_counter() - start, 1)}
        row["recall_at_100"] = round(index.recall, 4)
        ways = {"isdh": lambda i=index: i.search(queries, 100)}
        found.append({**row, "ms": milliseconds(ways, len(queries), rounds)})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory", type=Path, help=argparse.SUPPRESS)
    words = parser.parse_args()
    faiss.omp_set_num_threads(1)
    assert isdh.multi_index
    if words.memory:
        print(json.dumps(memory(words.memory)))
        return
    results = []
    for kind in ("random", "clustered"):
        for bits in BITS:
            rng = np.random.default_rng(bits)
            codes = draw(words.rows, bits, kind, rng)
            queries = ask(codes, bits, words.queries, rng)
            result: dict[str, Any] = {"codes": kind, "bits": bits}
            result["nearest_100_ms"] = nearest(codes, bits, queries, words.rounds)
            result["within"] = within(codes, bits, queries, words.rounds)
            if bits == 64:
                result["loading"] = loading(codes, words.rounds)
                result["multi_hash"] = multi_hash(codes, queries, words.rounds)
                result["approximate"] = clusters(codes, queries, words.rounds)
            print(result, flush=True)
            results.append(result)
    record(
        "index",
        packages=("faiss-cpu", "numba", "numpy"),
        rows=words.rows,
        queries=words.queries,
        rounds=words.rounds,
        results=results,
    )


if __name__ == "__main__":
    main()
