"""A service on its port, until it is told to end."""

from __future__ import annotations

import gc
import logging
import socket
import time
from collections.abc import Callable
from typing import Any

import uvicorn

from isdh.artifacts import Workspace
from isdh.errors import InputError
from isdh.params import Params
from isdh.serve.app import application
from isdh.serve.current import CHAMPION, Current, Serving
from isdh.serve.options import Options
from isdh.serve.service import Service

CONNECTIONS = 2048  # at once; more are sent away without a word of when to come again


def run(
    workspace: Workspace,
    params: Params,
    dataset: str,
    bits: int,
    options: Options,
    *,
    wait: bool = False,
    tell: Any = print,
) -> None:
    """Serve until SIGINT or SIGTERM; what is under way is answered first.

    Raises:
        InputError: the port is taken; or, unless that is waited for, no champion can be served.
    """
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.WARNING)
    logging.getLogger("isdh.serve").setLevel(logging.INFO)
    with bound(options) as listener:
        current = _first(lambda: Current(workspace, params, dataset, bits), options, wait=wait)
        service = Service(current, options)
        gc.collect()
        gc.freeze()  # or a full collection looks at all of torch: a third of a second each
        listener.listen(CONNECTIONS)  # whoever reads the line may connect
        host, port = listener.getsockname()[:2]
        name = f"[{host}]" if ":" in host else host
        tell(f"http://{name}:{port}: {_told(service.current.serving)}")
        uvicorn.Server(configured(service)).run(sockets=[listener])


def _first(find: Callable[[], Current], options: Options, *, wait: bool) -> Current:
    """What is served at the start."""
    told = ""
    while True:
        try:
            return find()
        except InputError as error:
            if not wait:
                raise
            if str(error) != told:
                logging.getLogger("isdh.serve").info("waiting for a champion: %s", error)
            told = str(error)
        time.sleep(options.every)


def configured(service: Service) -> uvicorn.Config:
    """How HTTP is spoken."""
    return uvicorn.Config(
        application(service),
        lifespan="on",
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,  # what they say of the client is not needed, and may be a lie
        limit_concurrency=CONNECTIONS,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=10,
    )


def _told(serving: Serving) -> str:
    parts = [
        f"{alias} {pair.version.model} version {pair.version.number} ({pair.version.cell})"
        for alias, pair in serving.pairs.items()
    ]
    refused = [f"{alias} refused: {each.why}" for alias, each in serving.refused.items()]
    return "; ".join(
        [*parts, f"{len(serving.pairs[CHAMPION].collection.images)} pictures", *refused]
    )


def bound(options: Options) -> socket.socket:
    """A socket that listens soon.

    Raises:
        InputError: the address or port is not to be had.
    """
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    # asyncio lets answers go at once, without Nagle's 40 ms, where the protocol is named
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((options.host, options.port))
    except (OSError, OverflowError) as error:
        listener.close()
        raise InputError(
            f"--host={options.host} --port={options.port}: cannot listen there ({error}); name "
            "others"
        ) from None
    return listener
