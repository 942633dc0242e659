"""Names of metrics -> what people call them, what they mean, and which ones lead the report."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """A family of metrics that differ in their cut-off.

    Attributes:
        title: as the field writes it.
        phrase: a few words under the title.
        definition: one line.
    """

    title: str
    phrase: str
    definition: str


KINDS = {
    "map": Kind(
        "MAP",
        "relevant pictures early",
        "Mean average precision: the precision at the rank of each relevant picture among the"
        " first k, averaged over those pictures, then over queries.",
    ),
    "wap": Kind(
        "WAP",
        "many shared labels early",
        "Weighted average precision: as MAP, with the mean number of shared labels down to each"
        " rank in place of the precision, so it can exceed 1.",
    ),
    "acg": Kind(
        "ACG",
        "shared labels per picture",
        "Average cumulative gain: the mean number of labels that the first k pictures share with"
        " the query.",
    ),
    "ndcg": Kind(
        "NDCG",
        "best pictures first",
        "Normalised discounted cumulative gain: 2ʳ \N{MINUS SIGN} 1 for r shared labels,"
        " discounted by the logarithm of the rank, over the same sum for the best possible order.",
    ),
    "precision": Kind(
        "Precision",
        "share that is relevant",
        "The share of the first k pictures that is relevant.",
    ),
    "recall": Kind(
        "Recall",
        "share that is found",
        "The share of a query's relevant pictures that is among the first k.",
    ),
}
RADIUS = (
    "The same over the ball of Hamming radius 2 around the query's code, whatever its size. An"
    " empty ball counts 0, so long codes can fall below a random ranking."
)

_LEADING = (("map", 5000), ("map", None), ("wap", 5000), ("acg", 100), ("ndcg", 100))
_AT = re.compile(r"(\w+)_at_(\d+|all)")
_WITHIN = re.compile(r"(\w+)_within_r(\d+)")


def title(metric: str) -> str:
    """A metric's name as people write it.

    >>> title("ndcg_at_100"), title("precision_within_r2"), title("queries_without_relevant")
    ('NDCG@100', 'Precision, radius 2', 'queries without relevant')
    """
    if match := _AT.fullmatch(metric):
        return f"{_kind(match[1])}@{match[2]}"
    if match := _WITHIN.fullmatch(metric):
        return f"{_kind(match[1])}, radius {match[2]}"
    return metric.replace("_", " ")


def phrase(metric: str) -> str:
    """What a metric rewards, in a few words; nothing for an unknown one."""
    kind = KINDS.get(metric.split("_")[0])
    return kind.phrase if kind else ""


def cutoffs(metrics: Iterable[str]) -> list[int | None]:
    """The ranks at which scores were taken, None for the whole database.

    >>> cutoffs(["map_at_10", "map_at_all", "acg_at_10", "precision_within_r2"])
    [10, None]
    """
    found = dict.fromkeys(match[2] for match in map(_AT.fullmatch, metrics) if match)
    return [None if cutoff == "all" else int(cutoff) for cutoff in found]


def principal(metrics: Iterable[str]) -> list[str]:
    """The metrics that lead the report, with the cut-offs nearest to the customary ones.

    >>> principal(["map_at_10", "map_at_1000", "acg_at_50", "precision_within_r2"])
    ['map_at_1000', 'acg_at_50', 'precision_within_r2']
    """
    known = list(metrics)
    chosen = [_nearest(known, kind, cutoff) for kind, cutoff in _LEADING]
    chosen.append("precision_within_r2" if "precision_within_r2" in known else None)
    return list(dict.fromkeys(name for name in chosen if name))


def headline(metrics: Iterable[str]) -> str:
    """The one of the leading metrics that the page opens with and its examples are chosen by.

    >>> headline(["map_at_10", "ndcg_at_10", "ndcg_at_1000"])
    'ndcg_at_10'
    """
    leading = principal(metrics)
    return next((name for name in leading if name.startswith("ndcg")), leading[0])


def _nearest(metrics: list[str], kind: str, cutoff: int | None) -> str | None:
    everything = f"{kind}_at_all"
    finite = [
        int(m[2]) for m in map(_AT.fullmatch, metrics) if m and m[1] == kind and m[2] != "all"
    ]
    if cutoff is None or not finite:
        return everything if everything in metrics else None
    return f"{kind}_at_{min(finite, key=lambda k: (abs(k - cutoff), k))}"


def _kind(name: str) -> str:
    return KINDS[name].title if name in KINDS else name
