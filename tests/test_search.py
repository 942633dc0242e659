"""`isdh search`: which model and which codes, what is found, and what is refused."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from isdh import answer_views, cli, codes, manifest, params, search
from isdh.answers import Answer
from isdh.artifacts import Workspace, read_json, sha256, write_codes, write_json
from isdh.encoder import Encoder
from isdh.errors import InputError
from isdh.images import decode
from tests import searched
from tests.pictures import saved, scene
from tests.searched import FIRST, SECOND

# raised by MLflow itself when mlflow.pyfunc is imported
pytestmark = pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return searched.make(tmp_path_factory.mktemp("searched"))


@pytest.fixture
def here(made: Workspace, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """Read by the tests, not written."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(made.root)
    return Workspace()


@pytest.fixture
def own(here: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """The same, with codes and data that a test may change; MLflow stays where it is."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{Path('mlflow.db').resolve()}")
    for name in ("codes", "data", "raw", "models"):
        shutil.copytree(name, tmp_path / name)
    shutil.copy("params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    return Workspace()


def isdh(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["isdh", *words])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return int(end.value.code or 0)


def picture(folder: Path, seed: int = 100) -> str:
    path = folder / f"asked {seed}.png"
    path.write_bytes(saved(scene(seed), format="PNG"))
    return str(path)


def by_hand(workspace: Workspace, cell: Any, data: bytes) -> list[tuple[int, int]]:
    """(distance, row) of every row that is searched, nearest first."""
    asked = Encoder.load(workspace.model(cell)).encode([data])
    rows = manifest.database_rows(manifest.read(workspace.manifest("digits")))
    stored = np.load(workspace.codes(cell) / "codes.npy")[rows]
    distances = codes.hamming_distances(asked, stored, bits=12)[0].tolist()
    return sorted(zip(distances, rows.tolist(), strict=True))


def test_the_champions_codes_are_searched_by_the_champion(here, monkeypatch, capsys, tmp_path):
    asked = [picture(tmp_path, 100), picture(tmp_path, 101)]
    assert isdh(monkeypatch, "search", *asked, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    model = found["model"]
    assert (model["name"], model["version"], model["champion"]) == ("isdh-digits-12bit", "2", True)
    assert (model["cell"], found["dataset"], found["pictures"]) == (str(SECOND), "digits", 25)
    frame = manifest.read(here.manifest("digits"))
    labels = manifest.labels_of(frame)
    for path, answer in zip(asked, found["answers"], strict=True):
        expected = by_hand(here, SECOND, Path(path).read_bytes())[:10]
        assert answer["picture"] == path
        assert [match["rank"] for match in answer["matches"]] == list(range(1, 11))
        for match, (distance, row) in zip(answer["matches"], expected, strict=True):
            assert match["distance"] == distance
            assert match["image"] == frame["image"][row]
            assert match["path"] == f"raw/digits/{frame['path'][row]}"
            assert match["labels"] == [name for name in labels if frame[name][row]]


def test_any_version_and_any_folder_may_be_asked(here, monkeypatch, capsys, tmp_path):
    path = picture(tmp_path)
    elsewhere = shutil.copytree(here.model(FIRST), tmp_path / "somewhere")
    expected = [distance for distance, _ in by_hand(here, FIRST, Path(path).read_bytes())[:10]]
    for words in (
        ["--version", "1"],
        ["--model", str(here.model(FIRST))],
        ["--model", str(elsewhere), "--dataset", "digits", "--bits", "12"],
    ):
        assert isdh(monkeypatch, "search", path, "--json", *words) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["model"]["cell"] == str(FIRST)
        assert [each["distance"] for each in found["answers"][0]["matches"]] == expected


def test_a_folders_model_is_searched_without_mlflow(here, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert isdh(monkeypatch, "search", picture(tmp_path), "--model", str(here.model(FIRST))) == 0
    assert "digits/isdh-12-0 in models" in " ".join(capsys.readouterr().out.split())


def test_the_table_has_rank_distance_labels_and_path(here, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("COLUMNS", "150")
    path = here.raw("digits") / "a [b]" / "50, é.jpg"
    assert isdh(monkeypatch, "search", str(path), "-k", "25") == 0
    out = capsys.readouterr().out
    assert out.count("raw/digits/a [b]/") == 26  # of the title and of each row, brackets and all
    (row,) = [line for line in out.splitlines() if "raw/digits/a [b]/48, é.jpg" in line]
    cells = [cell.strip() for cell in row.strip("│").split("│")]
    assert cells[2:] == ['cat, dog "small", a, b\\c', "raw/digits/a [b]/48, é.jpg"]
    told = "isdh-digits-12bit version 2, champion (digits/dhn-12-0); 25 pictures"
    assert told in " ".join(out.split())


def test_a_radius_returns_all_within_or_the_first_of_them(here, monkeypatch, capsys, tmp_path):
    path = picture(tmp_path)
    near = [each for each in by_hand(here, SECOND, Path(path).read_bytes()) if each[0] <= 5]
    assert len(near) > 3
    assert isdh(monkeypatch, "search", path, "--radius", "5", "--json") == 0
    (answer,) = json.loads(capsys.readouterr().out)["answers"]
    assert (answer["within"], len(answer["matches"])) == (len(near), len(near))
    assert isdh(monkeypatch, "search", path, "--radius", "5", "-k", "3", "--json") == 0
    (answer,) = json.loads(capsys.readouterr().out)["answers"]
    assert answer["within"] == len(near)
    assert [each["distance"] for each in answer["matches"]] == [each for each, _ in near[:3]]


def test_k_beyond_the_collection_is_capped_and_said(here, monkeypatch, capsys, tmp_path):
    assert isdh(monkeypatch, "search", picture(tmp_path), "-k", "1000", "--json") == 0
    captured = capsys.readouterr()
    assert len(json.loads(captured.out)["answers"][0]["matches"]) == 25
    assert captured.err == "-k 1000: the collection has 25 pictures; all are shown\n"


def test_outputs_order_the_top(here, monkeypatch, capsys, tmp_path):
    path = picture(tmp_path)
    assert isdh(monkeypatch, "search", path, "-k", "4", "--rerank", "--json") == 0
    (answer,) = json.loads(capsys.readouterr().out)["answers"]
    model = Encoder.load(here.model(SECOND))
    outputs = model.outputs(model.pixels(Path(path).read_bytes())[None])
    assert codes.pack(outputs).tobytes().hex() == answer["code"]
    frame = manifest.read(here.manifest("digits"))
    rows = manifest.database_rows(frame)  # fewer than the shortlist: all are ordered
    signs = 2.0 * codes.unpack(np.load(here.codes(SECOND) / "codes.npy")[rows], 12) - 1
    best = np.argsort(-(signs @ outputs[0]), kind="stable")[:4]
    chosen = [frame["image"][row] for row in rows[best]]
    assert [each["image"] for each in answer["matches"]] == chosen


def test_the_page_asks_for_nothing_and_shows_every_match(here, monkeypatch, capsys, tmp_path):
    page = tmp_path / "found.html"
    asked = [picture(tmp_path, 100), picture(tmp_path, 101)]
    assert isdh(monkeypatch, "search", *asked, "-k", "7", "--html", str(page)) == 0
    text = page.read_text(encoding="utf-8")
    assert text.count('src="data:image/webp;base64,') == 2 * 8
    assert not re.search(r'(?:src|href)="(?!data:|#)', text)
    assert "http" not in text.replace("http-equiv", "")
    for title in ("asked 100.png", "dog &#34;small&#34;", "Hamming distance"):
        assert title in text
    assert "rank" in capsys.readouterr().out  # the table as well


def test_the_page_of_an_empty_ball_says_so(here):
    found = search.load(here, params.load(), search.choose(here, params.load()))
    answer = Answer("far", b"", (), within=0)
    page = answer_views.page(found, [answer], [saved(scene(1))], reranked=False)
    assert "0 within the radius." in page
    assert "<li>None.</li>" in page


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--dataset", "digit"], "unknown dataset 'digit', did you mean 'digits'? known: digits"),
        (["--bits", "24"], "model 'isdh-digits-24bit': has no champion in sqlite:///"),
        (["--version", "7"], "unknown version of isdh-digits-12bit '7'. known: 1, 2"),
        (["--version", "1", "--model", "models"], "--version --model: one of them at a time"),
        (["--model", "nowhere"], "nowhere/model.json: no such file"),
        (["-k", "0"], "k=0: a whole number from 1"),
        (["--radius", "-1"], "radius=-1: a whole number from 0"),
        (["--radius", "2", "-k", "0"], "k=0: a whole number from 1"),
        (["--radius", "2", "--rerank"], "--radius --rerank: one of them at a time"),
        (["--html", "no/such/folder/a.html"], "no/such/folder/a.html: No such file"),
    ],
)
def test_what_cannot_be_searched_is_told(here, monkeypatch, capsys, tmp_path, words, told):
    assert isdh(monkeypatch, "search", picture(tmp_path), *words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert told in captured.err
    assert "Traceback" not in captured.err


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"no picture", "no image; want one of JPEG"),
        (b"", "no image; want one of JPEG"),
        (saved(scene(1))[:2000], "damaged image"),
    ],
)
def test_files_that_are_no_images_are_named(here, monkeypatch, capsys, tmp_path, content, told):
    path = tmp_path / "odd.jpg"
    path.write_bytes(content)
    assert isdh(monkeypatch, "search", picture(tmp_path), str(path)) == 2
    assert f"error: {path}: {told}" in capsys.readouterr().err


def matches(monkeypatch: pytest.MonkeyPatch, capsys: Any, *words: str) -> list[tuple[int, str]]:
    """(distance, id) of what is found."""
    assert isdh(monkeypatch, "search", *words, "--json") == 0
    (answer,) = json.loads(capsys.readouterr().out)["answers"]
    return [(each["distance"], each["image"]) for each in answer["matches"]]


def write_inputs(workspace: Workspace) -> None:
    """What `preprocess` makes of the pictures."""
    pixels = [decode(data, size=32, channels=1) for data in searched.pictures(workspace)]
    path = workspace.data("digits") / "inputs.npy"
    np.save(path, np.stack(pixels))
    card = {
        "inputs": {"kind": "images", "size": 32, "channels": 1},
        "shape": [32, 32, 1],
        "backbone_sha256": None,
        "sha256": {"inputs.npy": sha256(path)},
    }
    write_json(path.with_suffix(".json"), card)


@pytest.mark.parametrize("size", [32, 16])
def test_a_model_whose_cell_was_trained_again_makes_its_codes_again(
    own, monkeypatch, capsys, tmp_path, size
):
    path = picture(tmp_path)
    write_inputs(own)
    if size == 16:  # data is of another size than the model's: it reads the pictures
        card = read_json(own.data("digits") / "inputs.json")
        write_json(own.data("digits") / "inputs.json", card | {"inputs": {"size": 16}})
    before = matches(monkeypatch, capsys, path)
    searched.write_model(own, SECOND, seed=7)
    searched.write_codes_of(own, SECOND)
    assert matches(monkeypatch, capsys, path) == before
    new = matches(monkeypatch, capsys, path, "--model", "models/digits/dhn-12-0")
    assert new != before
    # ... and a folder whose codes are still those of before is nobody's.
    searched.write_model(own, SECOND, seed=8)
    assert isdh(monkeypatch, "search", path, "--model", "models/digits/dhn-12-0") == 2
    assert "no codes here were made by its weights" in capsys.readouterr().err


def test_codes_of_other_data_are_made_again(own, monkeypatch, capsys, tmp_path):
    path = picture(tmp_path)
    before = matches(monkeypatch, capsys, path)
    inputs = {"path": "data/digits/inputs.npy", "hash": "md5"}
    stages = {
        "preprocess@digits": {"cmd": "", "outs": [{**inputs, "md5": "new"}]},
        "encode@digits-dhn-12-0": {"cmd": "", "deps": [{**inputs, "md5": "old"}]},
    }
    write_json(own.root / "dvc.lock", {"schema": "2.0", "stages": stages})  # JSON is YAML
    card = own.data("digits") / "inputs.json"
    write_json(card, {"sha256": {"inputs.npy": "0" * 64}})
    assert isdh(monkeypatch, "search", path) == 2
    assert "cannot encode it with this model, KeyError('inputs')" in capsys.readouterr().err
    card.unlink()
    assert isdh(monkeypatch, "search", path) == 2
    assert "data/digits/inputs.json: no such file" in capsys.readouterr().err
    write_inputs(own)
    assert matches(monkeypatch, capsys, path) == before
    listed = {"path": "data/digits/manifest.parquet", "hash": "md5"}
    stages["dataset@digits"] = {"cmd": "", "outs": [{**listed, "md5": "new"}]}
    stages["preprocess@digits"]["deps"] = [{**listed, "md5": "old"}]
    write_json(own.root / "dvc.lock", {"schema": "2.0", "stages": stages})
    assert isdh(monkeypatch, "search", path) == 2
    assert "inputs of another manifest" in capsys.readouterr().err


def test_pictures_that_were_added_are_found(own, monkeypatch, capsys, tmp_path):
    folder = tmp_path / "holiday"
    folder.mkdir()
    path = picture(folder)
    assert isdh(monkeypatch, "encode", str(folder)) == 0
    told = capsys.readouterr().out
    assert "1 pictures added to digits, encoded by isdh-digits-12bit version 2, champion" in told
    (first, *others) = matches(monkeypatch, capsys, path, "-k", "26")
    assert first[0] == 0
    assert (0, "holiday/asked 100.png") in [first, *others]
    assert isdh(monkeypatch, "search", path, "-k", "26") == 0
    assert "added/digits/files/" in capsys.readouterr().out
    page = tmp_path / "found.html"
    assert isdh(monkeypatch, "search", path, "--html", str(page), "--radius", "0") == 0
    assert "holiday/asked 100.png" in page.read_text(encoding="utf-8")
    for version in ("1", "2"):  # each model has codes of its own
        assert (
            isdh(monkeypatch, "export", "faiss", str(tmp_path / version), "--version", version) == 0
        )
        assert len((tmp_path / version / "items.jsonl").read_text().splitlines()) == 26


@pytest.mark.parametrize("part", ["codes", "weights", "rows"])
def test_altered_files_are_refused(own, monkeypatch, capsys, tmp_path, part):
    words = ["--model", "models/digits/dhn-12-0"]
    path = own.codes(SECOND) / "codes.npy"
    if part == "weights":
        path = own.model(SECOND) / "weights.safetensors"
    if part == "rows":
        card = read_json(own.codes(SECOND) / "codes.json")
        digest = card["weights_sha256"]
        write_codes(own.codes(SECOND), np.load(path)[:-1], bits=12, weights_sha256=digest)
    else:
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
    assert isdh(monkeypatch, "search", picture(tmp_path), *words) == 2
    told = "59 rows, want 60" if part == "rows" else "sha256"
    assert told in capsys.readouterr().err


def test_mlflow_that_does_not_answer_is_told(here, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert isdh(monkeypatch, "search", picture(tmp_path)) == 2
    assert "MLFLOW_TRACKING_URI=http://127.0.0.1:9: does not answer" in capsys.readouterr().err


def test_a_folder_whose_codes_are_of_two_datasets_needs_a_name(own):
    shutil.copytree("codes/digits", "codes/others")
    settings = params.load()
    with pytest.raises(InputError, match="add --dataset"):
        search.choose(own, settings, folder=own.model(FIRST))
    assert search.choose(own, settings, "digits", folder=own.model(FIRST)).cell == FIRST
    with pytest.raises(InputError, match="codes of 12 bits, not 24"):
        search.choose(own, settings, bits=24, folder=own.model(FIRST))
