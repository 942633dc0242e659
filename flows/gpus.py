"""The GPUs of this machine, one for each cell that is made: CUDA_VISIBLE_DEVICES by a pool."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

VISIBLE = "CUDA_VISIBLE_DEVICES"  # read by CUDA when a process first asks for a device


def visible() -> list[str]:
    """The GPUs that this process may use, by the names that CUDA_VISIBLE_DEVICES has for them.

    They are numbers, or identifiers where the environment names those; none where the CPU is what
    is computed on.
    """
    import torch

    from isdh.device import choose_device

    if choose_device().type == "cpu":
        return []
    count = torch.cuda.device_count()
    named = [name.strip() for name in os.environ.get(VISIBLE, "").split(",") if name.strip()]
    return (named or [str(number) for number in range(count)])[:count]


class Pool:
    """Places at which cells are made side by side, each with a GPU where there are any.

    Args:
        places: how many; where they are more than the GPUs, these are shared in turn.
        gpus: their names; none: places on the CPU.
    """

    def __init__(self, places: int, gpus: Sequence[str] = ()) -> None:
        self.free: asyncio.Queue[dict[str, str]] = asyncio.Queue()
        for place in range(places):
            self.free.put_nowait({VISIBLE: gpus[place % len(gpus)]} if gpus else {})

    @asynccontextmanager
    async def place(self) -> AsyncIterator[dict[str, str]]:
        """Wait for a place, and have it; yields what the environment of its stages is to say."""
        place = await self.free.get()
        try:
            yield place
        finally:
            self.free.put_nowait(place)
