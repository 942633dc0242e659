"""Before and after every request: who may ask, by which name, and what the answer's head says."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
from http.cookies import CookieError, SimpleCookie
from time import perf_counter
from typing import Any
from urllib.parse import urlsplit

from isdh.serve.meters import Meters
from isdh.serve.options import Options

log = logging.getLogger("isdh.serve")
COOKIE = "isdh_session"
PROBES = ("/health", "/ready")  # asked by machines, by whatever name
PUBLIC = (*PROBES, "/", "/favicon.ico")  # without a token; so is what lies below /static/
HEAD = {
    b"content-security-policy": (
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
        b"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    b"cross-origin-opener-policy": b"same-origin",
    b"cross-origin-resource-policy": b"same-origin",
    b"permissions-policy": b"camera=(), geolocation=(), microphone=()",
    b"referrer-policy": b"no-referrer",
    b"x-content-type-options": b"nosniff",
    b"x-frame-options": b"DENY",
}
MORE = {
    401: [(b"www-authenticate", b"Bearer")],
    503: [(b"retry-after", b"1"), (b"connection", b"close")],
}
REQUESTS = 512  # under way at once
Scope = dict[str, Any]


class Guard:
    """The ASGI application around the one that answers.

    Args:
        app: what answers.
        options: names, origins and the token.
        meters: where requests are counted.
    """

    def __init__(self, app: Any, options: Options, meters: Meters) -> None:
        self.app = app
        self.options = options
        self.meters = meters
        self.under_way = 0

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        """Answer, or refuse to."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        started, status, is_answered = perf_counter(), 500, False

        async def with_head(message: Any) -> None:
            nonlocal status, is_answered
            if message["type"] == "http.response.start":
                status, is_answered = message["status"], True
                message["headers"] = _headed(message["headers"], self._origin_allowed(scope))
            await send(message)

        self.under_way += 1
        try:
            if refusal := self._refusal(scope):
                await _say(with_head, *refusal)
            else:
                await self.app(scope, receive, with_head)
        except Exception:
            if not is_answered:
                raise
            # raised on by Starlette when it has answered; the server would cut the connection
            log.exception("%s %s", scope["method"], scope["path"])
        finally:
            self.under_way -= 1
            route = getattr(scope.get("route"), "path", "other")
            self.meters.answered(route, status, perf_counter() - started)

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        """Status and reason, if the request is not to be answered."""
        head = {name: value.decode("latin-1") for name, value in scope["headers"]}
        path = scope["path"]
        if self.under_way > REQUESTS and path not in PROBES:
            return 503, "too many requests; ask again a little later"
        if path not in PROBES and _host(head.get(b"host", "")) not in self.options.hosts:
            return 400, "Host: not a name of this service; start it with --allow-host"
        origin = head.get(b"origin")
        if origin is not None and not self._is_own(origin, head) and not self._allows(origin):
            return 403, "Origin: pages elsewhere may not ask; start the service with --allow-origin"
        if not self.options.token or path in PUBLIC or path.startswith("/static/"):
            return None
        if scope["method"] == "OPTIONS" and origin is not None:
            return None  # a browser's question before the request, which carries no token
        return (
            None if self._knows_token(head) else (401, "a token is needed: Authorization: Bearer")
        )

    def _is_own(self, origin: str, head: dict[bytes, str]) -> bool:
        return origin.partition("://")[2].lower() == head.get(b"host", "").lower()

    def _allows(self, origin: str) -> bool:
        return origin in self.options.origins

    def _origin_allowed(self, scope: Scope) -> bool:
        origins = [value.decode("latin-1") for name, value in scope["headers"] if name == b"origin"]
        return bool(origins) and self._allows(origins[0])

    def _knows_token(self, head: dict[bytes, str]) -> bool:
        scheme, _, given = head.get(b"authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return same(given.strip(), self.options.token)
        try:
            cookie = SimpleCookie(head.get(b"cookie", "")).get(COOKIE)
        except CookieError:
            return False
        return cookie is not None and same(cookie.value, session(self.options.token))


def session(token: str) -> str:
    """What a browser keeps in the token's place: of no use but here, until the token changes."""
    return hmac.new(token.encode(), b"isdh session", hashlib.sha256).hexdigest()


def same(given: str, wanted: str) -> bool:
    """Whether two secrets are equal, in a time that does not tell where they differ."""
    return hmac.compare_digest(given.encode(), wanted.encode())


def _host(header: str) -> str:
    """The name in a Host header, without the port; "" where it is none."""
    try:
        return urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return ""


def _headed(headers: Any, allowed: bool) -> list[tuple[bytes, bytes]]:
    """The headers and those that every answer has, where it does not say otherwise itself."""
    found = {name.lower() for name, _ in headers}
    more = {**HEAD, b"cache-control": b"no-store"}
    if allowed:  # a page elsewhere may use it, as CORS says
        more[b"cross-origin-resource-policy"] = b"cross-origin"
    return [*headers, *((name, value) for name, value in more.items() if name not in found)]


async def _say(send: Any, status: int, error: str) -> None:
    body = json.dumps({"error": error}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    headers += MORE.get(status, [])
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
