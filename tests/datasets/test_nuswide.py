from __future__ import annotations

import os
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from isdh import manifest, protocols
from isdh.datasets import READERS, options
from isdh.datasets.nuswide import ANNOTATIONS, CONCEPTS, FREQUENT, LIST
from isdh.errors import InputError
from tests.datasets.layouts import BARE, IMAGES, make_nuswide, nuswide_names, refusal

LINES = 269_648  # of the official lists


def read(root: Path, **choices) -> pd.DataFrame:
    choices = choices or {"train": 8, "query": 5}
    return READERS["nuswide"].read(root, options({"reader": "nuswide", **choices}, where="source"))


refused = partial(refusal, read)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    make_nuswide(tmp_path)
    return tmp_path


def test_there_are_81_concepts_in_alphabetical_order_and_21_frequent_ones_among_them():
    assert len(CONCEPTS) == 81
    assert sorted(CONCEPTS) == CONCEPTS
    assert len(FREQUENT) == 21
    assert set(FREQUENT) < set(CONCEPTS)


def test_rows_follow_the_image_list_and_columns_the_label_files(root):
    frame = read(root, labels=81, train=8, query=5)
    names = [name.replace("\\", "/") for name in nuswide_names()]
    assert frame["image"].tolist() == names
    assert frame["path"].tolist() == [f"Flickr/{name}" for name in names]
    assert manifest.labels_of(frame) == CONCEPTS
    for concept in ("airport", "sky", "zebra"):
        lines = (root / ANNOTATIONS / f"Labels_{concept}.txt").read_text().split()
        assert frame[concept].astype(int).astype(str).tolist() == lines


def test_21_concepts_stand_in_the_order_of_their_frequency(root):
    assert manifest.labels_of(read(root)) == FREQUENT


def test_files_of_other_concepts_are_not_needed_for_21(root):
    for concept in set(CONCEPTS) - set(FREQUENT):
        (root / ANNOTATIONS / f"Labels_{concept}.txt").unlink()
    assert manifest.labels_of(read(root)) == FREQUENT
    assert "no label file 'Labels_airport.txt'" in refused(root, labels=81, train=8, query=5)


def lose(root: Path, *rows: int) -> list[str]:
    paths = [f"Flickr/{nuswide_names()[row]}".replace("\\", "/") for row in rows]
    for path in paths:
        (root / path).unlink()
    return paths


def test_missing_pictures_are_refused_and_five_are_named(root):
    paths = lose(root, 1, 2, 5, 8, 13, 21)
    text = refused(root)
    assert "6 of the 29 pictures with a label are missing" in text
    assert all(repr(path) in text for path in paths[:5])
    assert repr(paths[5]) not in text
    assert "and 1 more" in text
    assert "`missing: leave_out`" in text
    assert "Agreement and Disclaimer Form" in text


def test_missing_pictures_are_left_out_and_counted_if_so_asked(root):
    paths = lose(root, 1, 2, 5)
    frame = read(root, train=8, query=5, missing="leave_out")
    assert frame.attrs == {"unlisted": 0, "missing": 3}
    assert not set(paths) & set(frame["path"])
    checked = manifest.check(frame, root, reader="nuswide")
    assert len(checked) == IMAGES - 1 - 3
    assert checked["split"].value_counts()[["train", "query"]].tolist() == [8, 5]


def test_a_missing_picture_without_a_label_or_in_no_list_is_not_missed(root):
    lose(root, BARE, 29)
    (root / "lists").mkdir()
    names = nuswide_names()
    for part, rows in (("train", [0, 1]), ("query", [2]), ("database", [4, 5])):
        lines = "".join(f"{names[row]}\n" for row in rows)
        (root / "lists" / f"{part}.txt").write_text(lines)
    frame = read(root, lists="lists")
    assert len(frame) == 5 + 1  # and the one without a label
    assert frame.attrs["missing"] == 0
    lose(root, 1)
    assert "1 of the 5 pictures" in refused(root, lists="lists")
    frame = read(root, lists="lists", missing="leave_out")
    assert frame.attrs["missing"] == 1
    assert (frame["split"] == "train").sum() == 1


def test_lists_of_others_with_labels_behind_the_names_are_read(root):
    (root / "lists").mkdir()
    stems = [name.rpartition("\\")[2] for name in nuswide_names()]
    for part, rows in (("train", [0, 1]), ("query", [2]), ("database", [0, 1, 4, 5])):
        lines = "".join(f"images/{stems[row]} 0 1 0\n" for row in rows)
        (root / "lists" / f"{part}.txt").write_text(lines)
    assert "'actor/0000_9000.jpg'" in refused(root, lists="lists")
    frame = read(root, lists="lists", also_database=True)
    assert len(manifest.database_rows(frame)) == 4 + 1  # and the one without a label
    assert frame["split"][:6].tolist() == ["train", "train", "query", "database"] + ["database"] * 2


@pytest.mark.parametrize("part", ["ImageList", "Groundtruth", "Flickr"])
def test_missing_parts_say_what_to_fetch_from_whom_and_under_which_terms(root, part):
    shutil.rmtree(root / part)
    text = refused(root)
    for words in ("lms.comp.nus.edu.sg", "Tat-Seng Chua", "National University of Singapore"):
        assert words in text
    assert "Agreement and Disclaimer Form" in text


def test_parts_of_different_lengths_are_refused_with_both_counts(root):
    path = root / ANNOTATIONS / "Labels_sky.txt"
    path.write_text(path.read_text() + "1\n")
    assert "Labels_sky.txt 31 lines, but ImageList/Imagelist.txt names 30 images" in refused(root)


@pytest.mark.parametrize("content", ["0\n2\n", "0 1 sky\n"])
def test_a_label_file_with_anything_but_0_and_1_is_refused(root, content):
    (root / ANNOTATIONS / "Labels_sky.txt").write_text(content)
    text = refused(root)
    assert "Labels_sky.txt: holds" in text
    assert "want 0 or 1 a line" in text


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("a\\0001_2.jpg\n\na\\0002_3.jpg\n", "lines 2 are empty"),
        ("a\\0001_2.jpg\na\\0001_2.jpg\n", "'a/0001_2.jpg' more than once"),
        (b"\xff\xfe", "not text"),
    ],
)
def test_a_broken_image_list_is_refused(root, content, problem):
    content = content if isinstance(content, bytes) else content.encode()
    (root / LIST).write_bytes(content)
    assert problem in refused(root)


def test_a_picture_outside_the_root_is_refused(root):
    lines = (root / LIST).read_text().splitlines()
    lines[0] = "..\\..\\outside.jpg"
    (root / LIST).write_text("\n".join(lines))
    (root.parent / "outside.jpg").write_bytes(b"outside")
    frame = read(root)
    with pytest.raises(InputError, match="paths that are not plain"):
        manifest.check(frame, root, reader="nuswide")


@pytest.fixture(scope="module")
def given() -> dict[str, np.ndarray]:
    """The real label matrices, bool, and the lines of the official files that they stand for."""
    if "ISDH_TEST_DATA" not in os.environ:
        pytest.skip("ISDH_TEST_DATA names no folder with NUS-WIDE's label matrices")
    packed = np.load(Path(os.environ["ISDH_TEST_DATA"]) / "data" / "nuswide.npz")
    arrays = {name: packed[name] for name in packed.files}
    for size in (21, 81):
        bits = np.unpackbits(arrays[f"labels{size}"], axis=1)[:, :size]
        arrays[f"labels{size}"] = bits.astype(bool)
    return arrays


@pytest.fixture(scope="module")
def official(given: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The official lists of 269,648 lines; 675 folders of Flickr/ are links to one of them."""
    root = tmp_path_factory.mktemp("nuswide")
    labels = np.zeros((LINES, 81), dtype=np.uint8)
    labels[given["row81"]] = given["labels81"]
    (root / ANNOTATIONS).mkdir(parents=True)
    for concept, column in zip(given["names81"], labels.T, strict=True):
        lines = np.full((LINES, 2), ord("\n"), dtype=np.uint8)
        lines[:, 0] = ord("0") + column
        (root / ANNOTATIONS / f"Labels_{concept}.txt").write_bytes(lines.tobytes())
    places = [divmod(line, 400) for line in range(LINES)]
    names = "".join(f"{folder:04d}\\{place:04d}_{place}.jpg\r\n" for folder, place in places)
    (root / LIST).parent.mkdir()
    (root / LIST).write_text(names)
    (root / "Flickr" / "0000").mkdir(parents=True)
    for place in range(400):
        (root / "Flickr" / "0000" / f"{place:04d}_{place}.jpg").write_bytes(b"%d" % place)
    for folder in range(1, places[-1][0] + 1):
        (root / "Flickr" / f"{folder:04d}").symlink_to("0000")
    return root


def test_the_frequent_concepts_are_those_that_most_images_have(given):
    assert given["names81"].tolist() == CONCEPTS
    counts = given["labels81"].sum(axis=0)
    order = np.argsort(-counts)
    assert [CONCEPTS[column] for column in order[:21]] == FREQUENT
    assert counts[order[[0, 20, 21]]].tolist() == [74_190, 5_099, 4_038]


@pytest.mark.slow
def test_the_real_set_at_its_real_size_has_195834_images_with_one_of_21_concepts(
    official, given, tmp_path
):
    frame = read(official, protocol="deephash")
    assert len(frame) == LINES
    checked = manifest.check(frame, official, reader="nuswide")
    assert len(checked) == 195_834
    assert checked.attrs == {
        "protocol": "deephash",
        "unlisted": 0,
        "missing": 0,
        "unlabelled": LINES - 195_834,
        "reader": "nuswide",
    }
    assert np.array_equal(manifest.label_matrix(checked), given["labels21"])
    assert len(manifest.training_rows(checked)) == 10_500
    assert len(manifest.query_rows(checked)) == 2_100
    assert len(manifest.database_rows(checked)) == 193_734
    manifest.write(checked, tmp_path / "manifest.parquet")
    pd.testing.assert_frame_equal(manifest.read(tmp_path / "manifest.parquet"), checked)


def test_the_real_set_has_209347_images_with_one_of_81_concepts(official, given):
    labels = manifest.label_matrix(read(official, labels=81, train=10, query=10))
    labelled = labels.any(axis=1)
    assert labelled.sum() == 209_347
    assert np.array_equal(labels[labelled], given["labels81"])


def test_first_come_takes_images_with_many_labels_as_often_as_in_the_published_lists(given):
    """Mean number of labels of 10,500 training images and 2,100 queries: 2.862 and 3.315 there."""
    drawn = protocols.split(
        protocols.PROTOCOLS["nuswide"]["deephash"],
        given["labels21"],
        names=FREQUENT,
        available=np.ones(195_834, dtype=bool),
        generator=np.random.default_rng(0),
    )
    labels = given["labels21"].sum(axis=1)
    counts = {part: int((drawn == part).sum()) for part in manifest.SPLITS}
    assert counts == {"train": 10_500, "query": 2_100, "database": 183_234}
    assert labels[drawn == "train"].mean() == pytest.approx(2.862, abs=0.04)
    assert labels[drawn == "query"].mean() == pytest.approx(3.315, abs=0.1)
