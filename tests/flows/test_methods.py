"""A fitted method and one that remembers, through every stage: they are treated like all others."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import numpy as np
import pytest

from isdh import manifest
from isdh.artifacts import Cell, Workspace, read_codes
from isdh.choice import read_log
from isdh.encoder import Encoder
from isdh.methods import METHODS
from tests.flows.test_stage import alive, children, wait_for
from tests.workspaces import SMALL, environment, run, write_params

pytestmark = pytest.mark.slow


def test_a_fitted_method_and_one_with_a_memory_are_trained_encoded_evaluated_and_served(made):
    names = ["isdh", "dhn", "ksh", "dpsh"]
    choices = {"digits": {"learning_rate": 0.01, "mixup": 0.5}}
    sections = {"isdh": {}, "dhn": {}, "ksh": {"anchors": 20}, "dpsh": {"for": choices}}
    write_params(made, methods=names, method=sections)
    try:
        done = run(made, "dvc", "repro", "evaluate@digits-ksh-12-0", "evaluate@digits-dpsh-12-0")
        assert done.returncode == 0, done.stderr
        workspace = Workspace(made)
        frame = manifest.read(workspace.manifest("digits"))
        images = [(made / "raw" / "digits" / path).read_bytes() for path in frame["path"]]
        for name in ("ksh", "dpsh"):
            cell = Cell("digits", name, 12, 0)
            codes = read_codes(workspace.codes(cell), bits=12, rows=len(frame))
            assert np.array_equal(Encoder.load(workspace.model(cell)).encode(images), codes)
            history = json.loads((workspace.model(cell) / "history.json").read_text())
            assert len(history["epochs"]) == 1
            assert json.loads(workspace.scores(cell).read_text())["map_at_10"] > 0
        assert history["training"]["learning_rate"] == 0.01
        assert history["training"]["mixup"] == 0.5
        told = run(made, "isdh", "publish")
        assert told.returncode == 0, told.stderr
    finally:
        write_params(made, methods=["isdh", "dhn"])


def test_choosing_logs_every_trial_repeats_none_and_refuses_what_cannot_be(made):
    section = SMALL["dataset"]["digits"]
    choose = {"learning_rate": [0.01], "bits": [8], "carve": 30, "hyper": {"ksh": {"anchors": [9]}}}

    def command(*method: str, **changes: object) -> subprocess.CompletedProcess[str]:
        digits = {**section, "choose": {**choose, **changes}}
        write_params(made, methods=["isdh", "dhn"], dataset={"digits": digits})
        return run(made, sys.executable, "-m", "flows.choose", "digits", *method)

    try:
        first = command()
        assert first.returncode == 0, first.stderr
        log = made / "choices" / "digits.csv"
        outcomes = read_log(log)
        names = {name for name in METHODS if METHODS[name].head is None} | {"ksh"}
        assert {outcome.trial.method for outcome in outcomes} == names
        assert len(outcomes) == len(names)
        assert "ksh:\n  for:\n    digits:\n      hyper:\n        anchors: 9" in first.stderr

        before = log.read_bytes()
        again = command()
        assert again.returncode == 0, again.stderr
        assert log.read_bytes() == before  # seconds included: nothing was tried anew

        one = command("dhn", learning_rate=[0.02], hyper={})
        assert one.returncode == 0, one.stderr
        changed = [line for line in log.read_text().splitlines() if line not in before.decode()]
        assert [line.split(",")[:3] for line in changed] == [["dhn", "8", "0.02"]]
        assert len(read_log(log)) == len(names)
        assert command("dhm").returncode == 2
        before = log.read_bytes()

        for changes, message in [
            ({"carve": 55}, "choose.carve=55: leaves 5 of 60 training rows"),
            ({"hyper": {"ksh": {"anchor": [1]}}}, "unknown hyper-parameter of ksh 'anchor'"),
            ({"hyper": {"kshh": {}}}, "unknown method in dataset.digits.choose.hyper 'kshh'"),
            ({"learning_rate": [0.1, 0.1]}, "each may stand once"),
        ]:
            refused = command(**changes)
            assert refused.returncode == 2, refused.stderr
            assert message in refused.stderr
            assert "Traceback" not in refused.stderr
        assert log.read_bytes() == before
    finally:
        write_params(made, methods=["isdh", "dhn"])


def test_trials_end_with_the_choice_they_belong_to(made):
    """kill -9 in the middle: no orphan keeps computing, and what was logged stays."""
    digits = {**SMALL["dataset"]["digits"], "training": {"epochs": 300, "batch_size": 10}}
    write_params(
        made, methods=["isdh", "dhn"], dataset={"digits": {**digits, "choose": {"carve": 20}}}
    )
    command = [sys.executable, "-m", "flows.choose", "digits"]
    log = made / "choices" / "digits.csv"
    log.unlink(missing_ok=True)
    try:
        with subprocess.Popen(
            command,
            cwd=made,
            env=environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as choice:
            wait_for(log.parent, log.name)
            trials = children(choice.pid)
            assert trials
            choice.kill()
        deadline = time.monotonic() + 5
        while any(map(alive, trials)) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not any(map(alive, trials))
        assert read_log(log)
    finally:
        write_params(made, methods=["isdh", "dhn"])
