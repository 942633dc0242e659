"""The table of methods on MIRFLICKR-25K: made, timed, tested, and written into docs/results.md.

    python benchmarks/bench_methods.py --raw FOLDER --weights FILE --folder WORKSPACE
        [--dataset D] [--lists NAME] [--choose]

A workspace with the project's code is made in the folder (or gone on with, where it was stopped),
all methods, four code lengths and three seeds are run by `python -m flows`, and the tables of
docs/results.md between the marks of the dataset are replaced. With --choose hyper-parameters
are chosen instead, and the log is copied here; with --write-only nothing is run.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray

from isdh import methods
from isdh.artifacts import Cell, Workspace, current_scores
from isdh.report.vocabulary import title
from isdh.significance import Standing, standings

ROOT = Path(__file__).resolve().parents[1]
METRICS = ("map_at_5000", "map_at_all", "wap_at_5000", "acg_at_100", "ndcg_at_100")
REFERENCE = "isdh"
BITS, SEEDS = (12, 24, 36, 48), (0, 1, 2)


def prepare(folder: Path, dataset: str, raw: Path, weights: Path, lists: str | None) -> None:
    """Copy the project's files as git has them, and set params.yaml: everything, three seeds."""
    listing = ["git", "ls-files", "-co", "--exclude-standard"]
    files = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True)
    for name in files.stdout.splitlines():
        if (ROOT / name).is_file() and name not in {"params.yaml", "dvc.lock", "promotions.jsonl"}:
            target = folder / name
            content = (ROOT / name).read_bytes()
            if not target.exists() or target.read_bytes() != content:
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content)
    if not (folder / ".git").exists():
        subprocess.run(["git", "init", "-q", "."], cwd=folder, check=True)
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    content["datasets"] = {dataset: str(raw.resolve())}
    content["methods"] = list(methods.METHODS)
    content["method"] = {name: content["method"].get(name, {}) for name in methods.METHODS}
    content["bits"], content["seeds"] = list(BITS), list(SEEDS)
    if lists:
        content["dataset"][dataset]["source"] = {"reader": "mirflickr", "lists": lists}
    (folder / "params.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    link = folder / content["dataset"][dataset]["inputs"]["weights"]
    if not link.exists():
        link.symlink_to(weights.resolve())


def table(workspace: Workspace, dataset: str, metric: str) -> dict[str, dict[int, Standing]]:
    """Method -> code length -> entry, of the cells that are there."""
    answer: dict[str, dict[int, Standing]] = {}
    for bits in BITS:
        cells = {name: list(scored(workspace, dataset, name, bits)) for name in methods.METHODS}
        missing = [name for name, found in cells.items() if len(found) < len(SEEDS)]
        if missing:
            sys.exit(
                f"{bits} bits: not scored with all seeds: {', '.join(missing)}; run them first"
            )
        for name, entry in column(workspace, cells, metric).items():
            answer.setdefault(name, {})[bits] = entry
    return answer


def scored(workspace: Workspace, dataset: str, method: str, bits: int) -> Iterator[Cell]:
    """The cells of a method at a code length that have scores of their present model."""
    for seed in SEEDS:
        cell = Cell(dataset, method, bits, seed)
        if workspace.scores(cell).exists() and current_scores(workspace, cell):
            yield cell


def column(
    workspace: Workspace, cells: Mapping[str, list[Cell]], metric: str
) -> dict[str, Standing]:
    """One code length: every method against the best and against the reference."""
    values: dict[str, NDArray[np.float64]] = {}
    for name, found in cells.items():
        per_seed = []
        for cell in found:
            with np.load(workspace.scores(cell).with_suffix(".npz")) as arrays:
                per_seed.append(arrays[metric])
        values[name] = np.array(per_seed)  # (seeds, queries)
    scores = {name: of_seeds.mean(axis=1).tolist() for name, of_seeds in values.items()}
    return standings(scores, values, reference=REFERENCE)


def marked(entry: Standing) -> str:
    """An entry as Markdown: the best bold, = level with it, ▴ ▾ better or worse than isdh."""
    deviation = math.nan if entry.deviation is None else entry.deviation
    shown = f"{entry.mean:.3f} ± {deviation:.3f}"
    shown = f"**{shown}**" if entry.best else f"{shown} =" if entry.level else shown
    return f"{shown} {' ▴▾'[entry.against or 0]}".rstrip()


def markdown(workspace: Workspace, dataset: str) -> str:
    """All tables of a dataset, methods by their mean NDCG over code lengths."""
    tables = {metric: table(workspace, dataset, metric) for metric in METRICS}
    by_ndcg = tables["ndcg_at_100"]
    order = sorted(by_ndcg, key=lambda name: -np.mean([e.mean for e in by_ndcg[name].values()]))
    parts = []
    for metric, rows in tables.items():
        lines = [f"#### {title(metric)}", "", f"| method | {' | '.join(map(str, BITS))} |"]
        lines += ["|---" * (1 + len(BITS)) + "|"]
        for name in order:
            entries = (marked(rows[name][bits]) for bits in BITS)
            lines.append(f"| `{name}` | {' | '.join(entries)} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def write(path: Path, dataset: str, text: str) -> None:
    """Replace what stands between the dataset's marks."""
    begin, end = f"<!-- tables of {dataset} -->", f"<!-- end of tables of {dataset} -->"
    before, _, rest = path.read_text(encoding="utf-8").partition(begin)
    _, _, after = rest.partition(end)
    path.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}", encoding="utf-8")


def run(folder: Path, dataset: str, *, choose: bool) -> dict[str, float]:
    """Features first, then the choice or all cells by the main job; wall seconds of each."""
    python = Path(sys.executable)
    environment = {**os.environ, "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}"}
    seconds = {}
    commands = {"features": ["dvc", "repro", "--quiet", f"preprocess@{dataset}"]}
    if choose:
        commands["choice"] = [str(python), "-m", "flows.choose", dataset]
    else:
        commands["cells"] = [str(python), "-m", "flows"]
    for name, command in commands.items():
        start = time.perf_counter()
        subprocess.run(command, cwd=folder, check=True, env=environment)
        seconds[name] = round(time.perf_counter() - start, 1)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--raw", type=Path, required=True, help="MIRFLICKR-25K, unpacked")
    parser.add_argument("--weights", type=Path, required=True, help="MobileNetV2's state_dict")
    parser.add_argument("--folder", type=Path, required=True, help="the workspace")
    parser.add_argument("--dataset", default="mirflickr", help="a section of params.yaml")
    parser.add_argument("--lists", help="a folder of split lists below the raw one")
    parser.add_argument("--choose", action="store_true", help="choose hyper-parameters, no more")
    parser.add_argument("--write-only", action="store_true", help="the tables of what is there")
    options = parser.parse_args()
    folder: Path = options.folder.resolve()
    if not options.write_only:
        prepare(folder, options.dataset, options.raw, options.weights, options.lists)
        start = time.time()
        seconds = run(folder, options.dataset, choose=options.choose)
        if options.choose:
            log = Path("choices") / f"{options.dataset}.csv"
            (ROOT / log).write_bytes((folder / log).read_bytes())
            return
        date = datetime.now(UTC).strftime("%Y-%m-%d")
        result = {
            "date": date,
            "dataset": options.dataset,
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "commit": subprocess.check_output(
                ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, text=True
            ).strip(),
            "torch": version("torch"),
            "split": options.lists or "drawn",
            "methods": len(methods.METHODS),
            "cells_made": sum(
                path.stat().st_mtime >= start for path in (folder / "metrics").rglob("*.json")
            ),
            "wall_s": seconds,
        }
        path = ROOT / "benchmarks" / "results" / f"{date}-methods-{options.dataset}.json"
        path.write_text(json.dumps(result, indent=2) + "\n")
    text = markdown(Workspace(folder), options.dataset)
    write(ROOT / "docs" / "results.md", options.dataset, text)


if __name__ == "__main__":
    main()
