"""Whose turn it is: one pipeline at a time makes a workspace; the next one says who, and waits.

A plain `dvc repro` takes DVC's own locks, of the paths that the stage in progress reads and writes.
A pipeline waits for it too.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from prefect import get_client
from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext
from prefect.states import Running

from flows import PARENT, busy, services, stage
from flows.stage import OF_PIPELINE, WORKSPACE
from isdh.artifacts import tried

WORKER = "ISDH_WORKER"  # in the environment of a worker: its process id
WAITS = "AwaitingWorkspace"  # the name of a run's state
SECONDS = 1.0  # between looks
SECONDS_TO_END = 20.0  # of a pipeline whose worker is gone: its stages end first


@asynccontextmanager
async def workspace() -> AsyncIterator[None]:
    """Hold the workspace, and end with the worker that started this run.

    Where another process is at work, say which, in Prefect too, and wait for it to end.
    """
    stage.seconds_allowed("train")  # says now what it would refuse later
    if "PREFECT__FLOW_RUN_ID" in os.environ:
        stage.end_with_parent(int(os.environ.pop(WORKER, PARENT)), SECONDS_TO_END)
    me = _name()
    os.environ[OF_PIPELINE] = me
    busy.clear_dead_locks()
    told, looks = "", 0
    while True:
        with tried(WORKSPACE.state("locks", "workspace"), who=me) as holder:
            if not (others := holder or ", ".join(busy.dvc_at_work())):
                if told:
                    await _show("Running", "the workspace is free")
                yield
                return
        looks += 1
        if others != told and looks > 1:  # at once, it may be a look of somebody else's
            told = others
            await _show(WAITS, f"waiting for the workspace, held by {others}")
        await asyncio.sleep(SECONDS)


def _name() -> str:
    """This run, for whoever waits for it."""
    context = FlowRunContext.get()
    if not context or not context.flow_run:
        return "python -m flows.pipeline"
    run = context.flow_run
    page = services.prefect_api_url().removesuffix("/api")
    return f"run {run.name!r}, {page}/runs/flow-run/{run.id}"


async def _show(name: str, message: str) -> None:
    """Tell a person, and have the run's state say so."""
    stage.say(message)
    context = FlowRunContext.get()
    if context and context.flow_run:
        with suppress(Exception):  # a server that is away: the wait goes on without it
            async with get_client() as client:
                state: State[None] = Running(name=name, message=message)
                await client.set_flow_run_state(context.flow_run.id, state)
