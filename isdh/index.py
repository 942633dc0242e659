"""Packed codes -> exact nearest neighbours by Hamming distance, over FAISS's flat binary index."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from isdh.codes import check_codes
from isdh.errors import InputError

__all__ = ["HammingIndex"]

# FAISS keeps k positions per distance and query of a batch: so many of 8 bytes at once.
_POSITIONS = 1 << 24
_QUERY_BATCH = 32  # FAISS's own


class HammingIndex:
    """Exhaustive search in a collection of codes of any length.

    Answers come by distance, those at one distance by position: what is returned does not depend
    on the number of threads, and of the items tied at the k-th distance the first of the
    collection are kept.

    >>> from isdh.codes import pack
    >>> index = HammingIndex(pack([[1, 1, 1], [-1, 1, 1], [1, 1, 1]]), bits=3)
    >>> index.search(pack([[1, 1, 1]]), k=2)
    (array([[0, 0]], dtype=int32), array([[0, 2]]))
    """

    def __init__(self, codes: ArrayLike, bits: int) -> None:
        """Copy the collection into FAISS.

        Args:
            codes: uint8 (N, ceil(bits / 8)), N at least 1; position i is row i.
            bits: the length of a code; the pad bits make whole bytes of it, as FAISS needs.

        Raises:
            InputError: codes are not packed codes of so many bits, or there are none.
        """
        import faiss  # an optional face: a library of 60 MB

        codes = check_codes(codes, bits)
        if not len(codes):
            raise InputError("0 codes: a collection holds at least one; pass codes to search in")
        self.bits = bits
        self._flat = cast(Any, faiss.IndexBinaryFlat(8 * codes.shape[1]))
        # Counting per distance keeps the first k positions met, by construction; a heap keeps
        # them by the way it breaks ties, and is slower from some hundreds of answers on.
        self._flat.use_heap = False
        self._flat.add(np.ascontiguousarray(codes))

    def __len__(self) -> int:
        return int(self._flat.ntotal)

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
        if not isinstance(k, int | np.integer) or k < 1:
            raise InputError(f"k={k!r}: a whole number from 1; pass how many items to return")
        k = min(int(k), len(self))
        per_query = k * (self._flat.d + 1)
        self._flat.query_batch_size = min(max(_POSITIONS // per_query, 1), _QUERY_BATCH)
        distances, positions = self._flat.search(np.ascontiguousarray(queries), k)
        return distances, positions

    def within(
        self, queries: ArrayLike, radius: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int64]]:
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
        strictly_below = min(int(radius), self.bits) + 1
        lims, distances, positions = self._flat.range_search(
            np.ascontiguousarray(queries), strictly_below
        )
        lims, distances = lims.astype(np.int64), distances.astype(np.int32)
        query = np.repeat(np.arange(len(queries)), np.diff(lims))
        order = np.lexsort((positions, distances, query))
        return lims, distances[order], positions[order]
