"""`isdh data check`: from the raw folder and params.yaml alone, everything in one run."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from isdh import cli, datasets, duplicates, manifest, params
from isdh.chance import chance
from isdh.errors import InputError
from isdh.images import decode
from isdh.inspection import Inspection, inspect
from isdh.statistics import describe
from tests import synthetic
from tests.pictures import saved, scene

LABELS = ("dog", "cat", "sea")
Row = dict[str, Any]


def write_table(root: Path, rows: list[Row]) -> None:
    with (root / "labels.csv").open("w", newline="") as stream:
        table = csv.DictWriter(stream, ["image", "path", "split", *LABELS])
        table.writeheader()
        table.writerows(rows)


def write_dataset(root: Path, *, train: int = 12, query: int = 6, database: int = 20) -> list[Row]:
    """Pictures that all differ, and a table that nothing is to be said against."""
    rng = np.random.default_rng(0)
    root.mkdir(parents=True)
    splits = ["train"] * train + ["query"] * query + ["database"] * database
    rows: list[Row] = []
    for seed, split in enumerate(splits):
        labels = dict(zip(LABELS, rng.integers(2, size=len(LABELS)).tolist(), strict=True))
        labels[LABELS[seed % len(LABELS)]] = 1
        rows.append({"image": f"im{seed}", "path": f"{seed}.jpg", "split": split, **labels})
        (root / f"{seed}.jpg").write_bytes(saved(scene(seed)))
    write_table(root, rows)
    return rows


@pytest.fixture
def raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The raw folder of a dataset, in a project that has nothing else."""
    synthetic.write_params(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "raw" / "digits"


def look(**options: Any) -> Inspection:
    return inspect(params.load(), "digits", **options)


def told(found: Inspection, level: str) -> str:
    return "\n".join(finding.text for finding in found.findings if finding.level == level)


def test_sound_data_passes_with_no_finding(raw):
    write_dataset(raw)
    found = look()
    assert found.findings == ()
    assert found.passes
    assert found.files == {"all": 38, "missing": 0, "undecodable": 0}


def test_the_facts_are_those_that_the_stages_will_state(raw):
    write_dataset(raw)
    settings = params.load()
    source = settings.section("digits").source
    options = datasets.options(source, where="source")
    rows = manifest.check(datasets.READERS["folder"].read(raw, options), raw, reader="folder")
    files = [(raw / path).read_bytes() for path in rows["path"]]
    small = [decode(data, size=duplicates.SIDE, channels=1)[..., 0] for data in files]
    labels = manifest.label_matrix(rows)
    found = look()
    assert found.statistics == describe(rows, np.array(small))
    assert found.chance == chance(labels[12:18], labels[18:], cutoffs=settings.evaluate.cutoffs)


def test_nothing_depends_on_the_number_of_threads_and_progress_reaches_the_end(raw):
    rows = write_dataset(raw, database=150)
    (raw / rows[70]["path"]).write_bytes(b"no picture")
    seen: list[tuple[int, int]] = []
    alone = look(threads=1, on_progress=lambda done, total: seen.append((done, total)))
    assert alone.as_dict() == look(threads=4).as_dict()
    assert seen == [(64, 168), (128, 168), (168, 168)]


def test_queries_that_stand_in_the_database_under_other_names_are_found(raw):
    """Half of them to the byte, half saved anew, darker and smaller."""
    rows = write_dataset(raw)
    queries = [row for row in rows if row["split"] == "query"]
    for place, query in enumerate(queries[:5]):
        picture = scene(int(query["image"][2:]))
        changed = saved(ImageEnhance.Brightness(picture.reduce(2)).enhance(0.8), quality=60)
        data = changed if place % 2 else (raw / query["path"]).read_bytes()
        (raw / f"copy{place}.jpg").write_bytes(data)
        row = {"image": f"copy{place}", "path": f"copy{place}.jpg", "split": "database"}
        rows.append({**query, **row})
    write_table(raw, rows)
    found = look()
    assert found.passes  # real datasets have a few: told, not refused
    exact, near = (found.statistics["duplicates"][kind][0] for kind in ("exact", "near"))
    assert (exact["rows"], near["rows"]) == (3, 2)
    assert exact["examples"] == [[f"im{12 + i}", f"copy{i}", 1.0] for i in (0, 2, 4)]
    assert {tuple(pair[:2]) for pair in near["examples"]} == {
        ("im13", "copy1"),
        ("im15", "copy3"),
    }
    first, second = (finding.text for finding in found.findings)
    assert first.startswith("3 queries of 6 also in the database, equal to the byte: im12 and copy")
    assert second.startswith("2 queries of 6 also in the database, nearly the same to the eye: im1")


def test_everything_amiss_is_told_in_one_run(raw, tmp_path):
    rows = write_dataset(raw)
    for row in rows[:7]:
        (raw / row["path"]).unlink()
    for row in rows[7:9]:
        (raw / row["path"]).write_bytes(saved(scene(0))[:900])
    rows[9]["path"] = "../9.jpg"
    (tmp_path / "outside.jpg").write_bytes(saved(scene(1)))
    (raw / "10.jpg").unlink()
    (raw / "10.jpg").symlink_to(tmp_path / "outside.jpg")
    (raw / "19.jpg").write_bytes((raw / "12.jpg").read_bytes())
    rows[30]["image"] = rows[31]["image"]
    for row in rows[20:23]:
        row.update(dict.fromkeys(LABELS, 0))
    write_table(raw, rows)
    found = look()
    assert not found.passes
    assert found.statistics["unlabelled"] == 3
    assert found.files == {"all": 35, "missing": 9, "undecodable": 2}
    refused = told(found, "refused")
    assert "image ids that stand twice: 'im31'" in refused
    assert "9 files of 35 cannot be read; add them or drop their rows\n  0.jpg: No such" in refused
    assert "\n  4.jpg: No such file or directory\n  and 4 more" in refused
    assert "2 files of 35 cannot be decoded; replace them, or leave them out" in refused
    assert "source: {damaged: 0.058}\n  7.jpg: " in refused
    assert "1 query of 6 also in the database, equal to the byte" in told(found, "warning")
    levels = [finding.level for finding in found.findings]
    assert levels == sorted(levels)  # what is refused stands first


def test_of_many_damaged_files_the_first_five_are_named_and_all_counted(raw):
    rows = write_dataset(raw)
    for row in rows[5:13]:
        (raw / row["path"]).write_bytes((raw / row["path"]).read_bytes()[:600])
    first, *named, last = told(look(), "refused").splitlines()
    assert first.startswith("8 files of 38 cannot be decoded; replace them, or leave")
    assert [line.split(":")[0].strip() for line in named] == [f"{row}.jpg" for row in range(5, 10)]
    assert last.strip() == "and 3 more"


def test_queries_and_searched_pictures_that_were_trained_on_are_named(raw):
    rows = write_dataset(raw)
    (raw / "14.jpg").write_bytes((raw / "2.jpg").read_bytes())
    (raw / "30.jpg").write_bytes(saved(ImageEnhance.Brightness(scene(5)).enhance(0.8), quality=60))
    assert (rows[2]["split"], rows[14]["split"], rows[30]["split"]) == (
        "train",
        "query",
        "database",
    )
    warned = told(look(), "warning")
    assert "1 query of 6 also in the training rows, equal to the byte: im14 and im2; " in warned
    assert (
        "1 training row of 12 also in the database, nearly the same to the eye: im5 and" in warned
    )


def test_pictures_of_one_colour_are_no_near_copies_of_one_another(raw):
    write_dataset(raw)
    for row, grey in ((3, 20), (13, 120), (23, 121)):
        (raw / f"{row}.jpg").write_bytes(saved(Image.new("RGB", (60, 60), (grey, grey, grey))))
    assert look().findings == ()


def test_paths_and_links_that_leave_the_folder_are_named(raw, tmp_path):
    rows = write_dataset(raw)
    (tmp_path / "outside.jpg").write_bytes(saved(scene(1)))
    (raw / "10.jpg").unlink()
    (raw / "10.jpg").symlink_to(tmp_path / "outside.jpg")
    rows[9]["path"] = "../digits/9.jpg"
    write_table(raw, rows)
    refused = told(look(), "refused")
    assert "'../digits/9.jpg': not a plain path" in refused
    assert "10.jpg: a link that leads out of the folder" in refused


@pytest.mark.parametrize(
    ("allowed", "passes"), [(0.0, False), (1 / 38, False), (2 / 38, True), (1.0, True)]
)
def test_a_share_of_damaged_files_may_be_allowed(raw, monkeypatch, allowed, passes):
    rows = write_dataset(raw)
    for row in rows[7:9]:
        (raw / row["path"]).write_bytes(b"no picture")
    options = datasets.options(params.load().section("digits").source, where="source")
    object.__setattr__(options, "damaged", allowed)
    monkeypatch.setattr(datasets, "options", lambda source, where: options)
    found = look()
    assert found.passes is passes
    assert "2 files of 38 cannot be decoded" in told(found, "warning" if passes else "refused")


def test_labels_that_a_split_lacks_and_queries_without_a_relevant_row_are_told(raw):
    rows = write_dataset(raw)
    for row in rows:
        row.update(dict(zip(LABELS, (1, 0, row["split"] != "train"), strict=True)))
        row["cat"] = int(row["image"] == "im12")
    rows[12].update(dog=0, sea=0)  # a query of the only cat
    write_table(raw, rows)
    warned = told(look(), "warning")
    assert "labels without a training row: 'cat', 'sea'; nothing of them can be learned" in warned
    assert "labels without a database row: 'cat'; no query can find them" in warned
    assert "queries that share no label with any database row: 1; each scores 0" in warned


def unlabel(root: Path) -> None:
    lines = (root / "labels.csv").read_text().splitlines()
    empty = [line[:-5] + "0,0,0" for line in lines[1:]]
    (root / "labels.csv").write_text("\n".join([lines[0], *empty]))


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda root: (root / "labels.csv").unlink(), "no such table"),
        (lambda root: (root / "labels.csv").write_text("image,dog\n0.jpg,2\n"), "want 0 or 1"),
        (unlabel, "no row of 38 has a label"),
    ],
)
def test_rows_that_cannot_be_had_are_the_one_finding(raw, spoil, reason):
    write_dataset(raw)
    spoil(raw)
    found = look()
    assert [finding.level for finding in found.findings] == ["refused"]
    assert reason in found.findings[0].text
    assert found.statistics == {}


def test_a_folder_in_which_no_file_can_be_read_still_has_its_rows_counted(raw):
    for path in write_dataset(raw):
        (raw / path["path"]).unlink()
    found = look()
    assert found.files["missing"] == found.files["all"] == 38
    assert found.chance == {}
    assert not found.passes


def test_an_unknown_dataset_is_refused(raw):
    with pytest.raises(InputError, match="unknown dataset 'digit', did you mean 'digits'"):
        inspect(params.load(), "digit")


# ---------------------------------------------------------------- the command


def isdh(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["isdh", "data", "check", *words])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return int(end.value.code or 0)


def test_the_command_shows_tables_and_leaves_no_file(raw, tmp_path, monkeypatch, capsys):
    write_dataset(raw)
    before = sorted(tmp_path.rglob("*"))
    assert isdh(monkeypatch) == 0
    output = capsys.readouterr()
    assert "nothing amiss" in output.out
    words = [line.replace("│", " ").split() for line in output.out.splitlines()]
    assert ["all", "12", "6", "20"] in words
    assert ["queries", "database", "0", "0", "6"] in words
    assert any(row[:1] == ["map"] and len(row) == 3 for row in words)  # at 100 and at all
    assert output.err == ""
    assert sorted(tmp_path.rglob("*")) == before


def test_json_is_all_that_is_printed_and_the_exit_code_is_2_where_a_stage_would_fail(
    raw, monkeypatch, capsys
):
    rows = write_dataset(raw)
    (raw / rows[3]["path"]).unlink()
    assert isdh(monkeypatch, "digits", "--json") == 2
    output = capsys.readouterr()
    (found,) = json.loads(output.out)
    assert found == look().as_dict()
    assert found["passes"] is False
    assert output.err == ""


def test_names_of_labels_and_files_are_no_markup(raw, monkeypatch, capsys):
    rows = write_dataset(raw)
    rows[3]["path"] = "[red]3.jpg"
    write_table(raw, rows)
    table = (raw / "labels.csv").read_text().replace("dog", "[bold]dog")
    (raw / "labels.csv").write_text(table)
    assert isdh(monkeypatch) == 2
    shown = capsys.readouterr().out
    assert "[bold]dog" in shown
    assert "[red]3.jpg: No such file" in shown


def test_all_datasets_are_looked_at_though_one_cannot_be_read(raw, tmp_path, monkeypatch, capsys):
    write_dataset(raw)
    sections = json.loads((tmp_path / "params.yaml").read_text())["dataset"]
    synthetic.write_params(
        tmp_path,
        datasets={"empty": "raw/empty", "digits": "raw/digits"},
        dataset={**sections, "empty": sections["digits"]},
    )
    assert isdh(monkeypatch, "--json") == 2
    found = json.loads(capsys.readouterr().out)
    assert [(each["dataset"], each["passes"]) for each in found] == [
        ("empty", False),
        ("digits", True),
    ]


def test_an_unknown_name_is_told_in_one_line(raw, monkeypatch, capsys):
    assert isdh(monkeypatch, "digit") == 2
    assert "error: unknown dataset 'digit', did you mean 'digits'?" in capsys.readouterr().err


def test_the_check_loads_no_torch_and_no_orchestrator(raw, tmp_path):
    write_dataset(raw)
    code = (
        "import sys; sys.argv = ['isdh', 'data', 'check', '--json']\n"
        "from isdh.cli import main\n"
        "try: main()\n"
        "finally: sys.stderr.write(' '.join(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    loaded = {name.partition(".")[0] for name in done.stderr.split()}
    assert not {"torch", "prefect", "dvc", "mlflow", "sklearn"} & loaded
    assert "imagehash" in loaded
