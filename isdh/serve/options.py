"""How a service is reached, and what it takes in."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from isdh.errors import InputError

TOKEN = "ISDH_TOKEN"  # in the environment
SHORTEST = 16  # characters of a token
LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class Options:
    """Where to listen, whom to answer, and limits.

    Attributes:
        host: the address to bind.
        port: 0 takes a free one.
        names: by which the service may be called, beside those of loopback.
        origins: of pages elsewhere that may ask, e.g. https://example.org.
        token: what who asks has to know; "" asks for none.
        megabytes: of a picture's file.
        seconds: that a picture's file may take to come.
        waiting: pictures that may be in work or wait; whoever comes then is sent away.
        threads: cores for decoding, and for encoding.
        every: seconds between looks at the registry.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    names: Sequence[str] = ()
    origins: Sequence[str] = ()
    token: str = ""
    megabytes: float = 20.0
    seconds: float = 30.0
    waiting: int = 128
    threads: int = 1
    every: float = 5.0

    def __post_init__(self) -> None:
        """Refuse what cannot be, or would expose pictures by mistake."""
        for name, least in (("waiting", 1), ("threads", 1), ("megabytes", 0), ("every", 0)):
            if getattr(self, name) < least or (not least and not getattr(self, name)):
                raise InputError(f"--{name}={getattr(self, name)}: want more than {least}")
        if self.token and len(self.token) < SHORTEST:
            raise InputError(
                f"{TOKEN}: {len(self.token)} characters; want {SHORTEST} at least, such as those of"
                " `openssl rand -hex 32`"
            )
        if not self.token.isascii() or self.token != self.token.strip():
            raise InputError(f"{TOKEN}: want ASCII characters without blanks around them")
        for origin in self.origins:
            parts = urlsplit(origin)
            if (
                parts.scheme not in {"http", "https"}
                or origin != f"{parts.scheme}://{parts.netloc}"
            ):
                raise InputError(
                    f"--allow-origin={origin!r}: want scheme, host and port alone, such as "
                    "https://example.org"
                )

    @property
    def most_bytes(self) -> int:
        """Of a picture's file."""
        return int(self.megabytes * 1_000_000)

    @property
    def hosts(self) -> frozenset[str]:
        """Names that a request's Host may have, without the port."""
        bound = () if _is_any(self.host) else (self.host,)
        return frozenset(name.lower() for name in (*LOOPBACK, *bound, *self.names))


def token_for(host: str, *, without: bool) -> str:
    """The token of the environment; one is needed where others than this machine's can connect.

    Args:
        host: the address to bind.
        without: whoever starts the service has said that none is wanted.

    Raises:
        InputError: no token for an address that is not loopback.
    """
    token = os.environ.get(TOKEN, "")
    if not token and not without and not _is_loopback(host):
        raise InputError(
            f"--host={host}: others could search and see the pictures; set {TOKEN} to a secret of "
            f"{SHORTEST} characters or more, or say --without-token"
        )
    return token


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _is_any(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False
