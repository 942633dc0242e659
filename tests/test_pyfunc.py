"""A registered model, loaded as a stranger would: five packages, no repository, no pickle."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from PIL import Image

from isdh import codes, models, networks, tracking
from isdh.artifacts import Cell, Workspace, sha256, write_json
from isdh.encoder import Encoder
from isdh.errors import InputError
from isdh.features import FeatureBackbone
from isdh.images import decode
from isdh.settings import Features, Images, Network
from tests import strangers, synthetic
from tests.loopback import direct, free_port

pytestmark = [  # raised by MLflow itself: when mlflow.pyfunc is imported, when it saves an example
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType"),
    pytest.mark.filterwarnings("ignore:Operation with range is deprecated"),
]

ROOT = Path(__file__).parents[1]
CELL = Cell("digits", "isdh", 12, 0)
BACKBONE = "weights/backbone.pth"


def picture(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


PICTURES = [picture(seed) for seed in range(5)]


def write_images_model(workspace: Workspace) -> None:
    """An untrained network on small pictures; its codes are as good as any for comparing."""
    inputs = Images(kind="images", size=32, channels=1)
    settings = Network(backbone="convnet")
    network = networks.build(input_shape=(32, 32, 1), bits=CELL.bits, **settings.model_dump())
    pixels = np.stack([decode(data, size=32, channels=1) for data in PICTURES])
    with torch.inference_mode():  # outputs around 0; else all pictures have one code
        network.head[-1].bias -= network.eval()(torch.from_numpy(pixels)).mean(dim=0)
    write_model(workspace, network, settings, inputs, (32, 32, 1))


def write_features_model(workspace: Workspace) -> None:
    """An untrained hash layer behind a frozen backbone with random weights."""
    from torchvision.models import shufflenet_v2_x0_5

    weights = workspace.root / BACKBONE
    weights.parent.mkdir(parents=True)
    torch.save(shufflenet_v2_x0_5(weights=None).state_dict(), weights)
    inputs = Features(kind="features", size=64, backbone="shufflenet_v2_x0_5", weights=BACKBONE)
    pixels = np.stack([decode(data, size=64, channels=3) for data in PICTURES])
    features = FeatureBackbone.load(inputs.backbone, weights).features(pixels).astype(np.float32)
    network = networks.build(input_shape=(1024,), bits=CELL.bits)
    # as in training; else the features of a random network give all pictures one code
    network.normalise.mean.copy_(torch.from_numpy(features.mean(axis=0)))
    network.normalise.std.fill_(float(features.std()))
    write_model(workspace, network, Network(), inputs, (1024,), backbone_sha256=sha256(weights))


def write_model(
    workspace: Workspace,
    network: networks.Network,
    settings: Network,
    inputs: Images | Features,
    shape: tuple[int, ...],
    *,
    backbone_sha256: str | None = None,
) -> None:
    models.save(
        workspace.model(CELL),
        network,
        bits=CELL.bits,
        inputs=inputs.model_dump(),
        settings=settings,
        input_shape=shape,
        labels=["one", "two"],
        head=None,
        backbone_sha256=backbone_sha256,
    )
    write_json(workspace.model(CELL) / "history.json", synthetic.history(CELL))


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    torch.manual_seed(0)
    return Workspace(tmp_path / "workspace")


def pack(workspace: Workspace, folder: Path) -> Path:
    from isdh.tracking.package import package

    package(workspace, CELL, folder, Model())
    return folder


def expected(workspace: Workspace, backbone: Path | None = None) -> dict[str, list[str]]:
    packed = Encoder.load(workspace.model(CELL), backbone).encode(PICTURES)
    bits = ["".join(map(str, row)) for row in codes.unpack(packed, CELL.bits)]
    assert len(set(bits)) > 1  # a model of one code for all would prove nothing
    return {"code": [code.tobytes().hex() for code in packed], "bits": bits}


def test_the_champion_gives_a_stranger_the_encoders_codes(workspace, python, tmp_path):
    workspace.root.mkdir()
    settings = synthetic.write_params(workspace.root, methods=["isdh"], bits=[12], seeds=[0])
    write_images_model(workspace)
    synthetic.write_scores(workspace, CELL)
    tracking.promote(workspace, settings)
    found = strangers.ask(
        python,
        PICTURES,
        "models:/isdh-digits-12bit@champion",
        tmp_path,
        MLFLOW_TRACKING_URI=tracking.address(workspace),
    )
    assert found["answer"] == expected(workspace)
    assert not Path(found["isdh"]).is_relative_to(ROOT / "isdh")


def test_a_model_on_features_brings_its_backbone_along(workspace, python, tmp_path):
    """The weights are a link, as where they lie elsewhere; so are DVC's files with cache.type."""
    write_features_model(workspace)
    for path in (workspace.root / BACKBONE, workspace.model(CELL) / "weights.safetensors"):
        elsewhere = path.rename(tmp_path / path.name)
        path.symlink_to(elsewhere)
    folder = pack(workspace, tmp_path / "model")
    wanted = expected(workspace, workspace.root / BACKBONE)
    (workspace.root / BACKBONE).unlink()
    found = strangers.ask(python, PICTURES, str(folder), tmp_path)
    assert found["answer"] == wanted
    assert Path(found["isdh"]).is_relative_to(folder)


def test_a_packaged_model_holds_source_and_weights_and_no_pickle(workspace, tmp_path):
    write_images_model(workspace)
    folder = pack(workspace, tmp_path / "model")
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert {
        "code/isdh/encoder.py",
        f"artifacts/{CELL.name}/weights.safetensors",
        f"artifacts/{CELL.name}/model.json",
    } <= files
    assert not [name for name in files if name.endswith((".pkl", ".pyc"))]


def test_requirements_name_public_versions_of_what_is_installed(workspace, tmp_path):
    write_images_model(workspace)
    lines = (pack(workspace, tmp_path / "model") / "requirements.txt").read_text().splitlines()
    assert all(re.fullmatch(r"[a-z]+==[0-9][0-9a-z.]*", line) for line in lines)
    assert f"torch=={version('torch').split('+')[0]}" in lines
    assert f"mlflow=={version('mlflow')}" in lines


def test_the_signature_and_an_example_say_what_goes_in_and_what_comes_out(workspace, tmp_path):
    write_images_model(workspace)
    folder = pack(workspace, tmp_path / "model")
    model = Model.load(folder)
    assert model.signature.inputs.to_dict() == [
        {"type": "binary", "name": "image", "required": True}
    ]
    assert [column.name for column in model.signature.outputs] == ["code", "bits"]
    (image,) = model.load_input_example(str(folder))["image"]
    assert Image.open(io.BytesIO(image)).size == (64, 64)


def test_mlflow_serves_it_to_who_sends_images_as_base64_in_json(workspace, python, tmp_path):
    write_images_model(workspace)
    folder = pack(workspace, tmp_path / "model")
    port = free_port()
    command = [python, "-m", "mlflow", "models", "serve", "--model-uri", folder]
    command += ["--env-manager", "local", "--host", "127.0.0.1", "--port", str(port)]
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(
            [*map(str, command)],
            cwd=tmp_path,
            env=strangers.environment(PATH=f"{python.parent}:{os.environ['PATH']}"),
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        while not answers(f"{url}/ping"):
            assert server.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.2)
        rows = [[base64.b64encode(data).decode()] for data in PICTURES]
        answer = post(
            f"{url}/invocations", {"dataframe_split": {"columns": ["image"], "data": rows}}
        )
        neither = [[base64.b64encode(b"neither").decode()]]
        refused = post(
            f"{url}/invocations", {"dataframe_split": {"columns": ["image"], "data": neither}}
        )
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)
    wanted = expected(workspace)
    assert [row["code"] for row in answer["predictions"]] == wanted["code"]
    assert [row["bits"] for row in answer["predictions"]] == wanted["bits"]
    assert refused["error_code"] == "INVALID_PARAMETER_VALUE"
    assert "no image; want one of JPEG, PNG" in refused["message"]


def answers(url: str) -> bool:
    try:
        direct.open(url, timeout=5).close()
    except OSError:
        return False
    return True


def post(url: str, content: dict[str, Any]) -> dict[str, Any]:
    """A server's answer as JSON, errors too."""
    data, headers = json.dumps(content).encode(), {"Content-Type": "application/json"}
    try:
        with direct.open(urllib.request.Request(url, data, headers)) as answer:
            found: dict[str, Any] = json.load(answer)
    except urllib.error.HTTPError as error:
        found = json.load(error)
    return found


def test_bytes_that_are_no_image_are_refused_by_name(workspace, tmp_path):
    import mlflow.pyfunc
    import pandas as pd

    write_images_model(workspace)
    model = mlflow.pyfunc.load_model(str(pack(workspace, tmp_path / "model")))
    with pytest.raises(MlflowException, match="no image; want one of JPEG, PNG"):
        model.predict(pd.DataFrame({"image": [b"neither"]}))


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda path: path.unlink(), r"backbone\.pth: no such file"),
        (lambda path: path.write_bytes(b"other"), r"backbone\.pth: sha256"),
    ],
)
def test_a_backbone_that_is_not_the_one_trained_on_is_not_packaged(
    workspace: Workspace, tmp_path: Path, damage: Callable[[Path], object], told: str
) -> None:
    write_features_model(workspace)
    damage(workspace.root / BACKBONE)
    with pytest.raises(InputError, match=told):
        pack(workspace, tmp_path / "model")
