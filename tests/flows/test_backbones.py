"""A frozen backbone's weights, downloaded by plain `dvc repro` and checked by their hash."""

from __future__ import annotations

import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision

from tests.pictures import saved, scene
from tests.workspaces import copy_project, run

pytestmark = pytest.mark.slow

SECTION = {
    "source": {"reader": "folder"},
    "inputs": {"kind": "features", "backbone": "squeezenet1_1", "size": 32, "mirrored": False},
    "network": {},
    "training": {},
}
# Run by each Python of the workspace when it starts: the one thing there that is not real.
ELSEWHERE = """
import sys
if "flows.preprocess" in sys.orig_argv:
    from torchvision.models import SqueezeNet1_1_Weights
    SqueezeNet1_1_Weights.DEFAULT.value.url = "{address}/squeezenet1_1-{prefix}.pth"
"""


class Files(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder whose files a loopback server hands out, and its address."""
    handler = partial(Files, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        yield tmp_path, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_dvc_repro_downloads_the_weights_of_a_backbone_whole_or_not_at_all(
    served, tmp_path_factory
):
    folder, address = served
    with torch.random.fork_rng():
        torch.manual_seed(0)
        state = torchvision.models.squeezenet1_1(weights=None).state_dict()
    torch.save(state, folder / "right")
    content = (folder / "right").read_bytes()
    prefix = hashlib.sha256(content).hexdigest()[:8]
    published = folder / f"squeezenet1_1-{prefix}.pth"

    project = copy_project(
        tmp_path_factory.mktemp("project"),
        datasets={"few": "raw/few"},
        dataset={"few": SECTION},
    )
    (project / "raw" / "few").mkdir(parents=True)
    splits = ("train", "train", "query", "database", "database")
    for row in range(len(splits)):
        (project / "raw" / "few" / f"{row}.jpg").write_bytes(saved(scene(row)))
    lines = [f"{row}.jpg,{split},cat" for row, split in enumerate(splits)]
    (project / "raw" / "few" / "labels.csv").write_text("\n".join(["path,split,labels", *lines]))
    (project / "sitecustomize.py").write_text(ELSEWHERE.format(address=address, prefix=prefix))
    weights, readme = project / "weights", project / "weights" / "README.md"
    here = {"PYTHONPATH": str(project), "no_proxy": "127.0.0.1"}

    published.write_bytes(content[:-1] + b"?")
    wrong = run(project, "dvc", "repro", "preprocess@few", **here)
    assert wrong.returncode == 255
    assert "exited with 2" in wrong.stderr
    assert "Traceback" not in wrong.stderr
    assert "weights/squeezenet1_1.pth: no such file; download torchvision's" in wrong.stderr
    assert f"squeezenet1_1 from {address}" in wrong.stderr
    assert f'the download failed: invalid hash value (expected "{prefix}"' in wrong.stderr
    assert list(weights.iterdir()) == [readme]

    published.write_bytes(content)
    done = run(project, "dvc", "repro", "preprocess@few", **here)
    assert done.returncode == 0, done.stderr
    assert (weights / "squeezenet1_1.pth").read_bytes() == content
    assert len(list(weights.iterdir())) == 2
    data = project / "data" / "few"
    card = json.loads((data / "inputs.json").read_text())
    assert card["backbone_sha256"] == hashlib.sha256(content).hexdigest()
    features = np.load(data / "inputs.npy")
    assert features.shape == (len(splits), 512)
    assert len(np.unique(features, axis=0)) == len(splits)

    published.unlink()
    again = run(project, "dvc", "repro", "preprocess@few", **here)
    assert "Running stage" not in again.stdout
