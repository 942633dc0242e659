"""A dataset, a version or a folder -> a model and the collection that it answers from.

A model searches codes that its own weights made, of the data that is here now: those of its cell,
or, where that has been trained again or data is newer, codes that it makes for this (encoded.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from isdh import added, encoded, manifest, tracking
from isdh.added import Added
from isdh.artifacts import REMAKE, Cell, Workspace, read_codes, read_json
from isdh.collection import ADDED, Collection
from isdh.datasets import folder as table
from isdh.device import choose_device
from isdh.encoder import Encoder
from isdh.errors import InputError, first_five, unknown
from isdh.store import Progress
from isdh.tracking.evaluation import inputs_are_stale, is_stale
from isdh.tracking.provenance import read_lock

if TYPE_CHECKING:
    import pandas as pd

    from isdh.params import Params
    from isdh.tracking import InUse


@dataclass(frozen=True)
class Source:
    """A model, by what it is known, and the cell whose codes it made.

    Attributes:
        cell: whose codes are searched.
        weights_sha256: of the model, and of the model that made the codes.
        version: as it is registered; None: the model lies in a folder.
        folder: that folder; None: it is registered.
    """

    cell: Cell
    weights_sha256: str
    version: InUse | None = None
    folder: Path | None = None

    def __str__(self) -> str:
        if self.version is None:
            return f"{self.cell} in {self.folder}"
        champion = ", champion" if self.version.is_champion else ""
        return f"{self.version.model} version {self.version.number}{champion} ({self.cell})"

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        version = self.version
        return {
            "name": version.model if version else None,
            "version": version.number if version else None,
            "champion": version.is_champion if version else None,
            "folder": str(self.folder) if self.folder else None,
            "cell": str(self.cell),
            "bits": self.cell.bits,
            "weights_sha256": self.weights_sha256,
        }


Mark = tuple[object, ...]


@dataclass(frozen=True, eq=False)
class Pair:
    """A model and the collection that it encoded.

    Attributes:
        source: which model.
        encoder: image bytes -> codes.
        collection: what is searched.
        mark: by which it is seen that another pair would be loaded now.
    """

    source: Source
    encoder: Encoder
    collection: Collection
    mark: Mark

    @property
    def version(self) -> InUse:
        """As the model is registered."""
        assert self.source.version is not None
        return self.source.version


def choose(
    workspace: Workspace,
    params: Params,
    dataset: str | None = None,
    bits: int | None = None,
    *,
    version: int | None = None,
    folder: Path | None = None,
) -> Source:
    """The champion, or another version, or the model in a folder.

    Args:
        workspace: whose registry and codes.
        params: the datasets and code lengths there are.
        dataset: a name; by default the first of params.yaml, or the folder's.
        bits: the code length; by default the longest of params.yaml, or the folder's.
        version: the number of a registered version; by default the champion.
        folder: holds weights.safetensors and model.json; instead of a registered version.

    Raises:
        InputError: no champion, no such version, no model in the folder, no codes that it made, or
            codes of several datasets, or an unknown name.
    """
    if dataset is not None and dataset not in params.datasets:
        raise unknown("dataset", dataset, params.datasets)
    if folder is not None:
        if version is not None:
            raise InputError("--version --model: one of them at a time")
        return _in_folder(workspace, folder, dataset, bits)
    dataset = dataset or next(iter(params.datasets))
    found = tracking.version_in_use(workspace, dataset, bits or max(params.bits), version)
    return Source(found.cell, found.weights_sha256, version=found)


def _in_folder(workspace: Workspace, folder: Path, dataset: str | None, bits: int | None) -> Source:
    """A folder's model, and the cell whose codes it made, wherever the folder lies.

    Raises:
        InputError: as in `choose`.
    """
    card = read_json(folder / "model.json")
    if bits is not None and bits != card["bits"]:
        raise InputError(f"{folder}: codes of {card['bits']} bits, not {bits}; leave --bits out")
    digest = str(card["weights_sha256"])
    made = [
        cell
        for path in sorted((workspace.root / "codes").glob(f"{dataset or '*'}/*/codes.json"))
        if read_json(path).get("weights_sha256") == digest
        and (cell := Cell.parse("/".join(path.parts[-3:-1]))).bits == card["bits"]
    ]
    if not made:
        raise InputError(
            f"{folder}: no codes here were made by its weights, sha256 {digest[:12]}…; run "
            "`dvc repro` to encode with them, or `dvc checkout` to bring its codes back"
        )
    if len({cell.dataset for cell in made}) > 1:
        raise InputError(
            f"{folder}: codes of {first_five(map(str, made))} were made by it; add --dataset"
        )
    return Source(made[0], digest, folder=folder)


def mark(workspace: Workspace, source: Source) -> Mark:
    """What differs as soon as another pair would be loaded: the model, and when data changed."""
    dataset = source.cell.dataset
    files = (
        workspace.manifest(dataset),
        workspace.data(dataset) / "inputs.json",
        added.listing_of(workspace, dataset),
    )
    name = source.version.number if source.version else source.folder
    return (name, source.weights_sha256, *map(_state, files))


def _state(path: Path) -> tuple[int, ...]:
    try:
        found = path.stat()
    except OSError:
        return ()
    return (found.st_mtime_ns, found.st_size, found.st_ino)


def load(
    workspace: Workspace,
    params: Params,
    source: Source,
    *,
    on_progress: Progress = lambda done, total: None,
) -> Pair:
    """Read a model, the codes of its data and the pictures that were added.

    Args:
        workspace: where they lie.
        params: the datasets.
        source: which model.
        on_progress: called with rows encoded and in all, where codes have to be made.

    Raises:
        InputError: files are missing or altered.
    """
    now = mark(workspace, source)
    dataset = source.cell.dataset
    frame = manifest.read(workspace.manifest(dataset))
    raw = workspace.root / params.root(dataset)
    with _files(workspace, source) as (model, backbone):
        encoder = Encoder.load(model, backbone, choose_device().type)
        codes = _cell_codes(workspace, source, rows=len(frame))
        if codes is None:
            codes = encoded.codes(workspace, dataset, raw, model, backbone, on_progress=on_progress)
    new = added.read(workspace, dataset)
    more = added.codes_of(
        workspace,
        dataset,
        new,
        encoder,
        bits=source.cell.bits,
        weights_sha256=source.weights_sha256,
        on_progress=on_progress,
    )
    bits, copies = source.cell.bits, added.pictures_of(workspace, dataset)
    found = _collection(bits, frame, raw, codes, new, copies, more)
    return Pair(source, encoder, found, now)


def _collection(
    bits: int,
    frame: pd.DataFrame,
    raw: Path,
    codes: NDArray[np.uint8],
    new: Sequence[Added],
    copies: Path,
    more: NDArray[np.uint8],
) -> Collection:
    """The rows of a manifest and the pictures that were added, in this order.

    Args:
        bits: the code length.
        frame: the manifest.
        raw: the folder of its pictures.
        codes: theirs, uint8 (N, ceil(bits / 8)).
        new: the added pictures.
        copies: the folder of these.
        more: their codes, uint8 (A, ceil(bits / 8)).

    Raises:
        InputError: no row to search in, or an id stands for two pictures.
    """
    searched, names = manifest.database_rows(frame), manifest.labels_of(frame)
    if not len(searched):
        raise InputError(f"{raw}: the manifest has no row to search in; {REMAKE}")
    images = frame["image"].tolist()
    if both := {each.image for each in new}.intersection(images):
        raise InputError(
            f"{copies.parent}: added pictures with ids of the manifest: {first_five(both)}; "
            "remove them from the list there"
        )
    return Collection.of(
        bits,
        images=[*images, *(each.image for each in new)],
        files=[*(raw / path for path in frame["path"]), *(copies / each.file for each in new)],
        splits=[*frame["split"].tolist(), *(ADDED for _ in new)],
        label_names=names,
        labels=np.vstack([manifest.label_matrix(frame), _label_matrix(new, names)]),
        codes=np.vstack([codes, more]),
        searched=np.concatenate([searched, len(frame) + np.arange(len(new), dtype=np.int64)]),
    )


def _label_matrix(new: Sequence[Added], names: Sequence[str]) -> NDArray[np.bool_]:
    """Those labels of added pictures that the manifest has: bool (N, C)."""
    matrix = [[name in each.labels for name in names] for each in new]
    return np.array(matrix, bool).reshape(len(new), len(names))


def _cell_codes(workspace: Workspace, source: Source, *, rows: int) -> NDArray[np.uint8] | None:
    """The codes of the source's cell, verified; None: they are of another model or of other data.

    Raises:
        InputError: files are altered, or inputs are of another manifest.
    """
    cell, lock = source.cell, read_lock(workspace.root)
    folder = workspace.codes(cell)
    if (folder / "codes.json").exists():
        card = read_json(folder / "codes.json")
        if card.get("weights_sha256") == source.weights_sha256 and not is_stale(lock, cell):
            return read_codes(folder, bits=cell.bits, rows=rows)
    if inputs_are_stale(lock, cell.dataset):
        raise InputError(
            f"{workspace.data(cell.dataset)}: inputs of another manifest than "
            f"{workspace.manifest(cell.dataset)}; a run is at them, or {REMAKE}"
        )
    return None


@contextmanager
def _files(workspace: Workspace, source: Source) -> Iterator[tuple[Path, Path | None]]:
    """The folder of a model, and its backbone's weights where it has one.

    Raises:
        InputError: files are missing or altered, or other weights than the source's.
    """
    if source.version is not None:
        with tracking.files_in_use(workspace, source.version) as files:
            yield files.model, files.backbone
        return
    assert source.folder is not None
    card = read_json(source.folder / "model.json")
    if card["weights_sha256"] != source.weights_sha256:
        raise InputError(f"{source.folder}: the model changed meanwhile; run the command again")
    weights = card["inputs"].get("weights") if card["inputs"]["kind"] == "features" else None
    yield source.folder, workspace.root / weights if weights else None


def add_folder(
    workspace: Workspace,
    pair: Pair,
    folder: Path,
    on_progress: Progress = lambda done, total: None,
) -> tuple[list[Added], int]:
    """Add a folder's pictures to a pair's collection; a service that runs shows them soon.

    Labels are those of its labels.csv, if it has one.

    Returns:
        Those that are new, and how many were there already.

    Raises:
        InputError: as in `added.add`, or labels of pictures that are not there, or that the
            collection does not have.
    """
    dataset = pair.source.cell.dataset
    frame = manifest.read(workspace.manifest(dataset))
    labels = table.labels_of(folder) if (folder / table.TABLE).exists() else {}
    if lost := [path for path in labels if not (folder / path).is_file()]:
        raise InputError(f"{folder / table.TABLE}: no such pictures: {first_five(lost)}")
    for name in dict.fromkeys(name for names in labels.values() for name in names):
        if name not in pair.collection.label_names:
            fault = unknown("label", name, pair.collection.label_names)
            raise InputError(f"{folder / table.TABLE}: {fault}")
    return added.add(
        workspace,
        dataset,
        folder,
        pair.encoder,
        bits=pair.source.cell.bits,
        weights_sha256=pair.source.weights_sha256,
        taken=dict(zip(frame["image"], frame["sha256"], strict=True)),
        labels=labels,
        on_progress=on_progress,
    )
