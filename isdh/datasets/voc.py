"""PASCAL VOC 2007 and 2012 in their official layout -> the rows of a manifest.

`VOCdevkit/VOC2012/{JPEGImages,Annotations,ImageSets/Main}`: a picture and an XML file for each
image, and lists of image ids. 20 classes; an image has a label if an object of the class is marked
in it.
M. Everingham, L. Van Gool, C. K. I. Williams, J. Winn, A. Zisserman: The PASCAL Visual Object
Classes (VOC) Challenge. IJCV 88(2), 2010.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from xml.etree import ElementTree

import numpy as np

from isdh.errors import InputError, first_five
from isdh.manifest import repeats
from isdh.published import Published, frame, on_disk

if TYPE_CHECKING:
    import pandas as pd

NAMES = """
aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person
pottedplant sheep sofa train tvmonitor
"""
CLASSES = NAMES.split()
MAIN = {2007: ("trainval", "test"), 2012: ("trainval",)}  # lists of all annotated images
IMAGES, ANNOTATIONS, LISTS = "JPEGImages", "Annotations", "ImageSets/Main"
FETCH = (
    "fetch VOCtrainval_11-May-2012.tar, or VOCtrainval_06-Nov-2007.tar and "
    "VOCtest_06-Nov-2007.tar, of the PASCAL Visual Object Classes Challenge (Mark Everingham et "
    "al.) from http://host.robots.ox.ac.uk/pascal/VOC/ and unpack them into that raw root, where "
    "they make VOCdevkit/; the pictures come from Flickr and are used under the terms that the "
    "page of each year states as database rights"
)


class Options(Published):
    """Which year and which of its images, what counts as a label, and the split."""

    year: Literal[2007, 2012] = 2012
    images: Literal["main", "all"] = "main"  # of the lists in ImageSets/Main, or all with an XML
    difficult: bool = False  # objects marked as difficult give their image a label too

    @classmethod
    def collection(cls, given: Mapping[str, Any]) -> str:
        """The key in PROTOCOLS."""
        return f"voc{given.get('year', 2012)}"


def read(root: Path, options: Options) -> pd.DataFrame:
    """Read the lists and annotations of a year.

    Args:
        root: the folder of VOCdevkit, VOCdevkit itself, or the year's folder in it.
        options: the reader's options.

    Returns:
        The manifest's columns except sha256, in the order of the ids.

    Raises:
        InputError: a part is missing or broken, it is another year's, or too few images.
    """
    base = _base(root, options.year)
    if options.images == "all":
        names = sorted(path.stem for path in (base / ANNOTATIONS).glob("*.xml"))
    else:
        names = sorted(name for part in MAIN[options.year] for name in _listed(base, part))
    _check_names(base, names, options.year)
    below = base.relative_to(root).as_posix()
    paths = [f"{below}/{IMAGES}/{name}.jpg".removeprefix("./") for name in names]
    official = None
    if (protocol := options.published) and protocol.rule == "lists":
        official = _official(base, names, protocol.parts)
    return frame(
        root,
        options,
        names=names,
        paths=paths,
        labels=_labels(base, names, difficult=options.difficult),
        official=official,
        present=on_disk(root, paths),
        fetch=FETCH,
    )


def _base(root: Path, year: int) -> Path:
    for base in (root / "VOCdevkit" / f"VOC{year}", root / f"VOC{year}", root):
        if (base / ANNOTATIONS).is_dir():
            return base
    raise InputError(f"{root}: no VOCdevkit/VOC{year}/{ANNOTATIONS}; {FETCH}")


def _listed(base: Path, part: str) -> list[str]:
    """Image ids of one of the lists in ImageSets/Main."""
    path = base / LISTS / f"{part}.txt"
    if not path.is_file():
        raise InputError(f"{path}: no such list; {FETCH}")
    return path.read_text(encoding="utf-8", errors="replace").split()


def _check_names(base: Path, names: list[str], year: int) -> None:
    if not names:
        raise InputError(f"{base}: no images; {FETCH}")
    if again := repeats(names):
        raise InputError(f"{base / LISTS}: {first_five(again)} more than once; {FETCH}")
    # 000005 is an id of 2007, 2008_000008 one of 2012
    if odd := [name for name in names if ("_" in name) != (year == 2012)]:
        raise InputError(f"{base}: image ids {first_five(odd)} are not of year={year}; change it")


def _official(base: Path, names: list[str], parts: Mapping[str, str]) -> np.ndarray:
    """The split by lists of ImageSets/Main: str objects (N,), "" where in none."""
    rows = {name: row for row, name in enumerate(names)}
    split = np.full(len(names), "", dtype=object)
    for part, name in parts.items():
        listed = _listed(base, name)
        if odd := [image for image in listed if image not in rows]:
            raise InputError(
                f"{base / LISTS / name}.txt: {first_five(odd)} are in none of the lists of all "
                f"images; {FETCH}"
            )
        positions = np.array([rows[image] for image in listed], dtype=np.int64)
        if (twice := split[positions] != "").any():
            odd = [image for image, bad in zip(listed, twice, strict=True) if bad]
            raise InputError(f"{base / LISTS / name}.txt: {first_five(odd)} in two lists; {FETCH}")
        split[positions] = part
    return split


def _labels(base: Path, names: list[str], *, difficult: bool) -> dict[str, np.ndarray]:
    """Class -> bool (N,)."""
    files = [base / ANNOTATIONS / f"{name}.xml" for name in names]
    columns = {name: column for column, name in enumerate(CLASSES)}
    matrix = np.zeros((len(names), len(CLASSES)), dtype=bool)
    if lost := [path.name for path in files if not path.is_file()]:
        raise InputError(f"{base / ANNOTATIONS}: no annotation {first_five(lost)}; {FETCH}")
    for row, path in enumerate(files):
        for name in _objects(path, difficult=difficult):
            if name not in columns:
                raise InputError(
                    f"{path}: unknown class {name!r}; the 20 classes: {', '.join(CLASSES)}"
                )
            matrix[row, columns[name]] = True
    return dict(zip(CLASSES, matrix.T, strict=True))


def _objects(path: Path, *, difficult: bool) -> list[str]:
    """Classes of an annotation's objects; their parts, such as heads, are none.

    Read as text and without a DOCTYPE, so no entity can be declared, to grow or to name a file.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        if "<!DOCTYPE" in text:
            raise InputError(f"{path}: has a DOCTYPE, which no annotation needs; {FETCH}")
        tree = ElementTree.fromstring(text)
    except (UnicodeDecodeError, ElementTree.ParseError) as error:
        raise InputError(f"{path}: not XML ({error}); {FETCH}") from None
    if tree.tag != "annotation":
        raise InputError(f"{path}: not an annotation, its root is <{tree.tag}>; {FETCH}")
    return [
        (item.findtext("name") or "").strip()
        for item in tree.iterfind("object")
        if difficult or (item.findtext("difficult") or "0").strip() != "1"
    ]
