"""The one error that is the user's to mend: value, rule, remedy in its text, and its words."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

NAMED = 5  # offenders that one error names


class InputError(ValueError):
    """Bad input. Faces print its text without a traceback and exit with code 2."""


class Unanswered(InputError):  # noqa: N818
    """A server or database does not answer, or is busy: the same may succeed a little later."""


def first_five(values: Iterable[Any]) -> str:
    """The first five values and how many more there are, for messages.

    >>> first_five("abcdefg")
    "'a', 'b', 'c', 'd', 'e' and 2 more"
    """
    values = list(values)
    more = f" and {len(values) - NAMED} more" if len(values) > NAMED else ""
    return ", ".join(repr(value) for value in values[:NAMED]) + more


def unknown(kind: str, name: str, known: Iterable[str]) -> InputError:
    """The error for a name that is not among the known ones, naming the nearest.

    >>> unknown("method", "isdg", ["idhn", "isdh"]).args[0]
    "unknown method 'isdg', did you mean 'isdh'? known: idhn, isdh"
    """
    names = sorted(known)
    nearest = get_close_matches(str(name), names, n=1)
    hint = f", did you mean {nearest[0]!r}?" if nearest else "."
    return InputError(f"unknown {kind} {name!r}{hint} known: {', '.join(names)}")
