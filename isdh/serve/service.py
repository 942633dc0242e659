"""Pictures' bytes -> codes, with limits on what is taken in; and all that a request needs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
from fastapi import HTTPException, Request
from numpy.typing import NDArray
from starlette.requests import ClientDisconnect

from isdh.errors import InputError
from isdh.images import TOO_LARGE
from isdh.search import Pair
from isdh.serve.batches import Batches
from isdh.serve.current import CHAMPION, Current
from isdh.serve.meters import Meters
from isdh.serve.options import Options
from isdh.serve.thumbnails import Thumbnails

R = TypeVar("R")
RETRY = 1  # seconds, told to whoever found the service full
SEARCHES = 4  # at once
CLOSE = {"Connection": "close"}  # what is still to come is not read


class Service:
    """What lives as long as the service does.

    Args:
        current: what is served.
        options: limits.
    """

    def __init__(self, current: Current, options: Options) -> None:
        self.current = current
        self.options = options
        self.taken = 0  # pictures in work or waiting; touched by the event loop's thread alone
        self.meters = Meters(lambda: self.taken)
        self.meters.tell(current.serving)
        current.on_swap = self.meters.swapped
        self.batches = Batches(threads=options.threads, on_batch=self.meters.encoded)
        self.thumbnails = Thumbnails()
        self._decoding = ThreadPoolExecutor(options.threads + 1, "isdh-decode")
        self._searching = ThreadPoolExecutor(SEARCHES, "isdh-search")

    def start(self) -> None:
        """Begin to watch the registry."""
        self.current.watch(self.options.every)

    def close(self) -> None:
        """End all threads."""
        self.current.close()
        self.batches.close()
        self._decoding.shutdown(wait=False, cancel_futures=True)
        self._searching.shutdown(wait=False, cancel_futures=True)

    def pair(self, alias: str) -> Pair:
        """What answers for an alias, now.

        Raises:
            HTTPException: 404, there is no such model.
        """
        found = self.current.serving.pairs.get(alias)
        if found is None:
            raise HTTPException(404, f"alias={alias}: no model is served by it")
        return found

    @property
    def champion(self) -> Pair:
        """The pair that there always is."""
        return self.current.serving.pairs[CHAMPION]

    async def searched(self, search: Callable[[], R]) -> R:
        """Run a search aside."""
        return await asyncio.get_running_loop().run_in_executor(self._searching, search)

    async def decoded(self, decode: Callable[[], R]) -> R:
        """Run what decodes aside.

        Raises:
            HTTPException: 413, 415, 422: it does not decode.
        """
        try:
            return await asyncio.get_running_loop().run_in_executor(self._decoding, decode)
        except InputError as error:
            raise HTTPException(_status(error), str(error)) from None

    async def code_of(self, pair: Pair, request: Request) -> NDArray[np.uint8]:
        """The code of the picture that a request brings: uint8 (ceil(bits / 8),).

        Raises:
            HTTPException: 408, 413, 415, 422: no picture that can be encoded; 503: too many wait.
        """
        if self.taken >= self.options.waiting:
            await self._body(request, keep=False)  # or who still sends does not read the answer
            raise self._full()
        with self.place():
            data = await self._body(request)
            pixels = await self.decoded(lambda: pair.encoder.pixels(data))
            return await asyncio.wrap_future(self.batches.submit(pair.encoder, pixels))

    @contextmanager
    def place(self) -> Iterator[None]:
        """Be one of the few whose pictures are in work or wait.

        Raises:
            HTTPException: 503, there are too many.
        """
        if self.taken >= self.options.waiting:
            raise self._full()
        self.taken += 1
        try:
            yield
        finally:
            self.taken -= 1

    def _full(self) -> HTTPException:
        """What is told to whoever finds no place."""
        self.meters.sent_away()
        why = "too many pictures wait already; ask again a little later"
        return HTTPException(503, why, {"Retry-After": str(RETRY)})

    async def _body(self, request: Request, *, keep: bool = True) -> bytes:
        """A request's body, as far as the limits let it come.

        Args:
            request: whose.
            keep: nothing is kept without it.

        Raises:
            HTTPException: 400, 408, 413, 415.
        """
        most = self.options.most_bytes
        too_large = HTTPException(413, f"more than {most} bytes; shrink the picture", CLOSE)
        if request.headers.get("content-type", "").startswith("multipart/"):
            raise HTTPException(
                415,
                "a form: send the picture's bytes alone, such as curl --data-binary @FILE",
                CLOSE,
            )
        if int(request.headers.get("content-length", 0)) > most:
            raise too_large
        chunks, size = [], 0
        try:
            async with asyncio.timeout(self.options.seconds):
                async for chunk in request.stream():
                    size += len(chunk)
                    if size > most:
                        raise too_large
                    if keep:
                        chunks.append(chunk)
        except TimeoutError:
            raise HTTPException(408, "the picture did not come in time", CLOSE) from None
        except ClientDisconnect:
            raise HTTPException(400, "the connection was closed") from None
        return b"".join(chunks)


def _status(error: InputError) -> int:
    """What HTTP calls a picture that `isdh.images` refused."""
    text = str(error)
    if text.endswith(TOO_LARGE):
        return 413
    return 415 if ": no image;" in text else 422
