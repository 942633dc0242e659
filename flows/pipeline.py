"""The main job: params.yaml -> `dvc repro`, cells side by side, then publish and promote."""

from __future__ import annotations

import asyncio
from itertools import product
from typing import Any

from prefect import flow

from flows import graph, published, stage, tracked
from flows.stage import WORKSPACE
from isdh import methods, params
from isdh.artifacts import Cell, current_scores
from isdh.device import choose_device
from isdh.errors import InputError
from isdh.params import Params
from isdh.store import cores


@flow(name="pipeline", flow_run_name="pipeline")
async def pipeline(workers: int = 0) -> None:
    """Make what is stale, publish it and move champions by the rule.

    Args:
        workers: cells side by side; 0: one a core, or one alone where they share a GPU.
    """
    settings = params.load()
    check_methods(settings)
    with stage.only_one("workspace"):
        await upstream(settings)
        await tracked.prepare(settings)
        cells = [cell for name in settings.datasets for cell in settings.cells(name)]
        stale = graph.stale_cells(cells, graph.stale())
        await side_by_side(settings, stale, workers or places())
        await rest()
        await publish(settings)


def places() -> int:
    """How many cells this machine makes side by side."""
    return cores() if choose_device().type == "cpu" else 1


def check_methods(settings: Params) -> None:
    """Build every method once, before hours are spent.

    Raises:
        InputError: an unknown hyper-parameter, or a value out of range.
    """
    for name, dataset, bits in product(settings.methods, settings.datasets, settings.bits):
        try:
            methods.build(name, bits=bits, num_classes=2, **settings.hyper(dataset, name))
        except InputError as error:
            raise InputError(f"params.yaml: method.{name}: {error}") from None


@stage.task(name="datasets and inputs")
async def upstream(settings: Params) -> None:
    """What all cells share."""
    await graph.repro(*(f"preprocess@{name}" for name in settings.datasets))


async def side_by_side(settings: Params, cells: list[Cell], workers: int) -> None:
    """Make cells, some at a time; one that fails does not keep the others from being made.

    Raises:
        InputError: of the cells that failed.
    """
    if not cells:
        return
    progress = stage.Progress(len(cells), unit="cells")
    free = asyncio.Semaphore(workers)

    async with graph.making_cells(WORKSPACE, **{tracked.LATER: "1"}) as make:

        async def place(cell: Cell) -> None:
            async with free:
                await one_cell(settings, cell, make)
                progress.advance(last=str(cell))
                await progress.tell()

        outcomes = await asyncio.gather(*map(place, cells), return_exceptions=True)
    faults = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    if faults and all(isinstance(fault, InputError) for fault in faults):
        raise InputError("\n".join(map(str, faults)))
    for fault in faults:
        raise fault


@stage.task(name="cell", task_run_name="cell {cell}")
async def one_cell(settings: Params, cell: Cell, make: graph.Make) -> None:
    """Train, encode and evaluate one cell, and publish it."""
    entries = await make(cell)
    await tracked.publish(settings, cell, entries)


@stage.task(name="reports")
async def rest() -> None:
    """Whatever else is stale: the reports."""
    await graph.repro(log=WORKSPACE.state("logs", "reports.log"))


@stage.task(name="publish and promote", retries=2, retry_delay_seconds=5)
async def publish(settings: Params) -> None:
    """Project all cells to MLflow, nominate and promote models by the rule, show both.

    Raises:
        InputError: MLflow does not answer, or a model cannot be decided on; everything is made, and
            decided where it can be, all the same.
    """
    from isdh import tracking

    told = tracking.publish_all(WORKSPACE, settings)
    stage.say(f"MLflow: {told.written} runs written, {told.unchanged} unchanged")
    decisions = tracking.promote(
        WORKSPACE, settings, tell=lambda one: stage.say(f"{one.model}: {one.reason}")
    )
    published.mark(WORKSPACE, settings)
    await stage.show_table(
        [
            {
                "model": decision.model,
                "candidate": str(decision.cell),
                "version": decision.version,
                "champion": decision.version if decision.moves else decision.champion,
                "before": decision.champion,
                "why": decision.reason,
            }
            for decision in decisions
        ],
        key="champions",
        description="Which model is used, per dataset and code length",
    )
    await stage.show_table(_scores(settings), key="scores", description="Today's matrix")


def _scores(settings: Params) -> list[dict[str, Any]]:
    """A row a scored cell."""
    return [
        {
            "dataset": cell.dataset,
            "method": cell.method,
            "bits": cell.bits,
            "seed": cell.seed,
            **{name: round(value, 4) for name, value in scores.items()},
        }
        for dataset in settings.datasets
        for cell in settings.cells(dataset)
        if (scores := current_scores(WORKSPACE, cell))
    ]


if __name__ == "__main__":
    stage.main(pipeline)
