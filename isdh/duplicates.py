"""Checksums and small grey pictures -> copies across splits, to the byte or nearly.

A near copy has nearly the perceptual hash of the other picture, and nearly its shapes: hashes
alone call dark pictures with one bright spot, or two scenes of digits, the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from isdh import manifest
from isdh.errors import NAMED

if TYPE_CHECKING:
    import pandas as pd

SIDE = 32  # pixels a side of a small picture: what the hash looks at
# Chosen on MIRFLICKR-25K (docs/datasets.md). Of 1,250 of its pictures all those saved at JPEG
# quality 50, resized, darkened or cut by 2 % are near copies, 99.4 % of those a fifth brighter,
# none that is mirrored. Of its 312 million pairs 7 are: 6 pictures retouched, and 1 eclipse taken
# twice. At 10 bits two photographs of a mountain join them; without likeness there are 34 pairs.
NEAR = 8  # bits in which the hashes of 64 may differ
ALIKE = 0.9  # correlation of the small pictures, at least
ACROSS = (("query", "database"), ("query", "train"), ("train", "database"))  # the worst first
BLOCK = 1 << 22  # pairs of hashes at a time
COMPARED = 1 << 14  # pairs of small pictures at a time

_Positions: TypeAlias = NDArray[np.int64]


def perceptual_hashes(small: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """What pictures look like in 64 bits: signs of their lowest frequencies (pHash).

    Args:
        small: uint8 (N, SIDE, SIDE), luma.

    Returns:
        uint64 (N,); the order of the bits is nobody's matter.
    """
    from imagehash import phash
    from PIL import Image

    packed = np.empty((len(small), 8), dtype=np.uint8)
    for row, picture in enumerate(small):
        packed[row] = np.packbits(phash(Image.fromarray(picture)).hash)
    return packed.view(np.uint64).ravel()


def likeness(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Correlation of the pixels of pairs of pictures: 1 whatever the brightness and contrast.

    Args:
        first: uint8 (N, SIDE, SIDE).
        second: likewise.

    Returns:
        (N,) in [-1, 1], 0 where one of both has a single colour; exact before the last division.
    """
    a, b = (pixels.reshape(len(pixels), -1).astype(np.int32) for pixels in (first, second))

    def covariance(x: NDArray[np.int32], y: NDArray[np.int32]) -> NDArray[np.int64]:
        products = np.einsum("ij,ij->i", x, y).astype(np.int64)
        centred: NDArray[np.int64] = products * x.shape[1] - x.sum(axis=1) * y.sum(axis=1)
        return centred

    variances = covariance(a, a).astype(float) * covariance(b, b)
    correlation = np.zeros(len(a))
    np.divide(covariance(a, b), np.sqrt(variances), out=correlation, where=variances > 0)
    return correlation


def find(frame: pd.DataFrame, small: NDArray[np.uint8] | None = None) -> dict[str, Any]:
    """Pictures that stand in two splits, and files that stand in one split twice.

    "database" is all rows that are searched, except beside "train": there it is those that are
    not trained on.

    Args:
        frame: image, split, also_database and sha256 of each row, as a manifest has them.
        small: uint8 (N, SIDE, SIDE), the luma of each row's picture; without, copies are found to
            the byte only.

    Returns:
        `exact` and `near` (None without small pictures): for each pair of ACROSS `split`, `other`,
        how many `rows` of the first have a copy in the second, how many `pairs` of copies there
        are, and the first or most alike five as `examples`: ids of both, and their likeness.
        Near copies are not equal to the byte. `near_means`: in how many bits of the hashes they
        differ at most, and how alike they are at least. `repeated`: split -> how many of its rows
        have the bytes of an earlier row of it.
    """
    rows = _Rows(frame, small)
    exact, near = [], []
    for split, other in ACROSS:
        names = {"split": split, "other": other}
        first, second = _side(frame, split), _side(frame, other, beside=split)
        exact.append(names | rows.exact(first, second))
        near.append(names | rows.near(first, second))
    repeated = {
        split: rows.repeated(np.flatnonzero(frame["split"] == split)) for split in manifest.SPLITS
    }
    return {
        "exact": exact,
        "near": None if small is None else near,
        "near_means": {"bits": NEAR, "likeness": ALIKE},
        "repeated": repeated,
    }


def _side(frame: pd.DataFrame, split: str, *, beside: str = "query") -> _Positions:
    """The rows of a split, which are never those of the split beside it."""
    if split == "database" and beside == "query":
        return manifest.database_rows(frame)
    return np.flatnonzero(frame["split"] == split)


class _Rows:
    """Rows of a manifest, looked up in one another by content."""

    def __init__(self, frame: pd.DataFrame, small: NDArray[np.uint8] | None) -> None:
        self.images = frame["image"].tolist()
        self.content = frame["sha256"].factorize()[0].astype(np.int64)  # equal where the bytes are
        self.small = small
        self.hashes = None if small is None else perceptual_hashes(small)

    def repeated(self, rows: _Positions) -> int:
        """How many of some rows have the bytes of an earlier one."""
        return len(rows) - len(np.unique(self.content[rows]))

    def exact(self, rows: _Positions, others: _Positions) -> dict[str, Any]:
        """How many rows have the bytes of some of the others."""
        there, times = self._distinct(others)
        place = dict(zip(self.content[there].tolist(), range(len(there)), strict=True))
        copied = [row for row in rows.tolist() if self.content[row] in place]
        found = [place[self.content[row]] for row in copied]
        examples = zip(copied[:NAMED], there[found[:NAMED]].tolist(), strict=True)
        return {
            "rows": len(copied),
            "pairs": int(times[found].sum()),
            "examples": [[self.images[row], self.images[other], 1.0] for row, other in examples],
        }

    def near(self, rows: _Positions, others: _Positions) -> dict[str, Any]:
        """How many rows are near copies of some of the others; each content is compared once."""
        here, times = self._distinct(rows)
        there, times_there = self._distinct(others)
        copied, pairs = np.zeros(len(here), dtype=bool), 0
        best: list[tuple[float, int, int]] = []
        for i, j, alike in self._near_pairs(here, there):
            copied[i] = True
            pairs += int((times[i] * times_there[j]).sum())
            top = np.lexsort((there[j], here[i], -alike))[:NAMED]
            found = zip(-alike[top], here[i[top]].tolist(), there[j[top]].tolist(), strict=True)
            best = sorted([*best, *found])[:NAMED]
        examples = [
            [self.images[row], self.images[other], round(float(-unlike), 3)]
            for unlike, row, other in best
        ]
        return {"rows": int(times[copied].sum()), "pairs": pairs, "examples": examples}

    def _near_pairs(
        self, here: _Positions, there: _Positions
    ) -> Iterator[tuple[_Positions, _Positions, NDArray[np.float64]]]:
        """Places here and there of near copies, and their likeness, some at a time."""
        if self.hashes is None or self.small is None:
            return
        step = max(1, BLOCK // max(len(there), 1))
        for start in range(0, len(here), step):
            block = here[start : start + step, None]
            bits = np.bitwise_count(self.hashes[block] ^ self.hashes[there])
            close = (bits <= NEAR) & (self.content[block] != self.content[there])
            i, j = np.nonzero(close)
            for first in range(0, len(i), COMPARED):
                k = slice(first, first + COMPARED)
                alike = likeness(self.small[here[start + i[k]]], self.small[there[j[k]]])
                keep = alike >= ALIKE
                yield start + i[k][keep], j[k][keep], alike[keep]

    def _distinct(self, rows: _Positions) -> tuple[_Positions, _Positions]:
        """The first row of each content, ascending, and how many of the rows have it."""
        _, first, times = np.unique(self.content[rows], return_index=True, return_counts=True)
        order = np.argsort(first)
        return rows[first[order]], times[order]
