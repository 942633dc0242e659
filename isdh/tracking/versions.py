"""Registered models: one per dataset and code length, a version per distinct weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from isdh.artifacts import Cell
from isdh.errors import InputError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

ALIAS = "champion"
CHALLENGER = "challenger"
# no such model; no such alias, as the database's store says it
ABSENT = {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}


def model_name(dataset: str, bits: int) -> str:
    """The registered model of a dataset and code length."""
    return f"isdh-{dataset}-{bits}bit"


def cell_of(version: ModelVersion) -> Cell:
    """The cell that a version was made of."""
    return Cell.parse(version.tags["isdh.cell"])


def weights_of(version: ModelVersion) -> str:
    """The digest of a version's weights, as they were registered."""
    return str(version.tags["isdh.weights_sha256"])


def version_of(client: MlflowClient, name: str, alias: str) -> ModelVersion | None:
    """The version that holds an alias, or None.

    Raises:
        MlflowException: it could not be asked; an unanswered question is no "none".
    """
    from mlflow.exceptions import MlflowException

    try:
        return client.get_model_version_by_alias(name, alias)
    except MlflowException as error:
        if error.error_code not in ABSENT:
            raise
        return None


def champion_version(client: MlflowClient, name: str) -> ModelVersion | None:
    """The version that is in use, or None. Raises as `version_of`."""
    return version_of(client, name, ALIAS)


def by_weights(client: MlflowClient, name: str) -> dict[str, ModelVersion]:
    """The versions of a registered model by the digest of their weights.

    Raises:
        InputError: one of them is no model of this name's dataset and code length.
    """
    found = client.search_model_versions(f"name = '{name}'")
    for version in found:
        _require_ours(version)
    return {weights_of(version): version for version in found}


def _require_ours(version: ModelVersion) -> None:
    try:
        cell = cell_of(version)
        ours = model_name(cell.dataset, cell.bits) == version.name and bool(weights_of(version))
    except (KeyError, InputError):
        ours = False
    if not ours:
        raise InputError(
            f"model {version.name!r}: version {version.version} was registered by someone else, "
            "and what it takes and gives is not known; delete that version in MLflow's page, or "
            "give the model another name there, then run the command again"
        )
