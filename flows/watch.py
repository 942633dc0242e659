"""`on-new-data`: a look at the raw folders, and the pipeline where something new lies in one.

A look lists names, sizes and times of change, 25,000 files in a tenth of a second. Only where they
are other than at the last look is DVC asked whether what the files hold is other than in dvc.lock.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
from prefect import flow, get_client
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterEndTime,
    FlowRunFilterName,
)
from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext
from prefect.exceptions import ObjectNotFound
from prefect.states import Completed

from flows import graph, keeping, stage
from flows.pipeline import pipeline
from flows.stage import WORKSPACE
from isdh import params
from isdh.artifacts import read_json, tried, write_json
from isdh.errors import InputError
from isdh.params import Params

NOTHING, LATER = "nothing new", "not now"  # names of runs that did no work
KEPT = timedelta(days=1)
SEEN = WORKSPACE.state("seen.json")
LOCK = "dvc.lock"
Listings = Mapping[str, str]  # dataset -> digest of a listing of its folder; none is there: ""


@flow(name="watch", flow_run_name="look")
async def watch(settle: int = 10, workers: int = 0, *, commit: bool = False) -> State[None]:
    """Run the pipeline if raw pictures or their tables have changed since they were last made.

    Args:
        settle: seconds without a change after which a copy is taken to have ended.
        workers: as of the pipeline.
        commit: as of the pipeline.
    """
    keeping.refuse_conflicts(WORKSPACE.root)
    settings = params.load()
    with tried(WORKSPACE.state("locks", "workspace")) as holder:
        if holder:
            return await _nothing(f"the workspace is held by {holder}; the next look sees to it")
    seen = Seen()
    now = listings(settings)
    if not (other := seen.other(now)):
        return await _nothing(NOTHING)
    await asyncio.sleep(settle)
    if changing := [name for name, listing in listings(settings).items() if listing != now[name]]:
        return await _nothing(f"{', '.join(changing)}: still changing; the next look sees to it")
    if not (new := seen.unfinished(now) or changed(settings, other)):
        seen.note(now)
        return await _nothing(f"{NOTHING}: files were touched, and hold what they held")
    await stage.name_run(f"new data: {', '.join(new)}")
    seen.begin(new)
    try:
        outcome: State[None] = await pipeline.fn(workers, commit=commit)
    except Exception:
        seen.note(now)  # the same files would fail the same way: the nightly run tries again
        raise
    seen.note(now)
    return outcome


async def _nothing(why: str) -> State[None]:
    stage.say(why)
    await stage.name_run(NOTHING if why.startswith(NOTHING) else LATER)
    if FlowRunContext.get():
        with suppress(httpx.HTTPError, ObjectNotFound):  # another look will
            await forget_looks(KEPT)
    return Completed(message=why)


async def forget_looks(kept: timedelta) -> None:
    """Take looks that found nothing out of the records when they are old; some at a time."""
    names = FlowRunFilterName(any_=[NOTHING, LATER])
    ended = FlowRunFilterEndTime(before_=datetime.now(UTC) - kept)
    async with get_client() as client:
        for run in await client.read_flow_runs(
            flow_filter=FlowFilter(name=FlowFilterName(any_=[watch.name])),
            flow_run_filter=FlowRunFilter(name=names, end_time=ended),
            limit=20,
        ):
            await client.delete_flow_run(run.id)


def listings(settings: Params) -> dict[str, str]:
    """What lies in the raw folder of each dataset, but of one that a stage generates."""
    watched = {
        n: Path(f) for n, f in settings.datasets.items() if Path(f) != WORKSPACE.raw("digits")
    }
    return {name: listing(folder) for name, folder in watched.items()}


def listing(folder: Path) -> str:
    """A digest of names, sizes and times of change of all files below a folder; "": no folder."""
    if not folder.is_dir():
        return ""
    digest = hashlib.sha256()
    waiting, known = [folder], set()
    while waiting:
        below = waiting.pop()
        if (real := below.resolve()) in known:  # links may lead in a circle
            continue
        known.add(real)
        with suppress(FileNotFoundError), os.scandir(below) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                if entry.is_dir():
                    waiting.append(Path(entry.path))
                    continue
                with suppress(FileNotFoundError):
                    status = entry.stat()
                    digest.update(
                        f"{entry.path!r} {status.st_size} {status.st_mtime_ns}\n".encode()
                    )
    return digest.hexdigest()


def changed(settings: Params, names: Iterable[str]) -> list[str]:
    """Those of the datasets whose raw folder holds other than dvc.lock says.

    Raises:
        InputError: DVC cannot tell.
    """
    stages = {f"dataset@{name}": name for name in names}
    found = graph.changes(*stages)
    return [
        name
        for address, name in stages.items()
        if _absolute(settings.datasets[name]) in map(_absolute, found.get(address, {}))
    ]


def _absolute(path: str) -> str:
    return os.path.abspath(path)  # DVC does not follow a link either


class Seen:
    """What earlier looks found, in a file below .isdh/, safe to delete.

    It holds the listings, a stamp of dvc.lock (which may go back to an older one), and which data a
    run that has not come to its end was at.
    """

    def __init__(self) -> None:
        try:
            self.note_of_then: dict[str, Any] = read_json(SEEN)
        except InputError:
            self.note_of_then = {}

    def other(self, now: Listings) -> list[str]:
        """The datasets whose folder is there and may hold something new."""
        then = self.note_of_then
        everything = then.get("lock") != _stamp() or then.get("working")
        before = {} if everything else then.get("listings", {})
        return [name for name, listing in now.items() if listing and listing != before.get(name)]

    def unfinished(self, now: Listings) -> list[str]:
        """The datasets that a killed run was at."""
        return [name for name in self.note_of_then.get("working", []) if name in now]

    def begin(self, names: list[str]) -> None:
        """A run takes them up."""
        write_json(SEEN, {**self.note_of_then, "working": names})

    def note(self, now: Listings) -> None:
        """What was found is dealt with."""
        write_json(SEEN, {"listings": dict(now), "lock": _stamp()})


def _stamp() -> list[int]:
    try:
        status = (WORKSPACE.root / LOCK).stat()
    except FileNotFoundError:
        return []
    return [status.st_size, status.st_mtime_ns]


if __name__ == "__main__":
    stage.main(watch)
