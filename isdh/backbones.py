"""torchvision's classification networks by name, their weights files, and what stays of them."""

from __future__ import annotations

import math
import pickle
import re
import textwrap
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from isdh.errors import InputError, unknown

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # on a scale of 0 to 1: torchvision's convention
IMAGENET_STD = (0.229, 0.224, 0.225)

# What torchvision sets where it loads its own weights of these; here without the classifiers that
# only their first training needed.
_INCEPTION = {"transform_input": True, "aux_logits": False, "init_weights": True}
_OPTIONS = {"googlenet": _INCEPTION, "inception_v3": _INCEPTION}
_AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")
_DENSE_LAYER = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)")  # the dot in old files


def untrained(name: str) -> nn.Module:
    """A classification network of torchvision with initial values.

    Each reads pixels normalised by ImageNet's mean and deviation. A vision transformer reads
    pictures of 224 pixels, or of the size that weights loaded into it are made for.

    Args:
        name: e.g. "mobilenet_v2", "resnet18", "alexnet".

    Raises:
        InputError: torchvision has no classification network of that name.
    """
    models = _models()
    known = models.list_models(module=models)
    if name not in known:
        raise unknown("backbone", name, known)
    network: nn.Module = models.get_model(name, weights=None, **_OPTIONS.get(name, {}))
    if name == "efficientnet_v2_l":
        layers = network.get_submodule("features").children()
        network.set_submodule("features", _Halved(*layers))
    if isinstance(network, models.VisionTransformer):
        network.register_load_state_dict_pre_hook(_take_size)
    return network


class _Halved(nn.Sequential):
    """Layers trained on pixels from -1 to 1, for pixels normalised as ImageNet's."""

    scale: Tensor
    shift: Tensor

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__(*layers)
        mean, std = (torch.tensor(x).view(3, 1, 1) for x in (IMAGENET_MEAN, IMAGENET_STD))
        self.register_buffer("scale", std / 0.5, persistent=False)
        self.register_buffer("shift", (mean - 0.5) / 0.5, persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Scale pixels anew, and go on."""
        values = pixels * self.scale + self.shift
        for layer in self:
            values = layer(values)
        return values


def _take_size(network: Any, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Let a vision transformer read pictures of the size that its weights are made for."""
    found, positions = state.get(f"{prefix}encoder.pos_embedding"), network.encoder.pos_embedding
    if isinstance(found, Tensor) and found.ndim == 3 and found.shape != positions.shape:
        network.image_size = network.patch_size * math.isqrt(found.shape[1] - 1)
        network.encoder.pos_embedding = nn.Parameter(positions.new_empty(found.shape))


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
    state = _state_dict(name, weights)
    try:
        network.load_state_dict(state)
    except (RuntimeError, TypeError, ValueError) as error:
        raise InputError(
            f"{weights}: not the weights of {name}: {textwrap.shorten(str(error), 300)}; "
            f"download torchvision's weights of {name}"
        ) from None
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


def _state_dict(name: str, weights: Path) -> Any:
    """What the file has, by the names that torchvision's loading knows."""
    if not weights.is_file():
        raise InputError(_absent(name, weights))
    try:
        state: Any = torch.load(weights, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        reason = (str(error) or "empty").splitlines()[0]
        raise InputError(
            f"{weights}: not a file of weights ({reason}); download it again"
        ) from None
    for key in list(state) if isinstance(state, dict) else ():
        value = state.pop(key)
        if not str(key).startswith(_AUXILIARY):
            state[_DENSE_LAYER.sub(r"\1\2", str(key))] = value
    return state
