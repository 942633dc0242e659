"""The one error that is the user's to mend: value, rule, remedy in its text."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class InputError(ValueError):
    """Bad input. Faces print its text without a traceback and exit with code 2."""


def unknown(kind: str, name: str, known: Iterable[str]) -> InputError:
    """The error for a name that is not among the known ones, naming the nearest.

    >>> unknown("method", "isdg", ["idhn", "isdh"]).args[0]
    "unknown method 'isdg', did you mean 'isdh'? known: idhn, isdh"
    """
    names = sorted(known)
    nearest = get_close_matches(name, names, n=1)
    hint = f", did you mean {nearest[0]!r}?" if nearest else "."
    return InputError(f"unknown {kind} {name!r}{hint} known: {', '.join(names)}")
