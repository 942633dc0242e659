"""`isdh encode FOLDER`: pictures that no training knows, found by search after one swap."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from isdh import added, params, search
from isdh.artifacts import Workspace
from isdh.encoder import Encoder
from isdh.errors import InputError
from isdh.search import Pair
from tests.pictures import saved, scene
from tests.serve.conftest import BITS, served
from tests.serve.test_swap import move
from tests.workspaces import run

pytestmark = pytest.mark.slow


def pictures(folder: Path, *seeds: int) -> Path:
    (folder / "deeper").mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        (folder / "deeper" / f"{seed}.jpg").write_bytes(saved(scene(seed)))
    (folder / "notes.txt").write_text("no picture, and not taken for one")
    return folder


def champion(workspace: Workspace) -> Pair:
    settings = params.load(workspace.root / "params.yaml")
    return search.load(workspace, settings, search.choose(workspace, settings, "digits", BITS))


def test_a_service_that_runs_finds_what_the_command_added(workspace, tmp_path):
    folder = pictures(tmp_path / "holiday", 1, 2, 3)
    with served(workspace) as found:
        assert found.get("/version")["searched"] == 100
        done = run(workspace.root, "isdh", "encode", str(folder))
        assert done.returncode == 0, done.stderr
        assert "3 pictures added to digits" in done.stdout
        assert found.get("/version")["searched"] == 100  # until the swap
        found.service.current.refresh()
        about = found.get("/version")
        assert about["searched"] == 103
        assert about["splits"]["added"] == 3
        image = "holiday/deeper/2.jpg"
        answer = found.post("/api/search", saved(scene(2)), k=103)
        near = [each["id"] for each in answer["neighbours"] if each["distance"] == 0]
        assert image in near
        other = found.get("/api/search/image", id=image, k=5, alias="challenger")
        assert other["model"]["version"] == "2"
        assert found.client.get("/api/picture", params={"id": image}).status_code == 200
        again = run(workspace.root, "isdh", "encode", str(folder))
        assert "0 pictures added" in again.stdout
        assert "3 were there" in again.stdout
        mark = found.service.champion
        found.service.current.refresh()
        assert found.service.champion is mark


def test_codes_are_the_models_own_for_each_model(workspace, tmp_path):
    folder = pictures(tmp_path / "more", 4, 5)
    loaded = champion(workspace)
    new, there = search.add_folder(workspace, loaded, folder)
    assert ([each.image for each in new], there) == (["more/deeper/4.jpg", "more/deeper/5.jpg"], 0)
    for version in (1, 2):
        move(workspace, "champion", version)
        now = champion(workspace)
        expected = now.encoder.encode([saved(scene(4)), saved(scene(5))])
        np.testing.assert_array_equal(now.collection.codes[-2:], expected)


def test_kept_codes_are_not_made_again(workspace, tmp_path, monkeypatch):
    loaded = champion(workspace)
    search.add_folder(workspace, loaded, pictures(tmp_path / "more", 6))
    monkeypatch.setattr(Encoder, "codes", lambda *_: pytest.fail("encoded again"))
    assert len(champion(workspace).collection.images) == len(loaded.collection.images) + 1


def test_kept_codes_that_are_damaged_are_made_again(workspace, tmp_path):
    search.add_folder(workspace, champion(workspace), pictures(tmp_path / "more", 6, 7))
    (kept,) = (added.folder_of(workspace, "digits") / "codes").iterdir()
    right = champion(workspace).collection.codes
    data = bytearray(kept.read_bytes())
    for place in range(len(data)):
        if place % 97 == 0:
            data[place] ^= 1
    kept.write_bytes(bytes(data))
    np.testing.assert_array_equal(champion(workspace).collection.codes, right)
    kept.write_bytes(b"")
    np.testing.assert_array_equal(champion(workspace).collection.codes, right)


def test_a_folder_with_a_broken_picture_adds_nothing(workspace, tmp_path):
    folder = pictures(tmp_path / "more", 1)
    (folder / "zzz.png").write_bytes(b"no picture")
    done = run(workspace.root, "isdh", "encode", str(folder))
    assert done.returncode == 2
    assert "zzz.png: no image" in done.stderr
    assert added.read(workspace, "digits") == []
    assert len(champion(workspace).collection.searched) == 100


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda folder: None, "no such folder"),
        (lambda folder: folder.mkdir(), "no pictures"),
    ],
)
def test_a_folder_without_pictures_is_refused(workspace, tmp_path, make, reason):
    make(tmp_path / "empty")
    with pytest.raises(InputError, match=reason):
        search.add_folder(workspace, champion(workspace), tmp_path / "empty")


def test_an_id_stands_for_one_picture(workspace, tmp_path):
    folder = pictures(tmp_path / "more", 1)
    search.add_folder(workspace, champion(workspace), folder)
    (folder / "deeper" / "1.jpg").write_bytes(saved(scene(99)))
    with pytest.raises(InputError, match="stands for another picture"):
        search.add_folder(workspace, champion(workspace), folder)
    manifest_path = workspace.root / "raw/digits/images"  # its ids begin with images/
    taken = sorted(manifest_path.iterdir())[0].name
    clash = tmp_path / "images"
    clash.mkdir()
    (clash / taken).write_bytes(saved(scene(98), format="PNG"))
    with pytest.raises(InputError, match="stands for another picture"):
        search.add_folder(workspace, champion(workspace), clash)


def test_pictures_of_the_manifest_are_not_added(workspace, tmp_path):
    source = sorted((workspace.root / "raw/digits/images").iterdir())[0]
    folder = tmp_path / "again"
    folder.mkdir()
    (folder / "copy.png").write_bytes(source.read_bytes())
    assert search.add_folder(workspace, champion(workspace), folder) == ([], 1)


def test_a_damaged_list_is_refused_and_the_old_one_goes_on(workspace, tmp_path):
    with served(workspace) as found:
        search.add_folder(workspace, champion(workspace), pictures(tmp_path / "more", 1))
        found.service.current.refresh()
        listing = added.listing_of(workspace, "digits")
        content = json.loads(listing.read_text())
        for wrong in (
            {**content["pictures"][0], "file": "../../../params.yaml"},
            {**content["pictures"][0], "image": "../up.jpg"},
            {"image": "x"},
        ):
            listing.write_text(json.dumps({"pictures": [wrong]}))
            found.service.current.refresh()
            assert found.get("/version")["searched"] == 101
            assert "added pictures" in found.get("/version")["refused"]["champion"]
        listing.write_text(json.dumps(content))
        found.service.current.refresh()
        assert found.get("/ready")["refused"] == {}


def test_a_copy_that_was_altered_is_not_encoded(workspace, tmp_path):
    loaded = champion(workspace)
    search.add_folder(workspace, loaded, pictures(tmp_path / "more", 1))
    (copy,) = added.pictures_of(workspace, "digits").iterdir()
    copy.write_bytes(saved(scene(2)))
    move(workspace, "champion", 2)
    with pytest.raises(InputError, match="altered since"):
        champion(workspace)


def test_labels_of_a_table_are_those_of_the_pictures(workspace, tmp_path):
    folder = pictures(tmp_path / "holiday", 1, 2)
    known = champion(workspace).collection.label_names[:2]
    table = folder / "labels.csv"
    with served(workspace) as found:
        table.write_text(f"path,labels\ndeeper/1.jpg,{';'.join(known)}\n")
        assert search.add_folder(workspace, champion(workspace), folder)[1] == 0
        found.service.current.refresh()
        rows = found.get("/api/pictures", split="added")["pictures"]
        assert [each["labels"] for each in rows] == [list(known), []]
        table.write_text(f"path,labels\ndeeper/1.jpg,{known[1]}\ndeeper/2.jpg,{known[0]}\n")
        assert search.add_folder(workspace, champion(workspace), folder) == ([], 2)
        found.service.current.refresh()
        rows = found.get("/api/pictures", split="added", label=known[0])["pictures"]
        assert [each["id"] for each in rows] == ["holiday/deeper/2.jpg"]
        asked = found.get("/api/search/image", id="holiday/deeper/1.jpg")["asked"]
        assert asked["labels"] == [known[1]]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("deeper/1.jpg,unheard of", "labels.csv: unknown label 'unheard of'"),
        ("deeper/7.jpg,{known}", "no such pictures: 'deeper/7.jpg'"),
        ("deeper/1.jpg,{known},more", "fields of the header"),
    ],
)
def test_a_table_that_does_not_fit_adds_nothing(workspace, tmp_path, row, reason):
    folder = pictures(tmp_path / "holiday", 1)
    loaded = champion(workspace)
    text = row.format(known=loaded.collection.label_names[0])
    (folder / "labels.csv").write_text(f"path,labels\n{text}\n")
    with pytest.raises(InputError, match=reason):
        search.add_folder(workspace, loaded, folder)
    assert added.read(workspace, "digits") == []
