"""Pictures from elsewhere, going back, refactoring, pruning: docs/versions.md, by DVC itself."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from isdh import manifest
from tests.pictures import saved, scene
from tests.workspaces import copy_project, run, write_params

pytestmark = pytest.mark.slow

UP_TO_DATE = "Data and pipelines are up to date."
SECTION = {
    "source": {"reader": "folder"},
    "inputs": {"kind": "images", "size": 32, "channels": 1},
    "network": {"backbone": "convnet"},
    "training": {"epochs": 1, "batch_size": 20},
}


def must(folder: Path, *command: str) -> str:
    """Run a command that has to succeed; what it prints."""
    done = run(folder, *command)
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def commit(folder: Path, message: str) -> None:
    must(folder, "git", "add", "-A")
    who = ("-c", "user.name=test", "-c", "user.email=test@localhost")
    must(folder, "git", *who, "commit", "-q", "-m", message)


def scores(folder: Path) -> dict[str, float]:
    found: dict[str, float] = json.loads(
        (folder / "metrics" / "holiday" / "isdh-12-0.json").read_text()
    )
    return found


@pytest.fixture(scope="module")
def two_months(made, tmp_path_factory) -> Path:
    """A git repository with the pictures of October and, after them, of November."""
    folder = tmp_path_factory.mktemp("months") / "project"
    shutil.copytree(made, folder, symlinks=True)
    shutil.copytree(folder / "raw" / "digits", folder / "raw" / "holiday")
    write_params(folder, datasets={"holiday": "raw/holiday"}, dataset={"holiday": SECTION})
    table = folder / "raw" / "holiday" / "labels.csv"
    lines = table.read_text().splitlines(keepends=True)
    for month, kept in (("October", lines[:-30]), ("November", lines)):
        table.write_text("".join(kept))
        must(folder, "dvc", "add", "-q", "raw/holiday")
        must(folder, "dvc", "repro", "-q")
        commit(folder, month)
    return folder


def test_a_checkout_brings_back_last_months_data_and_results(two_months):
    november = scores(two_months)
    must(two_months, "git", "checkout", "-q", "HEAD~1")
    must(two_months, "dvc", "checkout", "-q")
    october = scores(two_months)
    rows = len((two_months / "raw" / "holiday" / "labels.csv").read_text().splitlines())
    assert must(two_months, "dvc", "status").strip() == UP_TO_DATE
    must(two_months, "git", "checkout", "-q", "-")
    must(two_months, "dvc", "checkout", "-q")
    assert (
        len((two_months / "raw" / "holiday" / "labels.csv").read_text().splitlines()) == rows + 30
    )
    assert scores(two_months) == november != october
    assert must(two_months, "dvc", "status").strip() == UP_TO_DATE


def test_one_report_of_last_month_can_be_looked_at_beside_todays(two_months):
    must(two_months, "dvc", "get", "-q", "--rev", "HEAD~1", ".", "reports/holiday", "-o", "last")
    before = (two_months / "last" / "index.html").read_bytes()
    shutil.rmtree(two_months / "last")
    assert before != (two_months / "reports" / "holiday" / "index.html").read_bytes()


def test_a_refactoring_is_committed_without_training(two_months):
    source = two_months / "isdh" / "pairwise.py"
    before = source.read_text()
    source.write_text(before + "\n# another word for it\n")
    lock = (two_months / "dvc.lock").read_text()
    try:
        assert "train@holiday-isdh-12-0" in must(two_months, "dvc", "status")
        must(two_months, "dvc", "commit", "-q", "--force")
        assert must(two_months, "dvc", "status").strip() == UP_TO_DATE
        assert "Running stage" not in must(two_months, "dvc", "repro")
    finally:
        source.write_text(before)
        (two_months / "dvc.lock").write_text(lock)


def test_pruning_keeps_what_the_named_commits_need(two_months):
    cache = two_months / ".dvc" / "cache" / "files"

    def size() -> int:
        return sum(path.stat().st_size for path in cache.rglob("*") if path.is_file())

    must(two_months, "dvc", "gc", "-q", "--force", "--all-commits")
    everything = size()
    must(two_months, "dvc", "gc", "-q", "--force", "--workspace")
    assert size() < everything
    assert must(two_months, "dvc", "status").strip() == UP_TO_DATE
    must(two_months, "git", "checkout", "-q", "HEAD~1")
    lost = run(two_months, "dvc", "checkout")
    assert lost.returncode != 0
    assert "holiday" in lost.stderr + lost.stdout


def test_pictures_from_elsewhere_are_imported_and_brought_up_to_date(tmp_path):
    source, folder = tmp_path / "archive" / "holiday", copy_project(tmp_path / "project")
    write_params(folder, datasets={"holiday": "raw/holiday"}, dataset={"holiday": SECTION})
    source.mkdir(parents=True)
    lines = [f"{number}.jpg,{('cat', 'dog')[number % 2]}\n" for number in range(20)]
    for number in range(20):
        (source / f"{number}.jpg").write_bytes(saved(scene(number)))
    table = source / "labels.csv"
    table.write_text("path,labels\n" + "".join(lines[:16]))
    must(folder, "dvc", "import-url", "-q", str(source), "raw/holiday")
    must(folder, "dvc", "repro", "-q", "dataset@holiday")
    assert must(folder, "dvc", "status", "dataset@holiday").strip() == UP_TO_DATE
    assert "?? raw/holiday.dvc" in must(folder, "git", "status", "--short", "-uall", "raw")

    table.write_text("path,labels\n" + "".join(lines))
    assert must(folder, "dvc", "status", "dataset@holiday").strip() == UP_TO_DATE
    must(folder, "dvc", "update", "-q", "raw/holiday.dvc")
    assert (folder / "raw" / "holiday" / "labels.csv").read_bytes() == table.read_bytes()
    assert "raw/holiday" in must(folder, "dvc", "status", "dataset@holiday")
    must(folder, "dvc", "repro", "-q", "dataset@holiday")
    assert len(manifest.read(folder / "data" / "holiday" / "manifest.parquet")) == 20
