"""Telling MLflow, from stages and the pipeline. A stage does not fail where MLflow is down.

What MLflow misses the next publish mends, so a fault here costs a line, not the work.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

from flows import services, stage
from flows.stage import WORKSPACE
from isdh.artifacts import Cell
from isdh.errors import InputError
from isdh.params import Params

LIVE_SECONDS = 30.0  # between updates of a training's curves; shorter ones need no MLflow
SECONDS_TO_TELL = 4.0  # that a training was cut short, while its process is to end
SYSTEM_METRICS = "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING"  # as MLflow calls it
LATER = "ISDH_PUBLISH_LATER"  # in a stage's environment: the pipeline publishes the whole cell


async def publish_unless_later(settings: Params, cell: Cell) -> None:
    """Publish a cell from a stage that a person runs; importing MLflow costs a second."""
    if LATER not in os.environ:
        await publish(settings, cell)


@stage.task(name="publish", retries=2, retry_delay_seconds=2)
async def publish(settings: Params, cell: Cell, entries: Mapping[str, Any] | None = None) -> None:
    """Write one cell to MLflow as its files stand, with what dvc.lock does not hold yet."""
    from isdh import tracking

    try:
        run = tracking.publish(WORKSPACE, settings, cell, entries=entries)
    except InputError as error:
        stage.say(f"not published: {error}\n  `isdh publish` will, when MLflow answers")
        return
    await stage.show_markdown(
        f"[MLflow run of {cell}]({interface()}/#/runs/{run})",
        key=f"run-{cell.dataset}-{cell.name}",
        description="Parameters, curves, scores and model",
    )


def interface() -> str:
    """Where MLflow's pages are: the tracking server, or the one that `make up` starts."""
    address = os.environ.get("MLFLOW_TRACKING_URI", "")
    return address if address.startswith("http") else services.mlflow_url()


class Live:
    """The curves of a training that goes on, in MLflow every few seconds.

    A thread of its own does it, so that a slow or absent server costs the training nothing; a
    training that ends within the first seconds leaves the telling to `publish`.

    Args:
        settings: today's.
        cell: what is trained.
        history: what history.json will hold, without the epochs.
    """

    def __init__(self, settings: Params, cell: Cell, history: dict[str, Any]) -> None:
        self.settings = settings
        self.cell = cell
        self.history = history
        self.epochs: Sequence[dict[str, float]] = ()
        self.run = ""  # in MLflow; none before it was told of for the first time
        self.outcome = ""  # of a training that was cut short, in MLflow's words
        self.ended = threading.Event()
        self.teller = threading.Thread(target=self._keep_telling, daemon=True)

    def __enter__(self) -> Live:
        self.teller.start()
        self.before = signal.getsignal(signal.SIGTERM)
        _on_sigterm(partial(_end_once, self.before))
        return self

    def __exit__(self, fault: type[BaseException] | None, *_: object) -> None:
        _on_sigterm(signal.SIG_IGN if fault else self.before)
        if fault:
            self.outcome = "FAILED" if issubclass(fault, Exception) else "KILLED"
        self.ended.set()
        self.teller.join(SECONDS_TO_TELL if fault else LIVE_SECONDS)

    def tell(self, epochs: Sequence[dict[str, float]]) -> None:
        """Take note of the epochs so far."""
        self.epochs = tuple(epochs)

    def _keep_telling(self) -> None:
        with self._load_of_the_machine():
            answers = True
            while not self.ended.wait(LIVE_SECONDS):
                if self.epochs:
                    answers = self._try_to_publish(was_told=not answers)
        if self.outcome and self.run:
            self._conclude()

    def _try_to_publish(self, *, was_told: bool) -> bool:
        """Publish; whether that went well. An outage is told once."""
        try:
            self._publish()
        except InputError as error:
            if not was_told:
                stage.say(f"curves are not live while this lasts: {error}")
            return False
        return True

    @contextmanager
    def _load_of_the_machine(self) -> Iterator[None]:
        """Log it beside the curves, where the environment asks for that."""
        if os.environ.get(SYSTEM_METRICS, "").lower() not in {"true", "1"}:
            yield
            return
        from isdh import tracking

        try:
            run = self._publish()
        except InputError as error:
            stage.say(f"the load of the machine is not logged: {error}")
            yield
            return
        with tracking.system_metrics(WORKSPACE, run):
            yield

    def _publish(self) -> str:
        from isdh import tracking

        history = {**self.history, "epochs": self.epochs}
        self.run = tracking.publish(WORKSPACE, self.settings, self.cell, history)
        return self.run

    def _conclude(self) -> None:
        """Tell that the training was cut short; what goes on later is the same run."""
        from isdh import tracking

        with suppress(InputError):
            tracking.cut_short(WORKSPACE, self.run, self.outcome)


def _on_sigterm(do: Any) -> None:
    with suppress(ValueError):  # signals are the main thread's
        signal.signal(signal.SIGTERM, do)


def _end_once(before: Any, number: int, frame: Any) -> None:
    """On a signal, do what was to be done on it, once: a whole group is told, and each by another.

    Raises:
        SystemExit: where it would have ended the process at once.
    """
    signal.signal(number, signal.SIG_IGN)
    if callable(before):
        before(number, frame)
    else:
        sys.exit(128 + number)


async def prepare(settings: Params) -> None:
    """Make database and experiments before many processes ask for them at once."""
    from isdh import tracking

    try:
        tracking.prepare(WORKSPACE, settings)
        tracking.mark_broken_off(WORKSPACE, settings)
    except InputError as error:
        stage.say(f"not prepared: {error}")


async def mark_broken_off(settings: Params) -> None:
    """Call no training running that is not, as where its process was killed."""
    from isdh import tracking

    with suppress(InputError):
        tracking.mark_broken_off(WORKSPACE, settings)
