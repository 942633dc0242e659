"""What holds of every reader: a new one is tested by what stands here, given a small collection."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from isdh import manifest
from isdh.datasets import READERS, options
from isdh.errors import InputError
from tests.datasets.layouts import BARE, MAKE

pytestmark = pytest.mark.parametrize("reader", list(READERS))


@pytest.fixture
def root(reader: str, tmp_path: Path) -> Path:
    MAKE[reader](tmp_path / "raw")
    return tmp_path / "raw"


def read(reader: str, root: Path, **choices) -> pd.DataFrame:
    choices = {"train": 8, "query": 5, **choices}
    return READERS[reader].read(root, options({"reader": reader, **choices}, where="source"))


def with_lists(reader: str, root: Path, **choices) -> pd.DataFrame:
    source = {"reader": reader, "lists": "lists", **choices}
    return READERS[reader].read(root, options(source, where="source"))


def write_lists(root: Path, **parts: list[str]) -> None:
    (root / "lists").mkdir(exist_ok=True)
    for part in manifest.SPLITS:
        (root / "lists" / f"{part}.txt").write_text("\n".join(parts[part]))


def test_what_is_read_is_a_manifest_and_the_same_twice(reader, root, tmp_path):
    for name in ("a", "b"):
        checked = manifest.check(read(reader, root), root, reader=reader)
        manifest.write(checked, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert checked.attrs["reader"] == reader
    assert checked.attrs["unlabelled"] == 1
    assert checked["split"].value_counts()[["train", "query"]].tolist() == [8, 5]
    assert not checked["also_database"].any()


def test_the_seed_changes_the_split_and_nothing_else(reader, root):
    frame, other = read(reader, root), read(reader, root, seed=1)
    assert (frame["split"] != other["split"]).any()
    pd.testing.assert_frame_equal(frame.drop(columns="split"), other.drop(columns="split"))


def test_training_images_may_be_searched_too(reader, root):
    frame = read(reader, root, also_database=True)
    labels = manifest.label_matrix(frame).any(axis=1)
    training = (frame["split"] == "train") & labels
    assert (frame["also_database"] & labels).tolist() == training.tolist()
    assert training.sum() == 8


def test_the_order_of_rows_is_not_the_file_systems(reader, tmp_path):
    MAKE[reader](tmp_path / "raw")
    frame = read(reader, tmp_path / "raw")
    files = {path: path.read_bytes() for path in (tmp_path / "raw").rglob("*") if path.is_file()}
    for path in sorted(files, reverse=True):
        path.unlink()
        path.write_bytes(files[path])
    pd.testing.assert_frame_equal(read(reader, tmp_path / "raw"), frame)


def test_an_empty_folder_is_refused_with_where_to_fetch_the_data(reader, tmp_path):
    with pytest.raises(InputError) as error:
        read(reader, tmp_path)
    assert str(tmp_path) in str(error.value)
    if fetch := getattr(READERS[reader], "FETCH", None):
        assert fetch in str(error.value)
        assert "http" in fetch
        assert any(word in fetch for word in ("terms", "licence", "licensed"))


def test_an_unknown_option_is_refused_with_the_nearest(reader):
    with pytest.raises(InputError, match="unknown key 'trein', did you mean 'train'"):
        options({"reader": reader, "trein": 8, "query": 5}, where="source")


def test_options_are_validated_without_pandas(reader):
    code = (
        "import sys; from isdh.datasets import options\n"
        f"options({{'reader': {reader!r}, 'train': 8, 'query': 5}}, where='source')\n"
        "sys.exit('pandas' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_lists_say_which_image_is_where_and_their_bytes_are_told(reader, root):
    frame = read(reader, root)
    names = frame["path"].tolist()
    del names[BARE]
    write_lists(root, train=names[9:4:-1], query=names[:5], database=names[10:20])
    listed = with_lists(reader, root)
    splits = dict(zip(listed["path"], listed["split"], strict=True))
    expected = {
        **dict.fromkeys(names[5:10], "train"),
        **dict.fromkeys(names[:5], "query"),
        **dict.fromkeys(names[10:20], "database"),
    }
    assert {name: splits[name] for name in expected} == expected
    assert listed.attrs["unlisted"] == len(names) - 20
    assert sorted(listed.attrs["lists"]) == ["database.txt", "query.txt", "train.txt"]
    assert {len(digest) for digest in listed.attrs["lists"].values()} == {64}


def test_metadata_of_lists_are_kept_in_the_manifest_and_change_its_bytes(reader, root, tmp_path):
    names = read(reader, root)["path"].tolist()
    del names[BARE]
    for file, order in (("a", 1), ("b", 1), ("c", -1)):
        write_lists(root, train=names[:8][::order], query=names[8:12], database=names[12:])
        rows = with_lists(reader, root)
        checked = manifest.check(rows, root, reader=reader)
        manifest.write(checked, tmp_path / file)
        again = manifest.read(tmp_path / file)
        assert again.attrs == checked.attrs
        assert again.attrs["lists"] == rows.attrs["lists"]
    content = [(tmp_path / file).read_bytes() for file in "abc"]
    assert content[0] == content[1] != content[2]
    tables = [manifest.read(tmp_path / file).to_numpy() for file in "ac"]
    assert np.array_equal(*tables)


def test_a_list_that_names_an_unknown_image_is_refused(reader, root):
    names = read(reader, root)["path"].tolist()
    write_lists(root, train=names[:2], query=["nowhere/none.jpg"], database=names[5:])
    with pytest.raises(InputError, match=r"query.txt: no image 'nowhere/none.jpg'; remove"):
        with_lists(reader, root)
