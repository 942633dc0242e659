"""What a run leaves in git: the record and nothing else, in whatever state the tree is."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from flows import keeping, pipeline
from flows.account import Account, differences, message
from flows.keeping import PushError, Repository, Sources, Unpushed, refuse_conflicts
from isdh.artifacts import Workspace
from isdh.errors import InputError
from tests import synthetic
from tests.workspaces import ROOT, run

RECORDS = ["dvc.lock", "promotions.jsonl", "raw/holiday.dvc"]


@pytest.fixture(autouse=True)
def own_settings(monkeypatch, tmp_path_factory):
    """No settings of git but those of a test; waits are short."""
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(home / ".gitconfig"))
    monkeypatch.setattr(keeping, "WAITS", (0.01, 0.01))
    for name in [name for name in os.environ if name.startswith(("GIT_AUTHOR", "GIT_COMMITTER"))]:
        monkeypatch.delenv(name)


def git(folder: Path, *words: str) -> str:
    done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def folder(tmp_path) -> Path:
    """A repository with a dvc.lock and code; a run has just written all three records."""
    folder = tmp_path / "project"
    (folder / "raw").mkdir(parents=True)
    git(folder, "init", "-q", "-b", "main")
    git(folder, "config", "user.name", "test")
    git(folder, "config", "user.email", "test@localhost")
    for name in ("dvc.lock", "code.py", "notes.txt", "gone.txt"):
        (folder / name).write_text(f"{name} at first\n")
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "start")
    for name in RECORDS:
        (folder / name).write_text(f"{name} of the night\n")
    return folder


def make_dirty(folder: Path) -> None:
    """Changes of a person's: staged, staged and changed again, new, removed, not staged."""
    (folder / "code.py").write_text("staged\n")
    (folder / "staged.py").write_text("new and staged\n")
    git(folder, "add", "code.py", "staged.py")
    git(folder, "rm", "-q", "--cached", "gone.txt")
    (folder / "code.py").write_text("staged, then changed\n")
    (folder / "notes.txt").write_text("changed\n")
    (folder / "untracked.txt").write_text("untracked\n")
    (folder / "intended.txt").write_text("to be added\n")
    git(folder, "add", "--intent-to-add", "intended.txt")


def person(folder: Path) -> tuple[str, ...]:
    """What a person has in the index and in the tree, but for the records."""
    others = [".", *(f":(exclude){name}" for name in RECORDS)]
    return (
        git(folder, "status", "--porcelain", "-uall", "--", *others),
        git(folder, "diff", "--cached", "--binary", "--", *others),
        git(folder, "diff", "--binary", "--", *others),
    )


def committed(folder: Path, commit: str = "HEAD") -> list[str]:
    return git(folder, "show", "--format=", "--name-only", commit).split()


def test_a_commit_has_the_records_and_nothing_of_a_dirty_tree(folder):
    make_dirty(folder)
    before = person(folder)
    made = Repository(folder).commit(RECORDS, "Night\n\nof it\n")
    assert made == git(folder, "rev-parse", "main").strip()
    assert committed(folder) == RECORDS
    assert git(folder, "log", "-1", "--format=%B").strip() == "Night\n\nof it"
    assert person(folder) == before
    assert not git(folder, "status", "--porcelain", "--", *RECORDS)


def test_records_that_a_person_had_staged_are_committed_as_they_are_on_disk(folder):
    git(folder, "add", "dvc.lock")
    (folder / "dvc.lock").write_text("later\n")
    Repository(folder).commit(["dvc.lock"], "Night")
    assert git(folder, "show", "HEAD:dvc.lock") == "later\n"
    assert git(folder, "status", "--porcelain", "--", "dvc.lock") == ""


def test_what_is_other_than_committed_is_named_from_the_workspace_on(folder):
    make_dirty(folder)
    names = ["code.py", "gone.txt", "intended.txt", "notes.txt", "staged.py", "untracked.txt"]
    assert Repository(folder).changed() == sorted([*names, *RECORDS])
    assert Repository(folder).changed("dvc.lock", "raw/none.dvc") == ["dvc.lock"]


def test_a_project_may_lie_below_the_root_of_its_repository(tmp_path, folder):
    below = folder / "below"
    below.mkdir()
    (below / "dvc.lock").write_text("below\n")
    assert Repository(below).changed() == ["dvc.lock"]
    Repository(below).commit(["dvc.lock"], "Night")
    assert committed(folder) == ["below/dvc.lock"]


def test_hooks_are_not_run_and_nothing_is_signed(folder):
    for name in ("pre-commit", "prepare-commit-msg", "commit-msg", "post-commit"):
        hook = folder / ".git" / "hooks" / name
        hook.parent.mkdir(exist_ok=True)
        hook.write_text("#!/bin/sh\ntouch hooked\nexit 1\n")
        hook.chmod(0o755)
    git(folder, "config", "commit.gpgSign", "true")
    Repository(folder).commit(RECORDS, "Night")
    assert not (folder / "hooked").exists()


def on_a_merge(folder: Path) -> None:
    git(folder, "stash", "-q", "-u")
    git(folder, "switch", "-q", "-c", "other")
    (folder / "code.py").write_text("theirs\n")
    git(folder, "commit", "-q", "-am", "theirs")
    git(folder, "switch", "-q", "main")
    git(folder, "merge", "-q", "--no-commit", "--no-ff", "other")
    git(folder, "checkout", "stash@{0}", "--", "dvc.lock")
    git(folder, "reset", "-q", "--", "dvc.lock")


def on_no_branch(folder: Path) -> None:
    git(folder, "checkout", "-q", "--detach")


def without_a_name(folder: Path) -> None:
    git(folder, "config", "--unset", "user.name")
    git(folder, "config", "--unset", "user.email")
    git(folder, "config", "user.useConfigOnly", "true")


def with_the_index_held(folder: Path) -> None:
    (folder / ".git" / "index.lock").touch()


@pytest.mark.parametrize(
    ("prepare", "words"),
    [
        (on_a_merge, "not committed: a merge is in progress; bring it to its end"),
        (on_no_branch, "not committed: HEAD is on no branch"),
        (without_a_name, "not committed: git does not know who commits here; `git config"),
        (with_the_index_held, "index.lock"),
    ],
)
def test_where_git_cannot_commit_nothing_changes_and_it_is_said_why(folder, prepare, words):
    prepare(folder)
    head, index = git(folder, "rev-parse", "HEAD"), folder / ".git" / "index"
    status, stored = git(folder, "status", "--porcelain", "-uall"), index.read_bytes()
    with pytest.raises(InputError) as refused:
        Repository(folder).commit(["dvc.lock"], "Night")
    assert words in str(refused.value)
    assert git(folder, "rev-parse", "HEAD") == head
    assert index.read_bytes() == stored
    assert git(folder, "status", "--porcelain", "-uall") == status


def test_an_index_that_is_held_for_a_moment_is_waited_for(folder, monkeypatch):
    lock = folder / ".git" / "index.lock"
    lock.touch()
    monkeypatch.setattr(keeping.time, "sleep", lambda seconds: lock.unlink())
    Repository(folder).commit(RECORDS, "Night")
    assert committed(folder) == RECORDS


def test_a_new_record_is_not_left_in_the_index_when_the_commit_fails(folder):
    (folder / ".git" / "refs" / "heads" / "main.lock").touch()
    status = git(folder, "status", "--porcelain", "-uall")
    with pytest.raises(InputError, match="not committed: "):
        Repository(folder).commit(RECORDS, "Night")
    assert git(folder, "status", "--porcelain", "-uall") == status


def test_where_there_is_no_history_there_is_nothing_to_commit_to(tmp_path, folder, monkeypatch):
    assert Repository(folder).absent() == ""
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    outside = tmp_path / "outside"
    outside.mkdir()
    assert Repository(outside).absent() == "this is no git repository"
    git(outside, "init", "-q")
    assert "git has no commit yet" in Repository(outside).absent()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert Repository(outside).absent() == "git is not installed"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "stages:\n<<<<<<< HEAD\n  a: 1\n=======\n  a: 2\n>>>>>>> b\n",
            "dvc.lock, line 2: a confl",
        ),
        ("stages: [", "`git checkout dvc.lock` brings the last one back"),
        ("only words\n", "not what DVC wrote"),
    ],
)
def test_a_lock_that_cannot_be_read_is_refused_with_what_to_do(tmp_path, text, words):
    refuse_conflicts(tmp_path)
    (tmp_path / "dvc.lock").write_text(text)
    with pytest.raises(InputError) as refused:
        refuse_conflicts(tmp_path)
    assert words in str(refused.value)


@pytest.fixture
def sources(tmp_path):
    """A workspace with raw/holiday.dvc, and who follows it from one run to the next."""
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "holiday.dvc").write_text("1")
    settings = synthetic.write_params(
        tmp_path,
        datasets={"holiday": "raw/holiday", "elsewhere": str(tmp_path / "elsewhere")},
        dataset=dict.fromkeys(["holiday", "elsewhere"], SECTION),
    )

    def follow() -> tuple[Sources, Path]:
        return Sources(Workspace(tmp_path), settings), tmp_path / "raw" / "holiday.dvc"

    return follow


SECTION = {
    "source": {"reader": "folder"},
    "inputs": {"kind": "images", "size": 32, "channels": 1},
    "network": {"backbone": "convnet"},
    "training": {},
}


def test_sources_that_a_run_changed_are_its_own(sources):
    found, path = sources()
    found.begin()
    path.write_text("2")
    found.end()
    assert found.made() == ["raw/holiday.dvc"]
    found.forget()
    assert found.made() == []


def test_sources_that_a_person_changed_are_not(sources):
    found, path = sources()
    path.write_text("2")
    found.begin()
    found.end()
    assert found.made() == []
    path.write_text("3")
    assert found.made() == []


@pytest.mark.parametrize("killed", [False, True])
def test_sources_of_a_run_that_failed_or_was_killed_are_left_to_the_next(sources, killed):
    found, path = sources()
    found.begin()
    path.write_text("2")
    if not killed:
        found.end()
    again, _ = sources()
    again.begin()
    again.end()
    assert again.made() == ["raw/holiday.dvc"]
    path.write_text("3")  # by a person, since
    assert again.made() == []


def test_a_new_source_is_a_run_s_own_too(sources):
    found, path = sources()
    path.unlink()
    found.begin()
    path.write_text("1")
    found.end()
    assert found.made() == ["raw/holiday.dvc"]


def test_the_message_says_what_was_made_and_that_the_tree_was_dirty():
    before = {"train@holiday-isdh-12-0": {"cmd": "x", "deps": [{"path": "in", "md5": "1"}]}}
    after = {
        "train@holiday-isdh-12-0": {"cmd": "x", "deps": [{"path": "in", "md5": "2"}]},
        "report@holiday": {"cmd": "y", "params": {"params.yaml": {"bits": [12]}}},
    }
    made = differences(before, after)
    assert made == {
        "train@holiday-isdh-12-0": {"in": "modified"},
        "report@holiday": {"bits": "new", "command": "new"},
    }
    text = message(made, [], dirty=["params.yaml"])
    assert text.startswith("Pipeline: 2 stages made, 0 champions moved\n\n")
    assert "train: holiday-isdh-12-0\nreport: holiday\ntree was dirty: params.yaml; " in text
    assert "dirty" not in message(made, [], dirty=[])
    assert differences(after, after) == {}


@pytest.fixture
def versioned(folder, monkeypatch) -> Path:
    """The repository with a folder under DVC, its remote a file for now: nothing can get there."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.chdir(folder)
    for name in RECORDS:
        (folder / name).unlink()
    (folder / "remote").write_text("a file\n")
    (folder / ".gitignore").write_text(".isdh/\n/remote\n")
    dvc(folder, "init", "-q")
    dvc(folder, "remote", "add", "-q", "store", str(folder / "remote"))
    (folder / "raw" / "holiday").mkdir()
    return folder


def dvc(folder: Path, *words: str) -> str:
    done = run(folder, sys.executable, "-m", "dvc", *words)
    assert done.returncode == 0, done.stderr
    return done.stdout


def night(folder: Path, pictures: str) -> None:
    """New pictures, and the commit of them."""
    (folder / "raw" / "holiday" / "1.jpg").write_text(pictures)
    dvc(folder, "add", "-q", "raw/holiday")
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", pictures)
    Unpushed(Workspace()).add(git(folder, "rev-parse", "HEAD").strip())


@pytest.mark.slow
def test_a_night_that_could_not_be_pushed_is_pushed_by_the_next(versioned, tmp_path):
    night(versioned, "first night")
    with pytest.raises(PushError, match="not pushed: remote 'store': "):
        asyncio.run(keeping.push(Workspace()))
    night(versioned, "second night")
    lost = git(versioned, "commit-tree", "HEAD^{tree}", "-m", "one that a person took back").strip()
    Unpushed(Workspace()).add(lost[:-4] + "0000")
    (versioned / "remote").unlink()
    assert "pushed to 'store'" in asyncio.run(keeping.push(Workspace()))
    assert Unpushed(Workspace()).commits() == []
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "-q", str(versioned), str(clone))
    for revision, pictures in (("HEAD", "second night"), ("HEAD~1", "first night")):
        git(clone, "checkout", "-q", revision)
        dvc(clone, "pull", "-q", "-r", "store")
        assert (clone / "raw" / "holiday" / "1.jpg").read_text() == pictures


@pytest.mark.slow
def test_what_cannot_be_committed_is_pushed_and_committed_by_the_next_run(versioned):
    night(versioned, "first night")
    (versioned / "remote").unlink()
    settings = synthetic.write_params(versioned)
    (versioned / "promotions.jsonl").write_text("{}\n")
    keep = partial(pipeline.keep, settings, Account(Workspace(), settings), [])
    git(versioned, "checkout", "-q", "--detach")
    with pytest.raises(InputError) as refused:
        asyncio.run(keep())
    assert str(refused.value).startswith("not committed: HEAD is on no branch")
    assert "Otherwise all went well: nothing was stale; no champion moved" in str(refused.value)
    assert list((versioned / "remote").rglob("*.dir"))
    git(versioned, "switch", "-q", "main")
    asyncio.run(keep())
    assert committed(versioned) == ["promotions.jsonl"]
    assert "tree was dirty: params.yaml; " in git(versioned, "log", "-1", "--format=%B")
    head = git(versioned, "rev-parse", "HEAD")
    asyncio.run(keep())
    assert git(versioned, "rev-parse", "HEAD") == head


@pytest.mark.slow
def test_without_one_remote_it_is_said_where_data_stays_or_what_to_name(versioned):
    dvc(versioned, "remote", "add", "-q", "other", str(versioned / "other"))
    with pytest.raises(InputError, match=r"remotes other, store: say which, `dvc remote default"):
        asyncio.run(keeping.push(Workspace()))
    for name in ("other", "store"):
        dvc(versioned, "remote", "remove", name)
    assert "DVC has no remote" in asyncio.run(keeping.push(Workspace()))
