"""A trained network <-> a folder: weights.safetensors, and how to read them, model.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import load as load_weights
from safetensors.torch import save as save_weights
from torch import Tensor

from isdh import heads, networks
from isdh.artifacts import read_json, replacing, sha256, verify, write_json
from isdh.networks import Network
from isdh.settings import Network as NetworkSettings


def save(
    folder: Path,
    network: Network,
    *,
    bits: int,
    inputs: Mapping[str, Any],
    settings: NetworkSettings,
    input_shape: Sequence[int],
    labels: Sequence[str],
    head: str | None,
    backbone_sha256: str | None,
) -> None:
    """Write a model: weights.safetensors and model.json, which says how to read them.

    Args:
        folder: where to; created.
        network: trained.
        bits: the code length.
        inputs: the section that says how images become inputs.
        settings: the section that the network was built from.
        input_shape: of a row of inputs.
        labels: names, for those who look at the model later.
        head: the kind of a fitted hash function, a key of heads.HEADS; None: it was descended to.
        backbone_sha256: of the frozen feature backbone's weights file, if there is one.
    """
    weights = folder / "weights.safetensors"
    state = {name: tensor.cpu().contiguous() for name, tensor in network.state_dict().items()}
    with replacing(weights) as stream:
        stream.write(save_weights(state))
    card = {
        "bits": bits,
        "inputs": dict(inputs),
        "network": settings.model_dump(),
        "input_shape": list(input_shape),
        "labels": list(labels),
        "head": head,
        "weights_sha256": sha256(weights),
        "backbone_sha256": backbone_sha256,
    }
    write_json(folder / "model.json", card)


def load(folder: Path) -> Network:
    """Read a model's network, verified.

    Raises:
        InputError: missing or altered files.
    """
    card = read_json(folder / "model.json")
    weights = folder / "weights.safetensors"
    verify(weights, card["weights_sha256"])
    settings = NetworkSettings.model_validate(card["network"])
    state = load_weights(weights.read_bytes())
    network = networks.build(
        input_shape=card["input_shape"],
        bits=card["bits"],
        head=heads.load(card["head"], _below("head.", state)) if card["head"] else None,
        **settings.model_dump(),
    )
    network.load_state_dict(state)
    return network.eval()


def _below(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): state[name] for name in state if name.startswith(prefix)}
