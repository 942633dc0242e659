"""A registered version -> its model and its codes, verified against each other: what is served."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from isdh import manifest, search
from isdh.artifacts import Workspace
from isdh.device import choose_device
from isdh.encoder import Encoder
from isdh.errors import InputError, first_five
from isdh.params import Params
from isdh.search import Source
from isdh.serve import added
from isdh.serve.added import Added
from isdh.serve.collection import ADDED, Collection
from isdh.tracking import InUse

Mark = tuple[object, ...]


@dataclass(frozen=True, eq=False)
class Pair:
    """A model and the collection that it encoded.

    Attributes:
        version: as it is registered.
        encoder: image bytes -> codes.
        collection: what is searched.
        mark: by which it is seen that the files have become others.
    """

    version: InUse
    encoder: Encoder
    collection: Collection
    mark: Mark


def mark(workspace: Workspace, version: InUse) -> Mark:
    """What differs as soon as another pair would be loaded: the version, and when files changed."""
    cell = version.cell
    files = (
        workspace.codes(cell) / "codes.json",
        workspace.manifest(cell.dataset),
        added.listing_of(workspace, cell.dataset),
    )
    return (version.number, version.weights_sha256, *map(_state, files))


def _state(path: Path) -> tuple[int, ...]:
    try:
        found = path.stat()
    except OSError:
        return ()
    return (found.st_mtime_ns, found.st_size, found.st_ino)


def load(workspace: Workspace, params: Params, version: InUse) -> Pair:
    """Read a version's model, the codes it made and the pictures that were added.

    Raises:
        InputError: files are missing or altered, codes were made by another model, or of other
            data than the manifest's.
    """
    now = mark(workspace, version)
    source = Source(version.cell, version.weights_sha256, version)
    encoder = search.encoder(workspace, source, choose_device().type)
    return Pair(version, encoder, _collection(workspace, params, source, encoder), now)


def _collection(
    workspace: Workspace, params: Params, source: Source, encoder: Encoder
) -> Collection:
    cell = source.cell
    frame, codes = search.verified(workspace, source)
    names = manifest.labels_of(frame)
    images = frame["image"].tolist()
    new = added.read(workspace, cell.dataset)
    if both := {each.image for each in new}.intersection(images):
        raise InputError(
            f"{added.listing_of(workspace, cell.dataset)}: ids of the manifest: {first_five(both)};"
            " they were added before; remove them there"
        )
    more = added.codes_of(
        workspace,
        cell.dataset,
        new,
        encoder,
        bits=cell.bits,
        weights_sha256=source.weights_sha256,
    )
    raw = workspace.root / params.root(cell.dataset)
    copies = added.pictures_of(workspace, cell.dataset)
    return Collection.of(
        cell.bits,
        images=[*images, *(each.image for each in new)],
        files=[*(raw / path for path in frame["path"]), *(copies / each.file for each in new)],
        splits=[*frame["split"].tolist(), *(ADDED for _ in new)],
        label_names=names,
        labels=np.vstack([manifest.label_matrix(frame), np.zeros((len(new), len(names)), bool)]),
        codes=np.vstack([codes, more]),
        searched=np.concatenate(
            [manifest.database_rows(frame), len(frame) + np.arange(len(new), dtype=np.int64)]
        ),
    )


def add_folder(
    workspace: Workspace,
    pair: Pair,
    folder: Path,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[list[Added], int]:
    """Add a folder's pictures to a pair's collection; a service that runs shows them soon.

    Returns:
        Those that are new, and how many were there already.

    Raises:
        InputError: as in `added.add`.
    """
    cell = pair.version.cell
    frame = manifest.read(workspace.manifest(cell.dataset))
    taken: Mapping[str, str] = dict(zip(frame["image"], frame["sha256"], strict=True))
    return added.add(
        workspace,
        cell.dataset,
        folder,
        pair.encoder,
        bits=cell.bits,
        weights_sha256=pair.version.weights_sha256,
        taken=taken,
        on_progress=on_progress,
    )
