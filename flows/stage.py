"""The shell that all stages share: arguments, lock, parent, Prefect where a server answers.

A stage is an async Prefect flow. Where no server answers it runs as a plain function and does the
same work. Exit codes: 0 done, 2 the input must be mended (a message, no traceback), 1 a fault.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import os
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from typing import Any, ParamSpec, TypeVar
from uuid import UUID

import prefect
from prefect.artifacts import (
    acreate_markdown_artifact,
    acreate_progress_artifact,
    acreate_table_artifact,
    aupdate_progress_artifact,
)
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext
from prefect.flows import Flow
from tqdm import tqdm

from flows import PARENT, services
from isdh.artifacts import Workspace, locked
from isdh.errors import InputError

P = ParamSpec("P")
R = TypeVar("R")

WORKSPACE = Workspace()
TELL_SECONDS = 2.0  # between updates of the Prefect UI


def main(stage: Flow[..., Any], words: Sequence[str] | None = None, parent: int = PARENT) -> None:
    """Run a stage with the arguments of the command line, as dvc.yaml calls it.

    Args:
        stage: the flow.
        words: its arguments; None: those of this process.
        parent: the process without which this one is to end.
    """
    arguments = _arguments(stage, sys.argv[1:] if words is None else words)
    end_with_parent(parent)
    name = "-".join([stage.name, *map(str, arguments.values())])
    try:
        with only_one(name):
            asyncio.run(run(stage, arguments))
    except InputError as error:
        say(f"error: {error}")
        if stage_of_dvc := os.environ.get("DVC_STAGE"):
            say(
                f"DVC removed the last outputs of {stage_of_dvc} before it ran; "
                f"`dvc checkout {stage_of_dvc}` brings them back if there were any."
            )
        sys.exit(2)
    except KeyboardInterrupt:
        say(f"{name}: interrupted")
        sys.exit(130)


def _arguments(stage: Flow[..., Any], words: Sequence[str]) -> dict[str, Any]:
    signature = inspect.signature(stage.fn, eval_str=True)
    try:
        given = signature.bind(*words).arguments
        return {name: signature.parameters[name].annotation(word) for name, word in given.items()}
    except (TypeError, ValueError) as error:
        usage = " ".join(
            f"<{name}>" if given.default is given.empty else f"[<{name}>]"
            for name, given in signature.parameters.items()
        )
        say(f"error: {' '.join(words)}: {error}\nusage: python -m flows.{stage.name} {usage}")
        sys.exit(2)


async def run(stage: Flow[..., Any], arguments: dict[str, Any]) -> None:
    """Run a flow, recorded where a server answers, plainly elsewhere.

    Raises:
        InputError: the input must be mended.
    """
    url = services.prefect_api_url()
    if not services.api_answers(url):
        say(f"{stage.name}: no Prefect server at {url}; the work is done, only not recorded there")
        plainly: Callable[..., Awaitable[None]] = stage.fn
        await plainly(**arguments)
        return
    for logger in ("prefect.flow_runs", "prefect.task_runs"):
        logging.getLogger(logger).addFilter(_without_traceback)
    recorded: Callable[..., Awaitable[State[Any]]] = stage
    state = await recorded(**arguments, return_state=True)
    if not state.is_completed():  # one that a slow server was told of twice comes without a result
        await state.aresult(raise_on_failure=True)


def _without_traceback(record: logging.LogRecord) -> bool:
    if record.exc_info and isinstance(record.exc_info[1], InputError):
        record.exc_info = None
        record.exc_text = None
    return True


def task(**options: Any) -> Callable[[Callable[P, Awaitable[R]]], Callable[P, Awaitable[R]]]:
    """Like `prefect.task`; the function runs plainly where no flow run is recorded.

    Prefect's result cache is off: DVC decides what is stale. Bad input is not retried.
    """
    options = {"cache_policy": NO_CACHE, "retry_condition_fn": _may_pass_next_time, **options}

    def decorate(function: Callable[P, Awaitable[R]]) -> Callable[P, Awaitable[R]]:
        recorded: Any = prefect.task(**options)(function)

        @functools.wraps(function)
        async def call(*args: P.args, **kwargs: P.kwargs) -> R:
            runs = recorded if FlowRunContext.get() else function
            result: R = await runs(*args, **kwargs)
            return result

        return call

    return decorate


async def _may_pass_next_time(task: Any, run: Any, state: State[Any]) -> bool:
    fault = await state.aresult(raise_on_failure=False)
    return not isinstance(fault, InputError)


def say(message: str) -> None:
    """Tell a person, on stderr, beside whatever progress bar is there."""
    tqdm.write(message, file=sys.stderr)


def only_one(name: str) -> AbstractContextManager[None]:
    """Hold the lock of a stage's outputs; wait for whoever holds it, saying so."""
    return locked(
        WORKSPACE.state("locks", name),
        waiting=lambda holder: say(f"{name}: process {holder} is at it; waiting for it to end"),
    )


def end_with_parent(parent: int) -> None:
    """End this process when the one that started it is gone: its outputs are another's now."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        say("the process that started this one is gone; ending")
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


class Progress:
    """How far the work is: a bar in the terminal and, in a recorded run, in the Prefect UI.

    Args:
        total: in units.
        unit: of the count, e.g. "images".
    """

    def __init__(self, total: int, *, unit: str) -> None:
        self.total = total
        self.done = 0
        self.told = 0
        self.artifact: UUID | None = None
        self.bar = tqdm(total=total, unit=f" {unit}", dynamic_ncols=True, mininterval=0.5)

    def advance(self, count: int = 1, **values: str) -> None:
        """Count units done; `values` stand behind the bar. From any thread."""
        self.done += count
        self.bar.set_postfix(values, refresh=False)
        self.bar.update(count)
        if self.done >= self.total:
            self.bar.close()

    def reach(self, done: int, total: int) -> None:
        """Set how many units are done; the form in which `isdh` tells its progress."""
        self.advance(done - self.done)

    async def tell(self) -> None:
        """Bring the Prefect UI up to date."""
        if not FlowRunContext.get() or self.done == self.told:
            return
        self.told = self.done
        percent = 100 * self.told / max(self.total, 1)
        if self.artifact is None:
            self.artifact = await acreate_progress_artifact(percent)
        else:
            await aupdate_progress_artifact(self.artifact, percent)


async def aside(work: Callable[[], R], progress: Progress) -> R:
    """Run blocking work in a thread while its progress is told.

    The thread is a daemon: a process that is interrupted does not wait for it.
    """
    outcome: Future[R] = Future()

    def run() -> None:
        try:
            outcome.set_result(work())
        except BaseException as fault:
            outcome.set_exception(fault)

    threading.Thread(target=run, daemon=True).start()
    awaited = asyncio.wrap_future(outcome)
    while not awaited.done():
        await asyncio.wait({awaited}, timeout=TELL_SECONDS)
        await progress.tell()
    return await awaited


async def show_markdown(markdown: str, *, key: str, description: str = "") -> None:
    """Leave a Prefect artifact where the run is recorded.

    Args:
        markdown: its text.
        key: names the artifact's history; lower case letters, digits, dashes, underscores.
        description: one line.
    """
    if FlowRunContext.get():
        await acreate_markdown_artifact(markdown, key=_dashes(key), description=description)


async def show_table(rows: list[dict[str, Any]], *, key: str, description: str = "") -> None:
    """Leave a table as a Prefect artifact where the run is recorded.

    Args:
        rows: column -> value.
        key: names the artifact's history; lower case letters, digits, dashes, underscores.
        description: one line.
    """
    if FlowRunContext.get():
        await acreate_table_artifact(rows, key=_dashes(key), description=description)


def _dashes(key: str) -> str:
    return key.replace("_", "-")  # Prefect knows no underscore in keys
