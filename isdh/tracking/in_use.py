"""The registered version that is in use, or another one: whose it is, and its files. Reads only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from isdh.artifacts import Cell, Workspace
from isdh.errors import InputError
from isdh.tracking.server import connected, shown
from isdh.tracking.versions import cell_of, model_name, weights_of

if TYPE_CHECKING:
    from isdh.tracking.package import Package
    from isdh.tracking.registered import Registered

AGAIN = "the same command"


@dataclass(frozen=True)
class InUse:
    """A registered version.

    Attributes:
        model: the registered model's name.
        number: the version's.
        is_champion: it holds the alias.
        cell: what it was made of.
        weights_sha256: of its weights.
    """

    model: str
    number: str
    is_champion: bool
    cell: Cell
    weights_sha256: str


def version_in_use(
    workspace: Workspace, dataset: str, bits: int, version: int | None = None
) -> InUse:
    """The champion of a dataset and code length, or the version of a number.

    Raises:
        InputError: MLflow does not answer, no champion, no such version, or versions that are not
            of this project.
    """
    with _registered(workspace, dataset, bits) as registered:
        found = registered.holder if version is None else registered.version(str(version))
        if found is None:
            raise InputError(
                f"model {registered.name!r}: has no champion in "
                f"{shown(registered.client.tracking_uri)}; run `isdh promote`, or name a --version"
            )
        return InUse(
            registered.name,
            str(found.version),
            str(found.version) == registered.champion,
            cell_of(found),
            weights_of(found),
        )


@contextmanager
def files_in_use(workspace: Workspace, version: InUse) -> Iterator[Package]:
    """A version's files, verified; where their store is of another machine, copied here for now.

    Raises:
        InputError: MLflow does not answer, or they are lost, altered, or of another shape.
    """
    from isdh.tracking import registration

    cell = version.cell
    with (
        _registered(workspace, cell.dataset, cell.bits) as registered,
        registration.opened(registered.client, registered.version(version.number)) as package,
    ):
        yield package


@contextmanager
def _registered(workspace: Workspace, dataset: str, bits: int) -> Iterator[Registered]:
    with connected(workspace, create=False, again=AGAIN) as client:
        from isdh.tracking.registered import Registered  # imports MLflow

        yield Registered(client, workspace, model_name(dataset, bits))
