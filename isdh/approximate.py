"""Packed codes -> near neighbours, not always the nearest, by clusters of FAISS; their recall."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from isdh.codes import check_codes
from isdh.index import HammingIndex, require_count

__all__ = ["ApproximateIndex"]


class ApproximateIndex:
    """Search in the clusters of codes that lie nearest to a query. Not exact: see `recall`.

    Made on request only, for collections so large that a scan is too slow.

    Attributes:
        recall: of codes of the collection asked for `measured_at` items, the share of those
            returned that are as near as the exact ones. Ties count as equal.
        measured_at: that number.
    """

    def __init__(
        self,
        codes: ArrayLike,
        bits: int,
        *,
        probes: int = 16,
        clusters: int | None = None,
        queries: ArrayLike | None = None,
        k: int = 100,
    ) -> None:
        """Cluster the codes and measure the recall.

        Args:
            codes: uint8 (N, ceil(bits / 8)).
            bits: the length of a code.
            probes: clusters that are looked at.
            clusters: how many there are; by default the root of N.
            queries: to measure recall with; by default 256 codes, evenly from the collection.
            k: the number of answers to measure recall at.

        Raises:
            InputError: codes or queries are not packed codes of so many bits, or a count is below
                1.
        """
        import faiss

        exact = HammingIndex(codes, bits)
        codes = check_codes(codes, bits)
        clusters = require_count(clusters or max(int(len(exact) ** 0.5), 1), "clusters")
        self.bits = bits
        self._quantiser = faiss.IndexBinaryFlat(8 * codes.shape[1])
        self._ivf = cast(
            Any,
            faiss.IndexBinaryIVF(self._quantiser, 8 * codes.shape[1], min(clusters, len(codes))),
        )
        self._ivf.nprobe = min(require_count(probes, "probes"), self._ivf.nlist)
        self._ivf.cp.min_points_per_centroid = 1  # else FAISS warns of small collections
        self._ivf.train(np.ascontiguousarray(codes))
        self._ivf.add(np.ascontiguousarray(codes))
        if queries is None:
            queries = codes[np.linspace(0, len(codes) - 1, min(256, len(codes))).astype(np.int64)]
        self.measured_at = min(require_count(k), len(exact))
        farthest = exact.search(queries, self.measured_at)[0][:, -1:]
        found, positions = self.search(queries, self.measured_at)
        self.recall = float(((found <= farthest) & (positions >= 0)).mean())

    def search(self, queries: ArrayLike, k: int) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """About the k nearest items of each query, by distance, then position.

        Args:
            queries: uint8 (Q, ceil(bits / 8)).
            k: at least 1; beyond the collection it means the whole collection.

        Returns:
            distances int32 and positions int64, (Q, min(k, N)); where the clusters hold fewer, the
            last positions are -1.

        Raises:
            InputError: as HammingIndex.search.
        """
        queries = check_codes(queries, self.bits, "queries")
        k = min(require_count(k), int(self._ivf.ntotal))
        distances, positions = self._ivf.search(np.ascontiguousarray(queries), k)
        absent = positions < 0
        order = np.lexsort((positions, distances, absent), axis=1)
        return np.take_along_axis(distances, order, 1), np.take_along_axis(positions, order, 1)
