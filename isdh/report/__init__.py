"""Files of a dataset's cells -> its report. The drawings are also those of runs and comparisons.

The page's own modules are imported with it: who wants a drawing does without them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from isdh.artifacts import Workspace

if TYPE_CHECKING:
    from isdh.params import Params

__all__ = ["build"]


def build(workspace: Workspace, params: Params, dataset: str) -> Path:
    """Write one dataset's report: `page.build`."""
    from isdh.report import page

    return page.build(workspace, params, dataset)
