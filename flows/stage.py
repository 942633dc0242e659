"""The shell that all stages share: arguments, lock, parent, Prefect where a server answers.

A stage is an async Prefect flow. Where no server answers it runs as a plain function and does the
same work. Exit codes: 0 done, 2 the input must be mended (a message, no traceback), 1 a fault,
124 the time that it may take is over.
"""

from __future__ import annotations

import asyncio
import atexit
import contextvars
import errno
import faulthandler
import functools
import inspect
import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ParamSpec, TypeVar
from uuid import UUID

import httpx
import prefect
from prefect import get_client
from prefect.artifacts import (
    acreate_link_artifact,
    acreate_markdown_artifact,
    acreate_progress_artifact,
    acreate_table_artifact,
    aupdate_progress_artifact,
)
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext
from prefect.flows import Flow
from prefect.tasks import exponential_backoff
from tqdm import tqdm

from flows import PARENT, services
from isdh.artifacts import Workspace, locked, tried
from isdh.errors import InputError, Unanswered

P = ParamSpec("P")
R = TypeVar("R")

WORKSPACE = Workspace()
TELL_SECONDS = 2.0  # between updates of the Prefect UI
HOURS = "ISDH_HOURS"  # in the environment: how long stages may take, e.g. "train=24 report=0.5"
OF_PIPELINE = "ISDH_PIPELINE"  # in the environment of a pipeline's stages: which pipeline
WORK = "work of a stage"  # the name of its thread
SECONDS_TO_END = 7.0  # from a signal to the end by force: MLflow is told meanwhile
SECONDS_OF_LAST_STEP = 0.5  # for work in a thread to end, before the process ends without it
LOG_SECONDS = 10.0  # between lines of how far the work is, in the log of a run


def main(stage: Flow[..., Any], words: Sequence[str] | None = None, parent: int = PARENT) -> None:
    """Run a stage with the arguments of the command line, as dvc.yaml calls it.

    Args:
        stage: the flow.
        words: its arguments; None: those of this process.
        parent: the process without which this one is to end.
    """
    arguments = _arguments(stage, sys.argv[1:] if words is None else words)
    end_with_parent(parent)
    try:
        _run_alone(stage, arguments)
    except BaseException as fault:
        _end_beside_work(fault)
        raise


def _run_alone(stage: Flow[..., Any], arguments: dict[str, Any]) -> None:
    words = [stage.name, *map(str, arguments.values())]
    name = "-".join(words)
    try:
        seconds = seconds_allowed(stage.name)
        with only_one(name, who=f"python -m flows.{' '.join(words)}"):
            _tell_of_a_pipeline_beside()
            asyncio.run(_in_time(name, run(stage, arguments, seconds), seconds))
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


def _end_beside_work(fault: BaseException) -> None:
    """End the process at once if work goes on in a thread.

    Ending in good order, Python would wait for ever for a lock that the thread has, tqdm's.
    """
    works = [thread for thread in threading.enumerate() if thread.name == WORK]
    for thread in works:
        thread.join(SECONDS_OF_LAST_STEP)  # one whose fault this is has only to end
    if not any(thread.is_alive() for thread in works):
        return
    if not isinstance(fault, SystemExit):
        traceback.print_exception(fault)
    atexit._run_exitfuncs()
    os._exit(fault.code if isinstance(fault, SystemExit) and isinstance(fault.code, int) else 1)


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


def seconds_allowed(stage: str) -> float | None:
    """How long a stage may take by ISDH_HOURS; None: as long as it does.

    Raises:
        InputError: no number of hours, or of a stage that there is not.
    """
    hours = {}
    for word in os.environ.get(HOURS, "").split():
        name, _, number = word.partition("=")
        if not Path(__file__).with_name(f"{name}.py").exists():
            raise InputError(f"{HOURS}: {word}: no such stage; name those of dvc.yaml")
        try:
            hours[name] = float(number)
        except ValueError:
            raise InputError(f"{HOURS}: {word}: want hours, e.g. {name}=1.5; 0: any") from None
    return hours.get(stage, 0) * 3600 or None


async def _in_time(name: str, work: Awaitable[None], seconds: float | None) -> None:
    """Await a stage's work; end the process, saying what to do, when its time is over."""
    if seconds is None:
        return await work
    # by force, whatever it hangs in: the log shows where
    faulthandler.dump_traceback_later(seconds + 2 * SECONDS_TO_END, exit=True)
    start = time.monotonic()
    try:
        async with asyncio.timeout(seconds + SECONDS_TO_END):  # where Prefect does not end it
            await work
    except TimeoutError:
        if time.monotonic() - start < seconds:  # another's
            raise
        say(
            f"error: {name}: ended after {seconds / 3600:g} hours, which is all that {HOURS} gives "
            f"it; a training goes on from its last checkpoint in the next run; for more time set "
            f"{HOURS}, for scheduled runs in prefect.yaml"
        )
        sys.exit(124)
    finally:
        faulthandler.cancel_dump_traceback_later()


async def run(
    stage: Flow[..., Any], arguments: dict[str, Any], seconds: float | None = None
) -> None:
    """Run a flow, recorded where a server answers, plainly elsewhere.

    Raises:
        InputError: the input must be mended.
        TimeoutError: it took longer than the seconds given.
    """
    url = services.prefect_api_url()
    if not services.api_answers(url):
        say(
            f"{stage.name}: no Prefect server answered at {url} within a second; "
            "the work is done, only not recorded there"
        )
        plainly: Callable[..., Awaitable[None]] = stage.fn
        async with asyncio.timeout(seconds):
            await plainly(**arguments)
        return
    if seconds:
        stage = stage.with_options(timeout_seconds=seconds)
    recorded: Callable[..., Awaitable[State[Any]]] = stage
    with prefect.tags(*_tags(arguments)):
        state = await recorded(**arguments, return_state=True)
    if not state.is_completed():  # one that a slow server was told of twice comes without a result
        await state.aresult(raise_on_failure=True)


def _tags(arguments: dict[str, Any]) -> list[str]:
    """By which runs are found on Prefect's page, e.g. digits, isdh, 48 bits, seed 0."""
    forms = {"dataset": "{}", "method": "{}", "bits": "{} bits", "seed": "seed {}"}
    return [form.format(arguments[name]) for name, form in forms.items() if name in arguments]


def _without_traceback(record: logging.LogRecord) -> bool:
    if record.exc_info and isinstance(record.exc_info[1], InputError):
        record.exc_info = None
        record.exc_text = None
    return True


for _logger in ("prefect.flow_runs", "prefect.task_runs"):
    logging.getLogger(_logger).addFilter(_without_traceback)


def task(
    *, retry_delay_seconds: float = 2.0, **options: Any
) -> Callable[[Callable[P, Awaitable[R]]], Callable[P, Awaitable[R]]]:
    """Like `prefect.task`; the function runs plainly where no flow run is recorded.

    Prefect's result cache is off: DVC decides what is stale. What is retried are faults that may
    be gone next time; see `passes`.

    Args:
        retry_delay_seconds: before the first retry; twice as long before each further one.
        **options: of `prefect.task`.
    """
    options = {
        "task_run_name": options["name"],  # without Prefect's suffix
        "cache_policy": NO_CACHE,
        "retry_condition_fn": _may_pass_next_time,
        "retry_delay_seconds": exponential_backoff(retry_delay_seconds),
        "retry_jitter_factor": 0.5,
        **options,
    }

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
    return passes(await state.aresult(raise_on_failure=False))


# a network file system that was away, a device or file in use
PASSING = {errno.EAGAIN, errno.EBUSY, errno.ESTALE, errno.ETIMEDOUT, errno.ETXTBSY}
PASSING |= {errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EHOSTUNREACH}


def passes(fault: object) -> bool:
    """Whether a fault may be gone when the same is tried again a little later.

    A server that does not answer and whatever else is busy may. Bad input, a full disk, missing
    rights and a mistake in the program stay.
    """
    while isinstance(fault, BaseException):
        if isinstance(fault, (Unanswered, ConnectionError, TimeoutError, httpx.TransportError)):
            return True
        if isinstance(fault, OSError) and fault.errno in PASSING:
            return True
        fault = fault.__cause__
    return False


def say(message: str) -> None:
    """Tell a person, on stderr, beside whatever progress bar is there, and in the run's log."""
    tqdm.write(message, file=sys.stderr)
    _log(message)


def _log(message: str) -> None:
    if FlowRunContext.get():
        logging.getLogger("prefect.extra").info(message)  # to the API alone


def only_one(name: str, *, who: str = "") -> AbstractContextManager[None]:
    """Hold the lock of a stage's outputs; wait for whoever holds it, saying so."""
    return locked(
        WORKSPACE.state("locks", name),
        who=who,
        waiting=lambda holder: say(f"{name}: {holder}, is at it; waiting for it to end"),
    )


def _tell_of_a_pipeline_beside() -> None:
    """Say so where a person's `dvc repro` is about to run a stage while a pipeline is at work."""
    if "DVC_STAGE" not in os.environ or OF_PIPELINE in os.environ:
        return
    with tried(WORKSPACE.state("locks", "workspace")) as holder:
        if holder:
            say(f"the workspace is held by {holder}: this stage runs beside it")


def end_with_parent(parent: int, seconds: float = SECONDS_TO_END) -> None:
    """End this process when the one that started it is gone: its outputs are another's now.

    Args:
        parent: its process id.
        seconds: between the signal that asks for it and the end by force.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        try:
            say("the process that started this one is gone; ending")
        except OSError:  # who read it is gone too: what is said further would break the ending
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, 1)
            os.dup2(nowhere, 2)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(seconds)
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
        self.logged = time.monotonic()
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
        """Bring the Prefect UI up to date: a bar, and a line of the log every 10 s."""
        if not FlowRunContext.get() or self.done == self.told:
            return
        self.told = self.done
        percent = 100 * self.told / max(self.total, 1)
        if self.artifact is None:
            self.artifact = await acreate_progress_artifact(percent, description=str(self))
        else:
            await aupdate_progress_artifact(self.artifact, percent, description=str(self))
        if time.monotonic() - self.logged > LOG_SECONDS:
            self.logged = time.monotonic()
            _log(str(self))

    def __str__(self) -> str:
        """E.g. `12 of 70 epochs, 00:34 left, loss=0.1234`."""
        rate = self.bar.format_dict["rate"] or self.done / max(
            self.bar.format_dict["elapsed"], 1e-3
        )
        left = tqdm.format_interval((self.total - self.done) / rate) if rate else "unknown time"
        behind = f", {self.bar.postfix}" if self.bar.postfix else ""
        return f"{self.done} of {self.total}{self.bar.unit}, {left} left{behind}"


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

    here = contextvars.copy_context()  # what the work says belongs to this run
    threading.Thread(target=here.run, args=(run,), name=WORK, daemon=True).start()
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


async def show_link(link: str, text: str, *, key: str, description: str = "") -> None:
    """Leave a link as a Prefect artifact where the run is recorded.

    Args:
        link: an address.
        text: what stands for it on the page.
        key: names the artifact's history; lower case letters, digits, dashes, underscores.
        description: one line.
    """
    if FlowRunContext.get():
        await acreate_link_artifact(link, text, key=_dashes(key), description=description)


async def name_run(name: str) -> None:
    """Give this run another name, where it is recorded."""
    context = FlowRunContext.get()
    if context and context.flow_run:
        async with get_client() as client:
            await client.update_flow_run(context.flow_run.id, name=name)


def _dashes(key: str) -> str:
    return key.replace("_", "-")  # Prefect knows no underscore in keys
