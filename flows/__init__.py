"""Prefect flows: one small file per stage of dvc.yaml, and the pipeline that runs them all.

Prefect and MLflow read the environment when they are imported, so what this project wants of them
is set here, before: records stay below .isdh/, nobody is told about a run. What the environment
says already stays.
"""

from __future__ import annotations

import atexit
import gc
import logging
import os
import sys
from pathlib import Path

PARENT = os.getppid()  # read first: imports take seconds, in which it may die

# Imports leave half a million objects, none of them garbage: looking for some at every 700th takes
# a third of a start-up, and once more at the end most of a second.
gc.set_threshold(10_000)
atexit.register(gc.freeze)


def _root() -> Path:
    here = Path.cwd()
    return here if (here / "dvc.yaml").is_file() else Path(__file__).resolve().parents[1]


ROOT = _root()

_LEASES = "prefect.server.concurrency.lease_storage"

DEFAULTS = {
    # Without a URL Prefect starts a server of its own for each process, over the same database.
    "PREFECT_API_URL": f"http://127.0.0.1:{os.environ.get('ISDH_PREFECT_PORT') or 4200}/api",
    "PREFECT_SERVER_EPHEMERAL_ENABLED": "false",
    "PREFECT_HOME": str(ROOT / ".isdh" / "prefect"),
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",  # seconds; silence means that a run has crashed
    # Kept in memory, the place that a run holds is lost when the server restarts, for ever taken.
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": f"{_LEASES}.filesystem",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",  # a line outside a run is no mistake
    "DO_NOT_TRACK": "true",  # MLflow obeys the word only, Prefect the word and the 1
    # With its job runner the MLflow server takes 20 s to stop and leaves seven processes behind.
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
}

for _name, _value in DEFAULTS.items():
    os.environ[_name] = os.environ.get(_name) or _value
Path(os.environ["PREFECT_HOME"]).mkdir(parents=True, exist_ok=True)  # Prefect makes the last part

# It says a second time where a run is seen. A level set here would not outlive Prefect's import.
logging.getLogger("prefect.engine").addFilter(lambda record: record.levelno > logging.INFO)

# A stage's command is `python -m flows.<stage>`: this Python, whether activated or not.
_folder = str(Path(sys.executable).parent)
if os.environ.get("PATH", "").split(os.pathsep)[0] != _folder:
    os.environ["PATH"] = os.pathsep.join([_folder, os.environ.get("PATH", os.defpath)])
