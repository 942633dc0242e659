from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from isdh import manifest, scenes
from isdh.artifacts import sha256
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


def refused_whole(root: Path, text: str, *, files: str = "a b c") -> str:
    """What the stage says of a table beside pictures: the reader, or the manifest's check."""
    for name in files.split():
        (root / name).write_bytes(name.encode())
    (root / "labels.csv").write_text(text)
    with pytest.raises(InputError) as error:
        manifest.check(read(root), root, reader="folder")
    return str(error.value)


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


@pytest.mark.parametrize(
    ("rows", "train", "query"),
    [(3, 1, 1), (5, 2, 1), (100, 50, 10), (5000, 2500, 500), (30_000, 10_000, 1000)],
)
def test_nobody_has_to_say_how_many_are_drawn(tmp_path, rows, train, query):
    lines = "".join(f"{row},dog\n" for row in range(rows))
    counts = written(tmp_path, "path,labels\n" + lines)["split"].value_counts().to_dict()
    assert counts == {"train": train, "query": query, "database": rows - train - query}


@pytest.mark.parametrize(
    ("choices", "train", "query"),
    [
        ({"train": 0.5, "query": 0.1}, 40, 8),
        ({"train": 0.29}, 23, 8),
        ({"query": 7}, 40, 7),
        ({"query": 1e-9}, 40, 1),
    ],
)
def test_shares_are_of_the_labelled_rows_and_each_amount_has_a_default(
    tmp_path, choices, train, query
):
    split = drawn(tmp_path, **choices)["split"]
    assert (split == "train").sum() == train
    assert (split == "query").sum() == query


def test_a_drawn_split_gives_every_label_its_share(tmp_path):
    lines = [f"{row},{'dog;cat' if row % 50 == 0 else 'dog'}\n" for row in range(1000)]
    frame = written(tmp_path, "path,labels\n" + "".join(lines))
    held = frame.loc[frame["cat"], "split"].value_counts().to_dict()
    assert held == {"train": 10, "query": 2, "database": 8}


def test_a_drawn_split_depends_on_rows_and_seed_alone(tmp_path):
    first = drawn(tmp_path, train=40, query=10, seed=3)
    pd.testing.assert_frame_equal(first, drawn(tmp_path, train=40, query=10, seed=3))
    assert (first["split"] != drawn(tmp_path, train=40, query=10, seed=4)["split"]).any()


def test_training_rows_may_be_searched_too(tmp_path):
    frame = drawn(tmp_path, train=40, query=10, also_database=True)
    assert frame["also_database"].tolist() == (frame["split"] == "train").tolist()
    table = "path,split,also_database,labels\na,train,1,dog\nb,train,0,dog\n"
    assert written(tmp_path, table)["also_database"].tolist() == [True, False]


@pytest.mark.parametrize("name", ["split.parquet", "split.csv"])
def test_a_manifest_is_a_table_that_keeps_its_split(tmp_path, name):
    for row in range(100):
        (tmp_path / f"{row}.jpg").write_bytes(bytes([row]))
    first = manifest.check(drawn(tmp_path), tmp_path, reader="folder")
    write = first.to_parquet if name.endswith("parquet") else first.to_csv
    write(tmp_path / name, index=False)
    again = manifest.check(read(tmp_path, table=name), tmp_path, reader="folder")
    pd.testing.assert_frame_equal(again, first)


def test_the_built_in_scenes_are_a_folder_dataset(tmp_path):
    scenes.write(tmp_path, scenes.Scenes(train=8, query=4, database=8))
    frame = manifest.check(read(tmp_path), tmp_path, reader="folder")
    assert frame["split"].value_counts().to_dict() == {"train": 8, "query": 4, "database": 8}
    assert frame.attrs["unlabelled"] == 0


def test_no_table_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"labels.csv: no such table; .*path and labels.*`table:`"):
        read(tmp_path)
    (tmp_path / "labels.parquet").write_text("text")
    with pytest.raises(InputError, match=r"no such table \(there: 'labels.parquet'\); "):
        read(tmp_path)
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
        (TABLE.encode("utf-16-le"), "zero bytes, as in UTF-16, not UTF-8; save it as CSV UTF-8"),
        ('path,labels\na,"dog\n', "not CSV"),
        ("file,split,labels\na,train,dog\n", "no column 'path' or 'image' among 'file', 'split'"),
        ("path,split\na,train\n", "no labels; add a column"),
        ("path,split,labels\na,train,\n", "no labels at all"),
        ("path,split,labels\na,train,split\n", "labels 'split' are column names"),
        ("path,split,labels,hue\na,train,dog,3\n", "columns 'hue' beside 'labels'"),
        ("path,split,dog\na,train,yes\n", "column 'dog' holds 'yes'; want 0 or 1"),
        (
            "path,dog,width\na,1,640\nb,0,500\nc,1,640\n",
            "column 'width' holds '500', '640'; want 0 or 1 in a label's column, as any is but "
            "image, path, split, also_database, labels, sha256; remove it",
        ),
        ("path,split,label\na,train,dog\n", "or name it 'labels' if that is meant"),
        ("path,also_database,labels\na,2,dog\nb,0,dog\nc,0,dog\n", "holds '2'; want 0 or 1"),
        ('path,split,labels\na,train,"dog,cat"\n', "labels 'dog,cat' look like several"),
        ("path,split,labels\na,train,dog|cat\n", "separate them by semicolons, as in cat;dog"),
        ("path,split,dog\na,train,\n", "column 'dog' holds ''; want 0 or 1"),
        ("path,split,labels\na,test,dog\n", "splits 'test'; known: train, query, database"),
        ("path,path,split,labels\na,a,train,dog\n", "a column stands twice"),
        ("path,split,labels\n\na,train,dog,cat\n", "lines 3 have not the 3 fields"),
        ("path,labels\na,dog\nb,\nc,cat\n", "2 rows with a label; a split wants three or more"),
        ("path,labels\n", "no row below the header ['path', 'labels']"),
        ("path,dog,cat\n", "no row below the header"),
        ("path,labels\na,dog\n,dog\n", "column 'path' is empty in rows 2 (1 follows the header)"),
        ("image,path,labels\n,a,dog\n", "column 'image' is empty in rows 1"),
        ("path,labels\nx\\a.jpg,dog\n", "backslashes: 'x\\\\a.jpg'; write forward slashes"),
        ("path,labels\na,dog\n./a,dog\n", "images that stand twice: 'a'; keep one row each"),
        ("image,path,labels\n1,a,dog\n1,b,dog\n", "images that stand twice: '1'"),
    ],
)
def test_another_form_is_refused(tmp_path, table, problem):
    assert problem in refused(tmp_path, table)


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        ("image,path,split,labels\n1,a,train,x\n1,b,train,x\n2,c,query,x\n", "stand twice: '1'"),
        ("path,split,labels\na,train,x\na,query,x\nb,query,x\n", "images in two splits: 'a'"),
        ("image,path,labels\n1,a,x\n2,a,x\n3,b,x\n", "paths under two ids: 'a'"),
        ("path,dog,cat\na,1,0\nb,1,0\nc,1,0\n", "labels that no image has: 'cat'"),
        ("path,labels\na,x\nb,x\n../c,x\n", "not plain: '../c'; a path is relative to"),
        ("path,labels\na,x\nb,x\n/etc/passwd,x\n", "not plain: '/etc/passwd'"),
        ("path,labels\na,x\nb,x\nd,x\n", "no readable file below"),
    ],
)
def test_rows_that_make_no_experiment_are_refused(tmp_path, table, problem):
    assert problem in refused_whole(tmp_path, table)


def test_a_link_out_of_the_folder_is_refused(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "outside").write_bytes(b"picture")
    (root / "c").symlink_to(tmp_path / "outside")
    table = "path,labels\na,x\nb,x\nc,x\n"
    assert "links that lead out of" in refused_whole(root, table, files="a b")


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ({"path": ["a", None], "labels": ["dog", "cat"]}, "column 'path' is empty in rows 2"),
        ({"path": [np.nan, 2.0], "labels": ["dog", "cat"]}, "column 'path' is empty in rows 1"),
        ({"path": ["a", "b"], "dog": [1.0, np.nan]}, "column 'dog' holds 'None'; want 0 or 1"),
        ({"path": ["a", "b"], "labels": [3.5, np.nan]}, "'labels' holds 3.5; want cat;dog or a"),
        ({"path": ["a", "b"], "labels": [["dog", None], ["cat"]]}, "want cat;dog or a list"),
        ({"path": ["a", "b"], "labels": [True, False]}, "'labels' holds True"),
        ({"path": ["a"], "split": [None], "labels": ["x"]}, "splits 'None'; known: train"),
        ({"path": [], "labels": []}, "no row below the header"),
        ({"path": ["x\\a", "b"], "labels": ["dog", "cat"]}, "write forward slashes"),
    ],
)
def test_gaps_in_parquet_are_refused(tmp_path, rows, problem):
    pd.DataFrame(rows).to_parquet(tmp_path / "labels.parquet")
    with pytest.raises(InputError) as error:
        read(tmp_path, table="labels.parquet")
    assert problem in str(error.value)


@pytest.mark.parametrize("labels", [["dog", np.nan, "cat;dog"], [["dog"], None, ["cat", "dog"]]])
def test_a_row_of_parquet_without_labels_is_unlabelled(tmp_path, labels):
    rows = {"path": list("abc"), "split": ["train", "query", "database"], "labels": labels}
    pd.DataFrame(rows).to_parquet(tmp_path / "labels.parquet")
    frame = read(tmp_path, table="labels.parquet")
    assert frame[["cat", "dog"]].to_numpy().tolist() == [[0, 1], [0, 0], [1, 1]]


def test_numbers_of_labels_are_their_names(tmp_path):
    csv = written(tmp_path, "path,split,labels\na,train,7\nb,query,12\n")
    rows = {"path": ["a", "b"], "split": ["train", "query"], "labels": [7, 12]}
    pd.DataFrame(rows).to_parquet(tmp_path / "labels.parquet")
    pd.testing.assert_frame_equal(read(tmp_path, table="labels.parquet"), csv)


def test_names_with_commas_are_labels_where_semicolons_part_them(tmp_path):
    text = 'path,split,labels\na,train,"tench, a fish;water"\nb,query,water\n'
    assert manifest.labels_of(written(tmp_path, text)) == ["tench, a fish", "water"]


def test_spaces_around_fields_and_names_of_columns_are_dropped(tmp_path):
    frame = written(tmp_path, "path , split, labels\n a, train , dog\n")
    assert frame[["path", "split"]].to_numpy().tolist() == [["a", "train"]]


@pytest.mark.parametrize("place", ["../here", "/data/here", "a/../../here"])
@pytest.mark.parametrize("option", ["table", "lists"])
def test_a_table_or_lists_outside_of_the_folder_are_refused(tmp_path, option, place):
    with pytest.raises(InputError, match=rf"{option}='.*': want a path below the folder"):
        read(tmp_path, **{option: place})


def test_a_table_of_another_kind_is_refused(tmp_path):
    assert "ends in .csv or .parquet" in refused(tmp_path, "", "labels.xlsx", table="labels.xlsx")


@pytest.mark.parametrize(
    ("choices", "problem"),
    [
        ({"train": 1, "query": 1}, "remove the options query, train"),
        ({"seed": 1}, "remove the options seed"),
        ({"also_database": True}, "remove the option of that name"),
    ],
)
def test_an_option_that_the_table_answers_is_refused(tmp_path, choices, problem):
    table = "path,split,also_database,labels\na,train,1,dog\n"
    assert problem in refused(tmp_path, table, **choices)


@pytest.mark.parametrize("amount", [0, -3, 0.0, 1.0, 1.5, True, "half", float("nan")])
def test_an_amount_is_a_count_or_a_share(tmp_path, amount):
    with pytest.raises(InputError, match=r"train=.*: want a count, 1 or more, or a share"):
        read(tmp_path, train=amount)


def test_counts_that_leave_no_database_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"train=60, query=20: .* of the 80 labelled rows"):
        drawn(tmp_path, train=60, query=20)
    with pytest.raises(InputError, match=r"train=4000, query=8: .* of the 80 labelled rows"):
        drawn(tmp_path, train=4000)
    with pytest.raises(InputError, match=r"train=40, query=40: "):
        drawn(tmp_path, train=0.5, query=0.5)
    assert np.all(drawn(tmp_path, train=60, query=19)["split"].value_counts() > 0)


LISTED = """image,path,labels
one,a/1.jpg,cat
two,b/1.jpg,dog
three,b/3 0.jpg,cat;dog
one 1,b/3.jpg,cat
five,b/5.jpg,lynx
six,b/6.jpg,
"""


def listed(
    root: Path, table: str = LISTED, *, train="one\n", query="two\n", database="three\n", **choices
) -> pd.DataFrame:
    """Read a table beside lists."""
    (root / "lists").mkdir(exist_ok=True)
    for part, text in (("train", train), ("query", query), ("database", database)):
        (root / "lists" / f"{part}.txt").write_text(text)
    return written(root, table, lists="lists", **choices)


def test_lists_split_by_id_or_path_and_their_bytes_are_told_in_the_manifest(tmp_path):
    frame = listed(tmp_path, train="one 1\n", query="b/1.jpg 0 1\n", database="b/3 0.jpg\none\n")
    assert dict(zip(frame["image"], frame["split"], strict=True)) == {
        "one": "database",  # and not what "one 1" means, with a label behind it
        "two": "query",
        "three": "database",
        "one 1": "train",
        "six": "database",  # without a label: the manifest drops and counts it
    }
    for path in frame["path"]:
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(path.encode())
    manifest.write(manifest.check(frame, tmp_path, reader="folder"), tmp_path / "m.parquet")
    again = manifest.read(tmp_path / "m.parquet")
    assert "six" not in again["image"].tolist()
    assert again.attrs == {
        "lists": {
            f"{part}.txt": sha256(tmp_path / "lists" / f"{part}.txt") for part in manifest.SPLITS
        },
        "unlisted": 1,
        "unlabelled": 1,
        "reader": "folder",
    }


def test_a_label_of_unlisted_images_only_is_none_unless_it_has_a_column(tmp_path):
    assert manifest.labels_of(listed(tmp_path)) == ["cat", "dog"]
    table = "image,cat,dog,lynx\none,1,0,0\ntwo,0,1,0\nthree,1,0,0\nfour,0,0,1\n"
    assert manifest.labels_of(listed(tmp_path, table)) == ["cat", "dog", "lynx"]


def test_listed_training_images_may_be_searched_too(tmp_path):
    frame = listed(tmp_path, database="three\none\n", also_database=True)
    assert frame.loc[frame["also_database"], "image"].tolist() == ["one"]


@pytest.mark.parametrize(
    ("choices", "problem"),
    [
        ({"train": "one\nc/5.jpg\n"}, "train.txt: no image 'c/5.jpg'; remove the lines"),
        ({"query": "three\nb/3\n"}, "query.txt: no image 'b/3'"),
        ({"database": "six\n"}, "database.txt: 'six' without a label"),
        ({"database": "one\n"}, "database.txt: 'one' in another list too"),
        ({"table": LISTED.replace("two,b", "one,b")}, "images that stand twice: 'one'"),
    ],
)
def test_a_list_that_does_not_suit_the_table_is_refused(tmp_path, choices, problem):
    with pytest.raises(InputError) as error:
        listed(tmp_path, **choices)
    assert problem in str(error.value)


def test_lists_beside_another_way_to_split_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"source: lists says it all: remove seed, train"):
        read(tmp_path, lists="lists", train=3, seed=1)
    with pytest.raises(InputError, match=r"has a column 'split'; remove the options lists"):
        listed(tmp_path, "path,split,labels\na,train,dog\n")
    (tmp_path / "labels.csv").write_text(LISTED)
    with pytest.raises(InputError, match=r"train.txt: no such list; want train.txt, query.txt and"):
        read(tmp_path, lists="nowhere")
