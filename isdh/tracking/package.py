"""A trained cell -> a folder that MLflow serves: image bytes in, packed codes out, no pickle.

The folder holds the weights, the frozen backbone where there is one, and this package's source, so
that it loads without the repository.
"""

from __future__ import annotations

import io
import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path

import mlflow.pyfunc
import pandas as pd
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, Schema
from PIL import Image

import isdh
from isdh.artifacts import Cell, Workspace, read_json, verify
from isdh.errors import InputError

REQUIREMENTS = (
    "mlflow", "numpy", "pandas", "pillow", "pydantic", "safetensors", "torch", "torchvision",
)  # fmt: skip
SIGNATURE = ModelSignature(
    inputs=Schema([ColSpec("binary", "image")]),
    outputs=Schema([ColSpec("string", "code"), ColSpec("string", "bits")]),
)


def package(workspace: Workspace, cell: Cell, folder: Path, model: Model) -> None:
    """Write a cell's model as a pyfunc.

    Args:
        workspace: where the model lies.
        cell: whose model.
        folder: where to; absent or empty.
        model: MLflow's description, which knows run and model ids.

    Raises:
        InputError: a file is missing or altered.
    """
    with tempfile.TemporaryDirectory() as scratch:
        code = shutil.copytree(
            Path(isdh.__file__).parent,
            Path(scratch, "isdh"),
            ignore=shutil.ignore_patterns("__pycache__"),
        )
        mlflow.pyfunc.save_model(
            folder,
            mlflow_model=model,
            python_model=str(code / "pyfunc.py"),
            artifacts=_artifacts(workspace, cell, Path(scratch)),
            code_paths=[str(code)],
            pip_requirements=[f"{name}=={_public(version(name))}" for name in REQUIREMENTS],
            signature=SIGNATURE,
            input_example=pd.DataFrame({"image": [_grey_png(side=64)]}),
        )


def _artifacts(workspace: Workspace, cell: Cell, scratch: Path) -> dict[str, str]:
    """Copies, since MLflow refuses what lies behind a symbolic link: weights, or DVC's cache."""
    folder = workspace.model(cell)
    card = read_json(folder / "model.json")
    verify(folder / "weights.safetensors", card["weights_sha256"])
    if card["inputs"]["kind"] != "features":
        return {"model": shutil.copytree(folder, str(scratch / cell.name))}
    backbone = workspace.root / card["inputs"]["weights"]
    if not backbone.exists():
        raise InputError(f"{backbone}: no such file; {cell} was trained on its features")
    verify(backbone, card["backbone_sha256"])
    return {
        "model": shutil.copytree(folder, str(scratch / cell.name)),
        "backbone": str(shutil.copy(backbone, scratch)),
    }


def _public(number: str) -> str:
    return number.split("+")[0]  # "2.9.1+cpu" is on no public index


def _grey_png(*, side: int) -> bytes:
    """The bytes of a grey picture: an example of an input."""
    stream = io.BytesIO()
    Image.new("L", (side, side), 128).save(stream, "PNG")
    return stream.getvalue()
