"""The registry's aliases -> which versions hold them. Asked often, so it asks for nothing else."""

from __future__ import annotations

from isdh.artifacts import Workspace
from isdh.errors import InputError
from isdh.tracking.in_use import AGAIN, InUse
from isdh.tracking.server import connected
from isdh.tracking.versions import ALIAS, CHALLENGER, cell_of, model_name, version_of, weights_of


def versions_by_alias(workspace: Workspace, dataset: str, bits: int) -> dict[str, InUse]:
    """The versions that are `champion` and `challenger`, as far as there are any.

    Raises:
        InputError: MLflow does not answer, or a version is not of this project.
    """
    name = model_name(dataset, bits)
    with connected(workspace, create=False, again=AGAIN) as client:
        found = {alias: version_of(client, name, alias) for alias in (ALIAS, CHALLENGER)}
    try:
        return {
            alias: InUse(
                name,
                str(version.version),
                alias == ALIAS,
                cell_of(version),
                weights_of(version),
            )
            for alias, version in found.items()
            if version
        }
    except KeyError as error:
        raise InputError(
            f"model {name!r}: holds a version without the tag {error}, registered by someone else; "
            "take its alias away in MLflow's page"
        ) from None
