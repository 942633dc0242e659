"""Where tensors are computed: CUDA where there is one, else the CPU; a setting forces either."""

from __future__ import annotations

import os

import torch

from isdh.errors import InputError


def choose_device(wish: str | None = None) -> torch.device:
    """The device that this process computes on.

    Args:
        wish: "auto", "cpu" or "cuda"; by default what the environment variable ISDH_DEVICE says.

    Raises:
        InputError: another word, or "cuda" where there is no CUDA device.
    """
    wish = wish or os.environ.get("ISDH_DEVICE", "auto")
    if wish not in {"auto", "cpu", "cuda"}:
        raise InputError(f"ISDH_DEVICE={wish!r}: want auto, cpu or cuda")
    available = torch.cuda.is_available()
    if wish == "cuda" and not available:
        raise InputError("ISDH_DEVICE='cuda': torch finds no CUDA device here; set auto or cpu")
    return torch.device("cuda" if available and wish != "cpu" else "cpu")


def autocast(device: torch.device) -> torch.autocast:
    """bfloat16 autocast on CUDA; on the CPU nothing is cast."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda")


def describe(device: torch.device) -> str:
    """The device for people: "cpu", or CUDA with the card's name."""
    return "cpu" if device.type == "cpu" else f"cuda {torch.cuda.get_device_name(device)}"
