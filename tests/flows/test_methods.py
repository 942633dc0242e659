"""A fitted method and one that remembers, through every stage: they are treated like all others."""

from __future__ import annotations

import json

import numpy as np
import pytest

from isdh import manifest
from isdh.artifacts import Cell, Workspace, read_codes
from isdh.encoder import Encoder
from tests.workspaces import run, write_params

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
