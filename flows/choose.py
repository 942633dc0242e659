"""Choose what a dataset leaves open for each method, on a part of its training rows.

    python -m flows.choose <dataset> [<method>]

Every method of isdh/methods/ that is descended gets the same learning rates and shares, those of
the dataset's section `choose`. Outcomes go to choices/<dataset>.csv as they come: what stands there
and would come out the same is not tried again; of methods not asked for, nothing is. What
params.yaml is to hold is printed.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from prefect import flow

from flows import stage
from flows.fingerprint import dependencies
from flows.stage import WORKSPACE
from flows.train import read
from isdh import choice, manifest, methods, params
from isdh.artifacts import Cell, read_json, sha256
from isdh.choice import Outcome, Trial
from isdh.errors import InputError, unknown
from isdh.store import cores
from isdh.training import TrainingRows


@flow(name="choose", flow_run_name="choose {dataset}")
async def choose(dataset: str, method: str = "") -> None:
    """Try what has not been tried yet, of one method or all, a trial a core; tell what is best."""
    settings = params.load()
    if dataset not in settings.datasets:
        raise unknown("dataset", dataset, settings.datasets)
    section = settings.section(dataset)
    if method and method not in methods.METHODS:
        raise unknown("method", method, methods.METHODS)
    names = [method] if method else list(methods.METHODS)
    trials = choice.grid(section.choose, names)
    check(settings, dataset, trials)
    under = {name: conditions(settings, dataset, name) for name in names}
    log = Path("choices") / f"{dataset}.csv"
    wished = set(trials)
    done = [
        outcome
        for outcome in choice.read_log(log)
        if outcome.trial.method not in names
        or (outcome.trial in wished and outcome.under == under[outcome.trial.method])
    ]
    tried = {outcome.trial for outcome in done}
    missing = [trial for trial in trials if trial not in tried]
    progress = stage.Progress(len(missing), unit="trials")
    diverged = []
    with ProcessPoolExecutor(
        cores(),
        mp_context=get_context("spawn"),
        initializer=stage.end_with_parent,
        initargs=(os.getpid(),),
    ) as pool:
        loop = asyncio.get_running_loop()
        running = [
            loop.run_in_executor(
                pool, partial(attempt, settings, dataset, trial, under[trial.method])
            )
            for trial in missing
        ]
        for finished in asyncio.as_completed(running):
            outcome = await finished
            if isinstance(outcome, InputError):
                diverged.append(str(outcome))
                stage.say(diverged[-1])
            else:
                done.append(outcome)
                choice.write_log(log, done)
            progress.advance()
            await progress.tell()
    stage.say(f"{log}: {len(done)} outcomes; params.yaml is to hold, below `method`:")
    stage.say(yaml.safe_dump(wanted(settings, dataset, done), sort_keys=True).rstrip())
    without = {trial.method for trial in trials} - set(choice.best(done, section.choose.bits))
    if without:
        raise InputError(
            f"{', '.join(sorted(without))}: no configuration was trained at every length; "
            f"lower the rates of dataset.{dataset}.choose.learning_rate"
        )


def check(settings: params.Params, dataset: str, trials: list[Trial]) -> None:
    """Refuse what no trial could use, before the first.

    Raises:
        InputError: a hyper-parameter out of range or unknown, or too many rows held out.
    """
    for trial in trials:
        try:
            hyper = {**own(settings, trial.method), **dict(trial.hyper)}
            methods.build(trial.method, bits=trial.bits, num_classes=2, **hyper)
        except InputError as error:
            where = f"dataset.{dataset}.choose, method {trial.method}"
            raise InputError(f"params.yaml: {where}: {error}") from None
    section = settings.section(dataset)
    splits = manifest.read_splits(WORKSPACE.manifest(dataset))
    count = len(manifest.training_rows(splits))
    _, kept = choice.carve(count, section.choose)
    if len(kept) < section.training.batch_size:
        raise InputError(
            f"dataset.{dataset}.choose.carve={section.choose.carve}: leaves {len(kept)} of {count} "
            f"training rows, fewer than a batch of {section.training.batch_size}; lower it"
        )


def conditions(settings: params.Params, dataset: str, method: str) -> str:
    """Digest of what the outcome of a trial depends on beside the trial."""
    section = settings.section(dataset)
    code = [
        path
        for path in dependencies(WORKSPACE.root / "dvc.yaml", Cell(dataset, method, 1, 0))
        if path.suffix == ".py" and path.parts[0] == "isdh"
    ]
    code += [Path("isdh") / f"{name}.py" for name in ("choice", "encoding", "metrics")]
    content = [
        section.network.model_dump(),
        section.training.model_dump(exclude={"learning_rate", "mixup"}),
        {"seed": section.choose.seed, "carve": section.choose.carve},
        own(settings, method),
        read_json(WORKSPACE.data(dataset) / "inputs.json")["sha256"],
        {str(path): sha256(WORKSPACE.root / path) for path in code},
        [torch.__version__, np.__version__],
    ]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def own(settings: params.Params, method: str) -> dict[str, Any]:
    """A method's hyper-parameters for all datasets: what a choice starts from."""
    section = settings.method.get(method, {})
    return {name: value for name, value in section.items() if name != params.CHOICES}


def attempt(
    settings: params.Params, dataset: str, trial: Trial, under: str
) -> Outcome | InputError:
    """One trial, in a process of its own."""
    section = settings.section(dataset)
    inputs = section.inputs
    weights = inputs.weights if inputs.kind == "images" else None
    data = asyncio.run(rows(Cell(dataset, trial.method, trial.bits, 0)))
    try:
        return choice.attempt(
            trial,
            data,
            section.choose,
            section.network,
            section.training,
            hyper=own(settings, trial.method),
            under=under,
            weights=Path(weights) if weights else None,
        )
    except InputError as error:
        return InputError(f"{trial}: {error}")


async def rows(cell: Cell) -> TrainingRows:
    """The dataset's training rows."""
    return await read(cell)


def wanted(
    settings: params.Params, dataset: str, outcomes: list[Outcome]
) -> dict[str, dict[str, dict[str, dict[str, Any]]]]:
    """Method -> for -> dataset -> what differs from the dataset's own training."""
    usual = settings.section(dataset).training
    answer = {}
    for method, trial in choice.best(outcomes, settings.section(dataset).choose.bits).items():
        chosen: dict[str, Any] = {"hyper": dict(trial.hyper)} if trial.hyper else {}
        if methods.METHODS[method].head is None:
            chosen |= {
                key: getattr(trial, key)
                for key in ("learning_rate", "mixup")
                if getattr(trial, key) != getattr(usual, key)
            }
        if chosen:
            answer[method] = {params.CHOICES: {dataset: chosen}}
    return answer


if __name__ == "__main__":
    stage.main(choose)
