"""The cells' stages without their start-ups: a process that has imported everything, and its forks.

Started the plain way a cell costs an interpreter and its imports for DVC and for each stage, and
DVC parses and writes all of dvc.lock with every stage, which with 300 cells there takes it 12 s.
Here a cell is a fork, in which DVC's own code decides which of its stages are stale, restores them
from the run cache or runs and saves them; a stage is again a fork, which calls what its command
would call, with the same arguments and environment. What is new in dvc.lock is written for many
cells at once. Until then the run cache has it: a kill loses nothing.

The pipeline writes a line of JSON a cell, `{"cell": "digits/isdh-48-0", "log": "..."}`, with an
"environment" if its stages are to have more than this process has. It reads one when the cell has
ended, `{"cell": ..., "exit": 0, "entries": {...}}`: 2 where a stage refused its input; with what
dvc.lock is to hold of the stages that were made.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import logging
import os
import re
import signal
import sys
import time
import traceback
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from multiprocessing import connection, get_context
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any, TextIO

import dvc.stage.run
import numpy as np
import yaml
from dvc.exceptions import DvcException
from dvc.lock import LockError
from dvc.repo import Repo
from dvc.stage import PipelineStage
from dvc.stage.exceptions import StageCmdFailedError
from dvc.stage.serialize import to_lockfile

from flows import PARENT, stage
from flows.graph import CELL_STAGES
from flows.tied import tie
from isdh import metrics
from isdh.artifacts import Cell, replacing

FORK = get_context("fork")
COMMAND = re.compile(r"exec python -m (flows\.\w+) (.+)")
CODE = ("flows", "isdh")
NOTHING: Mapping[str, str] = {}
PLAIN = dvc.stage.run.cmd_run
BUSY_SECONDS = 1.0  # between looks whether another dvc has ended
LOCK_SECONDS = 2.0  # at least, between two writings of dvc.lock
LOCK_SHARE = 0.05  # at most, of a core, for writing it
SECONDS_TO_END = stage.SECONDS_TO_END + 1.0

Entries = dict[str, dict[str, Any]]


@dataclass
class Making:
    """A cell that is being made.

    Attributes:
        cell: its name.
        process: the fork.
        answer: the end of a pipe from which its outcome comes.
    """

    cell: str
    process: ForkProcess
    answer: connection.Connection


class Server:
    """Forks cells, collects what they add to dvc.lock, has it written.

    Args:
        answers: where the pipeline reads.
    """

    def __init__(self, answers: TextIO) -> None:
        self.answers = answers
        self.code = stamps()
        read_ahead()
        logging.getLogger("dvc").propagate = False  # Prefect's handler would say it again
        self.repo = Repo(_wait_for_lock=True)
        self.making: list[Making] = []
        self.entries: Entries = {}
        self.writer: ForkProcess | None = None
        self.write_started = 0.0
        self.write_next = 0.0

    @cached_property
    def stages(self) -> dict[str, PipelineStage]:
        """Address -> stage, as dvc.yaml and dvc.lock have it when the first cell is wanted."""
        return {found.addressing: found for found in self.repo.index.stages}

    def serve(self) -> None:
        """Take orders until standard input ends and all is made and written."""
        orders, rest = sys.stdin.fileno(), b""
        is_open = True
        while is_open or self.making:
            wanted: list[Any] = [making.answer for making in self.making]
            wanted += [orders] if is_open else []
            wanted += [self.writer.sentinel] if self.writer else []
            for ready in connection.wait(wanted, timeout=LOCK_SECONDS):
                if ready == orders:
                    read = os.read(orders, 1 << 16)
                    is_open = bool(read)
                    *lines, rest = (rest + read).split(b"\n")
                    for line in lines:
                        self.start(**json.loads(line))
            for making in [each for each in self.making if each.answer.poll()]:
                self.end(making)
            self.write_when_due()

    def start(self, cell: str, log: str, environment: Mapping[str, str] = NOTHING) -> None:
        """Fork a cell."""
        answer, theirs = FORK.Pipe(duplex=False)
        made = Cell.parse(cell)
        stages = [self.stages[made.address(name)] for name in CELL_STAGES]
        arguments = (stages, Path(log), environment, theirs)
        process = FORK.Process(target=self.make, args=arguments)
        process.start()
        theirs.close()
        self.making.append(Making(cell, process, answer))

    def end(self, making: Making) -> None:
        """Tell how a cell ended."""
        try:
            code, entries = making.answer.recv()
        except EOFError:  # killed
            code, entries = 1, {}
        making.process.join()
        making.answer.close()
        self.making.remove(making)
        self.entries |= entries
        answer = {"cell": making.cell, "exit": code, "entries": entries}
        self.answers.write(json.dumps(answer) + "\n")
        self.answers.flush()

    def make(
        self,
        stages: Sequence[PipelineStage],
        log: Path,
        environment: Mapping[str, str],
        answer: connection.Connection,
    ) -> None:
        """In a fork: make the stages of a cell that are stale, in their order."""
        child(log)
        os.environ.update(environment)  # a GPU's name too: nothing here has asked CUDA for one yet
        dvc.stage.run.cmd_run = self.run
        code, entries = 0, {}
        for found in stages:
            try:
                if self.reproduce(found) is not None:
                    entries.update(json.loads(json.dumps(to_lockfile(found))))
            except DvcException as fault:
                stage.say(f"error: {found.addressing}: {fault}")
                code = 2 if str(fault).endswith("exited with 2") else 1
            except Exception:
                traceback.print_exc()
                code = 1
            if code:
                break
        answer.send((code, entries))

    def reproduce(self, found: PipelineStage) -> PipelineStage | None:
        """In a cell's fork: make a stage if it is stale; wait where another dvc is at its paths."""
        said = False
        while True:
            try:
                with self.repo.lock:
                    return found.reproduce()
            except LockError as fault:
                if not said:
                    stage.say(f"{found.addressing}: waiting: {fault}")
                said = True
            time.sleep(BUSY_SECONDS)

    def run(self, of: PipelineStage, dry: bool = False, run_env: Any = None) -> None:
        """In a cell's fork, in place of DVC's own: a stage's command, by a fork of it.

        Code that was changed after this process read it is read by an interpreter of its own.

        Raises:
            StageCmdFailedError: it ended with another code than 0.
        """
        words = COMMAND.fullmatch(of.cmd)
        if words is None or self.code != stamps():
            PLAIN(of, dry=dry, run_env=run_env)
            return
        stage.say(f"{of.addressing}: {of.cmd}")
        environment = dvc.stage.run.prepare_kwargs(of, run_env=run_env)["env"]
        arguments = (words[1], words[2].split(), environment)
        process = FORK.Process(target=run_stage, args=arguments)
        process.start()
        try:
            process.join()
        except SystemExit:  # by a signal: the stage ends first
            process.terminate()
            process.join(SECONDS_TO_END)
            raise
        if process.exitcode:
            raise StageCmdFailedError(of.cmd, process.exitcode)

    def write_when_due(self) -> None:
        """Have dvc.lock written, if there is something to write and the last time is long ago."""
        if self.writer and not self.writer.is_alive():
            self.finish_writing()
        if self.entries and not self.writer and time.monotonic() >= self.write_next:
            self.write()

    def write(self) -> None:
        """Start to write what there is."""
        self.write_started = time.monotonic()
        self.writer = FORK.Process(target=self.merge, args=(self.entries,))
        self.writer.start()
        self.entries = {}

    def finish_writing(self) -> None:
        """Wait for whoever writes."""
        if self.writer is None:
            return
        self.writer.join()
        if self.writer.exitcode:
            stage.say("dvc.lock: not written; the run cache has the cells, the next run finds them")
        self.writer = None
        took = time.monotonic() - self.write_started
        self.write_next = time.monotonic() + max(LOCK_SECONDS, took / LOCK_SHARE)

    def merge(self, entries: Entries) -> None:
        """In a fork: put entries into dvc.lock."""
        tie(os.getppid())
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it takes a second; let it end
        with self.repo.lock:
            merge(Path(self.repo.root_dir) / "dvc.lock", entries)

    def close(self) -> None:
        """End the forks; write what is there."""
        for making in self.making:
            making.process.terminate()
        deadline = time.monotonic() + SECONDS_TO_END
        for making in self.making:
            making.process.join(max(deadline - time.monotonic(), 0.1))
            making.process.kill()
        self.finish_writing()
        if self.entries:
            self.write()
            self.finish_writing()


def read_ahead() -> None:
    """Import what the cells' stages import on their way, and load the compiled kernels.

    No thread and no device may be started here: a fork would not have it.
    """
    for name in CELL_STAGES:
        importlib.import_module(f"flows.{name}")
    for name in ("pandas", "torch._dynamo", "torchvision"):  # of the splits; of torch's optimizers
        importlib.import_module(name)
    nothing, labels = np.zeros((1, 1), np.uint8), np.zeros((1, 1), bool)
    metrics.evaluate(nothing, labels, nothing, labels, bits=8)
    gc.freeze()  # or each fork's collector would write to, and so copy, all of this


def end_once(number: int, _: object) -> None:
    """On a signal: end, in good order, and be asked only once; a group is told at once and twice.

    Raises:
        SystemExit: always.
    """
    signal.signal(number, signal.SIG_IGN)
    sys.exit(128 + number)


def child(log: Path) -> None:
    """Make this fork one that ends with its parent and prints to a log."""
    tie(os.getppid())
    signal.signal(signal.SIGTERM, end_once)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)


def run_stage(module: str, words: list[str], environment: dict[str, str]) -> None:
    """In a stage's fork: what `python -m MODULE WORDS` does."""
    parent = os.getppid()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    tie(parent)
    os.environ.clear()
    os.environ.update(environment)
    name = module.rpartition(".")[2]
    flow = getattr(importlib.import_module(module), name)
    try:
        stage.main(flow, words, parent)
    finally:
        atexit._run_exitfuncs()  # Prefect hands over its last records there


def stamps() -> dict[str, tuple[int, int]]:
    """Path -> time of change and size, of the code that stages run."""
    paths: Iterable[Path] = (path for folder in CODE for path in Path(folder).rglob("*.py"))
    found = {}
    for path in paths:
        with suppress(FileNotFoundError):
            status = path.stat()
            found[str(path)] = (status.st_mtime_ns, status.st_size)
    return found


class _Dumper(yaml.CSafeDumper):
    """Writes what DVC's own writer writes, byte by byte, in a quarter of the time."""


_Dumper.add_representer(
    type(None), lambda dumper, _: dumper.represent_scalar("tag:yaml.org,2002:null", "")
)


def merge(path: Path, entries: Entries) -> None:
    """Put the entries of stages into a dvc.lock; the others keep theirs, and their order."""
    content: dict[str, Any] = {"schema": "2.0", "stages": {}}
    if path.exists():
        content = yaml.load(path.read_bytes(), Loader=yaml.CSafeLoader) or content
    content["stages"].update(entries)
    text = yaml.dump(content, Dumper=_Dumper, sort_keys=False, default_flow_style=False)
    with replacing(path) as stream:
        stream.write(re.sub(r"(?m)^( *-)$", r"\1 ", text).encode())


def main() -> None:
    """Serve the process that started this one, until it ends or says so."""
    tie(PARENT)
    signal.signal(signal.SIGTERM, end_once)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the pipeline ends this
    sys.argv[:] = [os.environ.get(stage.OF_PIPELINE, "flows.forkserver")]  # DVC tells who waits
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what anything prints goes to the log
    server = Server(answers)
    try:
        server.serve()
    finally:
        server.close()


if __name__ == "__main__":
    main()
