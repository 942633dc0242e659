"""compose.yaml: valid by the schema, images pinned, ports on loopback, no secret by default.

Nothing here starts an image. tests/flows/test_elsewhere.py runs the commands that stand there.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.workspaces import ROOT

FILE = ROOT / "compose.yaml"
SECRETS = {
    "ISDH_POSTGRES_PASSWORD": "p@ss:w/rd %41",  # no part of an address: anything will do
    "ISDH_S3_ACCESS_KEY": "someone",
    "ISDH_S3_SECRET_KEY": "s/e+c=ret",
}
VARIABLE = re.compile(r"\$\{(\w+)(?::([-?])([^}]*))?\}")


def composed(variables: Mapping[str, str]) -> dict[str, Any]:
    """compose.yaml with its variables filled in, as Compose does it.

    Raises:
        KeyError: one without a default is missing; the message is what a person is told.
    """

    def filled(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: filled(each) for key, each in value.items()}
        if isinstance(value, list):
            return [filled(each) for each in value]
        return VARIABLE.sub(one, value) if isinstance(value, str) else value

    def one(found: re.Match[str]) -> str:
        name, kind, rest = found.groups()
        if value := variables.get(name):
            return value
        if kind != "-":
            raise KeyError(f"{name}: {rest}")
        return str(rest)

    content: dict[str, Any] = filled(yaml.safe_load(FILE.read_text()))
    return content


@pytest.fixture(scope="module")
def content() -> dict[str, Any]:
    return composed(SECRETS)


@pytest.fixture(scope="module")
def services(content: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return content["services"]


def test_the_schema_of_compose_files_allows_it():
    schema = ["--builtin-schema", "vendor.compose-spec"]
    command = [sys.executable, "-m", "check_jsonschema", *schema, str(FILE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_a_service_names_is_there(content, services):
    for service in services.values():
        assert set(service.get("depends_on", {})) <= set(services)
        assert {config["source"] for config in service.get("configs", [])} <= set(
            content["configs"]
        )
        named = {volume.partition(":")[0] for volume in service.get("volumes", [])}
        assert named - {"."} <= set(content["volumes"])


def test_who_waits_for_a_healthy_service_waits_for_one_that_is_asked(services):
    for service in services.values():
        for name, wait in service.get("depends_on", {}).items():
            assert wait["condition"] != "service_healthy" or services[name]["healthcheck"]["test"]


def test_images_are_pinned_and_ours_has_the_version_of_the_project(services):
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    for service in services.values():
        name, _, tag = service["image"].rpartition(":")
        assert re.fullmatch(r"v?\d+(\.\d+)+", tag)
        assert ("build" in service) == (name == "isdh")
        assert "build" not in service or tag == version


def test_ports_are_open_to_this_machine_alone(services):
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert len(ports) == 3
    assert all(port.startswith("127.0.0.1:") for port in ports)
    assert not any("network_mode" in service for service in services.values())


@pytest.mark.parametrize("missing", SECRETS)
@pytest.mark.parametrize("value", [None, ""])
def test_without_a_secret_nothing_starts_and_a_person_is_told_which(missing, value):
    others = {name: secret for name, secret in SECRETS.items() if name != missing}
    with pytest.raises(KeyError, match=rf"{missing}: a .* in the environment or in \.env"):
        composed(others if value is None else {**others, missing: value})


def test_whatever_sounds_like_a_secret_comes_from_a_variable_without_default():
    lines = FILE.read_text().splitlines()
    secret = [line for line in lines if re.search(r"^\s*\w*(PASSWORD|_KEY(_ID)?):", line)]
    assert len(secret) == 6
    for line in secret:
        assert re.search(r": \$\{ISDH_\w+:\?", line), line


def test_a_file_with_secrets_is_neither_committed_nor_put_into_the_image():
    ignored = subprocess.run(["git", "check-ignore", "-q", ".env"], cwd=ROOT, check=False)
    assert ignored.returncode == 0
    let_in = (ROOT / ".dockerignore").read_text().splitlines()
    assert let_in[1] == "*"
    assert "!.env" not in let_in


def test_what_outlives_a_container_lies_in_a_volume(services):
    kept = {name: list(mounted(service)) for name, service in services.items()}
    assert kept == {
        "postgres": ["/var/lib/postgresql/data"],
        "store": ["/data/isdh"],
        "server": ["/home/isdh/project/.isdh"],
        "mlflow": [],
        "worker": ["/home/isdh/project"],
        "search": ["/home/isdh/project"],
        "deploy": ["/home/isdh/project"],
    }
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert "WORKDIR /home/isdh/project\n" in dockerfile
    assert "mkdir .isdh" in dockerfile  # whose owner a new volume takes over


def mounted(service: Mapping[str, Any]) -> Iterator[str]:
    for volume in service.get("volumes", []):
        yield str(Path(volume.partition(":")[2]))
