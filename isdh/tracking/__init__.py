"""MLflow as a projection of the files: publish, compare, promote. The only importer of mlflow.

Whatever stands in MLflow can be written again from what the stages left on disk, by anyone, any
number of times, without a second run, point or model version.

A name brings its module when it is asked for: MLflow takes a second or two to import, and comparing
runs does without it.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

# before mlflow is imported: no telemetry, no news on stdout or stderr, no minutes of retries
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")

if TYPE_CHECKING:
    from isdh.tracking.aliases import versions_by_alias
    from isdh.tracking.by_hand import promote_version, rollback
    from isdh.tracking.comparison import Comparison, Entry, Selection, compare, comparisons, runs
    from isdh.tracking.copying import copy_champion
    from isdh.tracking.difference import Difference, diff
    from isdh.tracking.illustration import ByLabel, Illustrated, illustrated
    from isdh.tracking.in_use import InUse, files_in_use, version_in_use
    from isdh.tracking.publishing import (
        Published,
        cut_short,
        mark_broken_off,
        prepare,
        publish,
        publish_all,
    )
    from isdh.tracking.registered import Decision
    from isdh.tracking.registry import mend, promote
    from isdh.tracking.server import address, require_access, require_answer, shown
    from isdh.tracking.system import system_metrics

_NAMES = {
    "aliases": ("versions_by_alias",),
    "by_hand": ("promote_version", "rollback"),
    "comparison": ("Comparison", "Entry", "Selection", "compare", "comparisons", "runs"),
    "copying": ("copy_champion",),
    "difference": ("Difference", "diff"),
    "illustration": ("ByLabel", "Illustrated", "illustrated"),
    "in_use": ("InUse", "files_in_use", "version_in_use"),
    "publishing": (
        "Published",
        "cut_short",
        "mark_broken_off",
        "prepare",
        "publish",
        "publish_all",
    ),
    "registered": ("Decision",),
    "registry": ("mend", "promote"),
    "server": ("address", "require_access", "require_answer", "shown"),
    "system": ("system_metrics",),
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names}

__all__ = [
    "ByLabel",
    "Comparison",
    "Decision",
    "Difference",
    "Entry",
    "Illustrated",
    "InUse",
    "Published",
    "Selection",
    "address",
    "compare",
    "comparisons",
    "copy_champion",
    "cut_short",
    "diff",
    "files_in_use",
    "illustrated",
    "mark_broken_off",
    "mend",
    "prepare",
    "promote",
    "promote_version",
    "publish",
    "publish_all",
    "require_access",
    "require_answer",
    "rollback",
    "runs",
    "shown",
    "system_metrics",
    "version_in_use",
    "versions_by_alias",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
