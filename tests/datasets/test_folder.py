from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from isdh import manifest, scenes
from isdh.datasets import READERS, options
from isdh.errors import InputError

TABLE = """path,split,labels
a.jpg,train,cat;dog
b.jpg,query,dog
sub/c.jpg,database, fish ; cat;
d.jpg,database,
"""


def read(root: Path, **choices) -> pd.DataFrame:
    source = {"reader": "folder", **choices}
    return READERS["folder"].read(root, options(source, where="source"))


def refused(root: Path, text: str | bytes, name: str = "labels.csv", **choices) -> str:
    (root / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError) as error:
        read(root, **choices)
    return str(error.value)


def written(root: Path, text: str, **choices) -> pd.DataFrame:
    (root / "labels.csv").write_text(text)
    return read(root, **choices)


def test_lists_of_labels_become_sorted_columns(tmp_path):
    frame = written(tmp_path, TABLE)
    assert frame.columns.tolist() == (
        ["image", "path", "split", "also_database", "cat", "dog", "fish"]
    )
    assert frame["image"].tolist() == ["a.jpg", "b.jpg", "sub/c.jpg", "d.jpg"]
    assert frame["path"].tolist() == frame["image"].tolist()
    assert frame[["cat", "dog", "fish"]].to_numpy().tolist() == (
        [[1, 1, 0], [0, 1, 0], [1, 0, 1], [0, 0, 0]]
    )
    assert not frame["also_database"].any()


def test_columns_of_0_and_1_keep_their_order(tmp_path):
    frame = written(tmp_path, "image,split,dog,cat\na,train,1,0\nb,query,0,1\n")
    assert manifest.labels_of(frame) == ["dog", "cat"]
    assert frame[["dog", "cat"]].to_numpy().tolist() == [[1, 0], [0, 1]]
    assert frame["path"].tolist() == ["a", "b"]


def test_an_id_may_stand_beside_the_path(tmp_path):
    frame = written(tmp_path, "image,path,split,labels\n7,./x//y.jpg,train,dog\n")
    assert frame["image"].tolist() == ["7"]
    assert frame["path"].tolist() == ["x/y.jpg"]


def test_a_byte_order_mark_and_windows_lines_are_read(tmp_path):
    (tmp_path / "labels.csv").write_bytes(b"\xef\xbb\xbf" + TABLE.replace("\n", "\r\n").encode())
    assert read(tmp_path)["split"].tolist() == ["train", "query", "database", "database"]


@pytest.mark.parametrize("kind", [bool, int, float])
def test_a_parquet_table_equals_its_csv(tmp_path, kind):
    csv = written(tmp_path, "path,split,dog,cat\na,train,1,0\nb,query,0,1\n")
    frame = csv.drop(columns=["also_database", "image"])
    frame[["dog", "cat"]] = frame[["dog", "cat"]].astype(kind)
    frame.to_parquet(tmp_path / "labels.parquet")
    pd.testing.assert_frame_equal(read(tmp_path, table="labels.parquet"), csv)


def test_lists_of_labels_in_parquet_are_read(tmp_path):
    rows = {"path": ["a", "b"], "split": ["train", "query"], "labels": [["dog", "cat"], None]}
    pd.DataFrame(rows).to_parquet(tmp_path / "labels.parquet")
    frame = read(tmp_path, table="labels.parquet")
    assert frame[["cat", "dog"]].to_numpy().tolist() == [[1, 1], [0, 0]]


def drawn(root: Path, **choices) -> pd.DataFrame:
    lines = [f"{row}.jpg,{'dog' if row % 5 else ''}" for row in range(100)]
    return written(root, "\n".join(["path,labels", *lines]), **choices)


def test_a_drawn_split_has_the_counts_asked_for_among_labelled_rows(tmp_path):
    frame = drawn(tmp_path, train=40, query=10)
    assert frame.loc[frame["dog"], "split"].value_counts().to_dict() == (
        {"train": 40, "query": 10, "database": 30}
    )
    assert set(frame.loc[~frame["dog"], "split"]) == {"database"}


def test_a_drawn_split_depends_on_rows_and_seed_alone(tmp_path):
    first = drawn(tmp_path, train=40, query=10, seed=3)
    pd.testing.assert_frame_equal(first, drawn(tmp_path, train=40, query=10, seed=3))
    assert (first["split"] != drawn(tmp_path, train=40, query=10, seed=4)["split"]).any()


def test_training_rows_may_be_searched_too(tmp_path):
    frame = drawn(tmp_path, train=40, query=10, also_database=True)
    assert frame["also_database"].tolist() == (frame["split"] == "train").tolist()
    table = "path,split,also_database,labels\na,train,1,dog\nb,train,0,dog\n"
    assert written(tmp_path, table)["also_database"].tolist() == [True, False]


def test_the_built_in_scenes_are_a_folder_dataset(tmp_path):
    scenes.write(tmp_path, scenes.Scenes(train=8, query=4, database=8))
    frame = manifest.check(read(tmp_path), tmp_path, reader="folder")
    assert frame["split"].value_counts().to_dict() == {"train": 8, "query": 4, "database": 8}
    assert frame.attrs["unlabelled"] == 0


def test_no_table_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"labels.csv: no such table; .*`table:`"):
        read(tmp_path)
    (tmp_path / "labels.parquet").write_text("text")
    with pytest.raises(InputError, match=r"labels.parquet: not a Parquet file"):
        read(tmp_path, table="labels.parquet")


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        (TABLE.replace(";", "/").replace(",", ";"), "separated by commas, not semicolons"),
        (TABLE.replace(",", "\t"), "separated by commas"),
        ("", "one column"),
        ("é,labels\n".encode("latin-1"), "not UTF-8"),
        (TABLE.encode("utf-16"), "not UTF-8"),
        ('path,labels\na,"dog\n', "not CSV"),
        ("file,split,labels\na,train,dog\n", "no column 'path' or 'image' among 'file', 'split'"),
        ("path,split\na,train\n", "no labels; add a column"),
        ("path,split,labels\na,train,\n", "no labels at all"),
        ("path,split,labels\na,train,split\n", "labels 'split' are column names"),
        ("path,split,labels,hue\na,train,dog,3\n", "columns 'hue' beside 'labels'"),
        ("path,split,dog\na,train,yes\n", "column 'dog' holds 'yes'; want 0 or 1"),
        ("path,split,dog\na,train,\n", "column 'dog' holds ''; want 0 or 1"),
        ("path,split,labels\na,test,dog\n", "splits 'test'; known: train, query, database"),
        ("path,path,split,labels\na,a,train,dog\n", "a column stands twice"),
        ("path,split,labels\n\na,train,dog,cat\n", "lines 3 have not the 3 fields"),
        ("path,labels\na,dog\n", "no column 'split'; add it, or the options train and query"),
    ],
)
def test_another_form_is_refused(tmp_path, table, problem):
    assert problem in refused(tmp_path, table)


def test_a_table_of_another_kind_is_refused(tmp_path):
    assert "ends in .csv or .parquet" in refused(tmp_path, "", "labels.xlsx", table="labels.xlsx")


@pytest.mark.parametrize(
    ("choices", "problem"),
    [
        ({"train": 1, "query": 1}, "remove the options train and query"),
        ({"also_database": True}, "remove the option of that name"),
    ],
)
def test_an_option_that_the_table_answers_is_refused(tmp_path, choices, problem):
    table = "path,split,also_database,labels\na,train,1,dog\n"
    assert problem in refused(tmp_path, table, **choices)


def test_one_count_without_the_other_is_refused(tmp_path):
    with pytest.raises(InputError, match="train and query go together"):
        read(tmp_path, train=4)


def test_counts_that_leave_no_database_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"train=60, query=20: .* of the 80 labelled rows"):
        drawn(tmp_path, train=60, query=20)
    assert np.all(drawn(tmp_path, train=60, query=19)["split"].value_counts() > 0)
