"""`python -m flows`, as `make demo` runs it: its own server, MLflow told, nothing done twice."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flows import pipeline
from flows.services import api_answers
from isdh.errors import InputError
from tests.loopback import free_port
from tests.workspaces import run, write_params

pytestmark = pytest.mark.slow


def main_job(folder: Path, **more: str) -> subprocess.CompletedProcess[str]:
    url = f"http://127.0.0.1:{free_port()}/api"
    return run(folder, sys.executable, "-m", "flows", **{"PREFECT_API_URL": url, **more})


def test_the_main_job_publishes_and_promotes_and_a_second_one_finds_nothing_stale(made):
    url = f"http://127.0.0.1:{free_port()}/api"
    first = main_job(made, PREFECT_API_URL=url)
    assert first.returncode == 0, first.stderr
    assert "starting one at" in first.stderr
    assert f"report   {(made / 'reports' / 'digits' / 'index.html').as_uri()}" in first.stdout
    assert not api_answers(url)  # what it started it stopped

    before = (made / "promotions.jsonl").read_text()
    [move] = [json.loads(line) for line in before.splitlines()]
    assert move["model"] == "isdh-digits-12bit"

    start = time.monotonic()
    second = main_job(made, PREFECT_API_URL=url)
    assert second.returncode == 0, second.stderr
    assert "nothing is stale" in second.stdout
    assert "Prefect" not in second.stderr  # no server was sought
    assert time.monotonic() - start < 30
    assert (made / "promotions.jsonl").read_text() == before

    table = run(made, "isdh", "compare", "--json", "--metric", "ndcg_at_10")
    assert table.returncode == 0, table.stderr
    cells = json.loads(table.stdout)
    assert {"dhn", "isdh"} <= set(json.dumps(cells).replace('"', " ").split())


def test_a_hyper_parameter_out_of_range_is_refused_before_anything_is_made(made):
    method = {"isdh": {"gamma": -1.0}, "dhn": {}}
    write_params(made, methods=["isdh", "dhn"], method=method)
    done = main_job(made)
    write_params(made, methods=["isdh", "dhn"])
    assert done.returncode == 2
    assert "method.isdh: gamma=-1.0: must not be negative" in done.stderr
    assert "Traceback" not in done.stderr
    assert (made / "models" / "digits" / "isdh-12-0" / "model.json").exists()


def test_a_cell_that_fails_is_told_and_the_others_are_made(made):
    broken = made / "isdh" / "methods" / "broken.py"
    source = (made / "isdh" / "methods" / "dhn.py").read_text()
    broken.write_text(source.replace("codes = self.activate(outputs)", "raise ArithmeticError"))
    names = {"isdh": {}, "dhn": {}, "broken": {}}
    write_params(made, methods=["broken", "isdh"], bits=[8], method=names)
    done = main_job(made)
    broken.unlink()
    write_params(made, methods=["isdh", "dhn"])
    assert done.returncode == 1  # no fault of the input
    assert "train@digits-broken-8-0" in done.stderr
    assert "ArithmeticError" in done.stderr  # the end of the cell's log
    assert (made / "metrics" / "digits" / "isdh-8-0.json").exists()


def test_a_run_whose_mlflow_does_not_answer_says_so_and_keeps_what_it_made(made):
    gone = main_job(made, MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    assert gone.returncode == 2
    assert "http://127.0.0.1:9" in gone.stderr
    assert "Traceback" not in gone.stderr
    assert (made / "metrics" / "digits" / "isdh-12-0.json").exists()


def test_works_side_by_side_end_together_and_with_a_cancel():
    ended = []

    async def work(name: str, fault: Exception | None = None) -> str:
        try:
            await asyncio.sleep(0 if fault else 0.05)
        finally:
            ended.append(name)
        if fault:
            raise fault
        return name

    async def cancelled() -> None:
        works = asyncio.ensure_future(pipeline.together(work("a"), work("b")))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        works.cancel()
        await works

    assert asyncio.run(pipeline.together(work("a"), work("b"))) == ["a", "b"]
    with pytest.raises(ValueError, match="one of them"):
        asyncio.run(pipeline.together(work("c", ValueError("one of them")), work("d")))
    with pytest.raises(InputError, match="first\nsecond"):
        asyncio.run(
            pipeline.together(work("e", InputError("first")), work("f", InputError("second")))
        )
    assert ended == ["a", "b", "c", "d", "e", "f"]
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(cancelled())
    assert ended[6:] == ["a", "b"]
