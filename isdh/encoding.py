"""A trained network and stored inputs -> packed codes; models written and read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load as load_weights
from safetensors.torch import save as save_weights

from isdh import networks
from isdh.artifacts import read_json, replacing, sha256, verify, write_json
from isdh.codes import pack
from isdh.device import autocast
from isdh.networks import Network
from isdh.settings import Features, Images
from isdh.settings import Network as NetworkSettings

BATCH = 256  # rows; fixed, so that a code does not depend on how many rows are encoded


def encode(network: Network, inputs: np.ndarray, *, device: torch.device) -> np.ndarray:
    """Codes of stored inputs: uint8 (N, ceil(bits / 8)). See encode_batches."""
    return np.concatenate(list(encode_batches(network, inputs, device=device)))


def encode_batches(
    network: Network, inputs: np.ndarray, *, device: torch.device
) -> Iterator[np.ndarray]:
    """Codes of stored inputs, a batch at a time.

    Args:
        network: trained; its weights stay as they are.
        inputs: (N, ...) as stored; may be a memory map.
        device: where to compute.

    Yields:
        uint8 (BATCH or fewer, ceil(bits / 8)), packed.
    """
    network.to(device).eval()
    for start in range(0, len(inputs), BATCH):
        batch = torch.from_numpy(np.array(inputs[start : start + BATCH]))
        with torch.inference_mode(), autocast(device):
            outputs = network(batch.to(device))
        yield pack(outputs.float().cpu())


def save(
    folder: Path,
    network: Network,
    *,
    bits: int,
    inputs: Images | Features,
    settings: NetworkSettings,
    input_shape: Sequence[int],
    labels: Sequence[str],
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
        backbone_sha256: of the frozen feature backbone's weights file, if there is one.
    """
    weights = folder / "weights.safetensors"
    state = {name: tensor.cpu().contiguous() for name, tensor in network.state_dict().items()}
    with replacing(weights) as stream:
        stream.write(save_weights(state))
    card = {
        "bits": bits,
        "inputs": inputs.model_dump(),
        "network": settings.model_dump(),
        "input_shape": list(input_shape),
        "labels": list(labels),
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
    network = networks.build(
        input_shape=card["input_shape"],
        bits=card["bits"],
        **settings.model_dump(),
    )
    network.load_state_dict(load_weights(weights.read_bytes()))
    return network.eval()
