"""Where tensors are computed: CUDA where there is one, else the CPU; a setting forces either."""

from __future__ import annotations

import os
import platform
import resource
import sys
from pathlib import Path

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


def hardware() -> dict[str, str | int]:
    """The machine: its processor's name, cores this process may use, and bytes of memory."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "processor": _processor(),
        "cores": cores or 1,
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
    }


def _processor() -> str:
    listed = Path("/proc/cpuinfo")
    lines = listed.read_text().splitlines() if listed.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def peak_memory(device: torch.device) -> dict[str, int]:
    """The most memory so far, in bytes: of this process, and of its tensors on a CUDA device."""
    kilo = 1 if sys.platform == "darwin" else 1024
    most = {"peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * kilo}
    if device.type == "cuda":
        most["peak_cuda_memory_bytes"] = torch.cuda.max_memory_allocated(device)
    return most
