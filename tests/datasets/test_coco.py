from __future__ import annotations

import json
import os
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from isdh import manifest
from isdh.datasets import READERS, options
from isdh.datasets.coco import CATEGORIES
from isdh.errors import InputError
from tests.datasets.layouts import BARE, instances, labelled, make_coco, refusal


def read(root: Path, **choices) -> pd.DataFrame:
    choices = {"train": 8, "query": 5, **choices}
    return READERS["coco"].read(root, options({"reader": "coco", **choices}, where="source"))


refused = partial(refusal, read)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    make_coco(tmp_path)
    return tmp_path


def change(root: Path, part: str = "val"):
    """The content of an instances file, written back when the block ends."""
    path = root / "annotations" / f"instances_{part}2014.json"

    class Content:
        def __enter__(self) -> dict:
            self.content = json.loads(path.read_text())
            return self.content

        def __exit__(self, *_) -> None:
            path.write_text(json.dumps(self.content))

    return Content()


def test_there_are_80_categories():
    assert len(set(CATEGORIES)) == 80
    assert CATEGORIES[0] == "person"
    assert CATEGORIES[9] == "traffic light"
    assert CATEGORIES[79] == "toothbrush"


def test_rows_are_the_images_of_train_then_val_with_the_labels_of_their_annotations(root):
    frame = read(root)
    assert frame["image"][0] == "COCO_train2014_000000000000"
    assert frame["path"].tolist() == [
        *(f"train2014/COCO_train2014_{row:012d}.jpg" for row in range(20)),
        *(f"val2014/COCO_val2014_{row:012d}.jpg" for row in range(20, 30)),
    ]
    assert manifest.labels_of(frame) == CATEGORIES
    expected = np.column_stack(list(labelled(CATEGORIES).values()))
    assert np.array_equal(manifest.label_matrix(frame), expected)


def test_images_of_2017_are_named_by_their_number(tmp_path):
    make_coco(tmp_path, 2017)
    frame = read(tmp_path, year=2017)
    assert frame["path"][25] == "val2017/000000000025.jpg"
    assert frame["image"][25] == "000000000025"
    assert "no such file" in refused(tmp_path)


def test_an_image_without_annotations_is_an_unlabelled_row(root):
    checked = manifest.check(read(root), root, reader="coco")
    assert checked.attrs["unlabelled"] == 1
    assert f"COCO_train2014_{BARE:012d}" not in set(checked["image"])
    with change(root, "train") as content:
        gone = content["images"][7]["id"]
        content["annotations"] = [a for a in content["annotations"] if a["image_id"] != gone]
    assert manifest.check(read(root), root, reader="coco").attrs["unlabelled"] == 2


def test_the_picture_of_an_unlabelled_image_is_not_needed(root):
    (root / f"train2014/COCO_train2014_{BARE:012d}.jpg").unlink()
    assert len(read(root)) == 30


@pytest.mark.parametrize("part", ["annotations", "train2014", "val2014"])
def test_missing_parts_say_what_to_fetch_from_whom_and_under_which_terms(root, part):
    shutil.rmtree(root / part)
    text = refused(root)
    for words in ("cocodataset.org/#download", "COCO Consortium", "CC BY 4.0", "Flickr's terms"):
        assert words in text


def test_missing_pictures_are_refused_and_named(root):
    (root / "val2014" / "COCO_val2014_000000000021.jpg").unlink()
    text = refused(root)
    assert "1 of the 29 pictures with a label are missing" in text
    assert "'val2014/COCO_val2014_000000000021.jpg'" in text


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ('{"images": [', "not JSON"),
        (b"\xff\xfe{}", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "want a JSON object, found list"),
        ("{}", "not an instances file, KeyError 'categories'"),
        ('{"images": [], "annotations": [], "categories": 3}', "not an instances file"),
        ('{"images": [[]], "annotations": [], "categories": []}', "not an instances file"),
        ('{"images": [], "annotations": [], "categories": []}', "other than COCO's 80"),
    ],
)
def test_a_file_that_is_no_instances_file_is_refused(root, content, problem):
    path = root / "annotations" / "instances_val2014.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    text = refused(root)
    assert "instances_val2014.json: " in text
    assert problem in text


def test_an_id_that_is_no_key_is_refused(root):
    with change(root) as content:
        content["annotations"][0]["image_id"] = [20]
    assert "not an instances file, TypeError" in refused(root)


def test_unknown_category_ids_are_refused(root):
    with change(root) as content:
        content["annotations"][3]["category_id"] = 92
    assert "annotations of unknown category ids '92'" in refused(root)


def test_annotations_of_unknown_images_are_refused(root):
    with change(root) as content:
        content["annotations"][3]["image_id"] = 777
    assert "annotations of unknown image ids '777'" in refused(root)


def test_another_set_of_categories_is_refused(root):
    with change(root) as content:
        content["categories"][4]["name"] = "unicorn"
    text = refused(root)
    assert "other than COCO's 80: 'airplane', 'unicorn'" in text
    assert "reader `folder`" in text


@pytest.mark.parametrize("part", ["train", "val"])
def test_an_image_id_that_stands_twice_is_refused(root, part):
    """In one file, or in both."""
    with change(root) as content:
        taken = {"train": 0, "val": 20}[part]
        content["images"].append({"id": taken, "file_name": "again.jpg"})
    assert f"image ids '{taken}' twice" in refused(root)


def test_a_picture_outside_the_root_is_refused(root):
    with change(root) as content:
        content["images"][0]["file_name"] = "../../outside.jpg"
    (root.parent / "outside.jpg").write_bytes(b"outside")
    with pytest.raises(InputError, match="paths that are not plain"):
        manifest.check(read(root), root, reader="coco")


def test_no_protocol_is_known_and_what_to_say_instead_is_said(root):
    text = refused(root, protocol="deephash")
    assert "protocol='deephash': none is known for coco; give train, query and" in text


def test_real_labels_of_15000_images_come_back_with_their_published_lists(tmp_path):
    """DeepHash-pytorch's training and query lists; its columns are in alphabetical order."""
    if "ISDH_TEST_DATA" not in os.environ:
        pytest.skip("ISDH_TEST_DATA names no folder with the label matrices of COCO")
    packed = np.load(Path(os.environ["ISDH_TEST_DATA"]) / "data" / "deephash_splits.npz")
    lists = {"train": packed["coco.train.names"], "query": packed["coco.test.names"]}
    bits = np.concatenate([packed["coco.train.labels"], packed["coco.test.labels"]])
    columns = [sorted(CATEGORIES).index(name) for name in CATEGORIES]
    matrix = np.unpackbits(bits, axis=1)[:, :80].astype(bool)[:, columns]
    paths = np.concatenate(list(lists.values()))
    (tmp_path / "annotations").mkdir()
    for part, first in (("train", 0), ("val", 100_000)):
        rows = np.flatnonzero(np.char.startswith(paths, part))
        (tmp_path / f"{part}2014").mkdir()
        files = [path.partition("/")[2] for path in paths[rows].tolist()]
        content = json.dumps(instances(files, first, matrix[rows]))
        (tmp_path / "annotations" / f"instances_{part}2014.json").write_text(content)
    for path in paths.tolist():
        (tmp_path / path).touch()
    (tmp_path / "lists").mkdir()
    database = lists["train"][:100]
    for part, names in {**lists, "train": lists["train"][100:], "database": database}.items():
        (tmp_path / "lists" / f"{part}.txt").write_text("\n".join(names.tolist()))
    source = {"reader": "coco", "lists": "lists"}
    frame = READERS["coco"].read(tmp_path, options(source, where="source"))
    checked = manifest.check(frame, tmp_path, reader="coco")
    assert checked.attrs["unlabelled"] == checked.attrs["unlisted"] == 0
    expected = dict(zip(paths.tolist(), matrix, strict=True))
    rows = np.array([expected[path] for path in checked["path"]])
    assert np.array_equal(manifest.label_matrix(checked), rows)
    assert checked["person"].sum() == 8_188
    assert set(checked.loc[manifest.query_rows(checked), "path"]) == set(lists["query"].tolist())
