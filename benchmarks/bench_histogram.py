"""How fast is exact evaluation, against the bare increments it needs and the usual argsort?

On the same arrays, in one run, on one core, by process CPU time, medians after a warm-up, the
three taking turns:

- the joint histogram, and all metrics at four cut-offs, histogram included;
- the limit: the increments alone, at cells computed before;
- the evaluator that most hashing code carries: per query a product of +-1 codes, an argsort, and
  the metrics of that one order (ties as the sort leaves them), on a sample of the queries.

Labels are those of MIRFLICKR-25K and NUS-WIDE-21 where ISDH_TEST_DATA names a folder with
`data/deephash_splits.npz`, else drawn with as many labels per row; codes are signs of random
projections of the labels plus noise. Writes `results/<date>-histogram.json`.
"""

import argparse
import json
import os
import platform
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from statistics import median

import numba
import numpy as np
from threadpoolctl import threadpool_limits

from isdh import _kernels, codes, metrics

CUTOFFS = (100, 1000, 5000, None)
BARE_QUERIES = 100


@dataclass(frozen=True)
class Case:
    """Packed codes and labels of a query set and a database, and where the labels are from."""

    name: str
    bits: int
    source: str
    query_codes: np.ndarray
    query_labels: np.ndarray
    database_codes: np.ndarray
    database_labels: np.ndarray

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        """What `evaluate` takes, in its order."""
        return self.query_codes, self.query_labels, self.database_codes, self.database_labels

    @property
    def pairs(self) -> int:
        """How many (query, database row) pairs there are."""
        return len(self.query_codes) * len(self.database_codes)

    def first(self, queries: int) -> "Case":
        """The same database, searched by the first queries only."""
        codes, labels = self.query_codes[:queries], self.query_labels[:queries]
        return replace(self, query_codes=codes, query_labels=labels)


def published_labels(name: str, splits: tuple[str, ...]) -> np.ndarray | None:
    path = Path(os.environ.get("ISDH_TEST_DATA", ".")) / "data" / "deephash_splits.npz"
    if not path.exists():
        return None
    with np.load(path) as stored:
        columns = int(stored[f"{name}.{splits[0]}.shape"][1])
        rows = [
            np.unpackbits(stored[f"{name}.{split}.labels"], axis=1)[:, :columns] for split in splits
        ]
    return np.concatenate(rows)


def drawn_labels(rows: int, columns: int, per_row: float, rng: np.random.Generator) -> np.ndarray:
    share = 1 / np.arange(1, columns + 1)  # some labels are common, most are rare
    share = np.minimum(share * per_row / share.sum(), 0.9)
    labels = rng.random((rows, columns)) < share
    labels[:, 0] |= ~labels.any(axis=1)
    return labels.astype(np.uint8)


def case(
    name: str,
    *,
    bits: int,
    queries: int,
    database: int,
    columns: int,
    per_row: float,
    splits: tuple[str, ...],
) -> Case:
    rng = np.random.default_rng(0)
    labels = published_labels(name, splits)
    source = f"published labels of {name}"
    if labels is None:
        labels = drawn_labels(queries + database, columns, per_row, rng)
        source = f"drawn labels, about {per_row} per row"
    labels = labels[labels.any(axis=1)]
    labels = np.concatenate([labels[:queries], labels[-database:]])
    projected = labels @ rng.normal(size=(labels.shape[1], bits))
    noise = 0.7 * projected.std() * rng.normal(size=projected.shape)
    packed = codes.pack(projected + noise)
    return Case(
        name, bits, source, packed[:queries], labels[:queries], packed[queries:], labels[queries:]
    )


def bare_increments(data: Case) -> Callable[[], object]:
    """Counting into sub-tables at cells that are there already, for the first queries."""
    shared = data.query_labels.astype(int) @ data.database_labels.T.astype(int)
    width = int(data.query_labels.sum(axis=1).max()) + 1
    distances = codes.hamming_distances(data.query_codes, data.database_codes, bits=data.bits)
    cells = (distances * width + shared).astype(np.uint16)
    tables = np.zeros((4, (data.bits + 1) * width), np.uint16)

    def run() -> None:
        for row in cells:
            _kernels._count(row, tables)

    return run


def usual_evaluation(data: Case) -> dict[str, float]:
    """Argsort per query; mean of the metrics of the order it gives."""
    queries = 2.0 * codes.unpack(data.query_codes, data.bits).astype(np.float32) - 1
    database = 2.0 * codes.unpack(data.database_codes, data.bits).astype(np.float32) - 1
    query_labels = data.query_labels.astype(np.float32)
    database_labels = data.database_labels.astype(np.float32)
    ranks = np.arange(1, len(database) + 1)
    discount = 1 / np.log2(1 + ranks)
    sums: dict[str, float] = {}
    for query, labels in zip(queries, query_labels, strict=True):
        shared = database_labels @ labels
        order = np.argsort(0.5 * (data.bits - database @ query))
        shared = shared[order]
        relevant = shared > 0
        hits, labels_so_far = np.cumsum(relevant), np.cumsum(shared)
        gain = 2.0**shared - 1
        best = np.sort(gain)[::-1]
        for cutoff in CUTOFFS:
            k = min(cutoff or len(order), len(order))
            found = max(hits[k - 1], 1)
            values = {
                "map": (relevant * hits / ranks)[:k].sum() / found,
                "wap": (relevant * labels_so_far / ranks)[:k].sum() / found,
                "acg": shared[:k].mean(),
                "ndcg": (gain * discount)[:k].sum() / max((best * discount)[:k].sum(), 1e-9),
                "precision": hits[k - 1] / k,
                "recall": hits[k - 1] / max(hits[-1], 1),
            }
            for metric, value in values.items():
                key = f"{metric}_at_{cutoff or 'all'}"
                sums[key] = sums.get(key, 0.0) + value / len(queries)
    return sums


def cpu_seconds(work: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median process CPU time of each, the works taking turns after one run of each."""
    times: dict[str, list[float]] = {name: [] for name in work}
    for turn in range(repeats + 1):
        for name, run in work.items():
            start = time.process_time()
            run()
            if turn:
                times[name].append(time.process_time() - start)
    return {name: median(values) for name, values in times.items()}


def measure(data: Case, *, repeats: int, sample: int) -> dict[str, object]:
    bare, usual = data.first(BARE_QUERIES), data.first(sample)
    seconds = cpu_seconds(
        {
            "histogram": lambda: codes.joint_histogram(*data.arrays, bits=data.bits),
            "evaluate": lambda: metrics.evaluate(*data.arrays, bits=data.bits, cutoffs=CUTOFFS),
            "bare": bare_increments(bare),
        },
        repeats,
    )
    seconds |= cpu_seconds({"usual": lambda: usual_evaluation(usual)}, min(repeats, 3))
    rate = data.pairs / seconds["histogram"] / 1e9
    limit = bare.pairs / seconds["bare"] / 1e9
    per_query = seconds["evaluate"] / len(data.query_codes)
    usual_per_query = seconds["usual"] / len(usual.query_codes)
    return {
        "case": data.name,
        "labels_from": data.source,
        "queries": len(data.query_codes),
        "database": len(data.database_codes),
        "bits": data.bits,
        "label_columns": data.query_labels.shape[1],
        "histogram_giga_pairs_per_second": round(rate, 3),
        "bare_increments_giga_per_second": round(limit, 3),
        "share_of_bare": round(rate / limit, 3),
        "evaluate_milliseconds": round(1e3 * seconds["evaluate"], 2),
        "usual_queries": len(usual.query_codes),
        "usual_milliseconds_per_query": round(1e3 * usual_per_query, 4),
        "evaluate_milliseconds_per_query": round(1e3 * per_query, 4),
        "times_faster_than_usual": round(usual_per_query / per_query, 1),
    }


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    fields = {name.strip(): value.strip() for name, value in fields.items()}
    family, model = fields.get("cpu family", "?"), fields.get("model", "?")
    return f"{fields.get('model name', '?')} (family {family}, model {model}), one core"


def commit() -> str:
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "none"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=9, help="timed runs of each")
    parser.add_argument("--sample", type=int, default=50, help="queries of the usual evaluator")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    cases = [
        case(
            "mirflickr",
            bits=48,
            queries=1000,
            database=19_581,
            columns=38,
            per_row=4.8,
            splits=("test", "train", "database"),
        ),
        case(
            "nuswide_21",
            bits=64,
            queries=2100,
            database=193_734,
            columns=21,
            per_row=2.1,
            splits=("test", "database"),
        ),
    ]
    with threadpool_limits(1):
        measured = [measure(data, repeats=options.repeats, sample=options.sample) for data in cases]
    for row in measured:
        print(f"\n{row['case']}: {row['labels_from']}")
        for name, value in list(row.items())[2:]:
            print(f"  {name:<34}{value:>12}")
    report = {
        "date": date.today().isoformat(),
        "commit": commit(),
        "device": processor(),
        "versions": {
            "python": platform.python_version(),
            "numpy": np.__version__,
            "numba": numba.__version__,
        },
        "time": "process CPU time, medians",
        "cases": measured,
    }
    options.results.mkdir(parents=True, exist_ok=True)
    path = options.results / f"{report['date']}-histogram.json"
    path.write_text(json.dumps(report, indent=2) + "\n")
    print(f"\nwrote {path}")


if __name__ == "__main__":
    main()
