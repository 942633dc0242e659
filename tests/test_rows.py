from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import grimp
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from flows import preprocess
from isdh import rows as rows_module
from isdh import store
from isdh.artifacts import Workspace
from isdh.errors import InputError
from isdh.rows import Rows, limit, sources, versions
from isdh.settings import Features, Images
from isdh.store import DECODING, Pictures, build_store, undecodable, write_rows

ROWS = 150  # three batches
usage = namedtuple("usage", "total used free", defaults=(0, 0, 10**12))


def write_picture(root: Path, name: str, seed: int) -> str:
    pixels = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(root / name)
    return hashlib.sha256((root / name).read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Pictures:
    root = tmp_path_factory.mktemp("originals")
    paths = [f"{row}.png" for row in range(ROWS)]
    digests = [write_picture(root, path, row) for row, path in enumerate(paths)]
    return Pictures(root, paths, digests, size=8)


@pytest.fixture
def pictures(originals: Pictures, tmp_path: Path) -> Pictures:
    shutil.copytree(originals.root, tmp_path / "raw")
    return Pictures(tmp_path / "raw", [*originals.paths], [*originals.digests], size=8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "rows"


@pytest.fixture
def plain(pictures, tmp_path) -> bytes:
    """The store as it is without any row kept."""
    build_store(pictures, tmp_path / "plain.npy")
    return (tmp_path / "plain.npy").read_bytes()


def kept(folder: Path, **options) -> Rows:
    return Rows(folder, {"size": 8}, **options)


def digest(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


def row_of(number: int, width: int = 100) -> bytes:
    return np.random.default_rng(number).bytes(width)


def keep(rows: Rows, *numbers: int, width: int = 100) -> None:
    values = np.stack([np.frombuffer(row_of(number, width), np.uint8) for number in numbers])
    rows.keep([digest(number) for number in numbers], values)


def taken(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def loaded(rows: Rows, *numbers: int, width: int = 100) -> dict[int, bytes]:
    found = rows.load([digest(number) for number in numbers], width)
    return {numbers[position]: row for position, row in found}


def test_rows_come_back_under_their_digest_and_nothing_else_does(folder):
    keep(kept(folder), 1, 2, 3)
    keep(kept(folder), 4)
    assert loaded(kept(folder), 4, 9, 2) == {4: row_of(4), 2: row_of(2)}


def test_a_digest_that_stands_twice_gets_its_row_twice(folder):
    keep(kept(folder), 1, 2)
    positions = dict(kept(folder).load([digest(2), digest(1), digest(2)], 100))
    assert positions == {0: row_of(2), 1: row_of(1), 2: row_of(2)}


def test_rows_of_another_recipe_or_width_are_not_seen(folder):
    keep(kept(folder), 1)
    assert loaded(Rows(folder, {"size": 9}), 1) == {}
    assert loaded(kept(folder), 1, width=50) == {}


def test_the_order_of_a_recipe_does_not_matter(folder):
    keep(Rows(folder, {"a": 1, "b": [2]}), 1)
    assert loaded(Rows(folder, {"b": [2], "a": 1}), 1) == {1: row_of(1)}


def test_a_store_is_the_same_with_rows_kept_or_not(pictures, folder, plain, tmp_path):
    path = tmp_path / "inputs.npy"
    assert build_store(pictures, path, rows=kept(folder)) == ROWS
    assert path.read_bytes() == plain
    assert build_store(pictures, path, rows=kept(folder)) == 0
    assert path.read_bytes() == plain


@pytest.mark.parametrize("threads", [1, 4])
def test_a_store_of_some_kept_and_some_new_rows_in_another_order_is_the_same(
    pictures, folder, tmp_path, threads
):
    order = np.random.default_rng(0).permutation(ROWS)
    build_store(pictures.only(order[:70]), tmp_path / "some.npy", rows=kept(folder))
    twice = pictures.only([*order[::-1], *order[:5], *order[-5:]])
    made = build_store(twice, tmp_path / "all.npy", rows=kept(folder), threads=threads)
    assert made == ROWS - 70 + 5
    build_store(twice, tmp_path / "plain.npy")
    assert (tmp_path / "all.npy").read_bytes() == (tmp_path / "plain.npy").read_bytes()


def test_rows_that_were_kept_are_done_at_once(pictures, folder, tmp_path):
    build_store(pictures.only(range(100)), tmp_path / "some.npy", rows=kept(folder))
    seen = []
    build_store(
        pictures, tmp_path / "all.npy", rows=kept(folder), on_progress=lambda *now: seen.append(now)
    )
    assert seen == [(100, ROWS), (ROWS, ROWS)]


def test_a_changed_file_under_an_old_name_gives_the_new_row(pictures, folder, tmp_path):
    build_store(pictures, tmp_path / "before.npy", rows=kept(folder))
    pictures.digests[7] = write_picture(pictures.root, "7.png", seed=999)
    assert build_store(pictures, tmp_path / "after.npy", rows=kept(folder)) == 1
    before, after = np.load(tmp_path / "before.npy"), np.load(tmp_path / "after.npy")
    np.testing.assert_array_equal(after[7], pictures.pixels(range(7, 8))[0])
    assert np.flatnonzero((before != after).any(axis=(1, 2, 3))).tolist() == [7]


def test_a_file_put_back_is_found_again(pictures, folder, tmp_path):
    build_store(pictures, tmp_path / "inputs.npy", rows=kept(folder))
    write_picture(pictures.root, "7.png", seed=999)
    write_picture(pictures.root, "7.png", seed=7)
    assert build_store(pictures, tmp_path / "inputs.npy", rows=kept(folder)) == 0


def test_a_flipped_bit_anywhere_costs_rows_and_never_gives_a_wrong_one(folder):
    numbers = range(20)
    keep(kept(folder), *numbers[:10])
    [segment] = folder.iterdir()
    with segment.open("ab") as stream:
        keep(kept(folder / "other"), *numbers[10:])
        [other] = (folder / "other").iterdir()
        stream.write(other.read_bytes())
    whole = segment.read_bytes()
    lost = []
    for bit in np.random.default_rng(0).choice(8 * len(whole), 500, replace=False):
        data = bytearray(whole)
        data[bit // 8] ^= 1 << (bit % 8)
        segment.write_bytes(data)
        found = loaded(kept(folder), *numbers)
        assert all(row == row_of(number) for number, row in found.items())
        lost.append(len(numbers) - len(found))
    assert min(lost) == 1  # each flip is seen


def test_a_damaged_row_is_made_again_and_then_found(pictures, folder, plain, tmp_path):
    build_store(pictures, tmp_path / "inputs.npy", rows=kept(folder))
    [segment] = folder.iterdir()
    data = bytearray(segment.read_bytes())
    data[-1] ^= 1
    segment.write_bytes(data)
    for made in (1, 0):
        assert build_store(pictures, tmp_path / "inputs.npy", rows=kept(folder)) == made
        assert (tmp_path / "inputs.npy").read_bytes() == plain


def test_a_segment_cut_short_anywhere_holds_its_whole_blocks(folder):
    rows = kept(folder)
    for number in range(5):
        keep(rows, 2 * number, 2 * number + 1)
    [segment] = folder.iterdir()
    whole = segment.read_bytes()
    for length in range(0, len(whole), 7):
        segment.write_bytes(whole[:length])
        blocks = length * 5 // len(whole)
        assert loaded(kept(folder), *range(10)) == {n: row_of(n) for n in range(2 * blocks)}


def test_the_folder_stays_within_its_limit_and_the_oldest_rows_go_first(folder):
    rows = kept(folder, limit=20_000)
    for number in range(500):
        keep(rows, number)
        assert taken(folder) <= 20_000
    assert rows.stopped is None
    found = loaded(kept(folder), *range(500))
    assert list(found) == list(range(500 - len(found), 500))
    assert len(found) > 110  # of 20,000 / 152


def test_rows_that_are_read_stay_longer_than_rows_that_are_not(folder):
    old, other = kept(folder, limit=20_000), Rows(folder, {"size": 9}, limit=20_000)
    for number in range(50):
        keep(old, number)
        keep(other, number)
    loaded(old, *range(50))
    for number in range(100, 150):
        keep(old, number)
    assert len(loaded(old, *range(50))) == 50
    assert len(loaded(other, *range(50))) < 50


def test_a_dataset_larger_than_the_limit_is_made_all_the_same(pictures, folder, plain, tmp_path):
    for _ in range(2):
        rows = kept(folder, limit=15_000)
        made = build_store(pictures, tmp_path / "inputs.npy", rows=rows)
        assert (tmp_path / "inputs.npy").read_bytes() == plain
        assert taken(folder) <= 15_000
    assert 0 < made < ROWS


def test_a_row_larger_than_the_limit_is_not_kept_and_nothing_fails(folder):
    rows = kept(folder, limit=500)
    keep(rows, 1, width=1000)
    assert "no room" in rows.stopped
    assert taken(folder) == 0


def test_without_a_limit_nothing_is_kept_or_read(folder):
    keep(kept(folder), 1)
    nothing = kept(folder, limit=0)
    keep(nothing, 2)
    assert loaded(nothing, 1, 2) == {}
    assert loaded(kept(folder), 1, 2) == {1: row_of(1)}


def test_kept_rows_never_take_more_than_half_of_what_is_free_without_them(folder, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(free=10_000 - taken(folder)))
    rows = kept(folder)
    monkeypatch.setattr(rows_module, "SEGMENT", 1000)
    for number in range(100):
        keep(rows, number)
        assert taken(folder) <= 5_000
    assert rows.stopped is None
    assert len(loaded(rows, *range(100))) > 20


def test_a_full_disk_ends_the_keeping_and_not_the_work(
    pictures, folder, plain, tmp_path, monkeypatch
):
    opened = []

    def full(path: Path, mode: str = "r", **options):
        if path.suffix == ".rows" and mode == "ab":
            opened.append(path)
            raise OSError(errno.ENOSPC, "No space left on device")
        return open(path, mode, **options)

    monkeypatch.setattr(Path, "open", full)
    rows = kept(folder)
    assert build_store(pictures, tmp_path / "inputs.npy", rows=rows) == ROWS
    assert rows.stopped == "No space left on device"
    assert len(opened) == 1
    assert (tmp_path / "inputs.npy").read_bytes() == plain


def test_a_folder_that_cannot_be_made_ends_the_keeping_and_not_the_work(
    pictures, folder, plain, tmp_path
):
    folder.write_text("a file")
    rows = kept(folder)
    assert build_store(pictures, tmp_path / "inputs.npy", rows=rows) == ROWS
    assert rows.stopped is not None
    assert (tmp_path / "inputs.npy").read_bytes() == plain


def test_kept_rows_give_way_to_an_array_that_lacks_their_space(
    pictures, folder, plain, tmp_path, monkeypatch
):
    for number in range(100):
        keep(Rows(folder, {"size": number}), number)
    disk = len(plain) + 50 * 152
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(free=disk - taken(folder)))
    left = []

    def compute(pixels: np.ndarray) -> np.ndarray:
        left.append([n for n in range(100) if loaded(Rows(folder, {"size": n}), n)])
        return pixels

    rows = kept(folder)
    path = tmp_path / "inputs.npy"
    write_rows(path, pictures, compute, row=(8, 8, 3), dtype=np.uint8, batch_size=ROWS, rows=rows)
    assert path.read_bytes() == plain
    assert left == [list(range(50, 100))]


def test_rows_may_be_deleted_at_any_moment(pictures, folder, plain, tmp_path):
    def compute(pixels: np.ndarray) -> np.ndarray:
        shutil.rmtree(folder, ignore_errors=True)
        return pixels

    for _ in range(2):
        rows = kept(folder)
        write_rows(
            tmp_path / "inputs.npy",
            pictures,
            compute,
            row=(8, 8, 3),
            dtype=np.uint8,
            batch_size=10,
            rows=rows,
        )
        assert (tmp_path / "inputs.npy").read_bytes() == plain


def test_rows_deleted_while_they_are_read_are_still_right(folder):
    rows = kept(folder)
    keep(rows, *range(10))
    reading = rows.load([digest(number) for number in range(10)], 100)
    first = next(reading)
    shutil.rmtree(folder)
    assert dict([first, *reading]) == {number: row_of(number) for number in range(10)}


RUN = """
import sys, time
from pathlib import Path
from isdh.rows import Rows
from isdh.store import Pictures, write_rows

root, paths, digests = Path(sys.argv[1]), sys.argv[2].split(), sys.argv[3].split()
pause, name = float(sys.argv[4]), sys.argv[5]

def compute(pixels):
    time.sleep(pause)
    return pixels

print(write_rows(
    root.parent / "out" / name, Pictures(root, paths, digests, size=8), compute, row=(8, 8, 3),
    dtype="uint8", batch_size=5, threads=2, rows=Rows(root.parent / "rows", {"size": 8}),
))
"""


def start(pictures: Pictures, *, pause: float, name: str) -> subprocess.Popen[str]:
    words = [pictures.root, " ".join(pictures.paths), " ".join(pictures.digests), pause, name]
    return subprocess.Popen(
        [sys.executable, "-c", RUN, *map(str, words)], stdout=subprocess.PIPE, text=True
    )


def test_a_process_killed_in_the_middle_is_gone_on_from(pictures, folder, plain, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "inputs.npy").write_bytes(b"last")
    running = start(pictures, pause=0.1, name="inputs.npy")
    with running:
        while not (folder.exists() and any(folder.iterdir())):
            time.sleep(0.01)
        time.sleep(0.5)
        running.send_signal(signal.SIGKILL)
    assert running.returncode == -signal.SIGKILL
    assert (tmp_path / "out" / "inputs.npy").read_bytes() == b"last"
    kept_before = len(dict(kept(folder).load(pictures.digests, 8 * 8 * 3)))
    assert 0 < kept_before < ROWS
    again = start(pictures, pause=0, name="inputs.npy")
    told, _ = again.communicate()
    assert int(told) == ROWS - kept_before
    assert (tmp_path / "out" / "inputs.npy").read_bytes() == plain


def test_two_processes_at_once_do_not_disturb_each_other(pictures, folder, plain, tmp_path):
    running = [start(pictures, pause=0.02, name=f"{number}.npy") for number in range(2)]
    for process in running:
        process.communicate()
        assert process.returncode == 0
    for number in range(2):
        assert (tmp_path / "out" / f"{number}.npy").read_bytes() == plain
    assert build_store(pictures, tmp_path / "inputs.npy", rows=kept(folder)) == 0
    assert (tmp_path / "inputs.npy").read_bytes() == plain


def test_which_files_decode_is_looked_at_once_a_file(pictures, folder, monkeypatch):
    (pictures.root / "3.png").write_bytes(b"text")
    pictures.digests[3] = hashlib.sha256(b"text").hexdigest()
    looked = []
    read = Pictures.read

    def counted(self: Pictures, row: int) -> bytes:
        looked.append(self.paths[row])
        return read(self, row)

    monkeypatch.setattr(Pictures, "read", counted)
    first, second = (undecodable(pictures, share=0.1, rows=kept(folder)) for _ in range(2))
    assert list(first) == [3]
    assert second == first
    assert sorted(looked) == sorted([*pictures.paths, "3.png"])


def test_the_limit_is_what_the_environment_says():
    assert limit({}) == 10_000_000_000
    assert limit({"ISDH_ROWS_BYTES": "0"}) == 0
    for odd in ("", "-1", "10 GB", "1e9"):
        with pytest.raises(InputError, match=r"ISDH_ROWS_BYTES=.*want a whole number of bytes"):
            limit({"ISDH_ROWS_BYTES": odd})


def test_sources_and_versions_are_those_that_are_there():
    file = Path(rows_module.__file__).read_bytes()
    assert sources("isdh.rows") == {"isdh.rows": hashlib.sha256(file).hexdigest()}
    assert versions("numpy", "no-such-package") == {
        "numpy": np.__version__,
        "no-such-package": None,
    }


# Imported by what computes rows, yet in no recipe: a change of these moves no row.
BYSTANDERS = {
    "isdh": "holds the version",
    "isdh.arrays": "moves bytes",
    "isdh.artifacts": "moves bytes",
    "isdh.errors": "words for people",
    "isdh.rows": "moves bytes",
    "isdh.store": "brings files to what decodes them",
}


@pytest.mark.parametrize(
    ("start", "recipe"),
    [("isdh.images", DECODING), ("isdh.features", preprocess.ENCODING)],
)
def test_a_recipe_names_all_source_that_determines_a_row(start, recipe):
    graph = grimp.build_graph("isdh", cache_dir=None)
    needed = graph.find_upstream_modules(start) | {start}
    assert needed - set(BYSTANDERS) <= {*recipe, *DECODING}


class Brightness:
    """Stands in for a backbone: two numbers a picture, which mirroring changes."""

    batch_size = 16
    device = torch.device("cpu")
    name = "brightness"

    @classmethod
    def load(cls, name: str, weights: Path, device: str) -> Brightness:
        return cls()

    def compile(self, size: int) -> None:
        pass

    def width(self, size: int) -> int:
        return 2

    def features(self, images: np.ndarray) -> np.ndarray:
        half = images.shape[2] // 2
        halves = [images[:, :, :half], images[:, :, half:]]
        return np.stack([part.mean(axis=(1, 2, 3)) for part in halves], axis=1).astype(np.float16)


class Stage:
    """The stage `preprocess` in a folder of its own, without a server."""

    def __init__(self, root: Path, pictures: Pictures) -> None:
        self.root = root
        self.pictures = pictures
        (root / "weights.pth").write_bytes(b"weights")

    def rows(self) -> pd.DataFrame:
        split = ["train" if row % 3 else "database" for row in range(len(self.pictures))]
        return pd.DataFrame(
            {"path": self.pictures.paths, "sha256": self.pictures.digests, "split": split}
        )

    def images(self, dataset: str, **options) -> np.ndarray:
        inputs = Images(kind="images", **{"size": 8, **options})
        asyncio.run(preprocess.images(dataset, inputs, self.rows(), self.pictures.root))
        return np.load(self.root / "data" / dataset / "inputs.npy")

    def features(self, dataset: str, **options) -> tuple[np.ndarray, np.ndarray]:
        weights = str(self.root / "weights.pth")
        inputs = Features(kind="features", **{"size": 32, "weights": weights, **options})
        asyncio.run(preprocess.features(dataset, inputs, self.rows(), self.pictures.root))
        folder = self.root / "data" / dataset
        return np.load(folder / "inputs.npy"), np.load(folder / "mirrored.npy")


@pytest.fixture
def stage(pictures, tmp_path, monkeypatch) -> Stage:
    monkeypatch.setattr(preprocess, "WORKSPACE", Workspace(tmp_path))
    monkeypatch.setattr("isdh.features.FeatureBackbone", Brightness)
    return Stage(tmp_path, pictures)


def made(capsys) -> list[str]:
    """What the stage said of each array: rows made."""
    lines = capsys.readouterr().err.splitlines()
    return [line.split(" rows made")[0] for line in lines if " rows made" in line]


def test_datasets_over_the_same_pictures_share_their_rows(stage, capsys):
    first, second = stage.images("one"), stage.images("two")
    assert made(capsys) == ["inputs.npy: 150", "inputs.npy: 0"]
    np.testing.assert_array_equal(first, second)
    first, second = stage.features("three"), stage.features("four")
    assert made(capsys) == [
        "inputs.npy: 150",
        "mirrored.npy: 100",
        "inputs.npy: 0",
        "mirrored.npy: 0",
    ]
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)
    assert (first[0][np.arange(ROWS) % 3 > 0][:, ::-1] == first[1]).all()


def test_pictures_of_another_size_or_colour_are_made_anew(stage, capsys):
    stage.images("one")
    assert stage.images("one", channels=1).shape == (ROWS, 8, 8, 1)
    assert stage.images("one", size=9).shape == (ROWS, 9, 9, 3)
    assert made(capsys) == ["inputs.npy: 150"] * 3


@pytest.mark.parametrize(
    "change",
    [
        lambda stage, patch: (stage.root / "weights.pth").write_bytes(b"other weights"),
        lambda stage, patch: patch.setattr(Brightness, "name", "contrast"),
        lambda stage, patch: patch.setattr(Brightness, "batch_size", 32),
        lambda stage, patch: patch.setattr(preprocess, "versions", lambda *names: {"torch": "9"}),
        lambda stage, patch: patch.setattr(store, "decoders", lambda: {"pillow": "99"}),
        lambda stage, patch: patch.setattr(preprocess, "sources", lambda *names: {"isdh": "0"}),
    ],
    ids=["weights", "backbone", "batch size", "engine", "decoder", "source"],
)
def test_all_that_determines_features_makes_them_anew(stage, capsys, monkeypatch, change):
    stage.features("one")
    change(stage, monkeypatch)
    stage.features("one")
    assert made(capsys) == ["inputs.npy: 150", "mirrored.npy: 100"] * 2


def test_one_percent_more_pictures_make_one_percent_of_the_rows(stage, capsys):
    stage.features("one")
    for row in range(ROWS, ROWS + 2):
        digest = write_picture(stage.pictures.root, f"{row}.png", row)
        stage.pictures.paths.insert(row // 2, f"{row}.png")
        stage.pictures.digests.insert(row // 2, digest)
    stage.features("one")
    assert made(capsys)[2] == "inputs.npy: 2"


def test_no_rows_are_kept_where_the_environment_says_so(stage, capsys, monkeypatch):
    monkeypatch.setenv("ISDH_ROWS_BYTES", "0")
    stage.images("one")
    stage.images("one")
    assert made(capsys) == ["inputs.npy: 150"] * 2
    assert not (stage.root / ".isdh" / "rows").exists()


def test_a_person_is_told_once_where_rows_are_no_longer_kept(stage, capsys):
    (stage.root / ".isdh").mkdir()
    (stage.root / ".isdh" / "rows").write_text("a file")
    stage.images("one")
    said = capsys.readouterr().err
    assert said.count("not all rows are kept for next time: File exists") == 1


@pytest.mark.skipif(not os.access("/dev/full", os.W_OK), reason="no /dev/full")
def test_a_segment_on_a_disk_that_is_full_ends_the_keeping(folder, monkeypatch):
    rows = kept(folder)
    monkeypatch.setattr(rows, "_segment", Path("/dev/full"))
    monkeypatch.setattr(rows, "_size", lambda: 0)
    keep(rows, 1)
    assert rows.stopped == "No space left on device"
