"""MLflow as a projection of the files: publish, compare, promote. The only importer of mlflow.

Whatever stands in MLflow can be written again from what the stages left on disk, by anyone, any
number of times, without a second run, point or model version.
"""

import os

# before mlflow is imported: no telemetry, no news on stdout or stderr, no minutes of retries
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")

from isdh.tracking.comparison import Comparison, Entry, compare, runs
from isdh.tracking.publishing import Published, prepare, publish, publish_all
from isdh.tracking.registry import Decision, promote, rollback
from isdh.tracking.server import address, require_answer
from isdh.tracking.system import system_metrics

__all__ = [
    "Comparison",
    "Decision",
    "Entry",
    "Published",
    "address",
    "compare",
    "prepare",
    "promote",
    "publish",
    "publish_all",
    "require_answer",
    "rollback",
    "runs",
    "system_metrics",
]
