"""Load of the machine while a run goes on, by MLflow's own monitor, where it is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from isdh.artifacts import Workspace
from isdh.tracking.server import address


@contextmanager
def system_metrics(workspace: Workspace, run: str) -> Iterator[None]:
    """Log processor, memory, disk, network and GPU of this machine to a run, as `system/...`.

    MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL says how often, in seconds; a run that is gone on with
    is logged to further.
    """
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    uri = address(workspace)
    kind: Any = SystemMetricsMonitor  # without types
    monitor = kind(run, resume_logging=True, tracking_uri=uri)
    monitor.start()
    try:
        yield
    finally:
        monitor.finish()
