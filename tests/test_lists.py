from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from isdh import lists
from isdh.errors import InputError

PATHS = ["a/1.jpg", "a/2.jpg", "b/2.jpg", "a/my cat.jpg", "a/5.jpg", "a/6.jpg", "a/7.jpg"]
NAMES = ["one", "two", "other two", "cat", "five", "six", "seven"]
PARTS = {"train": "one\nfive\n", "query": "six\n", "database": "seven\ncat\n"}


def read(folder: Path, *, also_database: bool = False, **parts: str | bytes) -> lists.Lists:
    for part, text in {**PARTS, **parts}.items():
        content = text if isinstance(text, bytes) else text.encode()
        (folder / f"{part}.txt").write_bytes(content)
    allowed = np.array([name != "two" for name in NAMES])
    return lists.read(
        folder, names=NAMES, paths=PATHS, allowed=allowed, also_database=also_database
    )


def refused(folder: Path, **parts) -> str:
    with pytest.raises(InputError) as error:
        read(folder, **parts)
    return str(error.value)


def test_each_row_is_where_its_list_has_it(tmp_path):
    found = read(tmp_path)
    assert found.split.tolist() == ["train", "", "", "database", "train", "query", "database"]


def test_digests_are_those_of_the_files(tmp_path):
    assert read(tmp_path).sha256 == {
        f"{part}.txt": hashlib.sha256(text.encode()).hexdigest() for part, text in PARTS.items()
    }


@pytest.mark.parametrize(
    "line",
    [
        "one",
        "a/1.jpg",
        "elsewhere\\a\\1.jpg",
        "1.png",
        "1.jpg 0 1 0",
        "1.jpg 1",
        "  one \r",
        "\ufeffone",
    ],
)
def test_an_image_may_be_named_by_id_path_or_file_name_and_labels_are_passed_over(tmp_path, line):
    split = read(tmp_path, train=f"{line}\n\n").split
    assert split.tolist().index("train") == 0


def test_a_file_name_with_spaces_is_one_name(tmp_path):
    assert read(tmp_path, database="seven\nmy cat.jpg\n").split[3] == "database"


def test_an_ambiguous_file_name_is_refused_and_a_path_is_not(tmp_path):
    assert "several images are called '2.jpg'; write the paths" in refused(tmp_path, query="2.jpg")
    assert read(tmp_path, query="b/2.jpg").split[2] == "query"


@pytest.mark.parametrize(
    ("part", "text", "problem"),
    [
        ("query", "six\nnone\nx/none.jpg\n", "query.txt: no image 'none', 'x/none.jpg'; remove"),
        ("query", "six\na/6.jpg\n", "query.txt: 'six' more than once; keep one line each"),
        ("query", "one\n", "query.txt: 'one' in another list too; remove the lines"),
        ("database", "six\n", "database.txt: 'six' in another list too"),
        ("database", "one\nfive\n", "database.txt: 'one', 'five' in another list too"),
        ("database", "two\n", "database.txt: 'two' without a label"),
        ("train", b"\xff\xfe\n", "train.txt: not UTF-8"),
    ],
)
def test_a_wrong_list_is_refused(tmp_path, part, text, problem):
    assert problem in refused(tmp_path, **{part: text})


def test_a_missing_list_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"train.txt: no such list; want train.txt, query.txt and"):
        lists.read(
            tmp_path, names=[], paths=[], allowed=np.zeros(0, dtype=bool), also_database=False
        )


def test_training_images_may_be_searched_all_or_none(tmp_path):
    for database in ("seven\n", "five\nseven\none\n"):
        found = read(tmp_path, also_database=True, database=database)
        assert found.split.tolist() == ["train", "", "", "", "train", "query", "database"]
    text = refused(tmp_path, also_database=True, database="five\nseven\n")
    assert "holds some training images, not 'one'; list all of them or none" in text
    assert "'six' in another" in refused(tmp_path, also_database=True, database="six\none\nfive\n")
