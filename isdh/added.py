"""A folder of new pictures -> rows beside the manifest's: added/<dataset>/.

The pictures are copied, named by their sha256; pictures.json lists them in order and is written
last, so that a picture is there as a whole or not at all. Codes lie in a file for each model, by
the sha256 of the pictures: a model that is new to some of them makes those when it is loaded.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from isdh.artifacts import Workspace, locked, read_json, replacing, write_json
from isdh.codes import check_codes
from isdh.encoder import Encoder
from isdh.errors import InputError, first_five
from isdh.manifest import plain
from isdh.store import Progress

TOGETHER = 16  # pictures that are encoded at once
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm"}
FILE = re.compile(r"[0-9a-f]{64}\.[a-z]{3,4}")


@dataclass(frozen=True)
class Added:
    """One picture that was added.

    Attributes:
        image: its id.
        file: the name of its copy.
        sha256: of its bytes.
        labels: those that a person gave it.
    """

    image: str
    file: str
    sha256: str
    labels: tuple[str, ...] = ()


def folder_of(workspace: Workspace, dataset: str) -> Path:
    """Where a dataset's pictures of this kind lie."""
    return workspace.root / "added" / dataset


def listing_of(workspace: Workspace, dataset: str) -> Path:
    """The file that names them."""
    return folder_of(workspace, dataset) / "pictures.json"


def pictures_of(workspace: Workspace, dataset: str) -> Path:
    """The folder of their copies."""
    return folder_of(workspace, dataset) / "files"


def read(workspace: Workspace, dataset: str) -> list[Added]:
    """The pictures that were added, in order; none where nobody added any.

    Raises:
        InputError: the list is damaged.
    """
    path = listing_of(workspace, dataset)
    if not path.exists():
        return []
    try:
        found = [
            Added(**{**each, "labels": tuple(each.get("labels", ()))})
            for each in read_json(path)["pictures"]
        ]
        whole = all(
            plain(each.image)
            and FILE.fullmatch(each.file)
            and each.file.startswith(each.sha256)
            and all(isinstance(label, str) for label in each.labels)
            for each in found
        )
    except (AttributeError, KeyError, TypeError):
        whole = False
    if not whole:
        raise InputError(f"{path}: not a list of added pictures; bring back the last one")
    return found


def codes_of(
    workspace: Workspace,
    dataset: str,
    pictures: Sequence[Added],
    encoder: Encoder,
    *,
    bits: int,
    weights_sha256: str,
    on_progress: Progress = lambda done, total: None,
) -> NDArray[np.uint8]:
    """Codes of added pictures; those that the model has not made yet are made and kept.

    Returns:
        uint8 (N, ceil(bits / 8)).

    Raises:
        InputError: a copy is missing, altered or does not decode.
    """
    width = -(-bits // 8)
    if not pictures:
        return np.zeros((0, width), np.uint8)
    path = folder_of(workspace, dataset) / "codes" / f"{weights_sha256}.npz"
    known = _known(path, bits)
    lacking = [each for each in pictures if each.sha256 not in known]
    if lacking:
        files = pictures_of(workspace, dataset)
        for start in range(0, len(lacking), TOGETHER):
            some = lacking[start : start + TOGETHER]
            codes = encoder.encode([_bytes_of(files, each) for each in some])
            known |= {each.sha256: code for each, code in zip(some, codes, strict=True)}
            on_progress(min(start + TOGETHER, len(lacking)), len(lacking))
        _keep(path, known)
    return np.stack([known[each.sha256] for each in pictures])


def _known(path: Path, bits: int) -> dict[str, NDArray[np.uint8]]:
    """sha256 of a picture -> its code, of what was kept; nothing where that is damaged."""
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            digests, codes, seal = (archive[name] for name in ("digests", "codes", "seal"))
        check_codes(codes, bits)
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        return {}
    if _seal(digests, codes) != seal.tobytes() or len(digests) != len(codes):
        return {}
    return {bytes(d).hex(): code for d, code in zip(digests, codes, strict=True)}


def _keep(path: Path, known: Mapping[str, NDArray[np.uint8]]) -> None:
    digests = np.array([np.frombuffer(bytes.fromhex(each), np.uint8) for each in known])
    codes = np.stack(list(known.values()))
    seal = np.frombuffer(_seal(digests, codes), np.uint8)
    with replacing(path) as stream:
        np.savez(stream, allow_pickle=False, digests=digests, codes=codes, seal=seal)


def _seal(digests: NDArray[np.uint8], codes: NDArray[np.uint8]) -> bytes:
    return hashlib.sha256(digests.tobytes() + codes.tobytes()).digest()


def _bytes_of(files: Path, picture: Added) -> bytes:
    path = files / picture.file
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; add {picture.image} again") from None
    if hashlib.sha256(data).hexdigest() != picture.sha256:
        raise InputError(f"{path}: altered since it was added; add {picture.image} again")
    return data


def add(
    workspace: Workspace,
    dataset: str,
    folder: Path,
    encoder: Encoder,
    *,
    bits: int,
    weights_sha256: str,
    taken: Mapping[str, str],
    labels: Mapping[str, Sequence[str]],
    on_progress: Progress = lambda done, total: None,
) -> tuple[list[Added], int]:
    """Add the pictures of a folder, and of folders in it, in the order of their paths.

    Args:
        workspace: where they are kept.
        dataset: whose collection.
        folder: of pictures; other files are passed over.
        encoder: of the model in use.
        bits: its code length.
        weights_sha256: of its weights.
        taken: id -> sha256 of the manifest's pictures.
        labels: path below the folder -> names; a picture that was added before gets these anew.
        on_progress: called with pictures encoded and in all.

    Returns:
        Those that are new, and how many were there already.

    Raises:
        InputError: no pictures, one that does not decode, or an id that stands for another one.
            Nothing is added then.
    """
    with locked(workspace.state("locks", f"added-{dataset}"), who="isdh encode"):
        before = read(workspace, dataset)
        ids = {**taken, **{each.image: each.sha256 for each in before}}
        digests = set(ids.values())
        new: list[Added] = []
        relabelled: dict[str, tuple[str, ...]] = {}
        there = 0
        files = pictures_of(workspace, dataset)
        for path in _pictures_below(folder):
            data = path.read_bytes()
            digest = hashlib.sha256(data).hexdigest()
            name = path.relative_to(folder).as_posix()
            if digest in digests:
                there += 1
                if name in labels:
                    relabelled[digest] = tuple(labels[name])
                continue
            encoder.pixels(data, name=str(path))
            image = f"{folder.resolve().name}/{name}"
            if image in ids:
                raise InputError(
                    f"{path}: id {image!r} stands for another picture; rename file or folder"
                )
            file = f"{digest}{path.suffix.lower()}"
            new.append(Added(image, file, digest, tuple(labels.get(name, ()))))
            ids[image] = digest
            digests.add(digest)
            with replacing(files / new[-1].file) as stream:
                stream.write(data)
        whole = [
            *(replace(each, labels=relabelled.get(each.sha256, each.labels)) for each in before),
            *new,
        ]
        if whole != before:
            codes_of(
                workspace,
                dataset,
                whole,
                encoder,
                bits=bits,
                weights_sha256=weights_sha256,
                on_progress=on_progress,
            )
            listing = {"pictures": [asdict(each) for each in whole]}
            write_json(listing_of(workspace, dataset), listing)
        return new, there


def _pictures_below(folder: Path) -> Iterator[Path]:
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; name one with pictures")
    found = sorted(
        path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file()
    )
    if not found:
        raise InputError(f"{folder}: no pictures; want files named {first_five(sorted(SUFFIXES))}")
    if odd := [str(path) for path in found if not plain(path.relative_to(folder).as_posix())]:
        raise InputError(f"names that are not plain: {first_five(odd)}; rename them")
    yield from found
