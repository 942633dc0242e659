"""Small collections in the layout of each reader, invented: the pictures hold a few bytes."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from isdh.datasets import coco, mirflickr, nuswide, voc
from isdh.errors import InputError

IMAGES = 30
BARE = 3  # the image without a label


def labelled(names: Sequence[str], images: int = IMAGES) -> dict[str, np.ndarray]:
    """Label -> bool (N,): each label on some image, each image but one with some label."""
    grid = np.add.outer(np.arange(images) * 7, np.arange(len(names)) * 5)
    matrix = (grid % 11 == 0) | (grid % images == 0)
    for row in np.flatnonzero(~matrix.any(axis=1)):
        matrix[row, row % len(names)] = True
    matrix[BARE + 1] |= matrix[BARE]
    matrix[BARE] = False
    return dict(zip(names, matrix.T, strict=True))


def refusal(read: Callable[..., Any], root: Path, **choices: Any) -> str:
    """What a reader says of a folder that it refuses."""
    with pytest.raises(InputError) as error:
        read(root, **choices)
    return str(error.value)


def picture(path: Path) -> None:
    """A file whose bytes are its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(path.name.encode())


def make_folder(root: Path) -> None:
    """A table and pictures."""
    labels = labelled(["cat", "dog", "sea"])
    lines = ["path,labels"]
    for row in range(IMAGES):
        picture(root / f"{row}.jpg")
        lines.append(f"{row}.jpg,{';'.join(name for name, has in labels.items() if has[row])}")
    (root / "labels.csv").write_text("\n".join(lines))


def make_mirflickr(root: Path) -> None:
    """Both folders of MIRFLICKR-25K."""
    labels = labelled(mirflickr.LABELS)
    (root / mirflickr.ANNOTATIONS).mkdir(parents=True)
    for row in range(IMAGES):
        picture(root / mirflickr.IMAGES / f"im{row + 1}.jpg")
    for name, has in labels.items():
        numbers = "".join(f"{row + 1}\n" for row in np.flatnonzero(has))
        (root / mirflickr.ANNOTATIONS / f"{name}.txt").write_text(numbers)


def nuswide_names(images: int = IMAGES) -> list[str]:
    """Pictures as the image list writes them, in folders of ten."""
    folders = ["actor", "beach", "zoo"]
    return [f"{folders[row // 10 % 3]}\\{row:04d}_{row + 9000}.jpg" for row in range(images)]


def make_nuswide(root: Path, labels: dict[str, np.ndarray] | None = None) -> None:
    """The three parts of NUS-WIDE."""
    others = [name for name in nuswide.CONCEPTS if name not in nuswide.FREQUENT]
    labels = labels or labelled(nuswide.FREQUENT) | labelled(others)
    (root / "ImageList").mkdir(parents=True)
    (root / nuswide.ANNOTATIONS).mkdir(parents=True)
    names = nuswide_names()
    (root / nuswide.LIST).write_bytes("".join(f"{name}\r\n" for name in names).encode())
    for name in names:
        picture(root / "Flickr" / name.replace("\\", "/"))
    for name, has in labels.items():
        lines = "".join(f"{int(value)}\n" for value in has)
        (root / nuswide.ANNOTATIONS / f"Labels_{name}.txt").write_text(lines)


def annotation(name: str, objects: Sequence[tuple[str, bool]]) -> str:
    """An XML file of VOC: class and difficult of each object."""
    marked = "".join(
        f"<object><name>{label}</name><difficult>{int(difficult)}</difficult><bndbox/>"
        "<part><name>head</name></part></object>"
        for label, difficult in objects
    )
    folder = "VOC2012" if "_" in name else "VOC2007"
    text = f"<folder>{folder}</folder><filename>{name}.jpg</filename>"
    return f"<annotation>{text}{marked}</annotation>"


def voc_names(year: int, images: int = IMAGES) -> list[str]:
    """Image ids of a year."""
    return [f"2008_{row:06d}" if year == 2012 else f"{row:06d}" for row in range(images)]


def make_voc(root: Path, year: int = 2012, labels: dict[str, np.ndarray] | None = None) -> None:
    """A year in VOCdevkit; the last five images are in none of the lists of Main."""
    labels = labels or labelled(voc.CLASSES)
    base = root / "VOCdevkit" / f"VOC{year}"
    names = voc_names(year)
    (base / voc.ANNOTATIONS).mkdir(parents=True)
    (base / voc.LISTS).mkdir(parents=True)
    for row, name in enumerate(names):
        picture(base / voc.IMAGES / f"{name}.jpg")
        objects = [(label, False) for label, has in labels.items() if has[row]]
        (base / voc.ANNOTATIONS / f"{name}.xml").write_text(annotation(name, objects))
    parts = {"train": names[:12], "val": names[12:25], "trainval": names[:25]}
    if year == 2007:
        parts |= {"val": names[12:15], "trainval": names[:15], "test": names[15:25]}
    for part, listed in parts.items():
        lines = "".join(f"{name}\n" for name in reversed(listed))
        (base / voc.LISTS / f"{part}.txt").write_text(lines)


def instances(files: Sequence[str], first: int, matrix: np.ndarray) -> dict[str, Any]:
    """An instances file of COCO; category ids have gaps, as there."""
    ids = {name: column * 2 + 1 for column, name in enumerate(coco.CATEGORIES)}
    images = [{"id": first + row, "file_name": name} for row, name in enumerate(files)]
    annotations = [
        {
            "id": 1000 * row + column,
            "image_id": first + row,
            "category_id": ids[coco.CATEGORIES[column]],
            "iscrowd": column % 2,
            "segmentation": {"counts": [1, 2], "size": [3, 4]} if column % 2 else [[1.0, 2.0]],
        }
        for row, column in zip(*(places.tolist() for places in matrix.nonzero()), strict=True)
    ]
    categories = [{"id": number, "name": name} for name, number in ids.items()]
    return {"images": images, "annotations": annotations, "categories": categories}


def make_coco(root: Path, year: int = 2014) -> None:
    """Both parts of a year: 20 images and 10."""
    matrix = np.column_stack(list(labelled(coco.CATEGORIES).values()))
    (root / "annotations").mkdir(parents=True)
    for part, rows in (("train", range(20)), ("val", range(20, IMAGES))):
        stem = f"COCO_{part}2014_" if year == 2014 else ""
        files = [f"{stem}{row:012d}.jpg" for row in rows]
        for name in files:
            picture(root / f"{part}{year}" / name)
        content = instances(files, rows[0], matrix[rows])
        path = root / "annotations" / f"instances_{part}{year}.json"
        path.write_text(json.dumps(content))


MAKE: dict[str, Callable[[Path], None]] = {
    "coco": make_coco,
    "folder": make_folder,
    "mirflickr": make_mirflickr,
    "nuswide": make_nuswide,
    "voc": make_voc,
}
