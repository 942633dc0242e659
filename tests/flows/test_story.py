"""Pictures are dropped into the raw folder, and nobody does anything: the whole of a schedule."""

from __future__ import annotations

import asyncio
import hashlib
import http.server
import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows import notices, watch
from flows.services import ask
from isdh.errors import InputError
from tests.loopback import free_port, service_ports
from tests.pictures import saved, scene
from tests.workspaces import SMALL, run, within, write_params

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),  # the first test waits for both nights: two minutes on idle cores
]

EVERY, SETTLE = 6, 2  # seconds, in place of 300 and 10
SECTION = {
    "source": {"reader": "folder"},
    "inputs": {"kind": "images", "size": 32, "channels": 1},
    "network": {"backbone": "convnet", "batch_norm": True},
    "training": {"epochs": 2, "batch_size": 20},
}
MADE = ("raw", "data", "models", "codes", "metrics", "reports")
PARTS = ("train", "query", "database", "train")
STAGES = ("dataset", "preprocess", "train", "encode", "evaluate", "report")


@dataclass
class Story:
    """A project with its services, and who is told.

    Attributes:
        folder: the project.
        ports: of its servers, as variables of the environment.
        told: the texts that somebody was sent.
    """

    folder: Path
    ports: dict[str, str]
    told: list[str] = field(default_factory=list)

    @property
    def api(self) -> str:
        return f"http://127.0.0.1:{self.ports['ISDH_PREFECT_PORT']}/api"

    def must(self, *command: str, folder: Path | None = None) -> str:
        done = run(folder or self.folder, *command, **self.ports)
        assert done.returncode == 0, done.stderr + done.stdout
        return done.stdout

    def runs(self, *states: str) -> list[dict[str, Any]]:
        """Those of `on-new-data`, the first one first."""
        query = {
            "flow_runs": {"state": {"type": {"any_": list(states)}}},
            "deployments": {"name": {"any_": ["on-new-data"]}},
            "sort": "START_TIME_ASC",
        }
        found: list[dict[str, Any]] = ask(f"{self.api}/flow_runs/filter", query)
        return found

    def worked(self, *states: str) -> list[dict[str, Any]]:
        """Those that found something to do."""
        return [one for one in self.runs(*states) if one["name"].startswith("new data")]

    def stages_since(self, when: str) -> list[str]:
        """The stages that ran, with their arguments."""
        flows = {flow["id"]: flow["name"] for flow in ask(f"{self.api}/flows/filter", {})}
        query = {"flow_runs": {"start_time": {"after_": when}}, "sort": "START_TIME_ASC"}
        found = ask(f"{self.api}/flow_runs/filter", query)
        names = [(flows[one["flow_id"]], one["parameters"]) for one in found]
        return [f"{name} {given.get('dataset')}" for name, given in names if name in STAGES]

    def artifacts(self, of: dict[str, Any]) -> dict[str, Any]:
        """What a run left on Prefect's page: key -> content."""
        query = {"artifacts": {"flow_run_id": {"any_": [of["id"]]}}}
        return {one["key"]: one["data"] for one in ask(f"{self.api}/artifacts/filter", query)}

    def pictures(self, first: int, last: int) -> None:
        """Drop pictures of these numbers into the raw folder, and name them in the table."""
        raw = self.folder / "raw" / "holiday"
        raw.mkdir(parents=True, exist_ok=True)
        table = raw / "labels.csv"
        text = table.read_text() if table.exists() else "path,labels,split\n"
        for number in range(first, last):
            (raw / f"{number}.jpg").write_bytes(saved(scene(number)))
            text += f"{number}.jpg,{('cat', 'dog', 'sea')[number % 3]},{PARTS[number // 3 % 4]}\n"
        table.write_text(text)

    def person(self) -> str:
        """What a person has changed, staged and not, and left untracked."""
        return "".join(
            [
                self.must("git", "status", "--porcelain", "-uall"),
                self.must("git", "diff", "--cached", "--binary"),
                self.must("git", "diff", "--binary"),
            ]
        )


@pytest.fixture(scope="module")
def story(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    folder = tmp_path_factory.mktemp("story") / "project"
    shutil.copytree(made, folder, symlinks=True)
    for other in folder.glob("*/digits/dhn-*"):  # not in the matrix
        shutil.rmtree(other) if other.is_dir() else other.unlink()
    sections: Any = {**SMALL["dataset"], "holiday": SECTION}  # type: ignore[dict-item]
    datasets = {"digits": "raw/digits", "holiday": "raw/holiday"}
    write_params(folder, datasets=datasets, dataset=sections)
    hasten(folder / "prefect.yaml")
    ports = service_ports()
    found = Story(folder, ports)
    found.pictures(0, 60)
    for command in (
        ("dvc", "remote", "add", "-q", "-d", "store", str(folder.with_name("store"))),
        ("dvc", "add", "-q", "raw/holiday"),
        ("git", "config", "user.name", "test"),
        ("git", "config", "user.email", "test@localhost"),
        ("git", "add", "-A"),
        ("git", "commit", "-q", "-m", "The project"),
    ):
        found.must(*command)
    make_dirty(found)
    with listening(found.told) as address:
        told = {"ISDH_NOTIFY": address, "NO_PROXY": "127.0.0.1"}
        more = {**told, **ports, "PREFECT_WORKER_QUERY_SECONDS": "2"}
        operations = (sys.executable, "-m", "flows.operations")
        try:
            up = run(folder, *operations, "up", **more)
            assert up.returncode == 0, up.stderr
            yield found
        finally:
            run(folder, *operations, "down", **ports)


def hasten(path: Path) -> None:
    """Look every few seconds; no nights."""
    content = yaml.safe_load(path.read_text())
    deployments = {one["name"]: one for one in content["deployments"]}
    deployments["nightly"]["schedules"] = []
    deployments["on-new-data"]["schedules"] = [{"interval": EVERY, "slug": "on-new-data"}]
    deployments["on-new-data"]["parameters"]["settle"] = SETTLE
    path.write_text(yaml.safe_dump(content))


def make_dirty(story: Story) -> None:
    (story.folder / "LICENSE").write_text("staged\n")
    story.must("git", "add", "LICENSE")
    (story.folder / "README.md").write_text("changed\n")
    (story.folder / "notes.txt").write_text("untracked\n")


@contextmanager
def listening(told: list[str]) -> Iterator[str]:
    """An address at which texts arrive."""

    class Listener(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["text"])
            self.send_response(204)
            self.end_headers()

        def log_message(self, *told: object) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", free_port()), Listener)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/told"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def contents(folder: Path) -> dict[str, str]:
    """Digests of what DVC keeps."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for name in MADE
        for path in sorted((folder / name).rglob("*"))
        if path.is_file() and path.suffix not in {".dvc"} and path.name != ".gitignore"
    }


@pytest.fixture(scope="module")
def nights(story: Story) -> list[dict[str, Any]]:
    """The run that made the first champion; pictures; the run that saw them by itself."""
    found = []
    before = story.person()
    for number, pictures in enumerate([(), (60, 84)]):
        if pictures:
            story.pictures(*pictures)
        ended = within(240, lambda: story.worked("COMPLETED", "FAILED", "CRASHED")[number:])  # noqa: B023
        log = (story.folder / ".isdh" / "logs" / "worker.log").read_text()
        assert ended, log[-6000:]
        assert ended[0]["state"]["type"] == "COMPLETED", log[-6000:]
        head = story.must("git", "rev-parse", "HEAD").strip()
        found.append({"run": ended[0], "commit": head, "made": contents(story.folder)})
        assert story.person() == before
    return found


def test_new_pictures_have_exactly_their_own_stages_run(story, nights):
    first, second = (night["run"] for night in nights)
    assert [run["auto_scheduled"] for run in (first, second)] == [True, True]
    assert second["name"] == "new data: holiday"
    assert story.stages_since(second["start_time"]) == [f"{name} holiday" for name in STAGES]
    assert "train digits" not in story.stages_since(first["start_time"])


def test_the_page_says_what_was_stale_and_why_and_what_came_of_it(story, nights):
    left = story.artifacts(nights[1]["run"])
    stale = {row["stage"]: row["why"] for row in json.loads(left["stale"])}
    assert stale["dataset@holiday"] == "raw/holiday modified"
    assert "data/holiday/inputs.npy modified" in stale["train@holiday-isdh-12-0"]
    assert not [stage for stage in stale if "digits" in stage]
    [scores] = json.loads(left["scores-before-and-after"])
    assert scores["data"] == "other than before"
    assert 0 < scores["ndcg_at_10 before"] != scores["ndcg_at_10 after"] > 0
    [of_digits, of_holiday] = sorted(json.loads(left["champions"]), key=lambda row: row["model"])
    assert of_digits["why"] == "is the champion already"
    assert "evaluated again" in of_holiday["why"]
    mlflow = f"http://127.0.0.1:{story.ports['ISDH_MLFLOW_PORT']}"
    assert f"{mlflow}/#/runs/" in left["run-holiday-isdh-12-0"]
    report = story.folder / "reports" / "holiday" / "index.html"
    assert report.as_uri() in left["report-holiday"]
    assert nights[1]["commit"] in left["commit"]


def test_the_champion_was_decided_on_the_new_data(story, nights):
    log = (story.folder / "promotions.jsonl").read_text().splitlines()
    lines = [line for line in map(json.loads, log) if line["model"] == "isdh-holiday-12bit"]
    assert lines[0]["action"] == "promote"
    assert {line["action"] for line in lines[1:]} & {"promote", "nominate"}
    assert lines[0]["data"] != lines[-1]["data"]


def test_each_commit_has_the_record_and_nothing_else(story, nights):
    allowed = {"dvc.lock", "promotions.jsonl", "raw/holiday.dvc"}
    names = [
        set(story.must("git", "show", "--format=", "--name-only", night["commit"]).split())
        for night in nights
    ]
    assert names == [allowed - {"raw/holiday.dvc"}, allowed]
    assert story.must("git", "rev-list", "--count", "HEAD").strip() == "3"
    text = story.must("git", "log", "-1", "--format=%B")
    assert text.startswith("Pipeline: 6 stages made, ")
    assert "train: holiday-isdh-12-0" in text
    assert "tree was dirty: LICENSE, README.md, notes.txt" in text


def test_any_night_comes_back_in_a_fresh_clone(story, nights, tmp_path):
    clone = tmp_path / "clone"
    story.must("git", "clone", "-q", str(story.folder), str(clone))
    for night in reversed(nights):
        story.must("git", "checkout", "-q", night["commit"], folder=clone)
        story.must("dvc", "pull", "-q", folder=clone)
        assert contents(clone) == night["made"]
    assert nights[0]["made"] != nights[1]["made"]


def test_somebody_is_told_of_a_champion_that_moved(story, nights):
    [text] = within(60, lambda: [one for one in story.told if "isdh-holiday-12bit" in one])[:1]
    assert text.startswith("Completed: new data: holiday\npromoted isdh-digits-12bit version 1, ")
    assert f"/flow-run/{nights[0]['run']['id']}" in text


def test_a_look_that_finds_nothing_says_so_and_does_nothing(story, nights):
    [look] = within(
        30, lambda: [one for one in story.runs("COMPLETED") if one["name"] == "nothing new"]
    )[:1]
    assert look["state"]["message"].startswith("nothing new")
    assert story.artifacts(look) == {}


def test_a_copy_that_goes_on_is_left_to_the_next_look(story, nights):
    count = len(story.worked("RUNNING", "COMPLETED", "FAILED"))
    copied = story.folder / "raw" / "holiday" / "large.jpg"

    def waiting() -> bool:
        with copied.open("ab") as stream:
            stream.write(b"more")
        return any(one["name"] == "not now" for one in story.runs("COMPLETED"))

    assert within(30, waiting)
    copied.unlink()
    time.sleep(EVERY + SETTLE)
    assert len(story.worked("RUNNING", "COMPLETED", "FAILED")) == count


def test_old_looks_that_found_nothing_leave_the_records_and_no_others(story, nights):
    with temporary_settings({PREFECT_API_URL: story.api}):
        before = story.runs("COMPLETED")
        asyncio.run(watch.forget_looks(timedelta(days=1)))
        assert {one["id"] for one in before} <= {one["id"] for one in story.runs("COMPLETED")}
        asyncio.run(watch.forget_looks(timedelta(0)))
        left = {one["id"] for one in before} & {one["id"] for one in story.runs("COMPLETED")}
    assert left == {one["id"] for one in before if one["name"].startswith("new data")}


def test_somebody_is_told_of_pictures_that_are_refused_and_they_are_not_tried_again(story, nights):
    head = story.must("git", "rev-parse", "HEAD")
    (story.folder / "raw" / "holiday" / "labels.csv").write_text("nonsense\n")
    [text] = within(60, lambda: [one for one in story.told if one.startswith("Failed: ")])
    assert text.startswith("Failed: new data: holiday\n")
    [failed] = story.worked("FAILED")
    looks = len(story.runs("COMPLETED"))
    assert within(40, lambda: len(story.runs("COMPLETED")) > looks + 1)
    assert [one["id"] for one in story.worked("FAILED")] == [failed["id"]]
    assert story.must("git", "rev-parse", "HEAD") == head


def test_whom_to_tell_may_be_a_block_of_prefects_page_and_has_to_be_there(
    story, nights, monkeypatch
):
    monkeypatch.setenv("ISDH_NOTIFY", "slack-webhook/team")
    with pytest.raises(InputError, match="ISDH_NOTIFY=slack-webhook/team: no such notification bl"):
        notices.install(story.api)
    rules = {"automations": {"name": {"any_": list(notices.RULES)}}}
    before = ask(f"{story.api}/automations/filter", rules)
    monkeypatch.setenv("ISDH_NOTIFY", "custom-webhook/isdh")
    notices.install(story.api)
    assert ask(f"{story.api}/automations/filter", rules) == before
    monkeypatch.setenv("ISDH_NOTIFY", "http://127.0.0.1:9/elsewhere")
    notices.install(story.api)
    block = ask(f"{story.api}/block_types/slug/custom-webhook/block_documents/name/isdh")
    assert block["data"]["url"] == "http://127.0.0.1:9/elsewhere"


def test_a_listing_tells_of_names_sizes_and_times_and_follows_links(tmp_path):
    folder, elsewhere = tmp_path / "holiday", tmp_path / "elsewhere"
    assert watch.listing(folder) == ""
    for path in (folder / "below" / "1.jpg", elsewhere / "2.jpg"):
        path.parent.mkdir(parents=True)
        path.write_text("1")
    (folder / "link").symlink_to(elsewhere)
    (folder / "circle").symlink_to(folder)
    (folder / "nowhere").symlink_to(tmp_path / "nowhere")
    seen = [watch.listing(folder)]
    assert watch.listing(folder) == seen[0]
    for change in (
        lambda: (folder / "below" / "1.jpg").write_text("11"),
        lambda: os.utime(folder / "below" / "1.jpg", (1, 1)),
        lambda: (folder / "below" / "1.jpg").rename(folder / "below" / "3.jpg"),
        lambda: (elsewhere / "2.jpg").write_text("22"),
        lambda: (elsewhere / "2.jpg").unlink(),
    ):
        change()
        seen.append(watch.listing(folder))
    assert len(set(seen)) == len(seen)


def test_a_look_goes_by_what_the_last_one_saw_until_dvc_lock_changes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    now = {"holiday": "a listing", "absent": ""}
    assert watch.Seen().other(now) == ["holiday"]
    watch.Seen().note(now)
    assert watch.Seen().other(now) == []
    assert watch.Seen().other({**now, "absent": "here"}) == ["absent"]
    (tmp_path / "dvc.lock").write_text("of another commit")
    assert watch.Seen().other(now) == ["holiday"]


def test_what_a_killed_run_was_at_is_taken_up_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    now = {"holiday": "a listing"}
    watch.Seen().note(now)
    assert watch.Seen().unfinished(now) == []
    watch.Seen().begin(["holiday", "no longer a dataset"])
    assert watch.Seen().other(now) == watch.Seen().unfinished(now) == ["holiday"]
    watch.Seen().note(now)
    assert watch.Seen().other(now) == []
