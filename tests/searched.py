"""A small workspace whose pictures, models, codes and champions are real: no stage, no training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from isdh import manifest, models, networks, tracking
from isdh.artifacts import Cell, Workspace, read_json, sha256, write_codes, write_json
from isdh.encoder import Encoder
from isdh.images import decode
from isdh.settings import Images, Network
from isdh.tracking import package, plots
from tests import synthetic
from tests.pictures import saved, scene
from tests.tracking.test_registry import light_package

PICTURES = 60
FIRST, SECOND = Cell("digits", "isdh", 12, 0), Cell("digits", "dhn", 12, 0)
LABELS = ["cat", 'dog "small"', "a, b\\c"]


def make(root: Path) -> Workspace:
    """Version 1 of isdh-digits-12bit, of isdh, was champion; version 2, of dhn, is."""
    workspace, _ = synthetic.write_workspace(root, bits=[12], seeds=[0])
    write_pictures(workspace)
    for seed, cell in enumerate((FIRST, SECOND)):
        write_model(workspace, cell, seed)
        write_codes_of(workspace, cell)
        synthetic.write_scores(workspace, cell, ndcg_at_100=0.5 + 0.1 * seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.delenv("DVC_STAGE", raising=False)
        patch.setattr(package, "package", light_package)
        patch.setattr(plots.run_plots, "draw", lambda *args: {})
        rule = {"metric": "ndcg_at_100", "confidence": None}
        for methods in (["isdh"], ["isdh", "dhn"]):
            changed = {"bits": [12], "seeds": [0], "methods": methods, "champion": rule}
            tracking.promote(workspace, synthetic.write_params(root, **changed))
    return workspace


def write_pictures(workspace: Workspace) -> None:
    """Pictures and their manifest, some names of which are awkward."""
    raw = workspace.raw("digits")
    (raw / "a [b]").mkdir(parents=True)
    paths = [f"a [b]/{number}, é.jpg" for number in range(PICTURES)]
    for number, path in enumerate(paths):
        (raw / path).write_bytes(saved(scene(number)))
    frame = pd.DataFrame(
        {
            "image": [f"picture {number}" for number in range(PICTURES)],
            "path": paths,
            "split": np.repeat(["train", "query", "database"], PICTURES // 3),
            "also_database": [number < 5 for number in range(PICTURES)],
            "sha256": [sha256(raw / path) for path in paths],
            **{
                name: [number % (2 + column) == 0 or column == 0 for number in range(PICTURES)]
                for column, name in enumerate(LABELS)
            },
        }
    )
    manifest.write(frame, workspace.manifest("digits"))


def write_model(workspace: Workspace, cell: Cell, seed: int) -> None:
    """An untrained network; its codes are as good as any for searching."""
    torch.manual_seed(seed)
    settings = Network(backbone="convnet")
    network = networks.build(input_shape=(32, 32, 1), bits=cell.bits, **settings.model_dump())
    pixels = np.stack([decode(data, size=32, channels=1) for data in pictures(workspace)])
    with torch.inference_mode():  # outputs around 0; else all pictures have one code
        network.head[-1].bias -= network.eval()(torch.from_numpy(pixels)).mean(dim=0)
    models.save(
        workspace.model(cell),
        network,
        bits=cell.bits,
        inputs=Images(kind="images", size=32, channels=1).model_dump(),
        settings=settings,
        input_shape=(32, 32, 1),
        labels=LABELS,
        head=None,
        backbone_sha256=None,
    )
    history = synthetic.history(cell, fingerprint=str(seed) * 64)
    write_json(workspace.model(cell) / "history.json", history)


def write_codes_of(workspace: Workspace, cell: Cell) -> None:
    """Codes of all rows by the cell's model."""
    packed = Encoder.load(workspace.model(cell)).encode(pictures(workspace))
    digest = read_json(workspace.model(cell) / "model.json")["weights_sha256"]
    write_codes(workspace.codes(cell), packed, bits=cell.bits, weights_sha256=digest)


def pictures(workspace: Workspace) -> list[bytes]:
    """The bytes of each row's file."""
    paths = manifest.read(workspace.manifest("digits"))["path"]
    return [(workspace.raw("digits") / path).read_bytes() for path in paths]
