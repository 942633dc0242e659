"""Files -> MLflow, in real databases: one run per cell and fingerprint, whoever publishes."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
import yaml
from mlflow import MlflowClient
from mlflow.entities import ViewType
from mlflow.exceptions import MlflowException

from isdh import tracking
from isdh.artifacts import Cell, Workspace, read_json, write_json
from isdh.errors import InputError
from isdh.tracking import projection, provenance, server
from tests import synthetic
from tests.tracking.queries import client, dump, runs

ROOT = Path(__file__).parents[2]
# raised by MLflow itself when mlflow.pyfunc is imported
pytestmark = pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType")

CELL = Cell("digits", "isdh", 12, 0)
RIVAL = Cell("digits", "dhn", 12, 0)


def history(workspace: Workspace, run_id: str, name: str) -> list[tuple[int, float, int]]:
    points = client(workspace).get_metric_history(run_id, name)
    return sorted((point.step, point.value, point.timestamp) for point in points)


def shown(workspace: Workspace, run_id: str) -> dict[str, Any]:
    """What MLflow shows of a run, but for ids and times of writing."""
    run = client(workspace).get_run(run_id)
    return {
        "name": run.info.run_name,
        "status": run.info.status,
        "times": (run.info.start_time, run.info.end_time),
        "params": run.data.params,
        "points": {name: history(workspace, run_id, name) for name in run.data.metrics},
        "tags": {k: v for k, v in run.data.tags.items() if k != "isdh.current_since"},
        "inputs": [(i.dataset.name, i.dataset.digest) for i in run.inputs.dataset_inputs],
        "files": sorted(
            str(path.relative_to(workspace.root / "mlartifacts" / "digits" / run_id))
            for path in (workspace.root / "mlartifacts" / "digits" / run_id).rglob("*")
            if path.is_file()
        ),
    }


def but_for_its_standing(found: dict[str, Any]) -> dict[str, Any]:
    """What is shown of a run, less what tells a former one from the current one."""
    standing = {"isdh.state", "mlflow.runName"}
    tags = {name: value for name, value in found["tags"].items() if name not in standing}
    return {**found, "name": None, "tags": tags}


# ---------------------------------------------------------------- one run per cell


def test_a_scored_cell_becomes_a_finished_run_with_all_that_its_files_say(workspace, settings):
    run_id = tracking.publish(workspace, settings, CELL)
    found = shown(workspace, run_id)
    assert found["name"] == "isdh 12 bits seed 0"
    assert found["status"] == "FINISHED"
    assert found["times"] == (synthetic.STARTED + 100, synthetic.STARTED + 3000)
    assert found["params"] == {
        "method": "isdh",
        "bits": "12",
        "seed": "0",
        "method.alpha": "0.1",
        "training.rows": "20",
        "training.epochs": "3",
        "training.learning_rate": "0.001",
        "training.schedule": "cosine",
        "inputs.kind": "images",
        "inputs.size": "32",
        "inputs.channels": "1",
        "inputs.weights": "null",
        "network.backbone": "convnet",
        "network.hidden": "null",
        "network.dropout": "0.0",
        "network.hidden_dropout": "0.0",
        "network.batch_norm": "false",
    }
    times = [synthetic.STARTED + 1000 * epoch for epoch in (1, 2, 3)]
    assert found["points"]["loss"] == [(1, 1.0, times[0]), (2, 0.5, times[1]), (3, 1 / 3, times[2])]
    scores = read_json(workspace.scores(CELL))
    assert {name: found["points"][name] for name in scores} == {
        name: [(0, value, times[2])] for name, value in scores.items()
    }
    tags = {"isdh.cell": "digits/isdh-12-0", "dataset": "digits", "version.torch": "2.9.0"}
    tags |= {"device": "cpu", "hardware.processor": "x86", "hardware.cores": "2"}
    assert tags.items() <= found["tags"].items()
    assert found["points"]["training_seconds"] == [(3, pytest.approx(2.7), times[2])]
    assert found["points"]["peak_memory_bytes"] == [(3, 1 << 28, times[2])]
    digest = projection.data_digest(workspace, "digits")
    assert found["inputs"] == [("digits", digest)]
    assert found["files"] == [
        "artifacts/model/history.json",
        "artifacts/model/model.json",
        "artifacts/model/weights.safetensors",
        "artifacts/plots/loss.svg",
        "artifacts/scores/isdh-12-0.json",
        "artifacts/scores/isdh-12-0.npz",
    ]


def test_the_load_of_the_machine_is_logged_while_a_run_goes_on(workspace, settings, monkeypatch):
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.2")
    run = tracking.publish(workspace, settings, CELL, synthetic.history(CELL, epochs=0))
    for _ in range(2):
        with tracking.system_metrics(workspace, run):
            time.sleep(1.5)
    found = history(workspace, run, "system/cpu_utilization_percentage")
    steps = [step for step, _, _ in found]
    assert len(steps) >= 4
    assert steps == sorted(set(steps))  # the second time went on behind the first


def test_publishing_again_writes_nothing(workspace, settings):
    assert tracking.publish_all(workspace, settings) == tracking.Published(written=8)
    before = dump(workspace)
    first = tracking.publish(workspace, settings, CELL)
    assert tracking.publish_all(workspace, settings) == tracking.Published(unchanged=8)
    assert tracking.publish(workspace, settings, CELL) == first
    assert dump(workspace) == before
    assert len(runs(workspace)) == 8


@pytest.mark.parametrize("damage", ["altered", "lost"])
def test_a_runs_files_that_were_altered_or_lost_are_written_again(workspace, settings, damage):
    number = tracking.publish(workspace, settings, CELL)
    stores = workspace.root / "mlartifacts" / "digits" / number / "artifacts"
    copy = stores / "model" / "weights.safetensors"
    copy.write_bytes(b"other") if damage == "altered" else copy.unlink()
    assert tracking.publish(workspace, settings, CELL) == number
    assert copy.read_bytes() == (workspace.model(CELL) / "weights.safetensors").read_bytes()
    assert tracking.publish_all(workspace, settings).unchanged == 1
    shutil.rmtree(stores)
    assert tracking.publish_all(workspace, settings) == tracking.Published(1, 7)
    assert copy.exists()
    assert len(runs(workspace)) == 8


def test_cells_that_are_not_trained_are_counted_and_passed_over(workspace, settings):
    shutil.rmtree(workspace.model(CELL))
    done = tracking.publish_all(workspace, settings)
    assert done == tracking.Published(written=7, missing=1)


def test_a_cell_without_its_model_is_refused_by_name(workspace, settings):
    shutil.rmtree(workspace.model(CELL))
    with pytest.raises(InputError, match=r"isdh-12-0/history\.json: no such file"):
        tracking.publish(workspace, settings, CELL)


def test_a_trained_cell_is_running_until_it_is_scored(workspace, settings):
    scores = read_json(workspace.scores(CELL))
    workspace.scores(CELL).unlink()
    trained = tracking.publish(workspace, settings, CELL)
    assert shown(workspace, trained)["status"] == "RUNNING"
    write_json(workspace.scores(CELL), scores)
    assert tracking.publish(workspace, settings, CELL) == trained
    assert shown(workspace, trained)["status"] == "FINISHED"


def test_live_curves_and_files_make_the_same_run_as_files_alone(workspace, settings):
    ids = set()
    for epochs in (1, 1, 2, 3):
        so_far = synthetic.history(CELL, epochs=epochs)
        del so_far["totals"]  # known at the end
        ids.add(tracking.publish(workspace, settings, CELL, so_far))
    (live,) = ids
    assert shown(workspace, live)["status"] == "RUNNING"
    assert len(history(workspace, live, "loss")) == 3
    assert tracking.publish(workspace, settings, CELL) == live
    found = shown(workspace, live)
    client(workspace).delete_run(live)
    again = tracking.publish(workspace, settings, CELL)
    assert again != live
    assert shown(workspace, again) == found


def test_a_changed_fingerprint_makes_a_new_run_and_leaves_the_old(workspace, settings):
    old = tracking.publish(workspace, settings, CELL)
    before = shown(workspace, old)
    synthetic.write_model(workspace, CELL, fingerprint="e" * 64, weights="other")
    new = tracking.publish(workspace, settings, CELL)
    assert new != old
    assert but_for_its_standing(shown(workspace, old)) == but_for_its_standing(before)
    assert len(runs(workspace)) == 2


def test_scores_of_the_model_before_are_not_those_of_a_new_training(workspace, settings):
    old = tracking.publish(workspace, settings, CELL)
    before = shown(workspace, old)
    synthetic.write_model(workspace, CELL, fingerprint="e" * 64, weights="retrained")
    new = tracking.publish(workspace, settings, CELL)
    found = shown(workspace, new)
    assert found["status"] == "RUNNING"
    assert "isdh.scores" not in found["tags"]
    assert not set(found["points"]) & set(read_json(workspace.scores(CELL)))
    assert not [name for name in found["files"] if "scores" in name]
    assert but_for_its_standing(shown(workspace, old)) == but_for_its_standing(before)
    synthetic.write_scores(workspace, CELL, ndcg_at_100=0.25)
    assert tracking.publish(workspace, settings, CELL) == new
    assert shown(workspace, new)["status"] == "FINISHED"
    assert client(workspace).get_run(new).data.metrics["ndcg_at_100"] == 0.25


def test_a_training_repeated_to_other_weights_has_no_scores_until_it_is_scored(workspace, small):
    run_id = tracking.publish(workspace, small, CELL)
    tracking.publish(workspace, small, RIVAL)
    synthetic.write_model(workspace, CELL, weights="not reproduced")  # the same fingerprint
    assert tracking.publish(workspace, small, CELL) == run_id
    assert shown(workspace, run_id)["status"] == "RUNNING"
    assert tracking.runs(workspace, "digits")["method"].tolist() == ["dhn"]
    synthetic.write_scores(workspace, CELL)
    assert tracking.publish(workspace, small, CELL) == run_id
    assert shown(workspace, run_id)["status"] == "FINISHED"
    assert tracking.runs(workspace, "digits")["method"].tolist() == ["dhn", "isdh"]


def test_a_restored_training_becomes_the_cells_current_one_again(workspace, small):
    first = tracking.publish(workspace, small, CELL)
    synthetic.write_model(workspace, CELL, fingerprint="e" * 64)
    second = tracking.publish(workspace, small, CELL)
    assert tracking.runs(workspace, "digits")["run_id"].tolist() == [second]
    synthetic.write_model(workspace, CELL)
    assert tracking.publish(workspace, small, CELL) == first
    assert tracking.runs(workspace, "digits")["run_id"].tolist() == [first]
    before = dump(workspace)
    tracking.publish_all(workspace, small)
    assert shown(workspace, first)["status"] == "FINISHED"
    assert [line for line in dump(workspace) if second in line or first in line] == [
        line for line in before if second in line or first in line
    ]


@pytest.mark.parametrize("corrected", [0.1, 0.9])
def test_a_corrected_score_is_the_latest_be_it_lower_or_higher(workspace, settings, corrected):
    tracking.publish(workspace, settings, CELL)
    synthetic.write_scores(workspace, CELL, ndcg_at_100=corrected)
    run_id = tracking.publish(workspace, settings, CELL)
    run = client(workspace).get_run(run_id)
    assert run.data.metrics["ndcg_at_100"] == corrected
    assert len(history(workspace, run_id, "ndcg_at_100")) == 2
    assert len(history(workspace, run_id, "map_at_all")) == 1


def test_a_score_that_is_no_longer_made_is_no_longer_compared(workspace, small):
    tracking.publish_all(workspace, small)
    for cell in small.cells("digits"):
        write_json(workspace.scores(cell), {"map_at_all": 0.5})
    tracking.publish_all(workspace, small)
    with pytest.raises(InputError, match="unknown metric 'ndcg_at_100'"):
        tracking.compare(workspace, "digits", "ndcg_at_100")


def test_an_epoch_run_again_after_a_crash_adds_only_the_points_that_differ(workspace, settings):
    live = synthetic.history(CELL, epochs=3)
    run_id = tracking.publish(workspace, settings, CELL, live)
    resumed = synthetic.history(CELL, epochs=3)
    resumed["epochs"][2] |= {"timestamp": synthetic.STARTED + 9000, "seconds": 1.1}
    write_json(workspace.model(CELL) / "history.json", resumed)
    assert tracking.publish(workspace, settings, CELL) == run_id
    assert len(history(workspace, run_id, "loss")) == 3
    assert len(history(workspace, run_id, "seconds")) == 4


@pytest.mark.parametrize(
    "step", ["create_run", "log_batch", "log_inputs", "log_artifact", "set_terminated"]
)
@pytest.mark.parametrize("after", [False, True])
def test_what_a_killed_publish_left_undone_the_next_one_does(
    workspace, small, monkeypatch, step, after
):
    undisturbed = shown(workspace, tracking.publish(workspace, small, CELL))
    client(workspace).delete_run(runs(workspace)[0].info.run_id)
    whole = getattr(MlflowClient, step)

    def killed(*args: Any, **kwargs: Any) -> None:
        if after:
            whole(*args, **kwargs)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, step, killed)
        with pytest.raises(KeyboardInterrupt):
            tracking.publish(workspace, small, CELL)
    assert tracking.publish_all(workspace, small).written == 2
    (run,) = [run for run in runs(workspace) if run.data.tags["isdh.cell"] == str(CELL)]
    assert shown(workspace, run.info.run_id) == undisturbed


WRITER = """
import os, sys, time
from pathlib import Path
from isdh import params, tracking
from isdh.artifacts import Workspace
root, shift = Path(sys.argv[1]), int(sys.argv[2])
workspace, settings = Workspace(root), params.load(root / "params.yaml")
def meet(place):
    (root / f"{place}-{os.getpid()}").touch()
    end = time.monotonic() + 60
    while len(list(root.glob(f"{place}-*"))) < 4 and time.monotonic() < end:
        time.sleep(0.001)
meet("imported")
tracking.prepare(workspace, settings)
meet("prepared")
cells = settings.cells("digits")
for cell in cells[shift:] + cells[:shift]:
    tracking.publish(workspace, settings, cell)
tracking.publish_all(workspace, settings)
"""


def test_four_processes_at_once_make_one_database_and_one_run_per_cell(workspace):
    settings = synthetic.write_params(workspace.root, bits=[12])
    (workspace.root / "mlflow.db").unlink()
    shifts = [0, 0, 0, 1]  # three of them write the same cell at the same time
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(workspace.root), str(shift)],
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
        )
        for shift in shifts
    ]
    ends = [(writer.communicate(timeout=120)[1], writer.returncode) for writer in writers]
    assert ends == [("", 0)] * 4
    number = str(server.find_experiment(client(workspace), "digits"))
    found = client(workspace).search_runs([number], run_view_type=ViewType.ALL)  # deleted too
    assert sorted(run.data.tags["isdh.cell"] for run in found) == sorted(
        map(str, settings.cells("digits"))
    )
    names = [experiment.name for experiment in client(workspace).search_experiments()]
    assert sorted(names) == ["Default", "isdh/digits"]
    for run in found:
        assert len(history(workspace, run.info.run_id, "loss")) == 3
    assert tracking.publish_all(workspace, settings) == tracking.Published(unchanged=4)


def test_an_experiment_that_another_process_just_made_is_taken(workspace):
    class Late:
        """Sees no experiment until its own attempt to make one fails."""

        def __init__(self) -> None:
            self.mlflow = client(workspace)
            self.made = False

        def get_experiment_by_name(self, name: str) -> Any:
            return self.mlflow.get_experiment_by_name(name) if self.made else None

        def create_experiment(self, name: str, location: str | None) -> str:
            self.made = True
            self.mlflow.create_experiment(name, location)
            return str(self.mlflow.create_experiment(name, location))

    late: Any = Late()
    number = server.experiment(late, workspace, "digits")
    assert number == server.find_experiment(client(workspace), "digits")


def test_a_dataset_that_another_cell_makes_in_the_same_moment_is_shared(
    workspace, settings, monkeypatch
):
    whole = MlflowClient.log_inputs
    faults = iter([MlflowException("UNIQUE constraint failed: datasets.name")])

    def second_time_lucky(*args: Any) -> None:
        for fault in faults:
            raise fault
        whole(*args)

    monkeypatch.setattr(MlflowClient, "log_inputs", second_time_lucky)
    run_id = tracking.publish(workspace, settings, CELL)
    assert len(shown(workspace, run_id)["inputs"]) == 1


def test_a_second_run_made_by_another_machine_is_removed(workspace, small):
    first = tracking.publish(workspace, small, CELL)
    run = client(workspace).get_run(first)
    tags = {name: run.data.tags[name] for name in ("isdh.cell", "isdh.fingerprint")}
    client(workspace).create_run(run.info.experiment_id, tags=tags)
    tracking.publish_all(workspace, small)
    assert len(runs(workspace)) == 2


def test_the_dataset_stays_the_one_the_cell_was_trained_on(workspace, settings):
    run_id = tracking.publish(workspace, settings, CELL)
    inputs = shown(workspace, run_id)["inputs"]
    synthetic.write_data(workspace, version="2")
    tracking.publish(workspace, settings, CELL)
    assert shown(workspace, run_id)["inputs"] == inputs


def test_large_weights_are_left_to_dvc(workspace, settings, monkeypatch):
    monkeypatch.setattr(projection, "LARGEST_WEIGHTS", 3)
    files = shown(workspace, tracking.publish(workspace, settings, CELL))["files"]
    assert "artifacts/model/weights.safetensors" not in files
    assert "artifacts/model/model.json" in files


def test_weights_that_are_not_those_of_the_card_are_refused(workspace, settings):
    (workspace.model(CELL) / "weights.safetensors").write_text("flipped")
    with pytest.raises(InputError, match=r"weights\.safetensors: sha256"):
        tracking.publish(workspace, settings, CELL)


def test_a_history_without_epochs_is_published(workspace, settings):
    fitted = synthetic.history(CELL, epochs=0)
    write_json(workspace.model(CELL) / "history.json", fitted)
    found = shown(workspace, tracking.publish(workspace, settings, CELL))
    assert found["status"] == "FINISHED"
    assert set(found["points"]) == set(read_json(workspace.scores(CELL)))


def test_a_history_longer_than_mlflow_takes_at_once_is_whole(workspace, settings):
    long = synthetic.history(CELL, epochs=450)  # 1800 points
    write_json(workspace.model(CELL) / "history.json", long)
    run_id = tracking.publish(workspace, settings, CELL)
    assert [step for step, _, _ in history(workspace, run_id, "seconds")] == list(range(1, 451))


# ---------------------------------------------------------------- provenance


def write_lock(root: Path) -> None:
    name = "digits-isdh-12-0"
    data = {"path": "data/digits/inputs.npy", "hash": "md5", "md5": "d1"}
    code = {"path": "isdh/methods/isdh.py", "hash": "md5", "md5": "c1"}
    stages = {
        f"train@{name}": {"deps": [data, code], "outs": [{"path": "models/m", "md5": "m1.dir"}]},
        f"encode@{name}": {"outs": [{"path": "codes/c", "md5": "k1.dir"}]},
        f"evaluate@{name}": {"outs": [{"path": "metrics/s.json", "md5": "s1"}]},
    }
    lock = {"schema": "2.0", "stages": stages}
    (root / "dvc.lock").write_text(yaml.safe_dump(lock, sort_keys=False))


@pytest.mark.parametrize(
    ("running", "told"),
    [
        (None, {"data/digits/inputs.npy", "models/m", "codes/c", "metrics/s.json"}),
        ("evaluate@digits-isdh-12-0", {"data/digits/inputs.npy", "models/m", "codes/c"}),
        ("train@digits-isdh-12-0", set()),
        ("report@digits", {"data/digits/inputs.npy", "models/m", "codes/c", "metrics/s.json"}),
    ],
)
def test_dvcs_hashes_are_tags_save_those_that_a_running_stage_will_change(
    workspace, settings, monkeypatch, running, told
):
    write_lock(workspace.root)
    if running:
        monkeypatch.setenv("DVC_STAGE", running)
    tags = shown(workspace, tracking.publish(workspace, settings, CELL))["tags"]
    assert {tag.removeprefix("dvc.") for tag in tags if tag.startswith("dvc.")} == told
    if not running:
        assert tags["dvc.models/m"] == "m1.dir"


def test_hashes_that_come_with_the_lock_are_added_by_the_next_publish(workspace, settings):
    run_id = tracking.publish(workspace, settings, CELL)
    write_lock(workspace.root)
    assert tracking.publish(workspace, settings, CELL) == run_id
    assert shown(workspace, run_id)["tags"]["dvc.metrics/s.json"] == "s1"


LOCK = """schema: '2.0'
stages:
  train@digits-isdh-12-0:
    cmd: python -m flows.train digits isdh 12 0
    deps:
    - path: data/digits/inputs.npy
      hash: md5
      md5: 9b142f3887ad2e843a7e22e1a8140341
      size: 470699
    - path: isdh/methods/isdh.py
      hash: md5
      md5: 3406bb29ecd61f2380c442019720f8e6
      size: 644
    params:
      params.yaml:
        dataset.digits.training:
          epochs: 3
    outs:
    - path: models/digits/isdh-12-0
      hash: md5
      md5: da407b2dd381f1b3bcbfb742ff64e048.dir
      size: 6425519
      nfiles: 3
  evaluate@digits-isdh-12-0:
    cmd: python -m flows.evaluate digits isdh 12 0
    deps:
    - path: codes/digits/isdh-12-0
      hash: md5
      md5: 3dfea9e0172726ab1cfeafbb17a546b2.dir
      size: 15103
      nfiles: 2
    outs:
    - path: metrics/digits/isdh-12-0.json
      hash: md5
      md5: 5066b10bdb789f1e98eec417337388fc
      size: 8632
"""


def test_no_beginning_of_a_lock_that_is_being_written_tells_a_wrong_hash(tmp_path, monkeypatch):
    monkeypatch.delenv("DVC_STAGE", raising=False)
    path = tmp_path / "dvc.lock"
    path.write_text(LOCK)
    whole = provenance.dvc_tags(provenance.read_lock(tmp_path), CELL)
    assert len(whole) == 3
    empty = 0
    for length in range(len(LOCK)):
        path.write_text(LOCK[:length])
        lock = provenance.read_lock(tmp_path)
        empty += lock == {}
        assert provenance.dvc_tags(lock, CELL).items() <= whole.items(), LOCK[:length]
    assert empty >= len(LOCK) - LOCK.count("\n")  # no line that is cut is believed


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"\xff\xfe\n",
        b"[]\n",
        b"stages:\n",
        b"stages: {a: {deps: [\n",
        b"stages: {a: }\n",
        b"stages: {a: {deps: }}\n",
        b"stages: {a: {outs: [b]}}\n",
        b"stages: {a: {outs: [{md5: b}]}}\n",
        b"stages: {a: {deps: [{path: 1}]}}\n",
    ],
)
def test_a_lock_that_is_none_is_passed_over(tmp_path, content):
    assert provenance.read_lock(tmp_path) == {}
    (tmp_path / "dvc.lock").write_bytes(content)
    assert provenance.read_lock(tmp_path) == {}


def test_a_lock_that_cannot_be_read_is_passed_over(tmp_path):
    (tmp_path / "dvc.lock").mkdir()
    assert provenance.read_lock(tmp_path) == {}


def test_commit_and_dirtiness_are_told_and_what_runs_write_does_not_count(tmp_path):
    assert provenance.git_tags(tmp_path) == {}

    def git(*words: str) -> str:
        who = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
        command = ["git", "-C", str(tmp_path), *who, *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "-q")
    (tmp_path / "code.py").write_text("1")
    (tmp_path / "dvc.lock").write_text("1")
    git("add", ".")
    git("commit", "-q", "-m", "first")
    clean = {"mlflow.source.git.commit": git("rev-parse", "HEAD"), "git.dirty": "false"}
    (tmp_path / "dvc.lock").write_text("2")
    (tmp_path / "promotions.jsonl").write_text("{}")
    assert provenance.git_tags(tmp_path) == clean
    (tmp_path / "code.py").write_text("2")
    assert provenance.git_tags(tmp_path) == {**clean, "git.dirty": "true"}


# ---------------------------------------------------------------- MLflow that does not answer


def test_an_absent_server_is_told_within_seconds(workspace, settings, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    start = time.monotonic()
    with pytest.raises(InputError, match=r"MLFLOW_TRACKING_URI=http://127\.0\.0\.1:9: .* unset"):
        tracking.publish(workspace, settings, CELL)
    assert time.monotonic() - start < 10


def test_a_file_that_is_no_database_is_told_at_once(workspace, settings):
    (workspace.root / "mlflow.db").write_text("no database" * 100)
    with pytest.raises(InputError, match="file is not a database"):
        tracking.publish_all(workspace, settings)


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device; see to space"),
        (PermissionError(errno.EACCES, "Permission denied", "mlartifacts"), "'mlartifacts'; see"),
        (sqlalchemy.exc.OperationalError("UPDATE", {}, Exception("disk I/O error")), "disk I/O"),
    ],
)
def test_a_file_that_cannot_be_written_is_told(workspace, settings, monkeypatch, fault, told):
    def fail(*args: Any) -> None:
        raise fault

    monkeypatch.setattr(MlflowClient, "log_artifact", fail)
    with pytest.raises(InputError, match=f"^MLflow at sqlite:.*{told}"):
        tracking.publish(workspace, settings, CELL)


class Refusing(BaseHTTPRequestHandler):
    """Answers every request as MLflow refuses one."""

    def do_GET(self) -> None:
        body = json.dumps({"error_code": "PERMISSION_DENIED", "message": "not yours"}).encode()
        self.send_response(403)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.mark.parametrize("told", ["", "example.org"])
def test_no_proxy_stands_between_this_process_and_a_server_of_this_machine(
    workspace, settings, monkeypatch, told
):
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nobody listens
    monkeypatch.setenv("NO_PROXY", told)
    monkeypatch.setenv("no_proxy", told)
    with HTTPServer(("127.0.0.1", 0), Refusing) as refusing:
        threading.Thread(target=refusing.serve_forever, daemon=True).start()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{refusing.server_port}")
        with pytest.raises(InputError, match="not yours"):
            tracking.prepare(workspace, settings)
        refusing.shutdown()
    assert os.environ["no_proxy"].startswith(told)


@pytest.mark.parametrize("uri", ["http://", "http://127.0.0.1:port", "http://a b", "oracel://a/b"])
def test_an_address_that_is_none_is_told(uri):
    with pytest.raises(InputError, match="does not answer"):
        server.require_answer(uri)


def test_a_deleted_experiment_is_told_with_the_way_back(workspace, settings):
    tracking.prepare(workspace, settings)
    number = server.find_experiment(client(workspace), "digits")
    client(workspace).delete_experiment(number)
    with pytest.raises(InputError, match=f"mlflow experiments restore --experiment-id {number}"):
        tracking.publish(workspace, settings, CELL)


def test_an_experiment_keeps_artifacts_with_the_workspace_and_leaves_them_to_a_far_server(
    workspace, monkeypatch
):
    class Recorder:
        def get_experiment_by_name(self, name: str) -> None:
            return None

        def create_experiment(self, name: str, location: str | None) -> str:
            return str(location)

    recorder: Any = Recorder()
    here = (workspace.root / "mlartifacts" / "digits").as_uri()
    assert server.experiment(recorder, workspace, "digits") == here
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert server.experiment(recorder, workspace, "digits") == here
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://mlflow.example.org")
    assert server.experiment(recorder, workspace, "digits") == "None"
