"""Settings that all tests share, made before anything heavy is imported."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two cores, and workers of our own beside
os.environ.setdefault("ISDH_DEVICE", "cpu")
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where a shell did not wait


@pytest.fixture(scope="session")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That of a stranger, who has what a registered model needs and not this repository."""
    from tests import strangers

    return strangers.create(tmp_path_factory.mktemp("stranger"))


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """MLflow's, by the kind of database beneath."""
    from tests.tracking.servers import started

    with started(tmp_path_factory.mktemp("servers")) as found:
        yield found


@pytest.fixture(params=["sqlite", "postgres"])
def served(request: pytest.FixtureRequest, servers: dict[str, Any]) -> Any:
    """One of them; a test that asks for it does to each what it does."""
    if request.param not in servers:
        pytest.skip("PostgreSQL is not installed: no initdb")
    return servers[request.param]
