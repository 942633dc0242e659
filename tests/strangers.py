"""Who has MLflow and four other packages, but not this repository: a registered model's user."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import venv
from collections.abc import Sequence
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

NEEDED = ("mlflow", "pillow", "safetensors", "torch", "torchvision")
STRANGER = """
import base64, importlib.util, json, sys
assert importlib.util.find_spec("isdh") is None, "the repository is still importable"
assert importlib.util.find_spec("onnxruntime") is None, "more than what is needed is importable"
import mlflow.pyfunc
import pandas as pd
model = mlflow.pyfunc.load_model(sys.argv[1])
images = [base64.b64decode(text) for text in json.loads(sys.argv[2])]
answer = model.predict(pd.DataFrame({"image": images}))
import isdh
json.dump({"answer": answer.to_dict("list"), "isdh": isdh.__file__}, sys.stdout)
"""


def _with_what_they_need(names: tuple[str, ...]) -> set[str]:
    """Names of distributions that pip installs for these, here."""
    found: dict[str, set[str]] = {}
    waiting = [(name, "") for name in names]
    while waiting:
        name, extra = waiting.pop()
        if extra in found.setdefault(name, set()):
            continue
        found[name].add(extra)
        for requirement in map(Requirement, distribution(name).requires or []):
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                waiting += [(requirement.name, more) for more in ("", *requirement.extras)]
    return set(found)


def create(root: Path) -> Path:
    """The Python of an environment that has what is needed, and nothing else: links to what is
    installed here.
    """
    venv.create(root)
    (packages,) = root.glob("lib/python*/site-packages")
    for name in _with_what_they_need(NEEDED):
        files = distribution(name).files or []
        for top in {file.parts[0] for file in files if file.parts[0] not in {"..", "__pycache__"}}:
            source, target = Path(str(distribution(name).locate_file(top))), packages / top
            if not target.exists():
                target.symlink_to(source)
    return root / "bin" / "python"


def environment(**more: str) -> dict[str, str]:
    """Of its processes."""
    inherited = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    return {**inherited, "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false", **more}


def ask(
    python: Path, pictures: Sequence[bytes], uri: str, elsewhere: Path, **more: str
) -> dict[str, Any]:
    """Load a model there, and encode pictures: its answer, and where its `isdh` lies."""
    images = json.dumps([base64.b64encode(data).decode() for data in pictures])
    done = subprocess.run(
        [python, "-c", STRANGER, uri, images],
        cwd=elsewhere,
        env=environment(**more),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer
