"""What an edit makes stale, asked of DVC itself by letting it run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.flows.test_one_run import DHN, current_run, publish
from tests.workspaces import SMALL, run, write_params

pytestmark = pytest.mark.slow
MATRIX = {"methods": ["isdh", "dhn"]}


def repro(folder: Path) -> set[str]:
    """Run `dvc repro`; the stages whose commands ran."""
    done = run(folder, "dvc", "repro")
    assert done.returncode == 0, done.stderr
    return set(re.findall(r"Running stage '([^']+)'", done.stdout))


def test_a_second_repro_runs_nothing(made):
    assert repro(made) == set()


def test_editing_a_methods_file_makes_stale_only_its_cells(made):
    method = made / "isdh" / "methods" / "dhn.py"
    before = method.read_text()
    method.write_text(before + "\n# a thought\n")
    try:
        ran = repro(made)
    finally:
        method.write_text(before)
        repro(made)
    assert {stage for stage in ran if stage.startswith("train@")} == {"train@digits-dhn-12-0"}
    assert not any("isdh-12" in stage for stage in ran)


def test_editing_a_methods_section_makes_stale_only_its_cells(made, monkeypatch):
    uri = f"sqlite:///{made / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    publish(made)
    before = current_run(made, uri, DHN)
    write_params(made, **MATRIX, method={"isdh": {}, "dhn": {"quantisation_weight": 0.5}})
    ran = repro(made)
    edited = current_run(made, uri, DHN)
    write_params(made, **MATRIX)
    assert repro(made) == set()  # what was made before is restored, not made again
    publish(made)
    assert current_run(made, uri, DHN).info.run_id == before.info.run_id != edited.info.run_id
    assert ran == {
        "train@digits-dhn-12-0",
        "encode@digits-dhn-12-0",
        "evaluate@digits-dhn-12-0",
        "report@digits",
    }


def test_adding_a_code_length_trains_only_it(made):
    write_params(made, **MATRIX, bits=[12, 16])
    ran = repro(made)
    write_params(made, **MATRIX)
    repro(made)
    cells = {stage.partition("@")[2] for stage in ran} - {"digits"}
    assert cells == {"digits-isdh-16-0", "digits-dhn-16-0"}


def test_changing_the_champions_rule_makes_nothing_stale(made):
    write_params(made, **MATRIX, champion={**SMALL["champion"], "margin": 0.5})
    assert repro(made) == set()
    write_params(made, **MATRIX)
