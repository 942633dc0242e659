"""A dataset, a version or a folder -> which model answers, and which codes it made.

Codes are searched only if the model's own weights made them, of the data that is here now.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from isdh import manifest, tracking
from isdh.artifacts import REMAKE, Cell, Workspace, read_codes, read_json
from isdh.errors import InputError, first_five, unknown
from isdh.index import HammingIndex
from isdh.tracking.evaluation import is_stale
from isdh.tracking.provenance import read_lock

if TYPE_CHECKING:
    import pandas as pd

    from isdh.encoder import Encoder
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


@dataclass(frozen=True, eq=False)
class Collection:
    """The pictures that are searched: item i is row rows[i] of the manifest.

    Attributes:
        source: of the codes.
        raw: the folder below which the paths lie.
        codes: uint8 (N, ceil(bits / 8)).
        rows: of the manifest, int64 (N,), ascending.
        images: ids.
        paths: below `raw`.
        label_names: one per column of labels.
        labels: bool (N, C).
    """

    source: Source
    raw: Path
    codes: NDArray[np.uint8]
    rows: NDArray[np.int64]
    images: Sequence[str]
    paths: Sequence[str]
    label_names: Sequence[str]
    labels: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.codes)

    @property
    def bits(self) -> int:
        """The length of a code."""
        return self.source.cell.bits

    @cached_property
    def index(self) -> HammingIndex:
        """Of the codes; made when it is first asked for."""
        return HammingIndex(self.codes, self.bits, padded=True)

    def labels_of(self, item: int) -> list[str]:
        """The labels of an item."""
        return [self.label_names[column] for column in np.flatnonzero(self.labels[item]).tolist()]


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


def collection(workspace: Workspace, params: Params, source: Source) -> Collection:
    """The pictures and codes to search, verified.

    Raises:
        InputError: files are missing or altered, codes were made by other weights than the
            model's, or of other data than today's.
    """
    cell = source.cell
    frame, codes = verified(workspace, source)
    rows = manifest.database_rows(frame)
    searched = frame.iloc[rows]
    return Collection(
        source=source,
        raw=workspace.root / params.root(cell.dataset),
        codes=np.ascontiguousarray(codes[rows]),
        rows=rows,
        images=searched["image"].tolist(),
        paths=searched["path"].tolist(),
        label_names=manifest.labels_of(frame),
        labels=manifest.label_matrix(searched),
    )


def verified(workspace: Workspace, source: Source) -> tuple[pd.DataFrame, NDArray[np.uint8]]:
    """The manifest and the codes of all its rows, uint8 (N, ceil(bits / 8)).

    Raises:
        InputError: as in `collection`.
    """
    cell = source.cell
    folder = workspace.codes(cell)
    card = read_json(folder / "codes.json")
    if card.get("weights_sha256") != source.weights_sha256:
        raise InputError(
            f"{folder}: codes of another model, weights sha256 "
            f"{str(card.get('weights_sha256'))[:12]}…, than {source}, {source.weights_sha256[:12]}…"
            "; bring the codes of then back (git checkout, dvc checkout), or choose the model that "
            f"made these: promote it, or --model {workspace.model(cell)}"
        )
    if is_stale(read_lock(workspace.root), cell):
        raise InputError(f"{folder}: codes of other data than today's; run `dvc repro`")
    frame = manifest.read(workspace.manifest(cell.dataset))
    codes = read_codes(folder, bits=cell.bits, rows=len(frame))
    if not len(manifest.database_rows(frame)):
        raise InputError(f"{workspace.manifest(cell.dataset)}: no row to search in; {REMAKE}")
    return frame, codes


def encoder(workspace: Workspace, source: Source, device: str = "cpu") -> Encoder:
    """The model: image bytes -> codes.

    Args:
        workspace: whose registry, and below whose root a folder's model names its backbone.
        source: which.
        device: "cpu" or "cuda".

    Raises:
        InputError: files are missing or altered, or other weights than the source's.
    """
    from isdh.encoder import Encoder

    if source.version is not None:
        with tracking.files_in_use(workspace, source.version) as files:
            return Encoder.load(files.model, files.backbone, device)
    assert source.folder is not None
    card = read_json(source.folder / "model.json")
    if card["weights_sha256"] != source.weights_sha256:
        raise InputError(f"{source.folder}: the model changed meanwhile; run the command again")
    backbone = card["inputs"].get("weights") if card["inputs"]["kind"] == "features" else None
    return Encoder.load(source.folder, workspace.root / backbone if backbone else None, device)
