"""Pictures of concurrent requests -> codes, a batch at a time, in one thread with few cores.

A batch is what has come while the one before was computed: a lone picture does not wait for others.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from isdh.encoder import Encoder

TOGETHER = 16  # the fewest images for which torch's 1x1 convolutions on one core are fast


@dataclass(frozen=True, eq=False)
class _Job:
    encoder: Encoder
    pixels: NDArray[np.uint8]
    code: Future[NDArray[np.uint8]] = field(default_factory=Future)


class Batches:
    """A thread that encodes.

    Args:
        threads: cores that torch takes.
        on_batch: called with the number of pictures of each batch.
    """

    def __init__(
        self, *, threads: int = 1, on_batch: Callable[[int], None] = lambda size: None
    ) -> None:
        self._threads = threads
        self._on_batch = on_batch
        self._jobs: deque[_Job] = deque()
        self._come = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="isdh-encode", daemon=True)
        self._thread.start()

    def submit(self, encoder: Encoder, pixels: NDArray[np.uint8]) -> Future[NDArray[np.uint8]]:
        """Have a decoded picture encoded: uint8 (S, S, C) -> uint8 (ceil(bits / 8),), to come."""
        job = _Job(encoder, pixels)
        with self._come:
            if self._closed:
                raise RuntimeError("the service ends")
            self._jobs.append(job)
            self._come.notify()
        return job.code

    def close(self) -> None:
        """Encode what has come, then end."""
        with self._come:
            self._closed = True
            self._come.notify()
        self._thread.join(timeout=10)

    def _work(self) -> None:
        import torch

        torch.set_num_threads(self._threads)  # holds for the thread that says so
        while jobs := self._next():
            self._encode(jobs)

    def _next(self) -> list[_Job]:
        """The next batch: pictures for one model, none of whose askers has gone."""
        with self._come:
            while True:
                while not self._jobs and not self._closed:
                    self._come.wait()
                if not self._jobs:
                    return []
                jobs: list[_Job] = []
                encoder = self._jobs[0].encoder
                while self._jobs and len(jobs) < TOGETHER and self._jobs[0].encoder is encoder:
                    job = self._jobs.popleft()
                    if job.code.set_running_or_notify_cancel():
                        jobs.append(job)
                if jobs:
                    return jobs

    def _encode(self, jobs: list[_Job]) -> None:
        try:
            codes = jobs[0].encoder.codes(np.stack([job.pixels for job in jobs]))
        except Exception as error:  # it belongs to those who wait
            for job in jobs:
                job.code.set_exception(error)
            return
        for job, code in zip(jobs, codes, strict=True):
            job.code.set_result(code)
        self._on_batch(len(jobs))
