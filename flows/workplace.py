"""Can this Python run the project of this folder? Asked before every run that a worker starts.

prefect.yaml has a worker run this file by its path: nothing of the project need be installed there.
Prefect, and packaging with it, a worker's Python has, whatever else it lacks.
"""

from __future__ import annotations

import os
import sys
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any
from uuid import UUID

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

FILES = ("dvc.yaml", "params.yaml", "pyproject.toml")
REMEDY = (
    "stop this worker and start the project's own: `make setup && make up` in its folder, "
    "or there `.venv/bin/prefect worker start --pool local --type process`"
)


def fault(folder: Path) -> str:
    """Why no run can do well here, and what to do; empty where it can."""
    if absent := [name for name in FILES if not (folder / name).is_file()]:
        return f"{folder}: not the project's folder, it has no {' and no '.join(absent)}; {REMEDY}"
    project = _project(folder)
    python = ".".join(map(str, sys.version_info[:3]))
    wrong = []
    if not SpecifierSet(project["requires-python"]).contains(python):
        wrong.append(f"Python {python} (want {project['requires-python']})")
    for each in _requirements(project):
        version = _version(each.name)
        if version is None:
            wrong.append(f"no {each.name}")
        elif not each.specifier.contains(version, prereleases=True):
            wrong.append(f"{each.name} {version} (want {each.specifier})")
    return f"{sys.executable}: has {', '.join(wrong)}; {REMEDY}" if wrong else ""


def differences(folder: Path) -> str:
    """Which packages are of other versions than were tested together; empty where none is."""
    lock = folder / "requirements.lock"
    lines = lock.read_text(encoding="utf-8").splitlines() if lock.exists() else []
    pairs = [line.split("==") for line in lines if "==" in line]
    tested = {canonicalize_name(name): version for name, version in pairs}
    others = []
    for each in _requirements(_project(folder)):
        want = tested.get(canonicalize_name(each.name))
        have = (_version(each.name) or "").partition("+")[0]  # +cpu: a build of the same version
        if want and have != want:
            others.append(f"{each.name} {have} (there {want})")
    if not others:
        return ""
    return (
        f"{sys.executable}: other versions than in requirements.lock: {', '.join(others)}; results "
        "may differ: `rm -r .venv && make setup` installs those"
    )


def _project(folder: Path) -> dict[str, Any]:
    content = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))
    project: dict[str, Any] = content["project"]
    return project


def _requirements(project: dict[str, Any]) -> list[Requirement]:
    found = [Requirement(text) for text in project["dependencies"]]
    return [each for each in found if each.marker is None or each.marker.evaluate()]


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def main(run: UUID, folder: Path) -> None:
    """Say what is wrong in the state of a run, which has failed then, or else in its log.

    Args:
        run: the flow run.
        folder: where it is to work.

    Raises:
        RuntimeError: it has failed.
    """
    from prefect.client.orchestration import get_client
    from prefect.logging.loggers import flow_run_logger
    from prefect.states import Failed

    with get_client(sync_client=True) as client:
        found = client.read_flow_run(run)
        wrong = fault(folder)
        if not wrong and found.deployment_id:
            deployment = client.read_deployment(found.deployment_id)
            wrong = _lacks(folder, str(deployment.entrypoint))
        if wrong:
            client.set_flow_run_state(run, Failed(message=wrong))
            raise RuntimeError(wrong)
        if other := differences(folder):
            flow_run_logger(found).warning(other)


def _lacks(folder: Path, entrypoint: str) -> str:
    """Why the flow of a deployment is not to be found here; empty where it is."""
    path = entrypoint.partition(":")[0]
    if (folder / path).is_file():
        return ""
    return (
        f"{folder}: has no {path}, so its code is not what was deployed; bring it up to date "
        "(`git pull`), or deploy what is there: `make down && make up`"
    )


if __name__ == "__main__":
    main(UUID(os.environ["PREFECT__FLOW_RUN_ID"]), Path.cwd())
