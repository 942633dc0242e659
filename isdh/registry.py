"""A package's folder is its registry: each file is one entry, imported when it is looked up."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from isdh.errors import unknown


class Registry(Mapping[str, Any]):
    """File stems of a package -> what each file defines. Listing names imports nothing.

    Args:
        kind: the noun for error messages, e.g. "method".
        package: dotted name of the package.
        folder: where its files lie.
    """

    def __init__(self, kind: str, package: str, folder: Path) -> None:
        self._kind = kind
        self._package = package
        self._names = sorted(p.stem for p in folder.glob("*.py") if not p.stem.startswith("_"))

    def __getitem__(self, name: str) -> Any:
        """Import one entry and return the class it registers.

        Raises:
            InputError: no file has that name; the nearest is named.
        """
        if name not in self._names:
            raise unknown(self._kind, name, self._names)
        return self.pick(importlib.import_module(f"{self._package}.{name}"))

    def pick(self, module: Any) -> Any:
        """What an entry's module stands for: by default the module itself."""
        return module

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._names
