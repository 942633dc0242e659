"""`isdh serve` under load on loopback: throughput, p50 and p99, errors, memory, overload.

    python benchmarks/bench_serve.py --workspace DIR [--bits 48] [--seconds 10] [--minutes 10]

DIR has a champion (`isdh promote`). Clients keep one connection each and ask again as soon as they
are answered; they share the machine's cores with the service. MLflow's own server of the same
model answers the same pictures for comparison, where --mlflow is given.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from record import record

from isdh import manifest
from isdh.artifacts import Workspace

CLIENTS = (1, 16, 64)
PICTURES = 64  # different ones
BINARIES = Path(sys.executable).parent
direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass
class Load:
    """What clients saw: seconds of each answer with status 200, and how many had which status."""

    seconds: list[float] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)

    def as_dict(self, lasted: float) -> dict[str, Any]:
        """For JSON, after so many seconds."""
        p50, p99 = np.percentile(self.seconds or [np.nan], (50, 99)) * 1000
        return {
            "answers_per_second": round(len(self.seconds) / lasted, 1),
            "p50_ms": round(float(p50), 2),
            "p99_ms": round(float(p99), 2),
            "statuses": dict(self.statuses),
        }


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def started(command: Sequence[str], health: str, cwd: Path) -> Iterator[int]:
    """A server that answers; its process id."""
    log = Path(cwd, ".isdh", "bench_serve.log")
    log.parent.mkdir(exist_ok=True)
    with log.open("w") as stream:
        process = subprocess.Popen(command, cwd=cwd, stdout=stream, stderr=stream)
    try:
        for _ in range(600):
            try:
                direct.open(health, timeout=1).close()
                break
            except OSError:
                if process.poll() is not None:
                    raise SystemExit(log.read_text()) from None
                time.sleep(0.2)
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def request(method: str, path: str, port: int, body: bytes = b"", kind: str = "") -> bytes:
    head = [f"{method} {path} HTTP/1.1", f"Host: 127.0.0.1:{port}"]
    head += [f"Content-Length: {len(body)}"] if body else []
    head += [f"Content-Type: {kind}"] if kind else []
    return "\r\n".join([*head, "", ""]).encode() + body


async def answer(reader: asyncio.StreamReader) -> tuple[str, bool]:
    """The status of one answer, and whether the connection stays."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    length = re.search(r"content-length: (\d+)", head)
    await reader.readexactly(int(length[1]) if length else 0)
    return head.split()[1], "connection: close" not in head


async def client(port: int, requests: Sequence[bytes], first: int, end: float, load: Load) -> None:
    place, writer = first, None
    while time.perf_counter() < end:
        if writer is None:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        started = time.perf_counter()
        writer.write(requests[place % len(requests)])
        status, stays = await answer(reader)
        if status == "200":
            load.seconds.append(time.perf_counter() - started)
        load.statuses[status] += 1
        if status == "503":
            await asyncio.sleep(1)  # Retry-After
        if not stays:
            writer.close()
            writer = None
        place += 1
    if writer is not None:
        writer.close()


def loaded(port: int, requests: Sequence[bytes], clients: int, seconds: float) -> dict[str, Any]:
    async def run() -> dict[str, Any]:
        load, started = Load(), time.perf_counter()
        end = started + seconds
        every = [client(port, requests, 7 * n, end, load) for n in range(clients)]
        outcomes = await asyncio.gather(*every, return_exceptions=True)
        for fault in outcomes:
            if isinstance(fault, BaseException):
                load.statuses[type(fault).__name__] += 1
        return load.as_dict(time.perf_counter() - started)

    return {"clients": clients, **asyncio.run(run())}


def megabytes(process: int) -> float:
    """Resident memory."""
    text = Path(f"/proc/{process}/status").read_text()
    return round(int(re.search(r"VmRSS:\s+(\d+)", text)[1]) / 1024, 1)


def mean_batch(port: int) -> float | None:
    text = direct.open(f"http://127.0.0.1:{port}/metrics").read().decode()
    total = float(re.search(r"isdh_batch_pictures_sum (\S+)", text)[1])
    count = float(re.search(r"isdh_batch_pictures_count (\S+)", text)[1])
    return round(total / count, 2) if count else None


def table(port: int, kinds: dict[str, list[bytes]], seconds: float) -> dict[str, Any]:
    rows: dict[str, Any] = {}
    for kind, requests in kinds.items():
        loaded(port, requests, 4, 2)  # warm
        rows[kind] = []
        for clients in CLIENTS:
            rows[kind].append(loaded(port, requests, clients, seconds))
            print(kind, rows[kind][-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workspace", type=Path, default=Path())
    parser.add_argument("--dataset", default="digits")
    parser.add_argument("--bits", type=int, default=48)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--minutes", type=float, default=10, help="of watching memory; 0: none")
    parser.add_argument("--mlflow", action="store_true", help="measure MLflow's server as well")
    given = parser.parse_args()
    root = given.workspace.resolve()
    workspace = Workspace(root)
    frame = manifest.read(workspace.manifest(given.dataset))
    rows = np.linspace(0, len(frame) - 1, PICTURES).astype(int)
    raw = workspace.raw(given.dataset)
    pictures = [(raw / frame["path"].iloc[row]).read_bytes() for row in rows]
    port = free_port()
    kinds = {
        "search by id": [
            request("GET", f"/api/search/image?id={quote(frame['image'].iloc[row])}", port)
            for row in rows
        ],
        "search by picture": [request("POST", "/api/search", port, each) for each in pictures],
    }
    serve = [
        *(str(BINARIES / "isdh"), "serve", f"--dataset={given.dataset}", f"--bits={given.bits}"),
        f"--port={port}",
    ]
    health = f"http://127.0.0.1:{port}/health"
    figures: dict[str, Any] = {"pictures": len(frame), "bits": given.bits}
    with started(serve, health, root) as process:
        figures["load"] = table(port, kinds, given.seconds)
        figures["pictures_a_batch"] = mean_batch(port)
        figures["memory_mb"] = watched(port, process, kinds, given.minutes)
    with started([*serve, "--waiting=16"], health, root):
        figures["overload, 16 may wait"] = loaded(
            port, kinds["search by picture"], 128, given.seconds
        )
        figures["after overload"] = loaded(port, kinds["search by picture"], 1, 3)
        print(figures["overload, 16 may wait"], figures["after overload"])
    if given.mlflow:
        figures["mlflow"] = mlflow(root, given, pictures)
    record("serve", packages=("fastapi", "uvicorn", "torch", "faiss-cpu", "mlflow"), **figures)


def watched(
    port: int, process: int, kinds: dict[str, list[bytes]], minutes: float
) -> list[dict[str, float]]:
    """Resident memory while 16 clients ask for all kinds in turn."""
    mixed = [each for pair in zip(*kinds.values(), strict=True) for each in pair]
    end, seen = time.monotonic() + 60 * minutes, []
    began = time.monotonic()
    while time.monotonic() < end:
        outcome = loaded(port, mixed, 16, min(30.0, 60 * minutes))
        minute = round((time.monotonic() - began) / 60, 1)
        seen.append({"minute": minute, "mb": megabytes(process), **outcome})
        print(seen[-1], flush=True)
    return seen


def mlflow(root: Path, given: argparse.Namespace, pictures: Sequence[bytes]) -> dict[str, Any]:
    """`mlflow models serve` of the same version; it encodes and does not search."""
    port = free_port()
    bodies = [
        json.dumps(
            {"dataframe_split": {"columns": ["image"], "data": [[base64.b64encode(p).decode()]]}}
        ).encode()
        for p in pictures
    ]
    requests = [request("POST", "/invocations", port, b, "application/json") for b in bodies]
    uri = f"models:/isdh-{given.dataset}-{given.bits}bit@champion"
    command = [
        *(str(BINARIES / "mlflow"), "models", "serve", "--model-uri", uri),
        *("--env-manager", "local", "--port", str(port), "--workers", "1"),
    ]
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{root / 'mlflow.db'}"
    os.environ["PATH"] = f"{BINARIES}{os.pathsep}{os.environ['PATH']}"
    with started(command, f"http://127.0.0.1:{port}/ping", root):
        return table(port, {"encode": requests}, given.seconds)


if __name__ == "__main__":
    main()
