from __future__ import annotations

import hashlib
from pathlib import Path

import pandas as pd
import pytest

from isdh import manifest
from isdh.errors import InputError

SPLITS = ["train", "train", "query", "database", "database", "database"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "raw" / "pictures"
    folder.mkdir(parents=True)
    for number in range(6):
        (folder / f"{number}.jpg").write_bytes(bytes([number]))
    return tmp_path / "raw"


@pytest.fixture
def frame() -> pd.DataFrame:
    """Six rows, the fifth without a label; the first is searched too."""
    return pd.DataFrame(
        {
            "image": [f"im{number}" for number in range(6)],
            "path": [f"pictures/{number}.jpg" for number in range(6)],
            "split": SPLITS,
            "also_database": [True, False, False, False, False, False],
            "dog": [True, False, True, False, False, True],
            "cat": [True, True, False, True, False, False],
        }
    )


def refused(frame: pd.DataFrame, root: Path) -> str:
    with pytest.raises(InputError) as error:
        manifest.check(frame, root, reader="folder")
    return str(error.value)


def test_unlabelled_rows_are_dropped_and_counted(frame, root):
    checked = manifest.check(frame, root, reader="folder")
    assert checked["image"].tolist() == ["im0", "im1", "im2", "im3", "im5"]
    assert checked.index.tolist() == [0, 1, 2, 3, 4]
    assert checked.attrs == {"unlabelled": 1, "reader": "folder"}
    assert "sha256" not in frame.columns


def test_each_row_has_the_digest_of_its_file(frame, root):
    digests = manifest.check(frame, root, reader="folder")["sha256"].tolist()
    assert digests == [hashlib.sha256(bytes([n])).hexdigest() for n in (0, 1, 2, 3, 5)]


def test_rows_and_labels_are_found_by_position(frame, root):
    checked = manifest.check(frame, root, reader="folder")
    assert manifest.labels_of(checked) == ["dog", "cat"]
    assert manifest.training_rows(checked).tolist() == [0, 1]
    assert manifest.query_rows(checked).tolist() == [2]
    assert manifest.database_rows(checked).tolist() == [0, 3, 4]
    labels = manifest.label_matrix(checked)
    assert labels.dtype == bool
    assert labels.tolist() == [[1, 1], [0, 1], [1, 0], [0, 1], [1, 0]]


def test_a_manifest_is_read_as_it_was_written(frame, root, tmp_path):
    checked = manifest.check(frame, root, reader="folder")
    manifest.write(checked, tmp_path / "manifest.parquet")
    again = manifest.read(tmp_path / "manifest.parquet")
    pd.testing.assert_frame_equal(again, checked)
    assert again.attrs == checked.attrs


def test_equal_manifests_are_equal_bytes(frame, root, tmp_path):
    for name in ("a", "b"):
        manifest.write(manifest.check(frame, root, reader="folder"), tmp_path / name)
    manifest.write(manifest.read(tmp_path / "a"), tmp_path / "c")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert (tmp_path / "a").read_bytes() == (tmp_path / "c").read_bytes()


def test_a_repeated_id_is_refused(frame, root):
    frame.loc[1, "image"] = "im0"
    assert "stand twice: 'im0'" in refused(frame, root)


def test_an_image_in_two_splits_is_refused(frame, root):
    frame.loc[[2, 5], "image"] = "im0", "im3"
    frame.loc[5, "split"] = "train"
    assert "in two splits: 'im0', 'im3'" in refused(frame, root)


def test_a_file_under_two_ids_is_refused(frame, root):
    frame.loc[1, "path"] = "pictures/0.jpg"
    assert "under two ids: 'pictures/0.jpg'" in refused(frame, root)


def test_missing_files_are_refused_and_five_are_named(frame, root):
    rows = pd.concat([frame] * 2, ignore_index=True)
    rows["image"] = [f"im{number}" for number in range(12)]
    rows.loc[6:, "path"] = [f"pictures/{number}.png" for number in range(6, 12)]
    rows["dog"] = True
    text = refused(rows, root)
    assert "'pictures/6.png'" in text
    assert "'pictures/10.png' and 1 more" in text


def test_a_folder_is_no_file(frame, root):
    frame.loc[0, "path"] = "pictures"
    assert "no readable file" in refused(frame, root)


@pytest.mark.parametrize(
    "path",
    [
        "../raw/pictures/0.jpg",
        "/etc/hostname",
        "pictures/../pictures/0.jpg",
        ".",
        "./pictures/0.jpg",
        "pictures//0.jpg",
        "pictures/0.jpg\0",
    ],
)
def test_a_path_that_is_not_plain_is_refused(frame, root, path):
    frame.loc[0, "path"] = path
    assert "not plain" in refused(frame, root)


def test_nested_attributes_are_kept_and_change_the_bytes(frame, root, tmp_path):
    checked = manifest.check(frame, root, reader="folder")
    for name, digest in (("a", "00"), ("b", "00"), ("c", "01")):
        checked.attrs["lists"] = {"train.txt": digest}
        manifest.write(checked, tmp_path / name)
        assert manifest.read(tmp_path / name).attrs == checked.attrs
    content = [(tmp_path / name).read_bytes() for name in "abc"]
    assert content[0] == content[1] != content[2]


@pytest.mark.parametrize("linked", ["file", "folder"])
def test_a_link_out_of_the_root_is_refused(frame, root, linked):
    outside = root.parent / "raw_outside"
    outside.mkdir()
    (outside / "0.jpg").write_bytes(b"0")
    if linked == "file":
        (root / "link.jpg").symlink_to(outside / "0.jpg")
        frame.loc[0, "path"] = "link.jpg"
    else:
        (root / "link").symlink_to(outside)
        frame.loc[0, "path"] = "link/0.jpg"
    assert "links that lead out" in refused(frame, root)


def test_a_link_within_the_root_and_a_linked_root_are_followed(frame, root):
    (root / "link.jpg").symlink_to(root / "pictures" / "0.jpg")
    frame.loc[0, "path"] = "link.jpg"
    (root.parent / "again").symlink_to(root)
    checked = manifest.check(frame, root.parent / "again", reader="folder")
    assert checked["sha256"][0] == hashlib.sha256(b"\0").hexdigest()


def test_a_label_that_no_image_has_is_refused(frame, root):
    frame["fish"] = False
    assert "labels that no image has: 'fish'" in refused(frame, root)


def test_rows_without_any_label_are_refused(frame, root):
    frame[["dog", "cat"]] = False
    assert "no row of 6 has a label" in refused(frame, root)
    assert "no row of 6 has a label" in refused(frame.drop(columns=["dog", "cat"]), root)


@pytest.mark.parametrize("split", ["train", "query", "database"])
def test_an_empty_split_is_refused(frame, root, split):
    rows = frame[frame["split"] != split].assign(dog=True, cat=True, also_database=False)
    assert f"splits without a labelled row: '{split}'" in refused(rows, root)


def test_a_split_of_unlabelled_rows_only_is_refused(frame, root):
    frame.loc[2, "dog"] = False
    assert "splits without a labelled row: 'query'" in refused(frame, root)


def test_a_database_of_training_rows_alone_is_a_database(frame, root):
    frame.loc[frame["split"] == "database", "split"] = "train"
    frame["also_database"] = frame["split"] == "train"
    checked = manifest.check(frame, root, reader="folder")
    assert manifest.database_rows(checked).tolist() == manifest.training_rows(checked).tolist()


def test_an_unknown_split_is_refused(frame, root):
    frame.loc[3, "split"] = "test"
    assert "splits 'test'; known: train, query, database" in refused(frame, root)


def test_only_training_rows_are_searched_too(frame, root):
    frame.loc[2, "also_database"] = True
    assert "not 'im2'" in refused(frame, root)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda rows: rows.drop(columns="path"), "columns 'path' are missing"),
        (lambda rows: rows.assign(dog=rows["dog"].astype(int)), "columns 'dog' are not bool"),
        (lambda rows: rows.assign(also_database=1), "columns 'also_database' are not bool"),
        (lambda rows: rows.assign(image=range(6)), "column 'image' holds 0, 1, 2, 3, 4 and 1 more"),
        (lambda rows: rows.assign(path=""), "column 'path' holds ''"),
        (lambda rows: rows.assign(split=None), "column 'split' holds"),
        (
            lambda rows: pd.concat([rows, rows[["dog"]]], axis=1),
            "columns 'dog' stand twice",
        ),
    ],
)
def test_another_form_is_refused(frame, root, change, text):
    assert text in refused(change(frame), root)


def test_a_missing_a_foreign_and_a_broken_file_are_refused(frame, tmp_path):
    with pytest.raises(InputError, match="no such file; run `dvc repro`"):
        manifest.read(tmp_path / "none.parquet")
    (tmp_path / "text.parquet").write_text("text")
    with pytest.raises(InputError, match=r"text.parquet: not a Parquet file .* run `dvc repro`"):
        manifest.read(tmp_path / "text.parquet")
    frame.to_parquet(tmp_path / "unchecked.parquet")
    with pytest.raises(InputError, match="columns 'sha256' are missing"):
        manifest.read(tmp_path / "unchecked.parquet")


def test_repeats_come_once_each_in_order_of_their_second_occurrence():
    assert manifest.repeats(["a", "b", "c", "b", "a", "b"]) == ["b", "a"]
    assert manifest.repeats(["a", "b"]) == []


def test_splits_are_read_without_pandas_and_give_the_same_rows(tmp_path):
    frame = pd.DataFrame(
        {
            "image": list("abcd"),
            "path": list("abcd"),
            "split": ["train", "query", "database", "train"],
            "also_database": [True, False, False, False],
            "sha256": list("abcd"),
            "sky": [True] * 4,
        }
    )
    path = tmp_path / "manifest.parquet"
    manifest.write(frame, path)
    splits = manifest.read_splits(path)
    for rows in (manifest.training_rows, manifest.query_rows, manifest.database_rows):
        assert rows(splits).tolist() == rows(frame).tolist()
    path.write_bytes(b"no parquet")
    with pytest.raises(InputError, match="not a manifest"):
        manifest.read_splits(path)
    path.unlink()
    with pytest.raises(InputError, match="no such file"):
        manifest.read_splits(path)
