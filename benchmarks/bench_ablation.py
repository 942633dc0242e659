"""What each part of `rish` adds: parts switched on one by one, on the same split and seeds.

    python benchmarks/bench_ablation.py --folder WORKSPACE [--dataset mirflickr_mlp]

The workspace is one that bench_methods.py made: features, labels and manifest are read, nothing in
it is written. The table goes to docs/results.md.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import product
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from bench_methods import BITS, METRICS, ROOT, SEEDS, write

from isdh.report.vocabulary import title

# Each line holds all parts above it; a part is what it takes to switch it off.
PARTS: dict[str, dict[str, float]] = {
    "list alone": {},
    "average precision": {"ap_weight": 0.0},
    "NDCG": {"ndcg_weight": 0.0},
    "straight-through": {"straight_through_start": 0.0, "straight_through": 0.0},
    "weight of rows with many labels": {"anchor_power": 0.0},
    "auxiliary labels": {"auxiliary_weight": 0.0},
    "labels predicted from the other rows": {"teacher_share": 0.0},
    "mixup": {},
}


def configurations() -> Iterator[tuple[str, dict[str, float], float]]:
    """Name, hyper-parameters that are switched off, share of mixed rows."""
    names = list(PARTS)
    for last, name in enumerate(names):
        off = {key: value for later in names[last + 1 :] for key, value in PARTS[later].items()}
        yield name, off, 0.5 if name == "mixup" else 0.0


def scores(
    folder: Path, dataset: str, job: tuple[dict[str, float], float, int, int]
) -> list[float]:
    """Train one cell as the stages do, and score it."""
    import torch

    from isdh import manifest, methods, metrics, networks, params
    from isdh.artifacts import Workspace, read_array
    from isdh.encoding import encode
    from isdh.training import TrainingRows, fit

    torch.set_num_threads(1)
    hyper, mixup, bits, seed = job
    workspace, settings = Workspace(folder), params.load(ROOT / "params.yaml")
    section, data = settings.section(dataset), workspace.data(dataset)
    frame = manifest.read_splits(workspace.manifest(dataset))
    inputs = read_array(data / "inputs.npy", dtype="float16")
    labels = read_array(data / "labels.npy", dtype=bool)
    mirrored = read_array(data / "mirrored.npy", dtype="float16")
    rows = TrainingRows(inputs, labels, manifest.training_rows(frame), mirrored)
    torch.manual_seed(seed)
    network = networks.build(
        input_shape=inputs.shape[1:], bits=bits, **section.network.model_dump()
    )
    method = methods.build("rish", bits=bits, num_classes=labels.shape[1], **hyper)
    training = settings.training(dataset, "rish").model_copy(update={"mixup": mixup})
    cpu = torch.device("cpu")
    for _ in fit(network, method, rows, training, seed=seed, device=cpu):
        pass
    codes = encode(network, inputs, device=cpu)
    query, database = manifest.query_rows(frame), manifest.database_rows(frame)
    found = metrics.evaluate(
        codes[query], labels[query], codes[database], labels[database], bits=bits
    ).as_dict()
    return [found[metric] for metric in METRICS]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="the workspace")
    parser.add_argument("--dataset", default="mirflickr_mlp", help="a section of params.yaml")
    options = parser.parse_args()
    jobs = [
        (hyper, mixup, bits, seed)
        for bits in (BITS[0], BITS[-1])
        for _, hyper, mixup in configurations()
        for seed in SEEDS
    ]
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        found = list(pool.map(partial(scores, options.folder, options.dataset), jobs))
    table = np.array(found).reshape(2, len(PARTS), len(SEEDS), len(METRICS))
    lines = [
        f"| bits | parts | {' | '.join(map(title, METRICS))} |",
        "|---" * (2 + len(METRICS)) + "|",
    ]
    for (i, bits), (j, name) in product(enumerate((BITS[0], BITS[-1])), enumerate(PARTS)):
        cells = [f"{values.mean():.3f} ± {values.std(ddof=1):.3f}" for values in table[i, j].T]
        part = name if j == 0 else f"+ {name}"
        lines.append(f"| {bits} | {part} | {' | '.join(cells)} |")
    write(ROOT / "docs" / "results.md", "rish", "\n".join(lines))


if __name__ == "__main__":
    main()
