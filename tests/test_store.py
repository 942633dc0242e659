from __future__ import annotations

import errno
import hashlib
import io
import os
import shutil
import subprocess
import sys
import threading
import time
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from isdh.errors import InputError
from isdh.images import decode
from isdh.store import Pictures, UnreadableError, build_store, map_batches, undecodable, write_rows

ROWS = 150  # three batches
usage = namedtuple("usage", "total used free", defaults=(0, 0, 0))


@pytest.fixture
def pictures(tmp_path: Path) -> Pictures:
    generator = np.random.default_rng(0)
    paths, digests = [], []
    (tmp_path / "raw").mkdir()
    for row in range(ROWS):
        path = tmp_path / "raw" / f"{row}.png"
        pixels = generator.integers(0, 256, (9, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
        paths.append(path.name)
        digests.append(hashlib.sha256(path.read_bytes()).hexdigest())
    return Pictures(tmp_path / "raw", paths, digests, size=8)


def test_row_i_of_the_store_is_picture_i(pictures, tmp_path):
    build_store(pictures, tmp_path / "inputs.npy")
    store = np.load(tmp_path / "inputs.npy", mmap_mode="r")
    assert store.shape == (ROWS, 8, 8, 3)
    assert store.dtype == np.uint8
    for row in (0, 63, 64, ROWS - 1):
        data = (pictures.root / pictures.paths[row]).read_bytes()
        np.testing.assert_array_equal(store[row], decode(data, size=8, channels=3))


def test_the_file_is_what_numpy_would_save(pictures, tmp_path):
    build_store(pictures, tmp_path / "inputs.npy", threads=3)
    stream = io.BytesIO()
    np.save(stream, pictures.pixels(range(ROWS)))
    assert (tmp_path / "inputs.npy").read_bytes() == stream.getvalue()


def test_no_pictures_make_an_empty_store(tmp_path):
    build_store(Pictures(tmp_path, [], [], size=8, channels=1), tmp_path / "inputs.npy")
    assert np.load(tmp_path / "inputs.npy").shape == (0, 8, 8, 1)


def test_progress_ends_with_all_rows(pictures, tmp_path):
    seen = []
    build_store(pictures, tmp_path / "inputs.npy", on_progress=lambda *now: seen.append(now))
    assert seen == [(64, ROWS), (128, ROWS), (ROWS, ROWS)]


def test_a_missing_an_altered_and_a_damaged_file_are_told_apart(pictures, tmp_path):
    (pictures.root / "3.png").unlink()
    (pictures.root / "70.png").write_bytes((pictures.root / "71.png").read_bytes())
    (pictures.root / "149.png").write_bytes(b"text")
    pictures.digests[149] = hashlib.sha256(b"text").hexdigest()
    with pytest.raises(InputError) as error:
        build_store(pictures, tmp_path / "inputs.npy")
    lines = str(error.value).split("\n  ")
    assert lines[0].startswith("3.png: No such file")
    assert lines[1].startswith("70.png: not the file of the manifest")
    assert lines[2].startswith("149.png: no image")


@pytest.mark.parametrize("threads", [1, 4])
def test_the_first_five_unreadable_files_are_named_in_row_order(pictures, tmp_path, threads):
    for row in (2, 9, 60, 66, 100, 130, 140):
        (pictures.root / f"{row}.png").unlink()
    with pytest.raises(InputError) as error:
        build_store(pictures, tmp_path / "inputs.npy", threads=threads)
    named = [line.split(":")[0] for line in str(error.value).split("\n  ")]
    assert named == ["2.png", "9.png", "60.png", "66.png", "100.png"]


def test_a_failed_store_leaves_the_last_one_and_nothing_beside_it(pictures, tmp_path):
    (tmp_path / "out").mkdir()
    path = tmp_path / "out" / "inputs.npy"
    path.write_bytes(b"last")
    (pictures.root / "149.png").unlink()
    with pytest.raises(InputError):
        build_store(pictures, path)
    assert path.read_bytes() == b"last"
    assert [file.name for file in path.parent.iterdir()] == ["inputs.npy"]


def test_nothing_is_computed_once_a_file_is_unreadable(pictures):
    (pictures.root / "0.png").unlink()
    computed = []
    with pytest.raises(InputError):
        list(map_batches(pictures, computed.append, batch_size=10, threads=1))
    assert computed == []


def test_a_batch_decoded_while_another_fails_is_not_taken_for_a_result(pictures, monkeypatch):
    failing = threading.Event()

    def pixels(self: Pictures, rows: range) -> np.ndarray:
        if rows.start:
            failing.set()
            raise UnreadableError(["10.png: damaged"])
        failing.wait(5)
        time.sleep(0.1)  # until the failure is known
        return np.zeros((10, 8, 8, 3), dtype=np.uint8)

    monkeypatch.setattr(Pictures, "pixels", pixels)
    results = map_batches(pictures, lambda pixels: pixels, batch_size=10, threads=2)
    with pytest.raises(InputError, match=r"10.png: damaged"):
        next(results)


def test_an_error_of_the_computation_reaches_the_caller(pictures):
    with pytest.raises(ZeroDivisionError):
        list(map_batches(pictures, lambda pixels: 1 / 0, batch_size=10, threads=2))


@pytest.mark.parametrize(
    "batch", [np.zeros((2, 3), np.int64), np.zeros((2, 4), np.uint8), np.zeros((1, 3), np.uint8)]
)
def test_batches_of_another_dtype_shape_or_number_are_refused(pictures, tmp_path, batch):
    with pytest.raises(ValueError, match="want"):
        write_rows(
            tmp_path / "rows.npy",
            pictures.only([0, 1]),
            lambda pixels: batch,
            row=(3,),
            dtype=np.uint8,
            batch_size=2,
        )
    assert not (tmp_path / "rows.npy").exists()


def test_an_array_too_large_for_the_disk_is_refused_before_anything_is_read(
    pictures, tmp_path, monkeypatch
):
    (tmp_path / "inputs.npy").write_bytes(b"last")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(free=1000))
    monkeypatch.setattr(Pictures, "pixels", None)
    needed = 128 + ROWS * 8 * 8 * 3
    with pytest.raises(InputError) as error:
        build_store(pictures, tmp_path / "inputs.npy")
    assert f"inputs.npy: {needed:,} bytes are needed and 1,000 are free" in str(error.value)
    assert (tmp_path / "inputs.npy").read_bytes() == b"last"


FULL = """
import resource, signal, sys
from pathlib import Path
from isdh.errors import InputError
from isdh.store import Pictures, build_store

limit = int(sys.argv[4])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
if sys.argv[5] == "later":
    import os
    del os.posix_fallocate
root, paths, digests = Path(sys.argv[1]), sys.argv[2].split(), sys.argv[3].split()
try:
    build_store(Pictures(root, paths, digests, size=8), root.parent / "out" / "inputs.npy")
except InputError as error:
    print(error)
"""


@pytest.mark.parametrize("when", ["at once", "later"])
def test_a_disk_that_fills_up_leaves_the_last_store_and_the_bytes_needed_are_named(
    pictures, tmp_path, when
):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "inputs.npy").write_bytes(b"last")
    words = [tmp_path / "raw", " ".join(pictures.paths), " ".join(pictures.digests), 9000, when]
    told = subprocess.run(
        [sys.executable, "-c", FULL, *map(str, words)], capture_output=True, text=True, check=True
    )
    assert f"inputs.npy: {128 + ROWS * 8 * 8 * 3:,} bytes are needed" in told.stdout
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["inputs.npy"]
    assert (tmp_path / "out" / "inputs.npy").read_bytes() == b"last"


def test_the_space_is_taken_before_the_first_picture_is_decoded(pictures, tmp_path, monkeypatch):
    sizes = []

    def compute(pixels: np.ndarray) -> np.ndarray:
        [beside] = tmp_path.glob(".rows.npy.*")
        sizes.append(os.stat(beside).st_blocks * 512)
        return np.zeros((len(pixels), 10_000), np.uint8)

    write_rows(
        tmp_path / "rows.npy", pictures, compute, row=(10_000,), dtype=np.uint8, batch_size=64
    )
    assert min(sizes) >= ROWS * 10_000


def test_another_fault_of_the_disk_is_not_taken_for_a_full_one(pictures, tmp_path):
    def broken(pixels: np.ndarray) -> np.ndarray:
        raise OSError(errno.EIO, "Input/output error")

    with pytest.raises(OSError, match="Input/output error"):
        write_rows(tmp_path / "x.npy", pictures, broken, row=(1,), dtype=np.uint8, batch_size=64)


def damaged(pictures: Pictures, *rows: int) -> None:
    for row in rows:
        data = (pictures.root / pictures.paths[row]).read_bytes()[:-50]
        (pictures.root / pictures.paths[row]).write_bytes(data)
        pictures.digests[row] = hashlib.sha256(data).hexdigest()


def test_files_that_do_not_decode_are_found_with_their_reasons_at_every_thread_count(pictures):
    damaged(pictures, 149, 3, 70)
    for threads in (1, 4):
        found = undecodable(pictures, share=3 / ROWS, threads=threads)
        assert list(found) == [3, 70, 149]
        assert found[70].startswith("70.png: damaged image")


def test_more_undecodable_files_than_the_share_are_refused_counted_and_named(pictures):
    damaged(pictures, *range(10, 17))
    with pytest.raises(InputError) as error:
        undecodable(pictures, share=6.9 / ROWS)
    first, *named = str(error.value).split("\n  ")
    assert first.startswith("7 of 150 files do not decode, more than damaged=0.046 allows; ")
    assert first.endswith("or leave them out: source: {damaged: 0.047}")
    assert [line.split(":")[0] for line in named] == [f"{row}.png" for row in range(10, 15)]


def test_what_decodes_is_what_is_not_found_undecodable(pictures, tmp_path):
    damaged(pictures, 3, 70)
    found = undecodable(pictures, share=1)
    whole = pictures.only([row for row in range(ROWS) if row not in found])
    build_store(whole, tmp_path / "inputs.npy")
    assert len(np.load(tmp_path / "inputs.npy")) == ROWS - 2


def test_an_altered_file_is_refused_and_not_counted_as_undecodable(pictures):
    (pictures.root / "5.png").write_bytes(b"text")
    with pytest.raises(InputError, match=r"5.png: not the file of the manifest"):
        undecodable(pictures, share=1)
