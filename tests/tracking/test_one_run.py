"""Every cell and fingerprint is one MLflow run, whatever happens: done to real servers."""

from __future__ import annotations

import multiprocessing
import os
import resource
import shutil
import signal
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run, ViewType

from isdh import cli, params, tracking
from isdh.artifacts import Cell, Workspace, read_json, write_json
from isdh.params import Params
from isdh.tracking import publishing, registry, server  # noqa: F401 - loaded before processes fork
from tests import synthetic
from tests.tracking.servers import Server, Wire

# raised by MLflow itself when mlflow.pyfunc is imported
pytestmark = pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType")

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload([__name__])  # importing MLflow takes seconds: once for all
PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "0"}
SECTION = {
    "source": {"reader": "folder", "table": "labels.csv"},
    "inputs": {"kind": "images", "size": 32, "channels": 1},
    "network": {"backbone": "convnet"},
    "training": {"epochs": 3},
}


@dataclass(frozen=True)
class Place:
    """A workspace, and a server to which nobody has told anything of its dataset yet."""

    server: Server
    workspace: Workspace
    dataset: str

    def cell(self, seed: int = 0, bits: int = 12) -> Cell:
        return Cell(self.dataset, "isdh", bits, seed)

    def params(self, **changes: Any) -> Params:
        matrix = {"methods": ["isdh"], "bits": [12], "seeds": [0], **changes}
        names = {"datasets": {self.dataset: "raw"}, "dataset": {self.dataset: SECTION}}
        return synthetic.write_params(self.workspace.root, **names, **matrix)

    def made(self, **changes: Any) -> Params:
        """Data, models and scores of every cell of a matrix."""
        settings = self.params(**changes)
        synthetic.write_data(self.workspace, self.dataset)
        for cell in settings.cells(self.dataset):
            self.train(cell)
        return settings

    def train(self, cell: Cell, **model: str) -> None:
        synthetic.write_model(self.workspace, cell, **model)
        synthetic.write_scores(self.workspace, cell)

    def copied(self, folder: Path) -> Workspace:
        """The same on another machine."""
        ours = {".isdh", "mlartifacts"}
        shutil.copytree(self.workspace.root, folder, ignore=lambda _, names: ours & {*names})
        return Workspace(folder)

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(tracking_uri=self.server.uri)

    def runs(self, view: int = ViewType.ACTIVE_ONLY) -> list[Run]:
        number = server.find_experiment(self.client, self.dataset)
        return list(self.client.search_runs([number], run_view_type=view)) if number else []

    def run_of(self, cell: Cell, state: str = "current") -> Run:
        tags = {"isdh.cell": str(cell), "isdh.state": state}
        (found,) = [run for run in self.runs() if tags.items() <= run.data.tags.items()]
        return found

    def publish(self, cell: Cell, history: dict[str, Any] | None = None) -> str:
        return tracking.publish(self.workspace, self.load(), cell, history)

    def publish_all(self) -> tracking.Published:
        return tracking.publish_all(self.workspace, self.load())

    def load(self) -> Params:
        return params.load(self.workspace.root / "params.yaml")


@pytest.fixture
def place(served: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.delenv("DVC_STAGE", raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", served.uri)
    monkeypatch.setenv("no_proxy", "*")
    for name, value in PATIENCE.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "here").mkdir()
    return Place(served, Workspace(tmp_path / "here"), f"d{uuid.uuid4().hex[:8]}")


def child(place: Place, work: Callable[..., None], *arguments: Any, uri: str = "") -> BaseProcess:
    """A process that works in the place's folder; what it prints goes to `said` there."""
    environ = {**PATIENCE, "no_proxy": "*", "MLFLOW_TRACKING_URI": uri or place.server.uri}
    return child_in(place.workspace.root, environ, work, *arguments)


def child_in(
    root: Path, environ: dict[str, str], work: Callable[..., None], *arguments: Any
) -> BaseProcess:
    return FORKS.Process(target=_work, args=(root, environ, work, arguments), daemon=True)


def _work(root: Path, environ: dict[str, str], work: Callable[..., None], arguments: Any) -> None:
    os.environ.update(environ)
    os.chdir(root)
    said = os.open(root / "said", os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    os.dup2(said, 1)
    os.dup2(said, 2)
    work(*arguments)


def isdh(*words: str) -> None:
    sys.argv = ["isdh", *words]
    cli.main()


def publish_one(cell: Cell) -> None:
    tracking.publish(Workspace(), params.load(), cell)


def ended(process: BaseProcess) -> int | None:
    process.join(60)
    return process.exitcode


def killed_before(write: int, place: Place, cell: Cell) -> int | None:
    """Publish a cell by a process that is killed before a write of it; 0: it made fewer."""
    with Wire(place.server) as wire:
        writer = child(place, publish_one, cell, uri=wire.uri)
        wire.before(write, lambda: bool(writer.kill()))
        writer.start()
        code = ended(writer)
    assert code in {0, -signal.SIGKILL}
    return code


def assert_refused(place: Place, process: BaseProcess, *words: str) -> None:
    """It ended as after input that must be mended, and said why."""
    code, said = ended(process), (place.workspace.root / "said").read_text()
    assert code == 2, said
    assert said.startswith(f"error: MLflow at http://{place.server.host}:"), said
    assert said.endswith("then run `isdh publish`\n"), said
    assert "Traceback" not in said
    for word in words:
        assert word in said


def assert_all_is_told(place: Place) -> None:
    """Of each fingerprint there is one run, of each cell one is current, and it is whole."""
    client, runs, settings = place.client, place.runs(), place.load()
    found = Counter((run.data.tags["isdh.cell"], run.data.tags["isdh.fingerprint"]) for run in runs)
    assert set(found.values()) == {1}
    for cell in settings.cells(place.dataset):
        run = place.run_of(cell)
        history = read_json(place.workspace.model(cell) / "history.json")
        assert run.data.tags["isdh.fingerprint"] == history["fingerprint"]
        assert run.info.run_name == f"isdh {cell.bits} bits seed {cell.seed}"
        assert run.info.status == "FINISHED"
        assert len(run.data.params) == 17
        assert [len(one.dataset.digest) for one in run.inputs.dataset_inputs] == [32]
        scores = read_json(place.workspace.scores(cell))
        assert {name: run.data.metrics[name] for name in scores} == scores
        points = client.get_metric_history(run.info.run_id, "loss")
        assert sorted(point.step for point in points) == [one["epoch"] for one in history["epochs"]]
        files = {
            file.path: file.file_size
            for folder in ("model", "scores")
            for file in client.list_artifacts(run.info.run_id, folder)
        }
        here = {f"model/{path.name}": path for path in place.workspace.model(cell).iterdir()}
        here |= {
            f"scores/{p.name}": p
            for p in place.workspace.scores(cell).parent.glob(f"{cell.name}.*")
        }
        assert files == {name: path.stat().st_size for name, path in here.items()}
    cells = len(settings.cells(place.dataset))
    assert place.publish_all() == tracking.Published(unchanged=cells)


# ---------------------------------------------------------------- first start, killed publishes


def test_four_machines_at_once_make_one_run_per_cell_in_an_empty_server(place, tmp_path):
    """None has an experiment, nor a run of the first cell, when all of them make one."""
    place.made(seeds=[0, 1])
    roots = [place.workspace.root, *[place.copied(tmp_path / name).root for name in "abc"]]
    together = threading.Barrier(len(roots))
    with ExitStack() as stack:
        writers = []
        for root in roots:
            wire = stack.enter_context(Wire(place.server))
            for write in (1, 2):
                wire.before(write, lambda: together.wait(60) >= 0)
            there = replace(place, workspace=Workspace(root))
            writers.append(child(there, isdh, "publish", uri=wire.uri))
            writers[-1].start()
        assert [ended(writer) for writer in writers] == [0] * 4
    assert len(place.runs(ViewType.DELETED_ONLY)) >= 3
    assert_all_is_told(place)


def test_a_publish_killed_before_any_of_its_writes_is_finished_or_taken_back_by_the_next(place):
    """Each time it is a new training, and the one before it is restored in between."""
    place.made()
    cell = place.cell()
    former, before = place.publish(cell), "f" * 64
    for write in range(1, 20):
        new = f"{write:02x}" * 32
        place.train(cell, fingerprint=new)
        code = killed_before(write, place, cell)
        place.train(cell, fingerprint=before)
        assert place.publish(cell) == former
        current = place.run_of(cell)
        assert (current.info.run_id, current.info.run_name) == (former, "isdh 12 bits seed 0")
        half = [run for run in place.runs() if run.data.tags["isdh.fingerprint"] == new]
        suffix = "until" if code == 0 else "never whole"
        assert [suffix in run.info.run_name for run in half] == [True] * (write > 1)
        place.train(cell, fingerprint=new)
        former, before = place.publish(cell), new
        assert place.run_of(cell).info.run_id == former
        if code == 0:
            break
    assert write > 6
    assert len(place.runs()) == write + 1
    assert_all_is_told(place)


def test_scores_of_a_killed_publish_do_not_count_when_those_before_are_restored(place):
    """They lie in the run whose digest was that of the scores before."""
    place.made()
    cell = place.cell()
    run = place.publish(cell)
    before = read_json(place.workspace.scores(cell))
    for write in range(2, 20):
        synthetic.write_scores(place.workspace, cell, ndcg_at_100=0.01 * write)
        code = killed_before(write, place, cell)
        synthetic.write_scores(place.workspace, cell, **before)
        assert place.publish(cell) == run
        assert_all_is_told(place)
        if code == 0:
            break
    assert write > 3


# ---------------------------------------------------------------- a server that goes away


def test_a_server_that_goes_away_in_the_midst_is_told_and_the_next_publish_mends(place):
    place.made()
    with Wire(place.server) as wire:
        wire.before(4, wire.cut)  # after experiment, run and curves
        writer = child(place, isdh, "publish", uri=wire.uri)
        writer.start()
        assert_refused(place, writer)
    assert place.publish_all().written == 1
    assert_all_is_told(place)


# ---------------------------------------------------------------- the same files elsewhere, again


def test_publishing_again_asks_as_much_for_many_cells_as_for_one_and_writes_nothing(
    place, monkeypatch
):
    asked = []
    for seeds in ([0], [0, 1, 2, 3]):
        place.made(seeds=seeds)
        place.publish_all()
        with Wire(place.server) as wire:
            monkeypatch.setenv("MLFLOW_TRACKING_URI", wire.uri)
            assert place.publish_all() == tracking.Published(unchanged=len(seeds))
            monkeypatch.setenv("MLFLOW_TRACKING_URI", place.server.uri)
            asked.append((wire.requests, wire.writes))
    assert asked == [(3, 0), (3, 0)]  # is it there, the experiment, its runs


def test_on_another_machine_there_is_nothing_to_publish(place, tmp_path):
    place.made(seeds=[0, 1])
    place.publish_all()
    there = place.copied(tmp_path / "there")
    assert tracking.publish_all(there, place.load()) == tracking.Published(unchanged=2)
    shutil.rmtree(place.workspace.root)
    there.root.rename(place.workspace.root)
    if place.server.name == "postgres":  # files are the server's
        assert_all_is_told(place)
    else:
        assert place.publish_all() == tracking.Published(written=2)


def test_a_code_length_added_later_leaves_the_runs_of_the_others_alone(place):
    place.made()
    place.publish_all()
    before = place.run_of(place.cell())
    place.params(bits=[12, 24])
    place.train(place.cell(bits=24))
    assert place.publish_all() == tracking.Published(written=1, unchanged=1)
    assert dict(place.run_of(place.cell()).data.tags) == dict(before.data.tags)
    assert_all_is_told(place)


# ---------------------------------------------------------------- told apart at a glance


def test_a_changed_parameter_makes_a_new_run_and_names_the_old_one_as_former(place):
    place.made()
    cell = place.cell()
    old = place.publish(cell)
    place.train(cell, fingerprint="e" * 64)
    changed = synthetic.history(cell, fingerprint="e" * 64)
    changed["training"]["learning_rate"] = 0.01
    changed["versions"]["torch"] = "2.10.0"
    write_json(place.workspace.model(cell) / "history.json", changed)
    before = int(time.time())
    new = place.publish(cell)
    former = place.run_of(cell, "former")
    assert former.info.run_id == old
    title, until = former.info.run_name.split(", until ")
    assert title == "isdh 12 bits seed 0"
    minutes = [time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(at)) for at in (before, time.time())]
    assert until in minutes
    assert former.info.status == "FINISHED"
    assert place.run_of(cell).info.run_id == new
    assert place.run_of(cell).data.tags["mlflow.note.content"].splitlines() == [
        f"Against the run before, {old[:8]}:",
        "",
        "- `training.learning_rate`: 0.001 -> 0.01",
        "- `fingerprint`: ffffffff -> eeeeeeee",
        "- `version.torch`: 2.9.0 -> 2.10.0",
    ]
    assert_all_is_told(place)

    place.train(cell)  # restored
    assert place.publish(cell) == old
    assert place.run_of(cell).info.run_id == old
    assert "mlflow.note.content" not in place.run_of(cell).data.tags
    assert place.run_of(cell, "former").info.run_name.startswith(f"{title}, until ")
    assert_all_is_told(place)


def test_a_name_that_a_person_gave_is_kept(place):
    place.made()
    cell = place.cell()
    run = place.publish(cell)
    place.client.update_run(run, name="the good one")
    place.train(cell, fingerprint="e" * 64)
    place.publish(cell)
    assert place.run_of(cell, "former").info.run_name.startswith("the good one, until 2")
    place.train(cell)
    place.publish(cell)
    assert place.run_of(cell).info.run_name == "the good one"


def test_a_training_that_was_broken_off_is_not_running_when_another_takes_its_place(place):
    place.made()
    cell = place.cell()
    live = place.publish(cell, synthetic.history(cell, fingerprint="a" * 64, epochs=1))
    place.publish(cell)
    assert place.run_of(cell, "former").info.run_id == live
    assert place.run_of(cell, "former").info.status == "KILLED"
    assert_all_is_told(place)


# ---------------------------------------------------------------- removed by a person


def test_a_run_deleted_in_mlflow_is_published_again_and_restored_there_is_still_one(place):
    place.made()
    cell = place.cell()
    first = place.publish(cell)
    place.client.delete_run(first)
    second = place.publish(cell)
    assert second != first
    assert_all_is_told(place)
    place.client.restore_run(first)
    assert place.publish_all().written == 1
    assert_all_is_told(place)


def test_a_run_deleted_while_it_is_written_is_made_anew(place):
    place.made()
    with Wire(place.server) as wire:

        def delete() -> bool:
            for run in place.runs():
                place.client.delete_run(run.info.run_id)
            return True

        wire.before(4, delete)  # after experiment, run and curves
        writer = child(place, isdh, "publish", uri=wire.uri)
        writer.start()
        assert ended(writer) == 0
    assert_all_is_told(place)
    assert len(place.runs(ViewType.DELETED_ONLY)) == 1


# ---------------------------------------------------------------- no space


@contextmanager
def no_larger_files(processes: list[int], size: int) -> Iterator[None]:
    """What the processes write beyond a size fails, as on a full disk."""
    before = {each: resource.prlimit(each, resource.RLIMIT_FSIZE) for each in processes}
    for each, (_, hard) in before.items():
        resource.prlimit(each, resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        for each, limits in before.items():
            resource.prlimit(each, resource.RLIMIT_FSIZE, limits)


def limited(size: int, work: Callable[..., None], *arguments: Any) -> None:
    with no_larger_files([os.getpid()], size):
        work(*arguments)


def test_a_full_store_of_artifacts_is_told_and_the_next_publish_mends(place):
    place.made()
    place.train(place.cell(), weights="w" * (2 << 20))
    if place.server.name == "sqlite":  # its files are written by who publishes
        writer = child(place, limited, 1 << 20, isdh, "publish")
        writer.start()
        assert_refused(place, writer, "File too large")
    else:
        with no_larger_files(place.server.processes(), 1 << 20):
            writer = child(place, isdh, "publish")
            writer.start()
            assert_refused(place, writer)
    assert not any("isdh.digest" in run.data.tags for run in place.runs())
    assert place.publish_all().written == 1
    assert_all_is_told(place)


@contextmanager
def full_database(place: Place) -> Iterator[None]:
    if place.server.name == "sqlite":
        size = (place.server.folder / "mlflow.db").stat().st_size
        with no_larger_files(place.server.processes(), size):
            yield
        return
    connection = psycopg2.connect(place.server.store)
    connection.autocommit = True
    with connection.cursor() as cursor:
        with pytest.raises(psycopg2.Error, match="could not extend file"):
            cursor.execute(  # as many as fit; they stay in the file until it is vacuumed
                "INSERT INTO metrics (key, value, timestamp, run_uuid, step, is_nan)"
                " SELECT 'loss', 0, i, '-', i, false FROM generate_series(1, 1000000) i"
            )
        yield
        cursor.execute("VACUUM FULL metrics")
    connection.close()


def test_a_full_database_is_told_and_the_next_publish_mends(place):
    place.made()
    cell = place.cell()
    write_json(place.workspace.model(cell) / "history.json", synthetic.history(cell, epochs=1000))
    with full_database(place):
        writer = child(place, isdh, "publish")
        writer.start()
        assert_refused(place, writer)
    assert not any("isdh.digest" in run.data.tags for run in place.runs())
    assert place.publish_all().written == 1
    assert_all_is_told(place)


def test_a_full_disk_beneath_a_database_without_a_server_is_told_in_a_line(workspace, small):
    (cell, _) = small.cells("digits")
    write_json(workspace.model(cell) / "history.json", synthetic.history(cell, epochs=2000))
    database = workspace.root / "mlflow.db"
    environ = {"MLFLOW_TRACKING_URI": f"sqlite:///{database}"}
    words = (limited, database.stat().st_size, isdh, "publish")
    writer = child_in(workspace.root, environ, *words)
    writer.start()
    assert ended(writer) == 2
    (line,) = (workspace.root / "said").read_text().splitlines()
    assert line.startswith(f"error: MLflow at sqlite:///{database}: (sqlite3.OperationalError) ")
    assert tracking.publish_all(workspace, small) == tracking.Published(written=2)
