"""A trained cell <-> a folder that MLflow serves: image bytes in, packed codes out, no pickle.

The folder holds the weights, the frozen backbone where there is one, and this package's source, so
that it loads without the repository.
"""

from __future__ import annotations

import io
import shutil
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import mlflow.pyfunc
import pandas as pd
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, Schema
from PIL import Image

import isdh
from isdh.artifacts import Cell, Workspace, read_json, sha256, verify
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


@dataclass(frozen=True)
class Package:
    """What lies in such a folder.

    Attributes:
        model: the folder of weights.safetensors and model.json.
        backbone: the frozen backbone's weights file, if there is one.
    """

    model: Path
    backbone: Path | None


def unpack(folder: Path, *, bits: int, weights_sha256: str) -> Package:
    """Read what `package` wrote, verified.

    Args:
        folder: where it lies.
        bits: the code length that is wanted.
        weights_sha256: the digest that is wanted.

    Raises:
        InputError: other inputs, outputs, code length or weights than those wanted.
    """
    model = Model.load(str(folder))
    if model.signature != SIGNATURE:
        raise InputError("takes and gives other columns than image -> code, bits")
    parts = model.flavors["python_function"]["artifacts"]
    paths = {name: folder / part["path"] for name, part in parts.items()}
    found = sha256(paths["model"] / "weights.safetensors")
    if found != weights_sha256:
        raise InputError(f"weights of sha256 {found}, registered were {weights_sha256}")
    card = read_json(paths["model"] / "model.json")
    if card["bits"] != bits:
        raise InputError(f"codes of {card['bits']} bits, want {bits}")
    backbone = paths.get("backbone")
    if backbone is not None and (found := sha256(backbone)) != card["backbone_sha256"]:
        raise InputError(f"backbone of sha256 {found}, registered was {card['backbone_sha256']}")
    return Package(paths["model"], backbone)


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
