"""Packed codes -> exact nearest neighbours by Hamming distance, over FAISS's flat binary index."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from isdh.artifacts import read_codes, read_json, write_codes
from isdh.codes import _words, check_codes, unpack
from isdh.errors import InputError

if TYPE_CHECKING:
    from isdh.multi_index import MultiIndex

__all__ = ["HammingIndex", "require_count"]

# FAISS counts k positions per distance and query of a batch: so many of 8 bytes at once.
_POSITIONS = 1 << 24
_QUERY_BATCH = 32  # FAISS's own
_HEAP = 256  # answers up to which a heap is faster than counting
_TABLES = 1 << 14  # codes from which tables are faster than a scan
_ASKED = 1 << 16  # queries at once, so that query, distance and position fit a word

Ball = tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int64]]


class HammingIndex:
    """Exact search in a collection of codes of any length.

    Answers come by distance, those at one distance by position: what is returned does not depend
    on the number of threads, and of the items tied at the k-th distance the first of the
    collection are kept.

    `search` looks at all codes. `within` makes tables when it is first called with a radius small
    enough for them (multi-index hashing): of 12 bytes for each code of up to 64 bits, and radius +
    1 of them for a small radius. A query near to a quarter of the codes or more is answered by
    looking at all.

    >>> from isdh.codes import pack
    >>> index = HammingIndex(pack([[1, 1, 1], [-1, 1, 1], [1, 1, 1]]), bits=3)
    >>> index.search(pack([[1, 1, 1]]), k=2)
    (array([[0, 0]], dtype=int32), array([[0, 2]]))
    """

    def __init__(self, codes: ArrayLike, bits: int, *, padded: bool = False) -> None:
        """Copy the collection into FAISS.

        Args:
            codes: uint8 (N, ceil(bits / 8)), N at least 1; position i is row i.
            bits: the length of a code; the pad bits make whole bytes of it, as FAISS needs.
            padded: keep codes of up to 32 bits in 4 bytes and longer ones in a multiple of 8. FAISS
                is about four times as fast there as at other widths, such as the 6 bytes of 48
                bits. Answers are the same.

        Raises:
            InputError: codes are not packed codes of so many bits, or there are none.
        """
        import faiss  # an optional face: a library of 60 MB

        codes = check_codes(codes, bits)
        if not len(codes):
            raise InputError("0 codes: a collection holds at least one; pass codes to search in")
        self.bits = bits
        self._width: int = codes.shape[1]
        if padded:
            self._width = 4 if bits <= 32 else -(-bits // 64) * 8
        self._flat = cast(Any, faiss.IndexBinaryFlat(8 * self._width))
        self._flat.add(self._filled(codes))
        self._tables: MultiIndex | None = None

    @classmethod
    def load(cls, folder: Path, *, rows: int | None = None, padded: bool = False) -> HammingIndex:
        """Build the index of the codes in a folder, as stage `encode` and `save` write them.

        Args:
            folder: holds codes.npy and codes.json.
            rows: how many there should be.
            padded: as for the class.

        Raises:
            InputError: the codes are missing or altered.
        """
        bits = read_json(folder / "codes.json").get("bits")
        if not isinstance(bits, int) or bits < 1:
            raise InputError(f"{folder / 'codes.json'}: bits={bits!r}; want a whole number from 1")
        return cls(read_codes(folder, bits=bits, rows=rows), bits, padded=padded)

    def save(self, folder: Path, *, weights_sha256: str) -> None:
        """Write the codes and their checksum; all else is built again from them.

        Args:
            folder: where to; created.
            weights_sha256: of the model that made them.
        """
        codes = np.array(self._codes[:, : -(-self.bits // 8)])
        write_codes(folder, codes, bits=self.bits, weights_sha256=weights_sha256)

    def __len__(self) -> int:
        return int(self._flat.ntotal)

    @property
    def nbytes(self) -> int:
        """What codes and tables take."""
        return len(self) * self._width + (self._tables.nbytes if self._tables else 0)

    def search(self, queries: ArrayLike, k: int) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """The k nearest items of each query, by distance, then position.

        Args:
            queries: uint8 (Q, ceil(bits / 8)).
            k: at least 1; beyond the collection it means the whole collection.

        Returns:
            distances int32 (Q, min(k, N)) and positions int64 (Q, min(k, N)).

        Raises:
            InputError: queries are not packed codes of so many bits, or k is below 1.
        """
        queries = check_codes(queries, self.bits, "queries")
        k = min(require_count(k), len(self))
        # Both keep the first positions met at the last distance: a heap because FAISS's orders by
        # distance and position, counting by construction.
        self._flat.use_heap = k <= _HEAP
        per_query = k * (self._flat.d + 1)
        self._flat.query_batch_size = min(max(_POSITIONS // per_query, 1), _QUERY_BATCH)
        distances, positions = self._flat.search(self._filled(queries), k)
        return distances, positions

    def within(self, queries: ArrayLike, radius: int) -> Ball:
        """All items at a distance of at most `radius`, by distance, then position.

        Args:
            queries: uint8 (Q, ceil(bits / 8)).
            radius: at least 0, itself included.

        Returns:
            lims int64 (Q + 1,), distances int32 and positions int64 (lims[-1],): those of query i
            stand in lims[i]:lims[i + 1].

        Raises:
            InputError: queries are not packed codes of so many bits, or radius is below 0.
        """
        queries = check_codes(queries, self.bits, "queries")
        if not isinstance(radius, int | np.integer) or radius < 0:
            raise InputError(f"radius={radius!r}: a whole number from 0; pass a Hamming distance")
        radius = min(int(radius), self.bits)
        if len(queries) <= _ASKED:
            return self._within(queries, radius)
        balls = [
            self._within(queries[start : start + _ASKED], radius)
            for start in range(0, len(queries), _ASKED)
        ]
        counts = np.concatenate([np.diff(lims) for lims, _, _ in balls])
        return (
            np.concatenate([[0], np.cumsum(counts)]),
            np.concatenate([distances for _, distances, _ in balls]),
            np.concatenate([positions for _, _, positions in balls]),
        )

    def rerank(
        self, outputs: ArrayLike, positions: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Order what was found by how well it agrees with the network's outputs for the queries.

        The agreement of outputs z with a code b is sum_j z_j (2 b_j - 1): a bit counts by how far
        the output is from the sign change, which Hamming distance does not know. It orders items
        inside ties and across them.

        Args:
            outputs: (Q, bits), the network's for the queries, whose signs are the queries' codes.
            positions: (Q, k) as `search` returns them.

        Returns:
            agreements float64 (Q, k), highest first, and positions int64 (Q, k); of equal ones the
            one that stood before stays before.

        Raises:
            InputError: another shape, or outputs that are not finite.
        """
        outputs = np.asarray(outputs, np.float64)
        if outputs.shape != (len(positions), self.bits) or not np.isfinite(outputs).all():
            raise InputError(
                f"outputs of shape {outputs.shape}: finite values ({len(positions)}, {self.bits}),"
                " a row per query; pass what the network gave before its signs were taken"
            )
        codes = self._codes[positions.ravel(), : -(-self.bits // 8)]
        signs = 2.0 * unpack(codes, self.bits).reshape(*positions.shape, self.bits) - 1.0
        agreements = np.einsum("qb,qkb->qk", outputs, signs)
        order = np.argsort(-agreements, axis=1, kind="stable")
        return np.take_along_axis(agreements, order, 1), np.take_along_axis(positions, order, 1)

    @property
    def _codes(self) -> NDArray[np.uint8]:
        """FAISS's own copy, not to outlive the index."""
        import faiss

        flat = faiss.rev_swig_ptr(self._flat.xb.data(), len(self) * self._width)
        return cast("NDArray[np.uint8]", flat.reshape(len(self), self._width))

    def _filled(self, codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Codes as wide as FAISS's."""
        if codes.shape[1] == self._width:
            return np.ascontiguousarray(codes)
        filled = np.zeros((len(codes), self._width), np.uint8)
        filled[:, : codes.shape[1]] = codes
        return filled

    def _multi_index(self) -> MultiIndex:
        from isdh.multi_index import MultiIndex  # numba: not for those who only rank

        if self._tables is None:
            self._tables = MultiIndex(self._codes, self.bits)
        return self._tables

    def _within(self, queries: NDArray[np.uint8], radius: int) -> Ball:
        rows = len(self)
        position_bits, distance_bits = rows.bit_length(), self.bits.bit_length()
        keys, left = np.empty(0, np.int64), np.arange(len(queries))
        if rows >= _TABLES and self._multi_index().plan(radius):
            keys, left_out = self._multi_index().find(_words(queries), radius)
            left = np.flatnonzero(left_out)
        if len(left):
            lims, distances, positions = self._flat.range_search(
                self._filled(queries[left]), radius + 1
            )
            query = np.repeat(left, np.diff(lims.astype(np.int64)))
            scanned = (query << distance_bits) | distances.astype(np.int64)
            keys = np.concatenate([keys, (scanned << position_bits) | positions])
        keys.sort()
        firsts = np.arange(len(queries) + 1) << (position_bits + distance_bits)
        distances = (keys >> position_bits) & ((1 << distance_bits) - 1)
        positions = keys & ((1 << position_bits) - 1)
        return np.searchsorted(keys, firsts), distances.astype(np.int32), positions


def require_count(value: int, name: str = "k") -> int:
    """A count of at least 1.

    Raises:
        InputError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise InputError(f"{name}={value!r}: a whole number from 1; pass how many items to return")
    return int(value)
