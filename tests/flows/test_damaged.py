"""Bad input, the whole way: what a stage and `isdh data check` say of it, and what stays."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from flows import stage
from flows.dataset import dataset
from isdh import cli
from tests import synthetic
from tests.pictures import saved, scene
from tests.workspaces import copy_project, run, write_params

PICTURES = 56  # of which 3 are more than 0.05, and 1 is not
LABELS = ("cat", "dog", "sea")
ARRAYS = ("inputs.npy", "labels.npy", "inputs.json", "statistics.json")
STAGES = ("dataset@holiday", "preprocess@holiday")


def write_pictures(root: Path, count: int) -> None:
    """A folder dataset of small photographs."""
    root.mkdir(parents=True)
    lines = ["path,labels"]
    for number in range(count):
        (root / f"{number}.jpg").write_bytes(saved(scene(number).resize((40, 50))))
        lines.append(f"{number}.jpg,{LABELS[number % 3]}")
    (root / "labels.csv").write_text("\n".join(lines))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:700])


def configure(folder: Path, **source: float) -> None:
    section = {
        "source": {"reader": "folder", **source},
        "inputs": {"kind": "images", "size": 32, "channels": 1},
        "network": {"backbone": "convnet"},
        "training": {"epochs": 1},
    }
    write_params(folder, datasets={"holiday": "raw/holiday"}, dataset={"holiday": section})


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "data" / "holiday").iterdir()}


@pytest.fixture(scope="module")
def holiday(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace whose pictures have been preprocessed."""
    folder = copy_project(tmp_path_factory.mktemp("damaged"))
    write_pictures(folder / "raw" / "holiday", PICTURES)
    configure(folder)
    made = run(folder, "dvc", "repro", *STAGES)
    assert made.returncode == 0, made.stderr
    return folder


@pytest.mark.slow
def test_a_disk_that_fills_up_leaves_the_last_store(holiday):
    """The limit of a process stands for the disk: 40 blocks of 512 bytes, or 1,024."""
    before = contents(holiday)
    limited = f"ulimit -f 40; exec {sys.executable} -m flows.preprocess holiday"
    full = run(holiday, "sh", "-c", limited)
    assert full.returncode == 2, full.stderr
    assert "inputs.npy: 57,472 bytes are needed and " in full.stderr
    assert "free the rest, or put the project on a larger disk" in full.stderr
    assert "Traceback" not in full.stderr
    assert contents(holiday) == before


@pytest.mark.slow
def test_a_damaged_file_is_refused_unless_a_share_is_allowed_and_the_last_outputs_stay(holiday):
    raw, before = holiday / "raw" / "holiday", contents(holiday)
    truncate(raw / "7.jpg")
    refused = run(holiday, "dvc", "repro", *STAGES)
    assert refused.returncode != 0
    assert "exited with 2" in refused.stderr
    assert "1 of 56 files do not decode, more than damaged=0.0 allows" in refused.stderr
    assert "7.jpg: damaged image (image file is truncated" in refused.stderr
    assert "replace the file" in refused.stderr
    assert "`dvc checkout dataset@holiday` brings them back" in refused.stderr
    assert "Traceback" not in refused.stderr
    there = contents(holiday)
    manifest = before["manifest.parquet"]
    assert {**there, "manifest.parquet": manifest} == before  # DVC removed that one; as told:
    assert run(holiday, "dvc", "checkout", "dataset@holiday").returncode == 0
    assert contents(holiday) == before

    configure(holiday, damaged=0.05)
    done = run(holiday, "dvc", "repro", *STAGES)
    assert done.returncode == 0, done.stderr
    assert "'damaged': 1}" in done.stderr
    statistics = json.loads((holiday / "data" / "holiday" / "statistics.json").read_text())
    assert sum(statistics["rows"].values()) == PICTURES - 1
    [reason] = statistics["damaged"]
    assert reason.startswith("7.jpg: damaged image")

    before = contents(holiday)
    for name in ("8.jpg", "9.jpg"):
        truncate(raw / name)
    refused = run(holiday, "dvc", "repro", *STAGES)
    assert refused.returncode != 0
    assert "3 of 56 files do not decode, more than damaged=0.05 allows" in refused.stderr
    assert all(f"{number}.jpg: damaged image" in refused.stderr for number in (7, 8, 9))
    assert {**contents(holiday), "manifest.parquet": before["manifest.parquet"]} == before


ROWS = 9


@pytest.fixture
def raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of nine sound pictures, in a project that has nothing else."""
    synthetic.write_params(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")  # where nothing answers
    monkeypatch.setattr(stage, "end_with_parent", lambda parent: None)
    root = tmp_path / "raw" / "digits"
    root.mkdir(parents=True)
    lines = ["image,path,split,labels"]
    for number in range(ROWS):
        (root / f"{number}.jpg").write_bytes(saved(scene(number).resize((40, 50))))
        split = ("train", "query", "database")[number // 3]
        lines.append(f"im{number},{number}.jpg,{split},{LABELS[number % 3]}")
    (root / "labels.csv").write_text("\n".join(lines) + "\n")
    return root


def table(old: str, new: str, encoding: str = "utf-8") -> Callable[[Path], None]:
    """Replace a part of the table, or save it in another encoding."""

    def spoil(root: Path) -> None:
        path = root / "labels.csv"
        path.write_bytes(path.read_text().replace(old, new).encode(encoding))

    return spoil


def unlink(root: Path) -> None:
    for path in root.iterdir():
        path.unlink()


def lead_out(root: Path) -> None:
    (root / "3.jpg").rename(root.parent / "3.jpg")
    (root / "3.jpg").symlink_to(root.parent / "3.jpg")


def flags(root: Path) -> None:
    """One column a label, the last of which nobody has."""
    rows = [f"{number}.jpg,1,0" for number in range(ROWS)]
    (root / "labels.csv").write_text("\n".join(["path,cat,fish", *rows]))


def stage_refuses(capsys: pytest.CaptureFixture[str]) -> str:
    """What the stage `dataset` says before it ends with 2."""
    with pytest.raises(SystemExit) as end:
        stage.main(dataset, ["digits"])
    assert end.value.code == 2
    return capsys.readouterr().err


def check_refuses(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> str:
    """What `isdh data check` finds before it ends with 2."""
    monkeypatch.setattr(sys, "argv", ["isdh", "data", "check", "--json"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2
    [found] = json.loads(capsys.readouterr().out)
    return "\n".join(each["text"] for each in found["findings"] if each["level"] == "refused")


def test_sound_data_are_refused_by_neither(raw, tmp_path, capsys, monkeypatch):
    stage.main(dataset, ["digits"])
    assert (tmp_path / "data" / "digits" / "manifest.parquet").exists()
    monkeypatch.setattr(sys, "argv", ["isdh", "data", "check"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert not end.value.code


@pytest.mark.parametrize(
    ("spoil", "value", "rule_and_remedy"),
    [
        (table("im1,", "im0,"), "'im0'", "image ids that stand twice: 'im0'; remove one of each"),
        (
            table("im8,8.jpg,database", "im0,8.jpg,query"),
            "'im0'",
            "in two splits: 'im0'; keep each",
        ),
        (table("8.jpg", "0.jpg"), "'0.jpg'", "paths under two ids: '0.jpg'; keep one row a file"),
        (flags, "'fish'", "labels that no image has: 'fish'; remove them from the table"),
        (table("2.jpg", "../2.jpg"), "'../2.jpg'", "not plain: '../2.jpg'; a path is relative to"),
        (table("2.jpg", "/2.jpg"), "'/2.jpg'", "not plain: '/2.jpg'; a path is relative to"),
        (table("2.jpg", "a/../2.jpg"), "'a/../2.jpg'", "without '.' or '..'"),
        (lead_out, "3.jpg", "links that lead out of raw/digits: '3.jpg'; put the files themselves"),
        (table(",", ";"), "['image;path;split;labels']", "separated by commas, not semicolons or"),
        (table(",", "\t"), "['image\\tpath\\tsplit\\tlabels']", "separated by commas, not semi"),
        (table("sea", "Bär", "latin-1"), "labels.csv", "byte); save it as CSV UTF-8"),
        (table("", "", "utf-16"), "labels.csv", "not UTF-8 ('utf-8' codec can't decode byte 0xff"),
        (unlink, "raw/digits/labels.csv", "no such table; put it there, with columns path and"),
        (lambda root: (root / "5.jpg").unlink(), "5.jpg", "no readable file below raw/digits: '5"),
        (lambda root: truncate(root / "5.jpg"), "5.jpg", "it has no end); replace the file"),
    ],
)
def test_bad_input_is_refused_by_the_stage_and_by_the_check_before_it(
    raw, tmp_path, capsys, monkeypatch, spoil, value, rule_and_remedy
):
    spoil(raw)
    said = stage_refuses(capsys)
    assert value in said
    assert rule_and_remedy in said
    assert "Traceback" not in said
    assert not (tmp_path / "data").exists()
    assert value in check_refuses(capsys, monkeypatch)
