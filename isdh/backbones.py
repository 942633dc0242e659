"""torchvision's classification networks by name, their weights files, and what stays of them."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from isdh.errors import InputError, first_five, unknown

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # on a scale of 0 to 1: torchvision's convention
IMAGENET_STD = (0.229, 0.224, 0.225)


def untrained(name: str) -> nn.Module:
    """A classification network of torchvision with initial values.

    Args:
        name: e.g. "mobilenet_v2", "resnet18", "alexnet".

    Raises:
        InputError: torchvision has no classification network of that name.
    """
    models = _models()
    known = models.list_models(module=models)
    if name not in known:
        raise unknown("backbone", name, known)
    network: nn.Module = models.get_model(name, weights=None)
    return network


def _models() -> Any:
    from torchvision import models  # a second, which small networks do without

    return models


def pretrained(name: str, weights: Path) -> nn.Module:
    """A classification network of torchvision with the weights of a file, in eval mode.

    Args:
        name: as in `untrained`.
        weights: a state_dict as torchvision publishes it.

    Raises:
        InputError: an unknown name, no such file, or weights of another network.
    """
    with torch.random.fork_rng(devices=[]):  # initial values are drawn and then replaced
        network = untrained(name)
    network.load_state_dict(_state_dict(name, weights, network), strict=True)
    return network.eval()


def fetch(name: str, path: Path) -> None:
    """Download torchvision's own weights of a network, the newest, and check their hash.

    Args:
        name: as in `untrained`.
        path: where the file is put, whole or not at all.

    Raises:
        InputError: an unknown name, or a download that failed.
    """
    url = _official(name).url
    _, _, prefix = url.removesuffix(".pth").rpartition("-")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        torch.hub.download_url_to_file(url, str(path), hash_prefix=prefix)
    except (OSError, RuntimeError) as error:
        raise InputError(f"{_absent(name, path)}; the download failed: {error}") from None


def _official(name: str) -> Any:
    """The newest weights that torchvision publishes of a network."""
    known = _models().list_models(module=_models())
    if name not in known:
        raise unknown("backbone", name, known)
    return _models().get_model_weights(name).DEFAULT


def _absent(name: str, path: Path) -> str:
    official = _official(name)
    licence = official.meta.get("license", "the BSD-3-Clause licence of torchvision")
    return (
        f"{path}: no such file; download torchvision's official weights of {name} "
        f"from {official.url} ({licence}) to that path"
    )


def without_classifier(network: nn.Module) -> tuple[nn.Module, int]:
    """Replace the layer that yields the classes by nothing.

    Returns:
        The network, float (N, 3, S, S) -> (N, F), and F.
    """
    layers = [
        (name, layer)
        for name, layer in network.named_modules()
        if isinstance(layer, (nn.Linear, nn.Conv2d))
    ]
    name, last = layers[-1]
    network.set_submodule(name, nn.Identity())
    return network, last.in_features if isinstance(last, nn.Linear) else last.in_channels


def _state_dict(name: str, weights: Path, network: nn.Module) -> dict[str, Tensor]:
    if not weights.is_file():
        raise InputError(_absent(name, weights))
    try:
        state: Any = torch.load(weights, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        reason = (str(error) or "empty").splitlines()[0]
        raise InputError(
            f"{weights}: not a file of weights ({reason}); download it again"
        ) from None
    wanted = network.state_dict()
    found = state if isinstance(state, dict) else {}
    wrong = [
        key
        for key in sorted(wanted.keys() | found.keys(), key=str)
        if getattr(wanted.get(key), "shape", None) != getattr(found.get(key), "shape", None)
    ]
    if wrong:
        raise InputError(
            f"{weights}: not the weights of {name}: {len(wrong)} of {len(wanted)} entries are "
            f"missing, unknown or of another shape ({first_five(wrong)}); "
            f"download torchvision's weights of {name}"
        )
    return found
