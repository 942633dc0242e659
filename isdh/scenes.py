"""Settings -> the built-in dataset: scenes of handwritten digits, as a folder of pictures.

The digits are the 1,797 that scikit-learn ships, 8 x 8 pixels (UCI, Optical Recognition of
Handwritten Digits, 1998). A scene shows one to four different ones, each in a quarter of its own,
on a faint gradient with noise; its labels are the digits present. All arithmetic is on integers,
so that the bytes do not depend on the processor.
"""

from __future__ import annotations

import csv
from itertools import compress
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pydantic import Field, model_validator

from isdh.artifacts import replacing
from isdh.errors import InputError
from isdh.settings import Section

LABELS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SOURCE_SIDE = 8  # pixels a side of scikit-learn's digits
FULL_INK = 16  # their largest value
TRAIN_SHARE = (3, 5)  # of every digit's pictures; the others are for queries and database

UNIT = 256  # of brightness in the arithmetic below; a grey level has this many
INK = 192 * UNIT  # what full ink adds to the background
BACKGROUND = (32 * UNIT, 64 * UNIT)  # at the middle of a scene
SLOPE = 24 * UNIT  # largest change of the background across a scene, along each axis
FINE = 1024  # steps in which the noise is scaled
FOUR_BYTES = (510, 147.8)  # mean and standard deviation of the sum of four uniform bytes


class Scenes(Section):
    """What is composed. Scenes of one split do not depend on how many the others have."""

    seed: int = Field(0, ge=0)
    train: int = Field(2000, ge=1, le=99_999)
    query: int = Field(500, ge=1, le=99_999)
    database: int = Field(3000, ge=1, le=99_999)
    size: int = Field(32, ge=16, le=128, multiple_of=2)  # pixels a side
    smallest: int = Field(9, ge=SOURCE_SIDE)  # pixels a side of a digit
    largest: int = Field(16, ge=SOURCE_SIDE)
    noise: float = Field(0.05, ge=0.0, le=1.0)  # standard deviation, as a share of white

    @model_validator(mode="after")
    def _digits_fit(self) -> Scenes:
        if not self.smallest <= self.largest <= self.size // 2:
            raise InputError(
                f"smallest={self.smallest}, largest={self.largest}, size={self.size}: "
                "want smallest <= largest <= size / 2, a digit in each quarter of the scene"
            )
        return self


class Composition(NamedTuple):
    """Scenes in the order train, query, database.

    Attributes:
        images: uint8 (N, size, size), 0 is black.
        labels: bool (N, 10), which digits are present.
        split: str (N,), train, query or database.
        sources: int16 (N, 4), which of scikit-learn's digits stands in the top left, top right,
            bottom left and bottom right quarter; -1 in an empty one.
    """

    images: np.ndarray
    labels: np.ndarray
    split: np.ndarray
    sources: np.ndarray


def compose(settings: Scenes) -> Composition:
    """Make all scenes; the same settings give the same bytes.

    No source picture of a training scene is in a query or a database scene.
    """
    from sklearn.datasets import load_digits  # importing it takes a second

    pictures, digits = load_digits(return_X_y=True)
    pictures = pictures.reshape(-1, SOURCE_SIDE, SOURCE_SIDE).astype(np.int64)
    splitting, *generators = _generators(settings.seed, 4)
    for_train, held_out = _halves(digits, generator=splitting)
    pools = {"train": for_train, "query": held_out, "database": held_out}
    images, sources = [], []
    for (split, pool), generator in zip(pools.items(), generators, strict=True):
        count = getattr(settings, split)
        sources.append(_choose(pool, count, generator=generator))
        images.append(_draw(pictures[sources[-1]], sources[-1] >= 0, settings, generator=generator))
    chosen = np.concatenate(sources)
    labels = ((digits[chosen][..., None] == np.arange(10)) & (chosen >= 0)[..., None]).any(axis=1)
    splits = np.repeat(list(pools), [len(rows) for rows in sources])
    return Composition(np.concatenate(images), labels, splits, chosen)


def write(folder: Path, settings: Scenes) -> None:
    """Write images/scene-<row>.png and labels.csv with the columns path, labels, split.

    Labels are joined by `;`. labels.csv is taken away before the first picture is touched and
    written after the last: a call that is killed leaves no table beside half of its pictures.
    Pictures are not synced; a power cut soon after may damage some all the same.

    Args:
        folder: where to; created. Its scenes of an earlier call are deleted.
        settings: what to compose.
    """
    from PIL import Image

    scenes = compose(settings)
    table, pictures = folder / "labels.csv", folder / "images"
    table.unlink(missing_ok=True)
    pictures.mkdir(parents=True, exist_ok=True)
    for earlier in pictures.glob("scene-*.png"):
        earlier.unlink()
    rows = []
    for i, (image, present, split) in enumerate(zip(*scenes[:3], strict=True)):
        path = f"images/scene-{i:06}.png"
        # stored, not deflated: noise hardly shrinks, and deflated bytes differ between zlibs
        Image.fromarray(image).save(folder / path, compress_level=0)
        rows.append((path, ";".join(compress(LABELS, present)), split))
    with replacing(table, "w") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(("path", "labels", "split"))
        writer.writerows(rows)


def _generators(seed: int, count: int) -> list[np.random.Generator]:
    sequences = np.random.SeedSequence(seed).spawn(count)
    return [np.random.Generator(np.random.PCG64(sequence)) for sequence in sequences]


def _halves(
    digits: np.ndarray, *, generator: np.random.Generator
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Split the source pictures digit by digit: positions for training, and held out."""
    for_train, held_out = [], []
    for digit in range(10):
        rows = generator.permutation(np.flatnonzero(digits == digit))
        cut = len(rows) * TRAIN_SHARE[0] // TRAIN_SHARE[1]
        for_train.append(rows[:cut])
        held_out.append(rows[cut:])
    return for_train, held_out


def _choose(pool: list[np.ndarray], count: int, *, generator: np.random.Generator) -> np.ndarray:
    """Draw 1 to 4 different digits a scene, a picture of each, and the quarters they stand in.

    Args:
        pool: for each digit the positions of its pictures.
        count: the number of scenes.
        generator: the source of randomness.

    Returns:
        int16 (count, 4), positions of source pictures, -1 in an empty quarter.
    """
    digit = generator.permuted(np.tile(np.arange(10), (count, 1)), axis=1)[:, :4]
    order = generator.permuted(np.tile(np.arange(4), (count, 1)), axis=1)
    present = order < generator.integers(1, 5, (count, 1))
    sizes = np.array([len(rows) for rows in pool])
    starts = np.cumsum(sizes) - sizes
    drawn = np.concatenate(pool)[starts[digit] + generator.integers(0, sizes[digit])]
    return np.where(present, drawn, -1).astype(np.int16)


def _draw(
    pictures: np.ndarray,
    present: np.ndarray,
    settings: Scenes,
    *,
    generator: np.random.Generator,
) -> np.ndarray:
    """Draw scenes.

    Args:
        pictures: int64 (N, 4, 8, 8), 0 to 16, one for each quarter.
        present: bool (N, 4), which quarters are to be filled.
        settings: of size and noise.
        generator: the source of randomness.

    Returns:
        uint8 (N, size, size).
    """
    quarter = settings.size // 2
    shape = len(pictures), settings.size, settings.size
    side = generator.integers(settings.smallest, settings.largest + 1, present.shape)
    top, left = generator.integers(0, quarter - side + 1, (2, *present.shape))
    weights = _placements(settings.smallest, settings.largest, quarter)
    rows, columns = (weights[side - settings.smallest, offset] for offset in (top, left))
    ink = rows @ pictures @ columns.swapaxes(-1, -2)
    ink *= (INK * present)[..., None, None]
    ink //= (FULL_INK * (2 * side) ** 2)[..., None, None]
    ink = ink.reshape(-1, 2, 2, quarter, quarter).swapaxes(2, 3).reshape(shape)
    light = ink + _background(shape, generator) + _noise(shape, settings.noise, generator)
    grey: np.ndarray = ((light + UNIT // 2) // UNIT).clip(0, 255).astype(np.uint8)
    return grey


def _placements(smallest: int, largest: int, quarter: int) -> np.ndarray:
    """Matrices that enlarge a line of 8 pixels and put it somewhere on a longer one.

    Bilinear, pixel centres at halves, edges repeated.

    Returns:
        int64 (sides, offsets, quarter, 8): for a side of `smallest + i` pixels that begins at
        offset j; the weights that make one pixel add up to twice the side.
    """
    sides, offsets = largest - smallest + 1, quarter - smallest + 1
    weights = np.zeros((sides, offsets, quarter, SOURCE_SIDE), dtype=np.int64)
    for i, side in enumerate(range(smallest, largest + 1)):
        pixel = np.arange(side)
        # a pixel's centre on the source, (pixel + 1/2) 8 / side - 1/2, in units of 1 / (2 side)
        below, rest = np.divmod((2 * pixel + 1) * SOURCE_SIDE - side, 2 * side)
        line = np.zeros((side, SOURCE_SIDE), dtype=np.int64)
        np.add.at(line, (pixel, below.clip(0)), 2 * side - rest)
        np.add.at(line, (pixel, (below + 1).clip(max=SOURCE_SIDE - 1)), rest)
        for j in range(quarter - side + 1):
            weights[i, j, j : j + side] = line
    return weights


def _background(shape: tuple[int, int, int], generator: np.random.Generator) -> np.ndarray:
    """A plane for each scene: int64, in units of light."""
    count, size, _ = shape
    middle = generator.integers(*BACKGROUND, (count, 1, 1))
    down, right = generator.integers(-SLOPE, SLOPE + 1, (2, count, 1, 1))
    along = 2 * np.arange(size) - (size - 1)
    plane: np.ndarray = middle + (down * along[:, None] + right * along) // (2 * size)
    return plane


def _noise(
    shape: tuple[int, int, int], deviation: float, generator: np.random.Generator
) -> np.ndarray:
    """Nearly normal noise from four random bytes a pixel: int64, in units of light."""
    mean, spread = FOUR_BYTES
    scale = round(deviation * 255 * UNIT / spread * FINE)
    summed = generator.integers(0, 256, (4, *shape), dtype=np.uint8).sum(axis=0, dtype=np.int64)
    noise: np.ndarray = (summed - mean) * scale // FINE
    return noise
