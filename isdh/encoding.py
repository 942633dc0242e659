"""A trained network and stored inputs -> packed codes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from isdh.codes import pack
from isdh.device import autocast
from isdh.networks import Network

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
        with torch.inference_mode():
            with autocast(device):
                hidden = network.hidden(batch.to(device))
            outputs = network.head(hidden.float())  # in float32: a bit hangs on its sign
        yield pack(outputs.cpu())
