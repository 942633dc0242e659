"""One GPU a cell: the pool, and four cells over two GPUs that this machine pretends to have."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from flows import gpus
from tests.flows.test_forkserver import outputs, without_seconds
from tests.workspaces import ROOT, run, write_params


@pytest.fixture
def machine(monkeypatch):
    """Sets how many GPUs CUDA finds, and what the environment says."""

    def has(count: int, *, named: str | None = None, wish: str = "auto") -> None:
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setenv("ISDH_DEVICE", wish)
        monkeypatch.delenv(gpus.VISIBLE, raising=False)
        if named is not None:
            monkeypatch.setenv(gpus.VISIBLE, named)

    return has


@pytest.mark.parametrize(
    ("count", "named", "names"),
    [
        (4, None, ["0", "1", "2", "3"]),
        (2, "2,3", ["2", "3"]),
        (2, "GPU-8932f937, GPU-1d3c88a1", ["GPU-8932f937", "GPU-1d3c88a1"]),
        (1, "0,-1,1", ["0"]),  # CUDA stops reading at a name that it does not know
        (0, "", []),
        (0, None, []),
    ],
)
def test_the_gpus_are_those_that_the_environment_names_or_all(machine, count, named, names):
    machine(count, named=named)
    assert gpus.visible() == names


def test_where_the_cpu_is_asked_for_no_gpu_is_named(machine):
    machine(4, wish="cpu")
    assert gpus.visible() == []


def taken(pool: gpus.Pool, cells: int) -> list[tuple[str, int]]:
    """Have cells made in a pool; the GPU of each, and how many others were on it meanwhile."""
    now: dict[str, int] = {}
    found = []

    async def cell() -> None:
        async with pool.place() as environment:
            name = environment.get(gpus.VISIBLE, "")
            found.append((name, now.get(name, 0)))
            now[name] = now.get(name, 0) + 1
            await asyncio.sleep(0.001)
            now[name] -= 1

    async def all_of_them() -> None:
        await asyncio.gather(*(cell() for _ in range(cells)))

    asyncio.run(all_of_them())
    return found


def test_each_gpu_has_one_cell_at_a_time_and_none_is_left_out():
    found = taken(gpus.Pool(3, ["2", "5", "7"]), 12)
    assert {others for _, others in found} == {0}
    assert {name for name, _ in found} == {"2", "5", "7"}


def test_more_places_than_gpus_share_them_in_turn():
    found = taken(gpus.Pool(5, ["2", "5"]), 5)
    assert [name for name, _ in found] == ["2", "5", "2", "5", "2"]
    assert [others for _, others in found] == [0, 0, 1, 1, 2]


def test_without_gpus_nothing_is_said_of_them():
    assert taken(gpus.Pool(2), 4) == [("", 0), ("", 1), ("", 0), ("", 1)]


def test_a_place_is_free_again_after_a_cell_that_failed():
    async def fail_twice() -> None:
        pool = gpus.Pool(1, ["0"])
        for _ in range(2):
            with pytest.raises(ArithmeticError):
                async with pool.place():
                    raise ArithmeticError

    asyncio.run(asyncio.wait_for(fail_twice(), 5))


@pytest.mark.skipif(sys.platform != "linux", reason="forks are made on Linux alone")
def test_the_process_that_is_forked_never_asks_cuda_for_a_device():
    """Had it asked, CUDA would have read CUDA_VISIBLE_DEVICES, and a fork could set it no more."""
    code = (
        "import torch\n"
        "def asked(*_): raise SystemError('CUDA was asked')\n"
        "torch._C._cuda_getDeviceCount = torch._C._cuda_init = asked\n"
        "torch.cuda.device_count = torch.cuda.is_available = asked\n"
        "from flows import forkserver\n"
        "forkserver.read_ahead()\n"
        "print(torch.cuda.is_initialized())"
    )
    done = run(ROOT, sys.executable, "-c", code)
    assert done.stdout == "False\n", done.stderr


# The pipeline on a machine with GPUs of these names; each order to make a cell is told.
PIPELINE = """
import json, sys, time
from flows import gpus, graph, pipeline, stage
gpus.visible = lambda: ["GPU-one", "GPU-two"]
make = graph.ForkServer.make
async def tell(server, cell, **environment):
    start = time.monotonic()
    entries = await make(server, cell, **environment)
    print(json.dumps([str(cell), environment, start, time.monotonic()]), flush=True)
    return entries
graph.ForkServer.make = tell
stage.main(pipeline.pipeline, sys.argv[1:])
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="forks are made on Linux alone")
def test_two_gpus_make_four_cells_each_on_one_and_as_one_place_makes_them(made, tmp_path):
    say_it = "    end_with_parent(parent)\n"
    shell = made / "flows" / "stage.py"
    said = "say(f\"{stage.name} sees {os.environ.get('CUDA_VISIBLE_DEVICES')}\")"
    shell.write_text(shell.read_text().replace(say_it, f"{say_it}    {said}\n"))
    write_params(made, methods=["isdh", "dhn"], bits=[8, 16])
    alone = tmp_path / "alone"
    shutil.copytree(made, alone, symlinks=True)

    told = pipeline(made)
    assert len(told) == 4
    for _, environment, _, _ in told:
        assert set(environment) == {"CUDA_VISIBLE_DEVICES"}
    by_gpu: dict[str, list[tuple[float, float]]] = {}
    for name, environment, start, end in told:
        [gpu] = environment.values()
        log = made / ".isdh" / "logs" / f"{name}.log"
        seen = re.findall(r"^(\w+) sees (.*)$", log.read_text(), re.MULTILINE)
        assert seen == [("train", gpu), ("encode", gpu), ("evaluate", gpu)]
        by_gpu.setdefault(gpu, []).append((start, end))
    assert set(by_gpu) == {"GPU-one", "GPU-two"}
    for times in by_gpu.values():
        assert all(before[1] <= after[0] for before, after in pairwise(sorted(times)))
    assert overlap(*(times[0] for times in by_gpu.values()))  # and side by side all the same

    assert len({json.dumps(environment) for _, environment, _, _ in pipeline(alone, "1")}) == 1
    assert outputs(made) == outputs(alone)
    assert without_seconds(made / "dvc.lock") == without_seconds(alone / "dvc.lock")


def pipeline(folder: Path, *workers: str) -> list[tuple[str, dict[str, str], float, float]]:
    """Run it there: cell, environment of its own, start and end in seconds, of each."""
    done = run(folder, sys.executable, "-c", PIPELINE, *workers)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("[")]
    return [tuple(json.loads(line)) for line in lines]


def overlap(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return max(one[0], other[0]) < min(one[1], other[1])
