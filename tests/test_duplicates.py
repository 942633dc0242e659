"""Copies across splits: found where they were planted, whatever became of them, and only there."""

from __future__ import annotations

from itertools import product

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageEnhance, ImageOps

from isdh import duplicates
from isdh.duplicates import ACROSS, ALIKE, NEAR, SIDE, find, likeness, perceptual_hashes
from isdh.images import decode
from tests.pictures import saved, scene


def small(*files: bytes) -> np.ndarray:
    return np.array([decode(data, size=SIDE, channels=1)[..., 0] for data in files])


def rows(*splits: str, contents: list[int] | None = None) -> pd.DataFrame:
    """A manifest of pictures 0, 1, ...; "both" is trained on and searched."""
    contents = list(range(len(splits))) if contents is None else contents
    return pd.DataFrame(
        {
            "image": [f"im{row}" for row in range(len(splits))],
            "split": ["train" if split == "both" else split for split in splits],
            "also_database": [split == "both" for split in splits],
            "sha256": [f"{content:064x}" for content in contents],
        }
    )


def cut(picture: Image.Image, share: float) -> Image.Image:
    left, top = round(share / 2 * picture.width), round(share / 2 * picture.height)
    return picture.crop((left, top, picture.width - left, picture.height - top))


COPIES = {
    "compressed harder": lambda picture: saved(picture, quality=40),
    "another format": lambda picture: saved(picture, format="PNG"),
    "half the size": lambda picture: saved(picture.reduce(2)),
    "twice the size": lambda picture: saved(picture.resize((2 * picture.width, 300))),
    "squeezed": lambda picture: saved(picture.resize((70, 110))),
    "darker": lambda picture: saved(ImageEnhance.Brightness(picture).enhance(0.75)),
    "brighter": lambda picture: saved(ImageEnhance.Brightness(picture).enhance(1.15)),
    "less contrast": lambda picture: saved(ImageEnhance.Contrast(picture).enhance(0.7)),
    "without colour": lambda picture: saved(picture.convert("L")),
    "cut by 2 %": lambda picture: saved(cut(picture, 0.02)),
}


@pytest.mark.parametrize("change", COPIES.values(), ids=COPIES)
def test_a_changed_copy_of_every_query_is_found_in_the_database(change):
    pictures = [scene(seed) for seed in range(20)]
    files = [saved(picture) for picture in pictures] + [change(picture) for picture in pictures]
    frame = rows(*["query"] * 20, *["database"] * 20)
    found = find(frame, small(*files))["near"][0]
    assert (found["split"], found["other"]) == ("query", "database")
    assert (found["rows"], found["pairs"]) == (20, 20)
    assert all(int(copy[2:]) == int(image[2:]) + 20 for image, copy, _ in found["examples"])
    assert all(alike >= ALIKE for *_, alike in found["examples"])


def test_different_pictures_are_no_copies():
    files = [saved(scene(seed)) for seed in range(120)]
    found = find(rows(*["query", "database", "train"] * 40), small(*files))
    assert [each["rows"] for each in found["near"]] == [0, 0, 0]


@pytest.mark.parametrize("change", [ImageOps.mirror, lambda picture: cut(picture, 0.3)])
def test_a_mirrored_or_much_cut_picture_is_not_called_a_copy(change):
    pictures = [scene(seed) for seed in range(10)]
    files = [saved(picture) for picture in pictures] + [saved(change(p)) for p in pictures]
    found = find(rows(*["query"] * 10, *["database"] * 10), small(*files))["near"][0]
    assert found["rows"] == 0


def test_pictures_with_one_hash_but_other_shapes_are_no_copies(monkeypatch):
    """Hashes alone take some pictures for one another: likeness decides."""
    files = [saved(scene(seed)) for seed in range(6)]
    monkeypatch.setattr(duplicates, "perceptual_hashes", lambda small: np.zeros(6, np.uint64))
    found = find(rows(*["query", "database"] * 3), small(*files))["near"][0]
    assert found["rows"] == 0


def test_pictures_of_one_colour_are_no_near_copies_of_one_another():
    files = [saved(Image.new("RGB", (40, 40), colour)) for colour in ("white", "navy", "grey")]
    found = find(rows("query", "database", "train"), small(*files))
    assert [each["rows"] for each in found["near"]] == [0, 0, 0]


def test_888_of_1000_queries_in_the_database_are_counted_by_content_whatever_their_ids():
    contents = [*range(1000), *range(888), *range(5000, 6000)]
    frame = rows(*["query"] * 1000, *["database"] * 1888, contents=contents)
    exact = find(frame)["exact"][0]
    assert exact == {
        "split": "query",
        "other": "database",
        "rows": 888,
        "pairs": 888,
        "examples": [[f"im{row}", f"im{1000 + row}", 1.0] for row in range(5)],
    }


def test_a_searched_training_row_is_both_in_the_database_and_in_the_training_rows():
    frame = rows("query", "both", "train", contents=[7, 7, 7])
    counts = {
        (each["split"], each["other"]): (each["rows"], each["pairs"])
        for each in find(frame)["exact"]
    }
    assert counts == {
        ("query", "database"): (1, 1),
        ("query", "train"): (1, 2),
        ("train", "database"): (0, 0),  # the row is in the database by its protocol
    }


def test_files_that_repeat_within_a_split_are_counted():
    frame = rows(*["train"] * 4, *["query"] * 2, "database", contents=[1, 1, 1, 2, 3, 4, 5])
    assert find(frame)["repeated"] == {"train": 2, "query": 0, "database": 0}


def test_without_pictures_near_copies_are_not_told():
    assert find(rows("query", "database"))["near"] is None


def slow(frame: pd.DataFrame, pictures: np.ndarray) -> dict[tuple[str, str, str], tuple]:
    """Rows and pairs of copies, a pair at a time."""
    hashes = [int(value) for value in perceptual_hashes(pictures)]
    counts = {}
    for kind, (split, other) in product(("exact", "near"), ACROSS):
        copied, pairs, best = set(), 0, []
        for a, b in product(range(len(frame)), repeat=2):
            here, there = frame.iloc[a], frame.iloc[b]
            searched = there["split"] == "database" or there["also_database"]
            beside = searched if (split, other) == ACROSS[0] else there["split"] == other
            if here["split"] != split or not beside:
                continue
            same = here["sha256"] == there["sha256"]
            x, y = pictures[a].astype(float).ravel(), pictures[b].astype(float).ravel()
            alike = np.corrcoef(x, y)[0, 1]
            near = (hashes[a] ^ hashes[b]).bit_count() <= NEAR and alike >= ALIKE and not same
            if near if kind == "near" else same:
                copied.add(a)
                pairs += 1
                best.append(alike)
        counts[kind, split, other] = len(copied), pairs, sorted(best)[::-1][:5]
    return counts


@pytest.mark.parametrize(("block", "compared"), [(1, 1), (40, 3), (1 << 22, 1 << 14)])
def test_counts_equal_those_of_a_pair_at_a_time_whatever_the_block(monkeypatch, block, compared):
    monkeypatch.setattr(duplicates, "BLOCK", block)
    monkeypatch.setattr(duplicates, "COMPARED", compared)
    rng = np.random.default_rng(0)
    originals = [scene(seed) for seed in range(8)]
    contents = rng.integers(24, size=60)  # each of 8 scenes in 3 forms, and each form repeated
    forms = [
        [saved(picture), saved(picture, quality=30), saved(picture.reduce(2))]
        for picture in originals
    ]
    files = small(*[forms[content % 8][content // 8] for content in contents])
    frame = rows(
        *rng.choice(["query", "database", "train", "both"], size=60).tolist(),
        contents=contents.tolist(),
    )
    found, wanted = find(frame, files), slow(frame, files)
    for kind in ("exact", "near"):
        for each in found[kind]:
            copied, pairs, _ = wanted[kind, each["split"], each["other"]]
            assert (each["rows"], each["pairs"]) == (copied, pairs)
            assert pairs > 5
            assert len({tuple(example[:2]) for example in each["examples"]}) == 5
    # each content stands for all rows that have it, so the same likeness may come once there
    best = wanted["near", "query", "database"][2][0]
    assert found["near"][0]["examples"][0][2] == round(best, 3)


def test_likeness_is_the_correlation_and_0_beside_one_colour():
    rng = np.random.default_rng(1)
    first, second = rng.integers(256, size=(2, 50, SIDE, SIDE), dtype=np.uint8)
    second[::2] = first[::2] // 3 + 40
    second[0] = 255
    pairs = zip(first[1:], second[1:], strict=True)
    wanted = [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in pairs]
    found = likeness(first, second)
    assert found[0] == 0
    np.testing.assert_allclose(found[1:], wanted, atol=1e-12)


def test_no_row_on_either_side_has_no_copies():
    frame = rows("train", "train")
    found = find(frame, np.zeros((2, SIDE, SIDE), np.uint8))
    assert [each["rows"] for each in (*found["exact"], *found["near"])] == [0] * 6
