"""One file per dataset layout; the folder is the registry, and `reader:` names a file of it.

A reader's file defines `Options`, a Source with what params.yaml may say of it, and
`read(root, options)`, which turns the raw folder into the rows of a manifest. It may define
`FETCH`, the end of a message to a user without the raw data: what to fetch, from whom and under
which terms.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from isdh.errors import InputError
from isdh.registry import Registry
from isdh.settings import Source, validate

READERS = Registry("reader", __name__, Path(__file__).parent)


def options(source: Mapping[str, Any], *, where: str) -> Source:
    """Validate `{reader: name, ...}` against the reader's own options.

    Raises:
        InputError: no or an unknown reader, an unknown option, or a value out of range.
    """
    values = dict(source)
    reader = values.pop("reader", None)
    if not isinstance(reader, str):
        raise InputError(f"{where}: missing key 'reader'; known: {', '.join(READERS)}")
    checked: Source = validate(READERS[reader].Options, values, where=where)
    return checked
