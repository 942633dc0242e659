from __future__ import annotations

import os
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from isdh import manifest
from isdh.datasets import READERS, options
from isdh.datasets.voc import ANNOTATIONS, CLASSES, IMAGES, LISTS
from isdh.protocols import PROTOCOLS, Protocol
from tests.datasets.layouts import annotation, make_voc, picture, refusal, voc_names

BASE = "VOCdevkit/VOC2012"
BOMB = '<!DOCTYPE a [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]><annotation>&b;</annotation>'
THIEF = '<!DOCTYPE a [<!ENTITY a SYSTEM "file:///etc/hostname">]><annotation>&a;</annotation>'


def read(root: Path, **choices) -> pd.DataFrame:
    if "protocol" not in choices and "lists" not in choices:
        choices = {"train": 8, "query": 5, **choices}
    return READERS["voc"].read(root, options({"reader": "voc", **choices}, where="source"))


refused = partial(refusal, read)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    make_voc(tmp_path)
    return tmp_path


def test_the_20_classes_stand_in_alphabetical_order():
    assert len(CLASSES) == 20
    assert sorted(CLASSES) == CLASSES


def test_rows_are_the_images_of_the_main_lists_or_all_with_an_annotation(root):
    picture(root / BASE / IMAGES / "2008_009999.jpg")  # without an annotation, as test images are
    names = voc_names(2012)
    frame = read(root)
    assert frame["image"].tolist() == names[:25]
    assert frame["path"][3] == f"{BASE}/JPEGImages/2008_000003.jpg"
    assert manifest.labels_of(frame) == CLASSES
    assert read(root, images="all")["image"].tolist() == names


def test_main_images_of_2007_are_those_of_trainval_and_test(tmp_path):
    make_voc(tmp_path, 2007)
    frame = read(tmp_path, year=2007)
    assert frame["image"].tolist() == voc_names(2007)[:25]
    assert frame["path"][3] == "VOCdevkit/VOC2007/JPEGImages/000003.jpg"


@pytest.mark.parametrize("below", ["VOCdevkit", BASE])
def test_the_root_may_lie_deeper(root, below):
    whole, frame = read(root), read(root / below)
    assert (f"{below}/" + frame["path"]).tolist() == whole["path"].tolist()
    pd.testing.assert_frame_equal(frame.drop(columns="path"), whole.drop(columns="path"))
    checked = manifest.check(frame, root / below, reader="voc")
    assert checked["path"][0].count("JPEGImages") == 1


def write(root: Path, name: str, text: str) -> None:
    (root / BASE / ANNOTATIONS / f"{name}.xml").write_text(text)


def test_an_image_has_the_labels_of_its_objects_not_of_their_parts(root):
    objects = [("dog", False), ("cat", True), ("dog", True)]
    write(root, "2008_000000", annotation("2008_000000", objects))
    frame = read(root)
    assert [name for name in CLASSES if frame[name][0]] == ["dog"]
    frame = read(root, difficult=True)
    assert [name for name in CLASSES if frame[name][0]] == ["cat", "dog"]


def test_an_image_with_difficult_objects_only_is_unlabelled_unless_they_count(root):
    write(root, "2008_000000", annotation("2008_000000", [("cat", True)]))
    for difficult, unlabelled in ((False, 2), (True, 1)):
        frame = manifest.check(read(root, difficult=difficult), root, reader="voc")
        assert frame.attrs["unlabelled"] == unlabelled


def test_an_annotation_may_have_a_declaration_a_byte_order_mark_and_no_word_of_difficulty(root):
    object_ = "<object><name> cow </name></object>"
    text = f'<?xml version="1.0" encoding="ISO-8859-1"?>\n<annotation>{object_}</annotation>'
    path = root / BASE / ANNOTATIONS / "2008_000000.xml"
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    frame = read(root)
    assert [name for name in CLASSES if frame[name][0]] == ["cow"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("<annotation><object>", "not XML"),
        ("", "not XML"),
        (b"<annotation>\xff</annotation>", "not XML"),
        ("<annotation>&b;</annotation>", "not XML"),
        ("<html></html>", "its root is <html>"),
        (BOMB, "has a DOCTYPE"),
        (THIEF, "has a DOCTYPE"),
        (BOMB.encode("utf-16"), "not XML"),
        (annotation("2008_000001", [("unicorn", False)]), "unknown class 'unicorn'; the 20"),
        ("<annotation><object/></annotation>", "unknown class ''"),
    ],
)
def test_a_broken_annotation_is_refused_by_its_name(root, text, problem):
    path = root / BASE / ANNOTATIONS / "2008_000001.xml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    message = refused(root)
    assert "2008_000001.xml: " in message
    assert problem in message


@pytest.mark.parametrize("part", [IMAGES, ANNOTATIONS, LISTS, "."])
def test_missing_parts_say_what_to_fetch_from_whom_and_under_which_terms(root, part):
    shutil.rmtree(root / BASE / part if part != "." else root / "VOCdevkit")
    text = refused(root)
    for words in ("VOCtrainval_11-May-2012.tar", "Mark Everingham", "host.robots.ox.ac.uk"):
        assert words in text
    assert "Flickr" in text
    assert "terms" in text


def test_missing_pictures_and_annotations_are_named(root):
    (root / BASE / IMAGES / "2008_000007.jpg").unlink()
    text = refused(root)
    assert f"1 of the 24 pictures with a label are missing: '{BASE}/JPEGImages/2008_0" in text
    (root / BASE / ANNOTATIONS / "2008_000009.xml").unlink()
    assert "no annotation '2008_000009.xml'" in refused(root)


def test_images_of_another_year_are_refused(root):
    (root / "VOC2007").symlink_to(root / BASE)
    assert "image ids '2008_000000', " in refused(root / BASE, year=2007, images="all")
    assert "are not of year=2007" in refused(root, year=2007, images="all")


def test_an_image_twice_in_the_lists_is_refused(root):
    path = root / BASE / LISTS / "trainval.txt"
    path.write_text(path.read_text() + "2008_000004\n")
    assert "'2008_000004' more than once" in refused(root)


def small(monkeypatch: pytest.MonkeyPatch, year: int, name: str, **changes) -> Protocol:
    """The protocol, of as many images as the layout has."""
    published = PROTOCOLS[f"voc{year}"][name]
    values = {**vars(published), **changes}
    monkeypatch.setitem(PROTOCOLS[f"voc{year}"], name, Protocol(**values))
    return published


def test_hyp2_trains_on_train_searches_it_and_asks_for_val(root, monkeypatch):
    small(monkeypatch, 2012, "hyp2", images=25, train=12, query=13, database=12)
    frame = manifest.check(read(root, protocol="hyp2"), root, reader="voc")
    names = voc_names(2012)
    labelled = [name for name in names[:25] if name in set(frame["image"])]
    assert frame.loc[manifest.query_rows(frame), "image"].tolist() == labelled[-13:]
    assert frame.loc[manifest.training_rows(frame), "image"].tolist() == labelled[:-13]
    assert manifest.database_rows(frame).tolist() == manifest.training_rows(frame).tolist()
    assert frame.attrs["protocol"] == "hyp2"


def test_hyp2_of_2007_trains_on_trainval_and_asks_for_test(tmp_path, monkeypatch):
    make_voc(tmp_path, 2007)
    small(monkeypatch, 2007, "hyp2", images=25, train=15, query=10, database=15)
    frame = read(tmp_path, year=2007, protocol="hyp2")
    splits = frame["split"].tolist()
    assert splits[15:] == ["query"] * 10
    assert set(splits[:15]) == {"train", "database"}  # "database": the one without a label


def test_hyp2_counts_difficult_objects(root, monkeypatch):
    small(monkeypatch, 2012, "hyp2", images=25, train=12, query=13, database=12)
    write(root, "2008_000000", annotation("2008_000000", [("cat", True)]))
    assert read(root, protocol="hyp2")["cat"][0]


@pytest.mark.parametrize(
    ("part", "lines", "problem"),
    [
        ("val", "2008_000029\n", "val.txt: '2008_000029' are in none of the lists"),
        ("val", "2008_000000\n", "val.txt: '2008_000000' in two lists"),
    ],
)
def test_official_lists_that_contradict_each_other_are_refused(
    root, monkeypatch, part, lines, problem
):
    small(monkeypatch, 2012, "hyp2", images=25, train=12, query=13, database=12)
    (root / BASE / LISTS / f"{part}.txt").write_text(lines)
    assert problem in refused(root, protocol="hyp2")


def test_a_protocol_is_refused_on_half_of_the_images(root):
    text = refused(root, protocol="deephash")
    assert "protocol='deephash': splits 11540 images, found 25; fetch the whole" in text


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray, list[str]]:
    """The 11,540 images of 2012's lists with the labels DeepHash-pytorch has; empty pictures."""
    if "ISDH_TEST_DATA" not in os.environ:
        pytest.skip("ISDH_TEST_DATA names no folder with the label matrices of VOC2012")
    packed = np.load(Path(os.environ["ISDH_TEST_DATA"]) / "data" / "deephash_splits.npz")
    parts = ("train", "test", "database")
    bits = [np.unpackbits(packed[f"voc2012.{part}.labels"], axis=1)[:, :20] for part in parts]
    matrix = np.concatenate(bits).astype(bool)
    paths = np.concatenate([packed[f"voc2012.{part}.names"] for part in parts]).tolist()
    root = tmp_path_factory.mktemp("voc")
    base = root / BASE
    for folder in (IMAGES, ANNOTATIONS, LISTS):
        (base / folder).mkdir(parents=True)
    names = [Path(path).stem for path in paths]
    for name, row in zip(names, matrix, strict=True):
        objects = [(CLASSES[column], False) for column in np.flatnonzero(row)]
        (base / ANNOTATIONS / f"{name}.xml").write_text(annotation(name, objects))
        (base / IMAGES / f"{name}.jpg").touch()
    (base / LISTS / "trainval.txt").write_text("\n".join(sorted(names)))
    (root / "lists").mkdir()
    for part in ("train", "query", "database"):
        published = packed[f"voc2012.{'test' if part == 'query' else part}.names"]
        (root / "lists" / f"{part}.txt").write_text("\n".join(published))
    return root, matrix, names


def test_the_real_lists_have_11540_images_each_with_a_label_of_the_official_frequency(official):
    root, matrix, names = official
    frame = manifest.check(read(root, protocol="deephash"), root, reader="voc")
    assert len(frame) == 11_540
    assert frame.attrs["unlabelled"] == 0
    rows = dict(zip(names, matrix, strict=True))
    expected = np.array([rows[name] for name in frame["image"]])
    assert np.array_equal(manifest.label_matrix(frame), expected)
    counts = frame[CLASSES].sum()
    assert counts[["aeroplane", "person", "tvmonitor"]].tolist() == [670, 4_087, 575]
    assert frame["split"].value_counts().to_dict() == (
        {"train": 4_000, "query": 1_000, "database": 6_540}
    )


def test_the_published_lists_are_read_as_they_are_and_checked_against_their_protocol(official):
    root, _, _ = official
    frame = read(root, protocol="deephash", lists="lists")
    lists = (root / "lists" / "query.txt").read_text().split()
    assert set(frame.loc[frame["split"] == "query", "path"]) == set(lists)
    assert frame.attrs["unlisted"] == 0
    (root / "less").mkdir(exist_ok=True)
    for part in ("train", "query", "database"):
        shutil.copy(root / "lists" / f"{part}.txt", root / "less")
    (root / "less" / "query.txt").write_text("\n".join(lists[:-1]))
    text = refused(root, protocol="deephash", lists="less")
    assert "query.txt: 999 images, protocol='deephash' has 1000" in text
