"""The table of methods on MIRFLICKR-25K: made, timed, tested, and written into docs/results.md.

    python benchmarks/bench_methods.py --raw FOLDER --weights FILE --folder WORKSPACE
        [--dataset D] [--lists NAME [--redraw SEED]] [--methods M,N] [--choose]

A workspace with the project's code is made in the folder (or gone on with, where it was stopped),
all methods, four code lengths and three seeds are run by `python -m flows`, and the tables of
docs/results.md between the marks of the dataset are replaced. With --choose hyper-parameters
are chosen instead, and the log is copied here; with --write-only nothing is run. With --redraw the
split is another one: training images and queries are drawn among those that the lists do not train
on, so that no label of a query has had a part in choosing; only how `rish` stands against the best
of the others is then written.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import shutil
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
from isdh.artifacts import Cell, Workspace, copy_code, current_scores
from isdh.report.vocabulary import title
from isdh.significance import Standing, intervals, standings

ROOT = Path(__file__).resolve().parents[1]
METRICS = ("map_at_5000", "map_at_all", "wap_at_5000", "acg_at_100", "ndcg_at_100")
REFERENCE = "isdh"
OURS = "rish"
BITS, SEEDS = (12, 24, 36, 48), (0, 1, 2)


def prepare(
    folder: Path, dataset: str, names: list[str], raw: Path, weights: Path, lists: str | None
) -> None:
    """Copy the project's code, and set params.yaml: the methods, three seeds."""
    copy_code(ROOT, folder)
    shutil.copytree(ROOT / "choices", folder / "choices", dirs_exist_ok=True)
    if not (folder / ".git").exists():
        subprocess.run(["git", "init", "-q", "."], cwd=folder, check=True)
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    content["datasets"] = {dataset: str(raw.resolve())}
    content["methods"] = names
    content["method"] = {name: content["method"].get(name, {}) for name in names}
    content["bits"], content["seeds"] = list(BITS), list(SEEDS)
    if lists:
        content["dataset"][dataset]["source"] = {"reader": "mirflickr", "lists": lists}
    (folder / "params.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    link = folder / content["dataset"][dataset]["inputs"]["weights"]
    if not link.exists():
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(weights.resolve())


def redraw(raw: Path, lists: str, seed: int) -> str:
    """Write the lists of another split of the same sizes below the raw root; the folder's name."""
    parts = ("train", "query", "database")
    old = {part: (raw / lists / f"{part}.txt").read_text().split() for part in parts}
    others = np.random.default_rng(seed).permutation(sorted(old["query"] + old["database"]))
    train, query, database = np.split(others, np.cumsum([len(old["train"]), len(old["query"])]))
    searched = [*database, *old["train"]]
    new: dict[str, list[str]] = {"train": [*train], "query": [*query], "database": searched}
    name = f"{lists}-{seed}"
    (raw / name).mkdir(exist_ok=True)
    for part, names in new.items():
        (raw / name / f"{part}.txt").write_text("\n".join(names) + "\n")
    return name


def table(
    workspace: Workspace, dataset: str, names: list[str], metric: str
) -> dict[str, dict[int, Standing]]:
    """Method -> code length -> entry, of the cells that are there."""
    answer: dict[str, dict[int, Standing]] = {}
    for bits in BITS:
        cells = {name: list(scored(workspace, dataset, name, bits)) for name in names}
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
    values = {name: per_query(workspace, found, metric) for name, found in cells.items()}
    scores = {name: of_seeds.mean(axis=1).tolist() for name, of_seeds in values.items()}
    return standings(scores, values, reference=REFERENCE)


def per_query(workspace: Workspace, cells: list[Cell], metric: str) -> NDArray[np.float64]:
    """The scores of each query, (seeds, queries)."""
    per_seed = []
    for cell in cells:
        with np.load(workspace.scores(cell).with_suffix(".npz")) as arrays:
            per_seed.append(arrays[metric])
    return np.array(per_seed)


def lead(workspace: Workspace, dataset: str, names: list[str], metric: str, bits: int) -> str:
    """Our method beside the best of the others: means, and the interval of the difference."""
    rows = {
        name: per_query(workspace, list(scored(workspace, dataset, name, bits)), metric).mean(0)
        for name in names
    }
    ours = rows.pop(OURS)
    best = max(rows, key=lambda name: float(rows[name].mean()))
    low, high = intervals(ours - rows[best])[0]
    mark = "▴" if low > 0 else "▾" if high < 0 else "="
    difference = ours.mean() - rows[best].mean()
    return f"{ours.mean():.3f}, `{best}` {rows[best].mean():.3f}: {difference:+.3f} {mark}"


def leads(workspace: Workspace, dataset: str, names: list[str]) -> str:
    """Our method against the best of the others, all metrics and code lengths."""
    lines = [f"| metric | {' | '.join(map(str, BITS))} |", "|---" * (1 + len(BITS)) + "|"]
    for metric in METRICS:
        entries = (lead(workspace, dataset, names, metric, bits) for bits in BITS)
        lines.append(f"| {title(metric)} | {' | '.join(entries)} |")
    return "\n".join(lines)


def marked(entry: Standing) -> str:
    """An entry as Markdown: the best bold, = level with it, ▴ ▾ better or worse than isdh."""
    deviation = math.nan if entry.deviation is None else entry.deviation
    shown = f"{entry.mean:.3f} ± {deviation:.3f}"
    shown = f"**{shown}**" if entry.best else f"{shown} =" if entry.level else shown
    return f"{shown} {' ▴▾'[entry.against or 0]}".rstrip()


def markdown(workspace: Workspace, dataset: str, names: list[str]) -> str:
    """All tables of a dataset, methods by their mean NDCG over code lengths."""
    tables = {metric: table(workspace, dataset, names, metric) for metric in METRICS}
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


def write(path: Path, name: str, text: str) -> None:
    """Replace what stands between the marks of that name."""
    begin, end = f"<!-- tables of {name} -->", f"<!-- end of tables of {name} -->"
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
    parser.add_argument("--redraw", type=int, metavar="SEED", help="another split, of that seed")
    parser.add_argument("--methods", help="some, separated by commas; default: all")
    parser.add_argument("--choose", action="store_true", help="choose hyper-parameters, no more")
    parser.add_argument("--write-only", action="store_true", help="the tables of what is there")
    options = parser.parse_args()
    folder: Path = options.folder.resolve()
    name = options.dataset
    names = options.methods.split(",") if options.methods else list(methods.METHODS)
    if options.redraw is not None:
        options.lists = redraw(options.raw, options.lists, options.redraw)
        name = f"{name}-{options.lists}"
    if not options.write_only:
        prepare(folder, options.dataset, names, options.raw, options.weights, options.lists)
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
            "methods": len(names),
            "cells_made": sum(
                path.stat().st_mtime >= start for path in (folder / "metrics").rglob("*.json")
            ),
            "wall_s": seconds,
        }
        path = ROOT / "benchmarks" / "results" / f"{date}-methods-{name}.json"
        path.write_text(json.dumps(result, indent=2) + "\n")
    results, workspace = ROOT / "docs" / "results.md", Workspace(folder)
    write(results, f"leads of {name}", leads(workspace, options.dataset, names))
    if options.redraw is None:
        write(results, name, markdown(workspace, options.dataset, names))


if __name__ == "__main__":
    main()
