"""What a run needs -> findings: settings, data, versions, servers."""

from __future__ import annotations

import http.client
import os
import platform
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from isdh import params
from isdh.artifacts import Workspace
from isdh.errors import InputError
from isdh.params import Params
from isdh.settings import Features

GENERATED = "raw/digits"  # the output of the stage `generate`


@dataclass(frozen=True)
class Finding:
    """One line: `amiss` stops a run, `note` does not."""

    state: Literal["ok", "note", "amiss"]
    subject: str
    text: str


def examine(workspace: Workspace) -> Iterator[Finding]:
    """Look at everything in turn; nothing is changed."""
    try:
        settings = params.load(workspace.root / "params.yaml")
    except InputError as error:
        yield Finding("amiss", "params.yaml", str(error))
    else:
        yield _matrix(settings)
        yield from _data(workspace, settings)
    yield Finding("ok", "python", platform.python_version())
    yield _torch()
    yield _mlflow(workspace)
    yield _prefect()


def _matrix(settings: Params) -> Finding:
    cells = sum(len(settings.cells(dataset)) for dataset in settings.datasets)
    numbers = [
        f"{len(values)} {noun}"
        for noun, values in {
            "datasets": settings.datasets,
            "methods": settings.methods,
            "code lengths": settings.bits,
            "seeds": settings.seeds,
        }.items()
    ]
    return Finding("ok", "params.yaml", f"{' x '.join(numbers)}: {cells} cells")


def _data(workspace: Workspace, settings: Params) -> Iterator[Finding]:
    for dataset, raw in settings.datasets.items():
        folder = workspace.root / raw
        if folder.is_dir() and any(folder.iterdir()):
            yield Finding("ok", dataset, f"pictures in {raw}")
        elif raw == GENERATED:
            yield Finding("note", dataset, f"{raw} is not there yet; `dvc repro` makes it")
        else:
            yield Finding("amiss", dataset, f"{raw}: no such folder, or empty; put the data there")
        inputs = settings.dataset[dataset].inputs
        if inputs.weights and not (workspace.root / inputs.weights).exists():
            kind = "frozen backbone" if isinstance(inputs, Features) else "backbone"
            yield Finding("amiss", dataset, f"{inputs.weights}: no weights of the {kind}")


def _torch() -> Finding:
    try:
        import torch
    except ImportError as error:
        return Finding("amiss", "torch", str(error))
    cuda = torch.cuda.get_device_name() if torch.cuda.is_available() else "no CUDA device"
    return Finding("ok", "torch", f"{torch.__version__}, {cuda}")


def _mlflow(workspace: Workspace) -> Finding:
    from isdh import tracking

    uri = tracking.address(workspace)
    try:
        tracking.require_answer(uri)
    except InputError as error:
        return Finding("note", "MLflow", f"{error}; stages run without it")
    if uri.startswith("http"):
        try:
            tracking.require_access(workspace)
        except InputError as error:
            return Finding("amiss", "MLflow", str(error))
    return Finding("ok", "MLflow", tracking.shown(uri))


def _prefect() -> Finding:
    port = os.environ.get("ISDH_PREFECT_PORT") or "4200"
    url = os.environ.get("PREFECT_API_URL") or f"http://127.0.0.1:{port}/api"
    # as the stages ask it: no proxy stands between
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{url}/health", timeout=2) as answer:
            healthy = answer.read().strip() == b"true"
    except (OSError, ValueError, http.client.HTTPException):
        healthy = False
    if healthy:
        return Finding("ok", "Prefect", url)
    return Finding("note", "Prefect", f"no server at {url}; stages run unrecorded")
