from __future__ import annotations

import hashlib
import os
import shutil
import tarfile
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from isdh import manifest
from isdh.datasets import READERS, options
from isdh.datasets.mirflickr import ANNOTATIONS, IMAGES, LABELS, POTENTIAL
from isdh.protocols import PROTOCOLS, Protocol
from isdh.statistics import similarity_statistics
from tests.datasets.layouts import refusal

LISTS = {"train": "im3.jpg\nim1.jpg\n", "query": "im2.jpg\n", "database": "im10.jpg\nim5.jpg\n"}


def read(root: Path, **choices) -> pd.DataFrame:
    source = {"reader": "mirflickr", **choices}
    return READERS["mirflickr"].read(root, options(source, where="source"))


refused = partial(refusal, read)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Ten images; number 4 has no label, every label is on number 5 at least."""
    (tmp_path / IMAGES).mkdir()
    (tmp_path / ANNOTATIONS).mkdir()
    (tmp_path / "lists").mkdir()
    for number in range(1, 11):
        (tmp_path / IMAGES / f"im{number}.jpg").write_bytes(bytes([number]))
    for place, name in enumerate(LABELS):
        numbers = [n for n in range(1, 11) if n != 4 and (n * 7 + place) % 3 == 0]
        lines = "".join(f"{number}\n" for number in sorted({5, *numbers}))
        (tmp_path / ANNOTATIONS / f"{name}.txt").write_text(lines)
    (tmp_path / ANNOTATIONS / "README.txt").write_text("Please cite.\n")
    for part, lines in LISTS.items():
        (tmp_path / "lists" / f"{part}.txt").write_text(lines)
    return tmp_path


def test_there_are_24_potential_and_14_relevant_labels_in_alphabetical_order():
    assert len(LABELS) == 38
    assert sorted(LABELS) == LABELS
    assert len(POTENTIAL) == 24
    assert {name.removesuffix("_r1") for name in LABELS} == set(POTENTIAL)


def test_rows_follow_image_numbers_and_columns_the_label_files(root):
    frame = read(root, train=4, query=2)
    assert frame["image"].tolist() == [f"im{number}" for number in range(1, 11)]
    assert frame["path"][9] == "mirflickr/im10.jpg"
    assert manifest.labels_of(frame) == LABELS
    for name in ("animals", "baby_r1", "water"):
        lines = (root / ANNOTATIONS / f"{name}.txt").read_text().split()
        assert frame.loc[frame[name], "image"].tolist() == [f"im{number}" for number in lines]


def test_potential_labels_leave_out_the_relevant_ones(root):
    assert manifest.labels_of(read(root, train=4, query=2, labels="potential")) == POTENTIAL


def test_a_drawn_split_leaves_unlabelled_images_out(root):
    frame = read(root, train=5, query=3)
    checked = manifest.check(frame, root, reader="mirflickr")
    assert checked["split"].value_counts().to_dict() == {"train": 5, "query": 3, "database": 1}
    assert checked.attrs["unlabelled"] == 1
    pd.testing.assert_frame_equal(frame, read(root, train=5, query=3, seed=0))
    assert (frame["split"] != read(root, train=5, query=3, seed=1)["split"]).any()


def test_lists_say_which_image_is_where(root):
    frame = manifest.check(read(root, lists="lists"), root, reader="mirflickr")
    splits = dict(zip(frame["image"], frame["split"], strict=True))
    assert splits == (
        {"im1": "train", "im2": "query", "im3": "train", "im5": "database", "im10": "database"}
    )
    digests = {
        f"{part}.txt": hashlib.sha256(lines.encode()).hexdigest() for part, lines in LISTS.items()
    }
    counts = {"unlisted": 4, "unlabelled": 1}
    assert frame.attrs == {"lists": digests, **counts, "reader": "mirflickr"}


def test_training_images_may_be_searched_too(root):
    frame = read(root, lists="lists", also_database=True)
    assert frame.loc[frame["also_database"], "image"].tolist() == ["im1", "im3"]


@pytest.mark.parametrize(
    ("part", "lines", "problem"),
    [
        ("query", "im2.jpg\nim99.jpg\nim.jpg\n", "query.txt: no image 'im99.jpg', 'im.jpg'"),
        ("query", "im2.jpg\nim2.jpg\n", "query.txt: 'im2' more than once"),
        ("query", "im2.jpg\nim3.jpg\n", "query.txt: 'im3' in another list too"),
        ("database", "im4.jpg\nim5.jpg\n", "database.txt: 'im4' without a label"),
    ],
)
def test_lists_that_are_wrong_are_refused(root, part, lines, problem):
    (root / "lists" / f"{part}.txt").write_text(lines)
    assert problem in refused(root, lists="lists")


def test_a_missing_list_is_refused(root):
    (root / "lists" / "query.txt").unlink()
    assert "query.txt: no such list" in refused(root, lists="lists")


def test_lists_and_counts_together_are_refused(root):
    text = refused(root, lists="lists", seed=3, train=4)
    assert "lists says it all: remove seed, train" in text


@pytest.mark.parametrize("part", [IMAGES, ANNOTATIONS])
def test_missing_raw_data_say_what_to_fetch_from_whom_and_under_which_terms(root, part):
    shutil.rmtree(root / part)
    text = refused(root)
    assert part in text
    for words in ("mirflickr25k.zip", "mirflickr25k_annotations_v080.zip", "Mark Huiskes"):
        assert words in text
    for words in ("Leiden University", "press.liacs.nl/mirflickr", "Creative Commons", "research"):
        assert words in text


def test_half_of_the_raw_data_is_refused(root):
    (root / ANNOTATIONS / "water.txt").unlink()
    assert "no annotation file of 'water'" in refused(root)
    (root / ANNOTATIONS / "water.txt").write_text("5\n")
    (root / IMAGES / "im5.jpg").unlink()
    text = refused(root)
    assert "annotated images are missing: 'mirflickr/im5.jpg'" in text
    assert "mirflickr25k.zip" in text


def test_an_annotation_file_that_holds_no_numbers_is_refused(root):
    (root / ANNOTATIONS / "water.txt").write_text("5 water\n")
    assert "water.txt: want one image number a line" in refused(root)


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real annotations and lists; the images are empty files."""
    if "ISDH_TEST_DATA" not in os.environ:
        pytest.skip("ISDH_TEST_DATA names no folder with the real annotations")
    data = Path(os.environ["ISDH_TEST_DATA"]) / "data"
    root = tmp_path_factory.mktemp("mirflickr")
    with tarfile.open(data / "mirflickr25k-128.part1.tar") as archive:
        members = [m for m in archive if m.name.startswith(ANNOTATIONS)]
        archive.extractall(root, members, filter="data")
    shutil.copytree(data / "mirflickr-paper-split", root / "lists")
    (root / IMAGES).mkdir()
    for number in range(1, 25_001):
        (root / IMAGES / f"im{number}.jpg").touch()
    return root


def test_the_real_set_has_24581_labelled_images_and_the_published_split(official):
    frame = manifest.check(read(official, lists="lists"), official, reader="mirflickr")
    assert frame.attrs["unlisted"] == 0
    assert frame.attrs["unlabelled"] == 419
    assert len(frame) == 24_581
    assert manifest.labels_of(frame) == LABELS
    assert len(manifest.training_rows(frame)) == 4000
    assert len(manifest.query_rows(frame)) == 1000
    assert len(manifest.database_rows(frame)) == 19_581


def counts(frame: pd.DataFrame) -> tuple[int, int, int]:
    rows = (manifest.training_rows, manifest.query_rows, manifest.database_rows)
    return tuple(len(positions(frame)) for positions in rows)


@pytest.mark.parametrize(
    "choices", [{"protocol": "paper"}, {"protocol": "hyp2", "seed": 3}, {"lists": "lists"}]
)
def test_the_real_set_is_split_as_the_protocols_say(official, choices):
    frame = read(official, **{"protocol": "paper", **choices})
    assert counts(frame[manifest.label_matrix(frame).any(axis=1)]) == (4000, 1000, 19_581)
    assert frame.attrs["protocol"] == choices.get("protocol", "paper")


def test_deephash_draws_from_unlabelled_images_too(official):
    frame = read(official, protocol="deephash")
    labelled = frame[manifest.label_matrix(frame).any(axis=1)]
    assert len(labelled) == 24_581
    train, query, _ = counts(labelled)
    assert 3_900 < train < 3_960  # of 4,000, 1.7 % of which have no label
    assert 965 < query < 999


def test_the_lists_of_deephash_hold_72_and_19_and_328_images_without_a_label(official):
    packed = np.load(Path(os.environ["ISDH_TEST_DATA"]) / "data" / "deephash_splits.npz")
    folder = official / "deephash"
    folder.mkdir()
    for part, name in (("train", "train"), ("query", "test"), ("database", "database")):
        (folder / f"{part}.txt").write_text("\n".join(packed[f"mirflickr.{name}.names"]))
    frame = read(official, protocol="deephash", lists="deephash")
    labelled = frame[manifest.label_matrix(frame).any(axis=1)]
    assert counts(labelled) == (4000 - 72, 1000 - 19, 20_000 - 328)
    assert "without a label; remove" in refused(official, lists="deephash")


def test_a_protocol_wants_the_whole_collection(root):
    text = refused(root, protocol="paper")
    assert "protocol='paper': splits 25000 images, found 10; fetch the whole" in text


def test_lists_of_a_protocol_that_draws_from_all_images_may_hold_unlabelled_ones(root, monkeypatch):
    published = vars(PROTOCOLS["mirflickr"]["deephash"])
    small = Protocol(**{**published, "images": 10, "train": 2, "query": 1, "database": 3})
    monkeypatch.setitem(PROTOCOLS["mirflickr"], "deephash", small)
    (root / "lists" / "database.txt").write_text("im10.jpg\nim4.jpg\nim5.jpg\n")
    assert "'im4' without a label" in refused(root, lists="lists")
    frame = manifest.check(read(root, lists="lists", protocol="deephash"), root, reader="mirflickr")
    assert counts(frame) == (2, 1, 2)
    assert frame.attrs["unlabelled"] == 1
    (root / "lists" / "query.txt").write_text("im2.jpg\nim6.jpg\n")
    text = refused(root, lists="lists", protocol="deephash")
    assert "query.txt: 2 images, protocol='deephash' has 1; give its lists" in text


def test_pairs_of_the_real_training_images_are_hard_and_soft_as_counted_from_the_authors_matrix(
    official,
):
    frame = read(official, lists="lists")
    train = manifest.label_matrix(frame)[manifest.training_rows(frame)]
    pairs = similarity_statistics(train)["pairs"]
    shares = [pairs["none"], pairs["all"], pairs["some"]]
    np.testing.assert_allclose(shares, [0.4355, 0.0090, 0.5555], atol=5e-5)


def test_with_training_images_the_real_database_has_23581(official):
    frame = read(official, lists="lists", also_database=True)
    labelled = manifest.label_matrix(frame).any(axis=1)
    assert labelled[manifest.database_rows(frame)].sum() == 23_581
