"""What DVC is asked: what is stale, and to make it."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from flows import busy, services
from isdh.artifacts import Cell, Workspace
from isdh.errors import InputError

CELL_STAGES = ("train", "encode", "evaluate")


class StageError(RuntimeError):
    """A stage failed, and not because of its input: a fault of the program or the machine."""


def changes(*targets: str) -> dict[str, dict[str, str]]:
    """What has changed of each stage that `dvc repro` would run or look at again.

    Args:
        *targets: addresses of stages; all if none are named.

    Returns:
        Address -> what it reads, writes or is -> how that is other than in dvc.lock.

    Raises:
        InputError: DVC cannot read the graph; its own words follow.
    """
    command = [sys.executable, "-m", "dvc", "--wait-for-lock", "status", "--json", *targets]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        raise InputError(f"dvc status: {answer.stderr.strip()}")
    found = json.loads(answer.stdout or "{}")
    return {address: _flat(found[address]) for address in sorted(found)}


def _flat(told: Sequence[str | Mapping[str, Any]]) -> dict[str, str]:
    """DVC's list of what has changed; a file of params has a mapping of its own below it."""
    found: dict[str, str] = {}
    for each in told:
        groups = {each: {"": each}} if isinstance(each, str) else each
        for what, parts in groups.items():
            for name, how in parts.items():
                values = how if isinstance(how, Mapping) else {name or what: how}
                found.update(values)
    return found


def stale() -> list[str]:
    """Stages that `dvc repro` would run or look at again, by their addresses.

    Raises:
        InputError: DVC cannot read the graph; its own words follow.
    """
    return sorted(changes())


def stale_cells(cells: Sequence[Cell], stages: Sequence[str]) -> list[Cell]:
    """Those of the cells of which a stage is stale, in their order."""
    names = set(stages)
    return [cell for cell in cells if names & {cell.address(stage) for stage in CELL_STAGES}]


async def repro(
    *targets: str, single: bool = False, log: Path | None = None, **environment: str
) -> None:
    """Run `dvc repro` on targets, all if none are named; wait where another dvc is at their paths.

    Args:
        *targets: addresses of stages.
        single: only these, not what they depend on (`--single-item`).
        log: where the output goes; None: errors and progress to the terminal, the rest nowhere.
        **environment: added to that of the stages.

    Raises:
        InputError: a stage refused its input; the message holds its own.
        StageError: it failed otherwise.
    """
    flags = ["--single-item"] if single else []
    command = services.tied("-m", "dvc", "--wait-for-lock", "repro", *flags, *targets)
    what = " ".join(targets) or "dvc repro"
    while await code_of(command, log, {**os.environ, **environment}):
        if others := busy.dvc_at_work():  # who may be why; else it fails a second time
            await _end_of_others(what, others)
        elif log is None:
            raise InputError(f"{what} failed; its message stands above")
        else:
            refused = any(line.endswith("exited with 2") for line in _end_of(log))
            raise _failure(what, log, refused=refused)


async def code_of(command: Sequence[str], log: Path | None, environment: dict[str, str]) -> int:
    """The exit code of a command whose output goes to a log, or its errors to the terminal."""
    if log is None:
        process = await asyncio.create_subprocess_exec(
            *command, env=environment, stdout=asyncio.subprocess.DEVNULL
        )
        return await _end(process)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as stream:
        process = await asyncio.create_subprocess_exec(
            *command, env=environment, stdout=stream, stderr=stream
        )
        return await _end(process)


async def _end_of_others(what: str, others: Sequence[str]) -> None:
    sys.stderr.write(f"{what}: waiting for {', '.join(others)}, then once more\n")
    while busy.dvc_at_work():
        await asyncio.sleep(1.0)


def _end_of(log: Path) -> list[str]:
    return log.read_text(errors="replace").splitlines()[-15:]


def _failure(what: str, log: Path, *, refused: bool) -> InputError | StageError:
    fault = InputError if refused else StageError
    return fault(f"{what} failed; from {log}:\n  " + "\n  ".join(_end_of(log)))


async def _end(process: asyncio.subprocess.Process) -> int:
    try:
        return await process.wait()
    except asyncio.CancelledError:
        process.terminate()
        await process.wait()
        raise


Entries = Mapping[str, Any]  # name of a stage -> what dvc.lock holds of it, or is to hold
Make = Callable[..., Awaitable[Entries]]  # of a cell, and of more environment for its stages


@asynccontextmanager
async def making_cells(workspace: Workspace, **environment: str) -> AsyncIterator[Make]:
    """Ways to make a cell whose inputs are up to date, some at a time.

    On Linux by forks of one process that imports everything (flows/forkserver.py) while the inputs
    may still be made; elsewhere by `dvc repro`, each stage by itself, since a fork is not to be
    trusted there. Results are the same.

    Args:
        workspace: where logs go.
        **environment: added to that of the stages.

    Yields:
        A function that makes a cell and returns what dvc.lock may not hold yet; by keyword it
        takes what only this cell's environment is to hold. It raises InputError where a stage
        refused its input and StageError where it failed otherwise, with the end of the cell's log.
    """
    if sys.platform == "linux":
        async with ForkServer(workspace, environment) as server:
            yield server.make
    else:
        yield partial(repro_cell, workspace, **environment)


def _log(workspace: Workspace, cell: Cell) -> Path:
    return workspace.state("logs", cell.dataset, f"{cell.name}.log")


async def repro_cell(workspace: Workspace, cell: Cell, **environment: str) -> Entries:
    """Make one cell by `dvc repro`; what it depends on must be up to date.

    Locks are per path, so cells can be made side by side, each stage by itself.

    Args:
        workspace: where logs go.
        cell: what to make.
        **environment: added to that of the stages.

    Raises:
        InputError: a stage refused its input.
        StageError: it failed otherwise.
    """
    targets = [cell.address(stage) for stage in CELL_STAGES]
    await repro(*targets, single=True, log=_log(workspace, cell), **environment)
    return {}


class ForkServer:
    """The process of flows/forkserver.py, for as long as the body runs."""

    def __init__(self, workspace: Workspace, environment: Mapping[str, str]) -> None:
        self.workspace = workspace
        self.environment = {**os.environ, **environment}
        self.log = workspace.state("logs", "forkserver.log")
        self.waiting: dict[str, asyncio.Future[dict[str, Any]]] = {}
        self.is_wanted = False

    async def __aenter__(self) -> ForkServer:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("wb") as stream:
            self.process = await asyncio.create_subprocess_exec(
                *services.tied("-m", "flows.forkserver"),
                env=self.environment,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=stream,
                limit=1 << 20,  # bytes of a line; an answer has some 10,000
            )
        self.reader = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *fault: object) -> None:
        assert self.process.stdin
        if kind is None and self.is_wanted:
            self.process.stdin.close()
        elif self.process.returncode is None:
            self.process.terminate()
        await _end(self.process)
        await self.reader

    async def make(self, cell: Cell, **environment: str) -> Entries:
        """Have a cell made; returns what dvc.lock is to hold of its stages that were stale.

        Args:
            cell: what to make.
            **environment: added to that of its stages.

        Raises:
            InputError: a stage refused its input.
            StageError: it failed otherwise.
        """
        self.is_wanted = True
        log = _log(self.workspace, cell)
        answer = asyncio.get_running_loop().create_future()
        self.waiting[str(cell)] = answer
        assert self.process.stdin
        order = {"cell": str(cell), "log": str(log), "environment": environment}
        with suppress(ConnectionError):  # it has ended: so has what reads its answers, or will
            self.process.stdin.write(json.dumps(order).encode() + b"\n")
            await self.process.stdin.drain()
        if self.reader.done():
            raise _failure("flows.forkserver", self.log, refused=False)
        told = await answer
        if told["exit"]:
            raise _failure(f"{cell}", log, refused=told["exit"] == 2)
        entries: Entries = told["entries"]
        return entries

    async def _read(self) -> None:
        assert self.process.stdout
        async for line in self.process.stdout:
            answer = json.loads(line)
            waiting = self.waiting.pop(answer["cell"])
            if not waiting.done():  # nobody waits where the run was cancelled
                waiting.set_result(answer)
        for waiting in self.waiting.values():
            if not waiting.done():
                waiting.set_exception(_failure("flows.forkserver", self.log, refused=False))
