"""`python -m flows`: the main job, as `make demo` runs it.

Params are validated, DVC is asked what is stale, and only then is a Prefect server sought or
started and the pipeline run. Where nothing is stale nothing heavy is imported.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from flows import graph, keeping, published, services
from isdh import params
from isdh.artifacts import Workspace
from isdh.datasets import READERS
from isdh.errors import InputError
from isdh.params import Params
from isdh.settings import Images

WORKSPACE = Workspace()
SECONDS_TO_END = 15.0  # after Ctrl-C, and again after a signal


def main() -> int:
    """Run the main job.

    Returns:
        0 done, 1 a fault, 2 the input must be mended, 130 interrupted.
    """
    start = time.monotonic()
    try:
        settings = params.load()
        keeping.refuse_conflicts(WORKSPACE.root)
        require_pictures(settings)
        if graph.stale() or not published.is_marked(WORKSPACE, settings):
            if code := run():
                return code
        else:
            print("nothing is stale: all results are those of params.yaml and the code")  # noqa: T201
    except InputError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("interrupted: nothing is lost, the same command goes on from here\n")
        return 130
    tell(settings, time.monotonic() - start)
    return 0


def require_pictures(settings: Params) -> None:
    """Refuse a dataset whose raw folder or weights file is missing, before anything is made.

    Raises:
        InputError: naming the folder or file, and where to get it where that is known.
    """
    for name, root in settings.datasets.items():
        section = settings.section(name)
        if not Path(root).is_dir() and Path(root) != WORKSPACE.raw("digits"):
            fetch = getattr(READERS[section.source["reader"]], "FETCH", "see docs/datasets.md")
            raise InputError(
                f"datasets.{name}={root}: no such folder; put the pictures there or link it "
                f"(`ln -s /where/they/lie {root}`); {fetch}"
            )
        weights = section.inputs.weights  # of a frozen backbone: `preprocess` fetches them
        if isinstance(section.inputs, Images) and weights and not Path(weights).is_file():
            raise InputError(
                f"dataset.{name}.inputs.weights={weights}: no such file; see weights/README.md"
            )


def run() -> int:
    """Run the pipeline flow with a Prefect server, one that answers or one of our own.

    It has a process of its own, which hands its last records over before the server stops.

    Returns:
        The pipeline's exit code.
    """
    with services.prefect_server(WORKSPACE.root.resolve()) as url:
        environment = {**os.environ, "PREFECT_API_URL": url}
        command = [sys.executable, "-m", "flows.pipeline"]
        with subprocess.Popen(command, env=environment) as pipeline:
            try:
                return max(pipeline.wait(), 0) or int(pipeline.returncode < 0)
            except KeyboardInterrupt:
                _let_end(pipeline)
                raise


def _let_end(pipeline: subprocess.Popen[bytes]) -> None:
    """Wait for a pipeline that Ctrl-C interrupts too; then end it."""
    for end in (None, pipeline.terminate, pipeline.kill):
        if end is not None:
            end()
        with suppress(subprocess.TimeoutExpired):
            pipeline.wait(SECONDS_TO_END)
            return


def tell(settings: Params, seconds: float) -> None:
    """Say where the results are."""
    reports = [WORKSPACE.report(name) / "index.html" for name in settings.datasets]
    lines = [
        f"done in {seconds:.0f} s",
        *(f"report   {path.resolve().as_uri()}" for path in reports),
        "table    .venv/bin/isdh compare",
        f"servers  make up    (then MLflow {services.mlflow_url()}, "
        f"Prefect {services.prefect_api_url().removesuffix('/api')})",
    ]
    print("\n".join(lines))  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
