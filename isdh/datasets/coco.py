"""MS-COCO's instances in their official layout -> the rows of a manifest.

`annotations/instances_{train,val}2014.json` and the folders `train2014/` and `val2014/`; the same
for 2017, which has the same images in other parts. 80 categories; an image has a label if an
object or a crowd of the category is annotated in it.
T.-Y. Lin, M. Maire, S. Belongie, et al.: Microsoft COCO: Common Objects in Context. ECCV 2014.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from isdh.errors import InputError, first_five
from isdh.manifest import repeats
from isdh.published import Published, frame, on_disk

if TYPE_CHECKING:
    import pandas as pd

NAMES = """
person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light,
fire hydrant, stop sign, parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant,
bear, zebra, giraffe, backpack, umbrella, handbag, tie, suitcase, frisbee, skis, snowboard,
sports ball, kite, baseball bat, baseball glove, skateboard, surfboard, tennis racket, bottle,
wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange, broccoli, carrot,
hot dog, pizza, donut, cake, chair, couch, potted plant, bed, dining table, toilet, tv, laptop,
mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink, refrigerator, book, clock,
vase, scissors, teddy bear, hair drier, toothbrush
"""
CATEGORIES = [name.strip() for name in NAMES.split(",")]
PARTS = ("train", "val")
# what is read of an instances file; the rest, most of it outlines, is dropped while it is parsed
KEPT = {"images", "annotations", "categories", "id", "file_name", "image_id", "category_id", "name"}
FETCH = (
    "fetch the train and val images and annotations of 2014 or 2017 of MS-COCO (COCO Consortium) "
    "from https://cocodataset.org/#download and unpack them into that raw root, where they make "
    "train<year>/, val<year>/ and annotations/; the annotations are licensed under CC BY 4.0, the "
    "pictures are not the consortium's and are used under Flickr's terms "
    "(https://cocodataset.org/#termsofuse)"
)


class Options(Published):
    """Which year's parts, and the split."""

    year: Literal[2014, 2017] = 2014

    @classmethod
    def collection(cls, given: Mapping[str, Any]) -> str:
        """The key in PROTOCOLS."""
        return "coco"


class Part(NamedTuple):
    """One instances file: ids and pictures of its images, and its annotations."""

    ids: list[int]
    files: list[str]
    labels: np.ndarray  # bool (N, 80), columns as CATEGORIES


def read(root: Path, options: Options) -> pd.DataFrame:
    """Read the images of both parts, train and val; the split has nothing to do with them.

    Args:
        root: the folder of annotations/ and of both folders of pictures.
        options: the reader's options.

    Returns:
        The manifest's columns except sha256: train before val, each in the order of its file.

    Raises:
        InputError: a part is missing or broken, or too few images.
    """
    found = {
        part: _part(root / "annotations" / f"instances_{part}{options.year}.json") for part in PARTS
    }
    if again := repeats([str(image) for part in found.values() for image in part.ids]):
        raise InputError(f"{root}/annotations: image ids {first_five(again)} twice; {FETCH}")
    paths = [f"{name}{options.year}/{file}" for name, part in found.items() for file in part.files]
    matrix = np.concatenate([part.labels for part in found.values()])
    return frame(
        root,
        options,
        names=[file.rpartition(".")[0] or file for part in found.values() for file in part.files],
        paths=paths,
        labels=dict(zip(CATEGORIES, matrix.T, strict=True)),
        present=on_disk(root, paths),
        fetch=FETCH,
    )


def _part(path: Path) -> Part:
    content = _json(path)
    try:
        columns = {entry["id"]: entry["name"] for entry in content["categories"]}
        rows = {entry["id"]: row for row, entry in enumerate(content["images"])}
        ids = [entry["id"] for entry in content["images"]]
        files = [str(entry["file_name"]) for entry in content["images"]]
        pairs = [(entry["image_id"], entry["category_id"]) for entry in content["annotations"]]
        lost = [str(image) for image, _ in pairs if image not in rows]
        foreign = [str(category) for _, category in pairs if category not in columns]
    except (KeyError, TypeError) as error:
        raise InputError(
            f"{path}: not an instances file, {type(error).__name__} {error}; want images, "
            f"annotations and categories; {FETCH}"
        ) from None
    if odd := sorted(set(columns.values()) ^ set(CATEGORIES)):
        raise InputError(
            f"{path}: categories other than COCO's 80: {first_five(odd)}; for categories of your "
            "own write a table and use the reader `folder`"
        )
    for kind, unknown in (("category", foreign), ("image", lost)):
        if unknown:
            odd = sorted(set(unknown))
            raise InputError(
                f"{path}: annotations of unknown {kind} ids {first_five(odd)}; {FETCH}"
            )
    labels = np.zeros((len(ids), len(CATEGORIES)), dtype=bool)
    place = {category: CATEGORIES.index(name) for category, name in columns.items()}
    labels[[rows[image] for image, _ in pairs], [place[category] for _, category in pairs]] = True
    return Part(ids, files, labels)


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise InputError(f"{path}: no such file; {FETCH}")
    try:
        with path.open(encoding="utf-8") as stream:
            content = json.load(stream, object_hook=_slim)
    except (ValueError, RecursionError) as error:  # broken JSON or UTF-8
        raise InputError(f"{path}: not JSON ({error}); {FETCH}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: want a JSON object, found {type(content).__name__}; {FETCH}")
    return content


def _slim(entry: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if key in KEPT}
