"""`sweep`: a matrix that may go beyond params.yaml, made in a workspace of its own.

    prefect deployment run sweep/sweep -p methods='["isdh", "dhn"]' -p bits='[16, 64]'

The workspace is .isdh/sweep/: the code as it is, params.yaml with another matrix, dvc.lock and
checkpoints that stay from sweep to sweep. Pictures, weights, DVC's cache and MLflow are the
project's, so that what either has made the other restores. Nothing else of the project changes.
"""

from __future__ import annotations

import json
import os
import re
from contextlib import chdir
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml
from prefect import flow
from prefect.runtime import flow_run

from flows import pipeline, stage, tracked, turns
from flows.__main__ import require_pictures
from flows.account import Account
from flows.stage import WORKSPACE
from isdh import params
from isdh.artifacts import copy_code, current_scores
from isdh.errors import InputError, unknown
from isdh.params import Params
from isdh.settings import validate
from isdh.tracking import provenance

FOLDER = WORKSPACE.state("sweep")
SHARED = ("weights", "mlflow.db", "mlartifacts")
EXAMPLES = {
    "datasets": '["digits"]',
    "methods": '["isdh", "dhn"]',
    "bits": "[16, 64]",
    "seeds": "[0, 1, 2]",
}
COMPARE = """In the project's folder, with its environment activated:

    (cd {folder} && isdh compare)    # the cells of this sweep
    isdh compare --all               # every cell that was ever published

- [MLflow]({mlflow})
{links}
"""
NICE = 10  # the scheduled job and whoever sits at the machine go first


def _name() -> str:
    given = {axis: flow_run.parameters.get(axis) for axis in EXAMPLES}
    parts = [f"{axis} {json.dumps(values)}" for axis, values in given.items() if values]
    return re.sub(r'["\[\],]', "", " ".join(["sweep", *parts]))


# the values are validated here, where it can be said what would be right
@flow(name="sweep", flow_run_name=_name, validate_parameters=False)
async def sweep(
    datasets: list[str] | None = None,
    methods: list[str] | None = None,
    bits: list[int] | None = None,
    seeds: list[int] | None = None,
    workers: int = 0,
) -> None:
    """Make the cells of a matrix beside that of params.yaml, and publish them; champions stay.

    Args:
        datasets: sections of `dataset` in params.yaml; this and what follows, left out, as there.
        methods: files of isdh/methods/.
        bits: code lengths.
        seeds: of the training.
        workers: cells side by side; 0: one a GPU, or one a core where there is none.
    """
    content = asked(datasets=datasets, methods=methods, bits=bits, seeds=seeds)
    settings = validate(Params, content, where="sweep")
    pipeline.check_methods(settings)
    require_pictures(settings)
    project = Path.cwd()
    FOLDER.mkdir(parents=True, exist_ok=True)
    with chdir(FOLDER):
        async with turns.workspace():
            prepare(project, content, settings)
            os.nice(NICE)
            await pipeline.make(Account(WORKSPACE, settings), workers)
            await pipeline.rest()
            await show(settings)
            await publish(settings)


def asked(**axes: Any) -> dict[str, Any]:
    """What params.yaml would say with another matrix.

    Args:
        **axes: datasets, methods, bits, seeds; None: as it is.

    Raises:
        InputError: value, rule and remedy.
    """
    settings = params.load()
    content: dict[str, Any] = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
    given = {axis: values for axis, values in axes.items() if values is not None}
    for axis, values in given.items():
        if not isinstance(values, list) or not values:
            raise InputError(
                f"{axis}={values!r}: want a list, e.g. {EXAMPLES[axis]}; "
                "left out it is that of params.yaml"
            )
        if any(values.count(value) > 1 for value in values):
            raise InputError(f"{axis}={values!r}: each may stand once; remove the repetition")
    content |= given
    names = given.get("datasets", settings.datasets)
    content["datasets"] = {name: _root(settings, name) for name in names}
    for name in given.get("methods", ()):
        if isinstance(name, str):
            content["method"].setdefault(name, {})
    try:
        checked = validate(Params, content, where="sweep")
    except InputError as error:
        told = str(error).replace("\n  ", "; ")
        raise InputError(f"{told}; nothing was made: start it again with other values") from None
    matrix = {axis: list(getattr(checked, axis)) for axis in ("methods", "bits", "seeds")}
    return {**content, **matrix}


def _root(settings: Params, name: Any) -> str:
    """The folder of a dataset, which today's matrix need not have."""
    if name not in list(settings.dataset):
        fault = unknown("dataset", str(name), settings.dataset)
        raise InputError(f"{fault}; or add the section dataset.{name} to params.yaml")
    root = Path(settings.datasets.get(name, WORKSPACE.raw(name)))
    return str(root.resolve() if ".." in root.parts else root)


def prepare(project: Path, content: dict[str, Any], settings: Params) -> None:
    """Make a workspace of this folder, or bring it up to date; what it has made stays."""
    copy_code(project, Path())
    for name in (*SHARED, *settings.datasets.values()):
        if not Path(name).is_absolute() and Path(name) != WORKSPACE.raw("digits"):  # made here too
            _link(Path(name), project / name)
    _share_cache(project)
    Path("params.yaml").write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    provenance.note_origin(project, Path())


def _link(link: Path, target: Path) -> None:
    if link.is_symlink():
        link.unlink()
    if not link.exists():  # below another link it is there already
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(target)


def _share_cache(project: Path) -> None:
    """Have DVC keep and look for data where it does in the project."""
    from dvc.config import Config
    from dvc.repo import Repo

    local = project / ".dvc" / "config.local"
    Path(".dvc", "config.local").write_bytes(local.read_bytes() if local.exists() else b"")
    with Config(".dvc").edit("local") as settings:
        settings.setdefault("cache", {})["dir"] = Repo(project).cache.local_cache_dir
        settings.setdefault("core", {})["no_scm"] = True  # git ignores this folder, DVC minds that


async def show(settings: Params) -> None:
    """Leave the scores, and where there is more, where the run is recorded."""
    metric = settings.champion.metric
    seeds = ", ".join(map(str, settings.seeds))
    await stage.show_table(
        means(settings, metric), key="sweep", description=f"{metric}, mean over seeds {seeds}"
    )
    reports = [(WORKSPACE.report(name) / "index.html").resolve() for name in settings.datasets]
    links = [f"- [report of {path.parent.name}]({path.as_uri()})" for path in reports]
    text = COMPARE.format(folder=FOLDER, mlflow=tracked.interface(), links="\n".join(links))
    await stage.show_markdown(text, key="sweep-compare", description="How to compare these cells")


def means(settings: Params, metric: str) -> list[dict[str, Any]]:
    """A row a method of a dataset, a column a code length; empty where a cell is not scored."""
    rows = []
    for dataset in settings.datasets:
        cells = settings.cells(dataset)
        scores = {cell: current_scores(WORKSPACE, cell) for cell in cells}
        for method in settings.methods:
            row: dict[str, Any] = {"dataset": dataset, "method": method}
            for bits in settings.bits:
                found = [
                    scores[cell] for cell in cells if (cell.method, cell.bits) == (method, bits)
                ]
                whole = [each[metric] for each in found if each]
                row[f"{bits} bits"] = round(fmean(whole), 4) if len(whole) == len(found) else None
            rows.append(row)
    return rows


@stage.task(name="publish", retries=2, retry_delay_seconds=5)
async def publish(settings: Params) -> None:
    """Project the cells to MLflow, to the experiments of the project; no champion moves.

    Raises:
        InputError: MLflow does not answer; everything is made all the same.
    """
    from isdh import tracking

    told = tracking.publish_all(WORKSPACE, settings)
    stage.say(f"MLflow: {told.written} runs written, {told.unchanged} unchanged")
