"""`make up` and `make down`: Prefect server, worker and MLflow under one supervisor, on loopback.

    python -m flows.operations up | down

supervisord.conf says what runs; `worker` and `deploy` are two of its programs. Exit codes: 0 done,
2 a port is taken or a program does not start, with a message.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from xmlrpc.client import Fault

from flows import ROOT
from flows.services import LOOPBACK, PREFECT_PORT, api_answers, ask, port_is_free, tail
from isdh.errors import InputError, unknown

MLFLOW_PORT = 5000  # MLflow's own
POOL = "local"
DEPLOYMENT = "pipeline/nightly"
SOCKET_PATH = 95  # bytes a Unix socket's path may hold, less what supervisord appends for a moment
HEALTHY_WITHIN = 180.0  # seconds
CANCELLED_WITHIN = 30.0
STOPPED_WITHIN = 90.0  # supervisord kills what has not stopped after its stopwaitsecs

STATE = ROOT / ".isdh"
LOGS = STATE / "logs"

# A run that has not been heard of for three minutes is dead: its state frees the only place.
# Heartbeats come every 30 s (flows/__init__.py), from a thread that work does not hold up.
CRASH_RULE: dict[str, Any] = {
    "name": "a silent run has crashed",
    "description": "No heartbeat for 180 s: the process was killed, or the machine went down.",
    "enabled": True,
    "trigger": {
        "type": "event",
        "posture": "Proactive",
        "match": {"prefect.resource.id": "prefect.flow-run.*"},
        "for_each": ["prefect.resource.id"],
        "after": ["prefect.flow-run.heartbeat"],
        "expect": [
            "prefect.flow-run.heartbeat",
            "prefect.flow-run.Completed",
            "prefect.flow-run.Failed",
            "prefect.flow-run.Cancelled",
            "prefect.flow-run.Crashed",
        ],
        "threshold": 1,
        "within": 180,
    },
    "actions": [
        {
            "type": "change-flow-run-state",
            "state": "CRASHED",
            "name": "Crashed",
            "message": "no heartbeat for 180 s",
        }
    ],
}
