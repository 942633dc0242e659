"""What every result of a benchmark says beside its figures, and where it is put."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from isdh.rows import versions
from isdh.store import cores

ROOT = Path(__file__).resolve().parents[1]


def record(what: str, *, packages: tuple[str, ...], **figures: Any) -> Path:
    """Write benchmarks/results/<date>-<what>.json.

    Args:
        what: was measured.
        packages: whose versions matter.
        figures: for JSON.
    """
    commit = ["git", "rev-parse", "--short", "HEAD"]
    now = datetime.now(UTC)
    result = {
        "date": now.isoformat(timespec="seconds"),
        "commit": subprocess.check_output(commit, cwd=ROOT, text=True).strip(),
        "machine": {"cores": cores(), "processor": platform.processor() or platform.machine()},
        "load_average": os.getloadavg()[0],
        "versions": {"python": platform.python_version(), **versions(*packages)},
        **figures,
    }
    path = ROOT / "benchmarks" / "results" / f"{now:%Y-%m-%d}-{what}.json"
    path.write_text(json.dumps(result, indent=2) + "\n")
    return path
