"""This machine's own network, as tests use it: ports for servers, requests without a proxy."""

from __future__ import annotations

import itertools
import os
import socket
import urllib.request

# below those that Linux gives to whoever connects; processes that test side by side start apart
_PORTS = itertools.cycle(range(10000, 32000))
for _ in range(os.getpid() * 97 % 22000):
    next(_PORTS)

# urllib's own would keep the first proxy that a test told it of
direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def free_port() -> int:
    """One on which nothing listens, and which no connection will be given meanwhile."""
    for port in _PORTS:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                return port
    raise AssertionError("unreachable: the ports are a cycle")


def service_ports() -> dict[str, str]:
    """Free ones for all that `make up` starts, as the environment names them."""
    return {f"ISDH_{name}_PORT": str(free_port()) for name in ("PREFECT", "MLFLOW", "SEARCH")}
