"""The main job: params.yaml -> `dvc repro`, cells side by side, publish, promote, keep."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from functools import partial
from itertools import product
from typing import TYPE_CHECKING, Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed

from flows import account, gpus, graph, keeping, published, stage, tracked, turns
from flows.account import Account
from flows.stage import WORKSPACE
from isdh import methods, params
from isdh.artifacts import Cell, current_scores
from isdh.errors import InputError
from isdh.params import Params
from isdh.store import cores

if TYPE_CHECKING:
    from isdh.tracking import Decision


@flow(name="pipeline", flow_run_name="pipeline")
async def pipeline(workers: int = 0, *, commit: bool = False) -> State[None]:
    """Make what is stale, publish it and move champions by the rule.

    Args:
        workers: cells side by side; 0: one a GPU, or one a core where there is none. More than
            there are GPUs share them.
        commit: commit the record of it, and push the data to DVC's remote where there is one.
    """
    keeping.refuse_conflicts(WORKSPACE.root)
    settings = params.load()
    check_methods(settings)
    async with turns.workspace():
        settings = params.load()  # what was merged while this run waited counts
        before = Account(WORKSPACE, settings)
        await make(before, workers)
        _, decisions = await together(rest(), publish(settings))
        await show_results(before)
        if commit:
            await keep(settings, before, decisions)
    return Completed(message=account.outcome(before.made(), decisions))


async def make(before: Account, workers: int) -> None:
    """Make what is stale of datasets, inputs and cells, and tell what that is.

    Args:
        before: what stands.
        workers: cells side by side, as of the pipeline.
    """
    settings, sources = before.settings, keeping.Sources(WORKSPACE, before.settings)
    async with graph.making_cells(WORKSPACE, **{tracked.LATER: "1"}) as make_cell:
        sources.begin()
        try:
            await upstream(settings)
        finally:
            sources.end()
        await tracked.prepare(settings)
        stale = graph.changes()
        await show_stale(before, stale)
        cells = graph.stale_cells(before.cells, list(stale))
        await side_by_side(settings, cells, make_cell, workers)


def places(workers: int) -> gpus.Pool:
    """Where this machine makes cells; 0: as many at a time as it has GPUs, or else cores."""
    found = gpus.visible()
    return gpus.Pool(workers or len(found) or cores(), found)


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


async def side_by_side(settings: Params, cells: list[Cell], make: graph.Make, workers: int) -> None:
    """Make cells, some at a time; one that fails does not keep the others from being made.

    Raises:
        InputError: of the cells that failed.
    """
    if not cells:
        return
    progress = stage.Progress(len(cells), unit="cells")
    pool = places(workers)

    async def place(cell: Cell) -> None:
        async with pool.place() as environment:
            await one_cell(settings, cell, partial(make, **environment))
            progress.advance(last=str(cell))
            await progress.tell()

    await together(*map(place, cells))


async def together(*works: Awaitable[Any]) -> list[Any]:
    """Results of works that go on side by side; a fault of one does not end the others.

    Raises:
        InputError: of all that refused their input, a line each, where none failed otherwise.
    """
    outcomes = await asyncio.gather(*works, return_exceptions=True)
    faults = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    if len(faults) > 1 and all(isinstance(fault, InputError) for fault in faults):
        raise InputError("\n".join(map(str, faults)))
    for fault in faults:
        raise fault
    return outcomes


@stage.task(name="cell", task_run_name="cell {cell}")
async def one_cell(settings: Params, cell: Cell, make: graph.Make) -> None:
    """Train, encode and evaluate one cell, and publish it."""
    try:
        entries = await make(cell)
    except graph.StageError:
        await tracked.mark_broken_off(settings)  # a stage that was killed could not say so
        raise
    await tracked.publish(settings, cell, entries)


@stage.task(name="reports")
async def rest() -> None:
    """Whatever else is stale: the reports."""
    await graph.repro(log=WORKSPACE.state("logs", "reports.log"))


@stage.task(name="publish and promote", retries=2, retry_delay_seconds=5)
async def publish(settings: Params) -> list[Decision]:
    """Project all cells to MLflow, nominate and promote models by the rule, show both.

    Returns:
        What was decided of each registered model.

    Raises:
        InputError: MLflow does not answer, or a model cannot be decided on; everything is made, and
            decided where it can be, all the same.
    """
    from isdh import tracking

    told = await asyncio.to_thread(tracking.publish_all, WORKSPACE, settings)
    stage.say(f"MLflow: {told.written} runs written, {told.unchanged} unchanged")
    decisions = await asyncio.to_thread(
        tracking.promote,
        WORKSPACE,
        settings,
        tell=lambda one: stage.say(f"{one.model}: {one.reason}"),
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
    return decisions


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


async def show_stale(before: Account, still: account.Changes) -> None:
    """What has to be made, and why; what follows from it becomes stale on the way."""
    if rows := before.stale(still):
        await stage.show_table(rows, key="stale", description="What was stale, and why")


async def show_results(before: Account) -> None:
    """Scores of before and now, and where there is more to see."""
    if rows := before.scored():
        await stage.show_table(
            rows, key="scores-before-and-after", description="Of the cells scored anew"
        )
    for name in before.settings.datasets:
        report = (WORKSPACE.report(name) / "index.html").resolve()
        await stage.show_link(report.as_uri(), f"report of {name}", key=f"report-{name}")
    await stage.show_link(tracked.interface(), "MLflow", key="mlflow")


async def keep(settings: Params, before: Account, decisions: list[Decision]) -> None:
    """Commit the record of a run and push its data; what cannot be done does not stop the other.

    Raises:
        InputError: not committed or not pushed, and why. Everything is made and decided all the
            same, and the next run commits and pushes it too.
    """
    faults = []
    for step in (partial(commit_record, settings, before, decisions), push):
        try:
            await step()
        except (InputError, keeping.PushError) as fault:
            faults.append(str(fault))
    if faults:
        done = account.outcome(before.made(), decisions)
        raise InputError("\n".join([*faults, f"Otherwise all went well: {done}"]))


@stage.task(name="commit")
async def commit_record(settings: Params, before: Account, decisions: list[Decision]) -> None:
    """Commit dvc.lock, the promotion log and what runs brought up to date of raw/*.dvc."""
    repository, sources = keeping.Repository(WORKSPACE.root), keeping.Sources(WORKSPACE, settings)
    if why := repository.absent():
        stage.say(f"not committed: {why}")
        return
    paths = repository.changed(*keeping.RECORDS, *sources.made())
    if paths:
        dirty = [path for path in repository.changed() if path not in paths]
        text = account.message(before.made(), decisions, dirty=dirty)
        made = repository.commit(paths, text)
        keeping.Unpushed(WORKSPACE).add(made)
        stage.say(f"commit {made[:12]}: {', '.join(paths)}")
        await stage.show_markdown(
            f"`git show {made}`\n\n{text}", key="commit", description="What brings this run back"
        )
    sources.forget()


@stage.task(name="push", retries=3, retry_delay_seconds=10)
async def push() -> None:
    """Bring data, models, codes and scores to DVC's remote."""
    stage.say(f"dvc push: {await keeping.push(WORKSPACE)}")


if __name__ == "__main__":
    stage.main(pipeline)
