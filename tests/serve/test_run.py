"""`isdh serve` as a process: its first line, its end, and what it refuses to start with."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest

from isdh.artifacts import Workspace
from tests.serve.conftest import BITS
from tests.workspaces import environment, run

pytestmark = pytest.mark.slow


@contextmanager
def serving(
    workspace: Workspace, *words: str, **env: str
) -> Iterator[tuple[str, subprocess.Popen]]:
    """A service of the command's, by the address that it prints."""
    process = subprocess.Popen(
        ["isdh", "serve", "--port=0", *words],
        cwd=workspace.root,
        env=environment(**env),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        line = process.stdout.readline()
        assert line.startswith("http://"), process.stderr.read()
        yield line, process
    finally:
        process.kill()
        process.communicate()


def test_it_says_where_it_is_and_ends_when_told(workspace):
    with serving(workspace) as (line, process):
        url = line.partition(": ")[0]
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+", url)
        assert f"champion isdh-digits-{BITS}bit version 1 (digits/isdh-{BITS}-0)" in line
        assert httpx.get(f"{url}/ready", trust_env=False, timeout=30).json()["ready"]
        assert "<h1>" in httpx.get(url, trust_env=False).text
        process.send_signal(signal.SIGTERM)
        _, told = process.communicate(timeout=30)
        assert "Traceback" not in told
        assert process.returncode in {0, -signal.SIGTERM}


def test_it_is_bound_to_loopback_unless_told(workspace):
    with serving(workspace, "--host=0.0.0.0", "--without-token") as (line, _):
        port = int(re.search(r":(\d+):", line)[1])
        assert httpx.get(f"http://127.0.0.1:{port}/version", trust_env=False).status_code == 200
    token = "a secret of some length"
    with serving(workspace, "--host=0.0.0.0", ISDH_TOKEN=token) as (line, _):
        port = int(re.search(r":(\d+):", line)[1])
        assert httpx.get(f"http://127.0.0.1:{port}/version", trust_env=False).status_code == 401
        assert token not in line


@pytest.mark.parametrize(
    ("words", "env", "reason"),
    [
        (["--host=0.0.0.0"], {}, "set ISDH_TOKEN"),
        (["--host=0.0.0.0"], {"ISDH_TOKEN": "short"}, "want 16"),
        (["--host=no.such.host.invalid", "--without-token"], {}, "cannot listen there"),
        (["--dataset=digit"], {}, "did you mean 'digits'?"),
        (["--bits=13"], {}, "no champion"),
        (["--waiting=0"], {}, "--waiting=0"),
    ],
)
def test_what_cannot_be_served_is_told_in_a_line(workspace, words, env, reason):
    done = run(workspace.root, "isdh", "serve", *words, **env)
    assert done.returncode == 2
    assert reason in done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_that_is_taken_is_told(workspace):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        done = run(workspace.root, "isdh", "serve", f"--port={other.getsockname()[1]}")
    assert done.returncode == 2
    assert "cannot listen there" in done.stderr
