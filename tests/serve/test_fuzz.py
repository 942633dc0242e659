"""What OpenAPI describes, asked for in every way that it allows and does not: no fault of ours."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.serve.conftest import Served
from tests.workspaces import environment

pytestmark = pytest.mark.slow
pytest.importorskip("schemathesis")


def test_no_request_leads_to_a_fault_and_answers_are_as_described(standing: Served, tmp_path):
    """All checks but one: not all bytes are a picture, nor all text a label or a code."""
    command = [
        Path(sys.executable).with_name("schemathesis"),
        *("run", f"{standing.url}/openapi.json", "--max-examples=25", "--generation-deterministic"),
        *("--phases=coverage,fuzzing", "--checks=all"),
        "--exclude-checks=positive_data_acceptance",
    ]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env=environment(NO_PROXY="*", no_proxy="*"),
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    assert "Tested: 11" in done.stdout
    assert standing.get("/ready")["ready"]
