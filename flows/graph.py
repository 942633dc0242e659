"""What DVC is asked: what is stale, and to make it. One process of dvc a question."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from flows import services
from isdh.artifacts import Cell, Workspace
from isdh.errors import InputError

CELL_STAGES = ("train", "encode", "evaluate")


class StageError(RuntimeError):
    """A stage failed, and not because of its input: a fault of the program or the machine."""


def stale() -> list[str]:
    """Stages that `dvc repro` would run or look at again, by their addresses.

    Raises:
        InputError: DVC cannot read the graph; its own words follow.
    """
    command = [sys.executable, "-m", "dvc", "--wait-for-lock", "status", "--json"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        raise InputError(f"dvc status: {answer.stderr.strip()}")
    return sorted(json.loads(answer.stdout or "{}"))


def stale_cells(cells: Sequence[Cell], stages: Sequence[str]) -> list[Cell]:
    """Those of the cells of which a stage is stale, in their order."""
    names = set(stages)
    return [cell for cell in cells if names & {cell.address(stage) for stage in CELL_STAGES}]


async def repro(
    *targets: str, single: bool = False, log: Path | None = None, **environment: str
) -> None:
    """Run `dvc repro` on targets, all if none are named.

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
    variables = {**os.environ, **environment}
    what = " ".join(targets) or "dvc repro"
    if log is None:
        process = await asyncio.create_subprocess_exec(
            *command, env=variables, stdout=asyncio.subprocess.DEVNULL
        )
        await _end(process)
        if process.returncode:
            raise InputError(f"{what} failed; its message stands above")
        return
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as stream:
        process = await asyncio.create_subprocess_exec(
            *command, env=variables, stdout=stream, stderr=stream
        )
        await _end(process)
    if process.returncode:
        lines = log.read_text(errors="replace").splitlines()[-15:]
        refused = any(line.endswith("exited with 2") for line in lines)
        fault = InputError if refused else StageError
        raise fault(f"{what} failed; from {log}:\n  " + "\n  ".join(lines))


async def _end(process: asyncio.subprocess.Process) -> None:
    try:
        await process.wait()
    except asyncio.CancelledError:
        process.terminate()
        await process.wait()
        raise


async def repro_cell(workspace: Workspace, cell: Cell, **environment: str) -> None:
    """Make one cell; what it depends on must be up to date.

    Locks are per path, so cells can be made side by side, each stage by itself.

    Args:
        workspace: where logs go.
        cell: what to make.
        **environment: added to that of the stages.

    Raises:
        InputError: a stage failed.
    """
    targets = [cell.address(stage) for stage in CELL_STAGES]
    log = workspace.state("logs", cell.dataset, f"{cell.name}.log")
    await repro(*targets, single=True, log=log, **environment)
