"""Scores -> the order of the methods, and which of them a page draws in colour and how."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING

from isdh.report import svg, vocabulary

if TYPE_CHECKING:
    from isdh.report.evidence import Evidence

OWN = "isdh"  # the method of the paper this project follows; always in colour
FEW = svg.COLOURS  # as many methods have a colour and a marker each
IN_COLOUR = 5  # methods of a drawing, where they are more than few


def leading(methods: Sequence[str]) -> tuple[str, ...]:
    """Of methods, best first, those that a drawing tells apart: few all, of more isdh and the best.

    >>> leading(["b", "a", "isdh"])
    ('b', 'a', 'isdh')
    >>> leading(["c", "a", "b", "d", "e", "f", "g", "h", "isdh"])
    ('isdh', 'c', 'a', 'b', 'd')
    """
    if len(methods) <= FEW:
        return tuple(methods)
    return tuple(sorted(methods, key=lambda method: method != OWN)[:IN_COLOUR])


def distinct(drawings: Sequence[Sequence[str]]) -> dict[str, int]:
    """The methods that drawings have in colour -> a look each, the same in all of them.

    No two are equal as long as looks suffice, and in one drawing no two have one colour as long as
    colours do.
    """
    found: dict[str, int] = {}
    for method in dict.fromkeys(method for drawing in drawings for method in drawing):
        beside = {other for drawing in drawings if method in drawing for other in drawing}
        colours = {look % svg.COLOURS for other, look in found.items() if other in beside}
        free = set(range(svg.LOOKS)) - set(found.values()) or range(svg.LOOKS)
        found[method] = min(free, key=lambda look: (look % svg.COLOURS in colours, look))
    return found


def ranking(evidence: Evidence, metric: str) -> tuple[str, ...]:
    """All methods: few in the order of params.yaml, more by a metric, the highest mean first.

    The mean is over code lengths and seeds; methods with equal means stand by name.
    """
    if len(evidence.methods) <= FEW:
        return evidence.methods
    means = {
        method: fmean(
            evidence.scores[cell][metric]
            for bits in evidence.bits
            for cell in evidence.runs(method, bits)
        )
        for method in evidence.methods
    }
    return tuple(sorted(means, key=lambda method: (-means[method], method)))


def in_colour(evidence: Evidence, metric: str) -> tuple[str, ...]:
    """The methods a drawing by a metric tells apart."""
    return leading(ranking(evidence, metric))


def looks(evidence: Evidence) -> dict[str, int]:
    """Method -> its look on the whole page; none for methods that no drawing has in colour."""
    metrics = vocabulary.principal(next(iter(evidence.scores.values())))
    return distinct([in_colour(evidence, metric) for metric in metrics])


def looks_by(evidence: Evidence, metric: str) -> dict[str, int]:
    """Method -> look, of the methods that a drawing by one of the leading metrics has in colour."""
    page = looks(evidence)
    return {method: page[method] for method in in_colour(evidence, metric)}
