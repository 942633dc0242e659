r"""NUS-WIDE in its official layout -> the rows of a manifest.

`ImageList/Imagelist.txt`, a picture a line as `actor\0001_2124494179.jpg`; for each of 81 concepts
`Groundtruth/AllLabels/Labels_<concept>.txt`, 0 or 1 a line, in the same order; the pictures below
`Flickr/`.
T.-S. Chua, J. Tang, R. Hong, H. Li, Z. Luo, Y.-T. Zheng: NUS-WIDE: A Real-World Web Image Database
from National University of Singapore. ACM CIVR 2009.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from isdh.errors import InputError, first_five
from isdh.manifest import repeats
from isdh.published import Published, frame, on_disk

if TYPE_CHECKING:
    import pandas as pd

IMAGES = "Flickr"
LIST = "ImageList/Imagelist.txt"
ANNOTATIONS = "Groundtruth/AllLabels"
NAMES = """
airport animal beach bear birds boats book bridge buildings cars castle cat cityscape clouds
computer coral cow dancing dog earthquake elk fire fish flags flowers food fox frost garden glacier
grass harbor horses house lake leaf map military moon mountain nighttime ocean person plane plants
police protest railroad rainbow reflection road rocks running sand sign sky snow soccer sports
statue street sun sunset surf swimmers tattoo temple tiger tower town toy train tree valley vehicle
water waterfall wedding whales window zebra
"""
MOST = """
sky clouds person water animal grass buildings window plants lake ocean road flowers sunset
reflection rocks vehicle snow tree beach mountain
"""
CONCEPTS = NAMES.split()
FREQUENT = MOST.split()  # the 21 that most images have, in that order
FETCH = (
    "fetch the image list and the ground truth of NUS-WIDE (Tat-Seng Chua et al., Lab for Media "
    "Search, National University of Singapore) from https://lms.comp.nus.edu.sg/wp-content/"
    "uploads/2019/research/nuswide/NUS-WIDE.html and unpack them into that raw root, where they "
    "make ImageList/ and Groundtruth/; the pictures, Flickr/, are given by e-mail to researchers "
    "who send in the Agreement and Disclaimer Form of that page, which states the terms"
)


class Options(Published):
    """Which concepts, the split, and what becomes of pictures that are missing."""

    labels: Literal[21, 81] = 21  # the most frequent concepts, or all
    missing: Literal["refuse", "leave_out"] = "refuse"  # labelled pictures that are not there

    @classmethod
    def collection(cls, given: Mapping[str, Any]) -> str:
        """The key in PROTOCOLS."""
        return "nuswide"


def read(root: Path, options: Options) -> pd.DataFrame:
    """Read the image list and the concepts.

    The columns of 21 concepts stand in the order of their frequency, as in the published lists;
    those of 81 in alphabetical order. `attrs["missing"]` counts the labelled pictures left out.

    Args:
        root: the folder of the three parts.
        options: the reader's options.

    Returns:
        The manifest's columns except sha256, in the order of the image list.

    Raises:
        InputError: a part is missing or broken, the parts differ in length, labelled pictures are
            missing and not to be left out, or too few images.
    """
    names = _image_list(root / LIST)
    labels = _concepts(root, len(names), FREQUENT if options.labels == 21 else CONCEPTS)
    paths = [f"{IMAGES}/{name}" for name in names]
    return frame(
        root,
        options,
        names=names,
        paths=paths,
        labels=labels,
        present=on_disk(root, paths),
        leave_out=options.missing == "leave_out",
        fetch=f"add them, or leave them out with `missing: leave_out`; {FETCH}",
    )


def _image_list(path: Path) -> list[str]:
    """Pictures below Flickr/, with forward slashes; line ends of Windows are passed over."""
    if not path.is_file():
        raise InputError(f"{path}: no such image list; {FETCH}")
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not text ({error}); {FETCH}") from None
    names = [line.strip().replace("\\", "/") for line in lines]
    while names and not names[-1]:
        names.pop()
    if empty := [number for number, name in enumerate(names, 1) if not name]:
        raise InputError(f"{path}: lines {first_five(empty)} are empty; {FETCH}")
    if again := repeats(names):
        raise InputError(f"{path}: {first_five(again)} more than once; {FETCH}")
    return names


def _concepts(root: Path, images: int, wanted: list[str]) -> dict[str, np.ndarray]:
    """Concept -> bool (N,)."""
    folder = root / ANNOTATIONS
    files = {concept: folder / f"Labels_{concept}.txt" for concept in wanted}
    if absent := [path.name for path in files.values() if not path.is_file()]:
        raise InputError(f"{folder}: no label file {first_five(absent)}; {FETCH}")
    labels = {concept: _flags(path) for concept, path in files.items()}
    if uneven := [name for name, flags in labels.items() if len(flags) != images]:
        counts = ", ".join(f"{files[name].name} {len(labels[name])}" for name in uneven[:5])
        raise InputError(
            f"{folder}: {counts} lines, but {LIST} names {images} images; both belong to one "
            f"release and are used as they come; {FETCH}"
        )
    return labels


def _flags(path: Path) -> np.ndarray:
    """0 or 1 a line -> bool (N,)."""
    lines = path.read_bytes().split()
    if odd := sorted(set(lines) - {b"0", b"1"}):
        raise InputError(
            f"{path}: holds {first_five(value.decode(errors='replace') for value in odd)}; want "
            f"0 or 1 a line; {FETCH}"
        )
    flags: np.ndarray = np.array(lines) == b"1"
    return flags
