"""Cells -> paths; every file the project writes and reads: atomic, checksummed, verified."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import numpy as np

from isdh.errors import InputError


@dataclass(frozen=True, order=True)
class Cell:
    """One cell of the results table: a method trained at a code length from a seed.

    >>> Cell("digits", "isdh", 48, 0).name
    'isdh-48-0'
    >>> Cell.parse("digits/isdh-48-0")
    Cell(dataset='digits', method='isdh', bits=48, seed=0)
    """

    dataset: str
    method: str
    bits: int
    seed: int

    @property
    def name(self) -> str:
        """The name within the dataset, `<method>-<bits>-<seed>`: a folder here, DVC's suffix."""
        return f"{self.method}-{self.bits}-{self.seed}"

    def __str__(self) -> str:
        return f"{self.dataset}/{self.name}"

    def address(self, stage: str) -> str:
        """DVC's name of one of the cell's stages, e.g. `train@digits-isdh-48-0`."""
        return f"{stage}@{self.dataset}-{self.name}"

    @classmethod
    def parse(cls, text: str) -> Cell:
        """Read `<dataset>/<method>-<bits>-<seed>`.

        Raises:
            InputError: the text has another form.
        """
        match = re.fullmatch(r"([a-z0-9_]+)[/-]([a-z0-9_]+)-(\d+)-(\d+)", text)
        if not match:
            raise InputError(f"cell {text!r}: want <dataset>/<method>-<bits>-<seed>")
        dataset, method, bits, seed = match.groups()
        return cls(dataset, method, int(bits), int(seed))


@dataclass(frozen=True)
class Workspace:
    """Where things lie below a root folder. Row i of every array is row i of the manifest."""

    root: Path = Path()

    def raw(self, dataset: str) -> Path:
        """The pictures and labels as they came."""
        return self.root / "raw" / dataset

    def data(self, dataset: str) -> Path:
        """The folder of manifest.parquet, inputs.npy, mirrored.npy, labels.npy and JSON files."""
        return self.root / "data" / dataset

    def manifest(self, dataset: str) -> Path:
        """The table of images, splits and labels."""
        return self.data(dataset) / "manifest.parquet"

    def model(self, cell: Cell) -> Path:
        """The folder of weights.safetensors, model.json and history.json."""
        return self.root / "models" / cell.dataset / cell.name

    def codes(self, cell: Cell) -> Path:
        """The folder of codes.npy and codes.json."""
        return self.root / "codes" / cell.dataset / cell.name

    def scores(self, cell: Cell) -> Path:
        """The flat JSON of scores; per-query values and curves lie beside it as .npz."""
        return self.root / "metrics" / cell.dataset / f"{cell.name}.json"

    def report(self, dataset: str) -> Path:
        """The folder of index.html."""
        return self.root / "reports" / dataset

    def checkpoints(self, cell: Cell) -> Path:
        """The folder of a cell's checkpoint; it stays until `encode` finds the model made."""
        return self.state("checkpoints", cell.dataset, cell.name)

    def state(self, *parts: str) -> Path:
        """What is not an output: checkpoints, locks, servers' files. Safe to delete when idle."""
        return self.root.joinpath(".isdh", *parts)


CODE = ("flows", "isdh", "dvc.yaml", ".dvcignore", ".dvc/config")


def copy_code(project: Path, folder: Path) -> None:
    """Copy what stages run and DVC reads, as it is now; the rest of the folder stays.

    Args:
        project: where from.
        folder: where to; created.
    """
    for name in CODE:
        source, target = project / name, folder / name
        if source.is_dir():
            shutil.rmtree(target, ignore_errors=True)  # what the project no longer has goes
            shutil.copytree(source, target)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)


@contextmanager
def locked(
    path: Path, *, who: str = "", waiting: Callable[[str], None] = lambda holder: None
) -> Iterator[None]:
    """Hold a lock file; it is free again when the process ends, however that happens.

    Args:
        path: the file; created.
        who: what holds it, in words for those who wait; the process id is told anyway.
        waiting: called with who holds it and since when, if there is somebody to wait for.
    """
    with _lock_file(path) as stream:
        if holder := _take(stream, who):
            waiting(holder)
            fcntl.flock(stream, fcntl.LOCK_EX)
            _sign(stream, who)
        yield


@contextmanager
def tried(path: Path, *, who: str = "") -> Iterator[str]:
    """Hold a lock file if nobody does; yields nothing then, and otherwise who does.

    Args:
        path: the file; created.
        who: as in `locked`.
    """
    with _lock_file(path) as stream:
        yield _take(stream, who)


@contextmanager
def _lock_file(path: Path) -> Iterator[IO[str]]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as stream:
        yield stream


def _take(stream: IO[str], who: str) -> str:
    """Take a lock if it is free; who holds it otherwise."""
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        stream.seek(0)
        return stream.read().strip() or "another process"
    _sign(stream, who)
    return ""


def _sign(stream: IO[str], who: str) -> None:
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    stream.truncate(0)
    stream.write(f"process {os.getpid()}{f' ({who})' if who else ''}, since {now}")
    stream.flush()


@contextmanager
def replacing(path: Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a file that takes the place of `path` at the end: written beside, fsynced, renamed.

    If the body raises, or the process dies, `path` is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, mode) as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        umask = os.umask(0)
        os.umask(umask)
        Path(beside).chmod(0o666 & ~umask)
        Path(beside).replace(path)
    except BaseException:
        Path(beside).unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write indented JSON with keys in the order given."""
    with replacing(path, "w") as stream:
        json.dump(value, stream, indent=2, allow_nan=False)
        stream.write("\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        InputError: the file is missing or is not a JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise missing(path) from None
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({error}); {REMAKE}") from None
    if not isinstance(value, dict):
        raise InputError(f"{path}: want a JSON object, found {type(value).__name__}; {REMAKE}")
    return value


def write_array(path: Path, array: np.ndarray) -> None:
    """Write one array in NumPy's format, without pickle."""
    with replacing(path) as stream:
        np.save(stream, array, allow_pickle=False)


def read_array(path: Path, *, dtype: Any, rows: int | None = None) -> np.ndarray:
    """Map one array read-only into memory.

    Args:
        path: a .npy file.
        dtype: what its dtype must be.
        rows: what its length must be, usually the manifest's.

    Raises:
        InputError: missing, unreadable, or of another dtype or length.
    """
    try:
        array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise missing(path) from None
    except (ValueError, EOFError) as error:
        raise InputError(f"{path}: not a NumPy array ({error}); {REMAKE}") from None
    if array.dtype != np.dtype(dtype):
        raise InputError(f"{path}: dtype {array.dtype}, want {np.dtype(dtype)}; {REMAKE}")
    if rows is not None and len(array) != rows:
        raise InputError(f"{path}: {len(array)} rows, want {rows}; {REMAKE}")
    return array


def write_codes(folder: Path, codes: np.ndarray, *, bits: int, weights_sha256: str) -> None:
    """Write packed codes and their checksum: codes.npy, codes.json.

    Args:
        folder: where to; created.
        codes: uint8 (N, ceil(bits / 8)), little bit order, pad bits 0.
        bits: the code length.
        weights_sha256: of the model that made them.
    """
    write_array(folder / "codes.npy", codes)
    card = {"bits": bits, "rows": len(codes), "sha256": sha256(folder / "codes.npy")}
    write_json(folder / "codes.json", {**card, "weights_sha256": weights_sha256})


def read_codes(folder: Path, *, bits: int, rows: int | None = None) -> np.ndarray:
    """Read packed codes and verify them.

    Returns:
        uint8 (N, ceil(bits / 8)).

    Raises:
        InputError: missing, altered, or of another code length or number of rows.
    """
    card = read_json(folder / "codes.json")
    if card.get("bits") != bits:
        raise InputError(f"{folder}: codes of {card.get('bits')} bits, want {bits}; {REMAKE}")
    path = folder / "codes.npy"
    codes = read_array(path, dtype=np.uint8, rows=card["rows"] if rows is None else rows)
    verify(path, card["sha256"])
    if codes.ndim != 2 or codes.shape[1] != -(-bits // 8):
        raise InputError(f"{path}: shape {codes.shape}, want (N, {-(-bits // 8)}); {REMAKE}")
    return codes


def current_scores(workspace: Workspace, cell: Cell) -> dict[str, float] | None:
    """A cell's scores if they are those of the model that is there.

    While a cell is made anew, the scores of the model before still lie in their place.

    Returns:
        Name -> mean over queries; None: not scored, or another model was.
    """
    path = workspace.scores(cell)
    model = workspace.model(cell) / "model.json"
    if not all(file.exists() for file in (path, path.with_suffix(".npz"), model)):
        return None
    with np.load(path.with_suffix(".npz"), allow_pickle=False) as values:
        scored = str(values["weights_sha256"]) if "weights_sha256" in values else None
    return read_json(path) if scored == read_json(model)["weights_sha256"] else None


def verify(path: Path, digest: str) -> None:
    """Refuse a file whose bytes are not those that were written.

    Raises:
        InputError: missing, or the sha256 differs.
    """
    if not path.exists():
        raise missing(path)
    if (found := sha256(path)) != digest:
        raise InputError(f"{path}: sha256 {found[:12]}…, want {digest[:12]}…; {REMAKE}")


REMAKE = "run `dvc repro` to make it again, or `dvc checkout --force` to bring the last one back"


def missing(path: Path) -> InputError:
    """The error for a file that an earlier stage should have left."""
    return InputError(f"{path}: no such file; run `dvc repro`, or `dvc checkout` if it was made")
