"""MIRFLICKR-25K in its official layout -> the rows of a manifest.

`mirflickr/im<number>.jpg` and `mirflickr25k_annotations_v080/<label>.txt`, one image number a
line. 24 "potential" labels and 14 "relevant" ones (`_r1`), in alphabetical order.
M. J. Huiskes, M. S. Lew: The MIR Flickr Retrieval Evaluation. ACM MIR 2008.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

from isdh.errors import InputError, first_five
from isdh.published import Published, frame

if TYPE_CHECKING:
    import pandas as pd

IMAGES = "mirflickr"
ANNOTATIONS = "mirflickr25k_annotations_v080"
FILES = """
animals baby baby_r1 bird bird_r1 car car_r1 clouds clouds_r1 dog dog_r1 female female_r1 flower
flower_r1 food indoor lake male male_r1 night night_r1 people people_r1 plant_life portrait
portrait_r1 river river_r1 sea sea_r1 sky structures sunset transport tree tree_r1 water
"""
LABELS = FILES.split()
POTENTIAL = [name for name in LABELS if not name.endswith("_r1")]
FETCH = (
    "fetch mirflickr25k.zip and mirflickr25k_annotations_v080.zip of MIRFLICKR-25K (Mark Huiskes "
    "and Michael Lew, LIACS Medialab, Leiden University) from https://press.liacs.nl/mirflickr/ "
    "and unpack the first into that raw root, where it makes mirflickr/, the second into its "
    "folder mirflickr25k_annotations_v080/; the photos are free for research, each under the "
    "Creative Commons licence that its Flickr author chose"
)


class Options(Published):
    """Which labels, and the split: by a protocol, from lists, or drawn."""

    labels: Literal["all", "potential"] = "all"  # 38, or 24 without the `_r1`
    train: int | None = Field(4000, ge=1)  # images drawn for training
    query: int | None = Field(1000, ge=1)  # images drawn as queries; the rest is the database

    @classmethod
    def collection(cls, given: Mapping[str, Any]) -> str:
        """The key in PROTOCOLS."""
        return "mirflickr"


def read(root: Path, options: Options) -> pd.DataFrame:
    """Read images and annotations.

    With lists, images in none of them are left out; `attrs["unlisted"]` counts them.

    Args:
        root: the folder into which both archives were unpacked.
        options: the reader's options.

    Returns:
        The manifest's columns except sha256, in the order of image numbers.

    Raises:
        InputError: a part of the raw data is missing (with where to get it), or a list names
            unknown, repeated or unlabelled images; the first five are named.
    """
    numbers = _image_numbers(root)
    names = [f"im{number}" for number in numbers]
    wanted = LABELS if options.labels == "all" else POTENTIAL
    return frame(
        root,
        options,
        names=names,
        paths=[f"{IMAGES}/{name}.jpg" for name in names],
        labels=_annotations(root, numbers, wanted),
    )


def _image_numbers(root: Path) -> np.ndarray:
    """Numbers of the images that are there: int64 (N,), ascending."""
    stems = [path.stem.removeprefix("im") for path in (root / IMAGES).glob("im*.jpg")]
    numbers = sorted(int(stem) for stem in stems if stem.isdecimal())
    if not numbers:
        raise InputError(f"{root / IMAGES}: no im*.jpg; {FETCH}")
    return np.array(numbers)


def _annotations(root: Path, numbers: np.ndarray, wanted: list[str]) -> dict[str, np.ndarray]:
    """Label -> bool (N,)."""
    folder = root / ANNOTATIONS
    found = {path.stem for path in folder.glob("*.txt")}
    if absent := [name for name in wanted if name not in found]:
        raise InputError(f"{folder}: no annotation file of {first_five(absent)}; {FETCH}")
    labels = {}
    for name in wanted:
        positive = _integers(folder / f"{name}.txt")
        labels[name] = np.isin(numbers, positive)
        if lost := sorted(set(positive) - set(numbers.tolist())):
            paths = [f"{IMAGES}/im{number}.jpg" for number in lost]
            raise InputError(f"{root}: annotated images are missing: {first_five(paths)}; {FETCH}")
    return labels


def _integers(path: Path) -> list[int]:
    try:
        return [int(line) for line in path.read_text(encoding="ascii").split()]
    except ValueError as error:
        raise InputError(f"{path}: want one image number a line ({error}); {FETCH}") from None
