"""A workspace with a champion and a challenger, and services on real ports."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from isdh import params
from isdh.artifacts import Workspace
from isdh.serve.current import Current
from isdh.serve.options import Options
from isdh.serve.run import bound, configured
from isdh.serve.service import Service
from tests.flows.conftest import copy_made, made_once  # noqa: F401
from tests.workspaces import run, within, write_params

BITS = 12


@pytest.fixture(scope="session")
def promoted_once(
    made_once: Path,  # noqa: F811
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """Champion version 1 is isdh, challenger version 2 is dhn."""
    root = copy_made(made_once, tmp_path_factory.mktemp("promoted") / "workspace")
    for methods in (["isdh"], ["dhn"]):
        write_params(root, methods=methods, champion={"metric": "ndcg_at_10", "margin": 1})
        done = run(root, "isdh", "promote")
        assert done.returncode == 0, done.stderr
    write_params(root, methods=["isdh", "dhn"])
    return root


@pytest.fixture
def workspace(promoted_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """The test's own copy."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return Workspace(copy_made(promoted_once, tmp_path / "workspace"))


@pytest.fixture(scope="module")
def standing(promoted_once: Path) -> Iterator[Served]:
    """A service that no test changes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        with served(Workspace(promoted_once)) as found:
            yield found


@dataclass(frozen=True)
class Served:
    """A service that answers."""

    client: httpx.Client
    service: Service
    url: str

    def get(self, path: str, status: int = 200, **query: Any) -> dict[str, Any]:
        answer = self.client.get(path, params=query)
        assert answer.status_code == status, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def post(self, path: str, data: bytes, status: int = 200, **query: Any) -> dict[str, Any]:
        answer = self.client.post(path, content=data, params=query)
        assert answer.status_code == status, answer.text
        found: dict[str, Any] = answer.json()
        return found


@contextmanager
def served(
    workspace: Workspace, options: Options | None = None, before: Callable[[Service], None] = id
) -> Iterator[Served]:
    """A service on a free port, which looks at the registry only when it is told to."""
    options = options or Options(port=0, every=3600)
    settings = params.load(workspace.root / "params.yaml")
    service = Service(Current(workspace, settings, "digits", BITS), options)
    before(service)
    with bound(options) as listener:
        host, port = listener.getsockname()[:2]
        server = uvicorn.Server(configured(service))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        url = f"http://{host}:{port}"
        try:
            assert within(60, lambda: server.started)
            with httpx.Client(base_url=url, trust_env=False, timeout=60) as client:
                yield Served(client, service, url)
        finally:
            server.should_exit = True
            thread.join()
