"""The service as one ASGI application: the API, the page, and how refusals are told."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from fastapi.security import HTTPBearer
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.middleware.cors import CORSMiddleware

import isdh
from isdh.serve.guard import Guard
from isdh.serve.routes import VERSION, router, service_of
from isdh.serve.service import Service
from isdh.serve.told import name_of

HERE = Path(__file__).parent
PAGE = HERE / "static" / "index.html"
STATIC = {  # no path is ever made of what is asked for
    "page.js": (HERE / "static" / "page.js", "text/javascript"),
    "page.css": (HERE / "static" / "page.css", "text/css"),
    "report.css": (HERE.parent / "templates" / "report.css", "text/css"),
}
FRESH = {"Cache-Control": "no-cache"}


def application(service: Service) -> Guard:
    """The whole of it."""
    return Guard(build(service), service.options, service.meters)


def build(service: Service) -> FastAPI:
    """The application that the guard stands around."""

    @asynccontextmanager
    async def living(app: FastAPI) -> AsyncIterator[None]:
        service.start()
        yield
        service.close()

    app = FastAPI(
        title="isdh",
        version=isdh.__version__,
        summary="Similar pictures by binary codes.",
        lifespan=living,
        docs_url=None,  # these pages load scripts from elsewhere
        redoc_url=None,
    )
    app.state.service = service
    # the guard looks at tokens; here OpenAPI is told of them
    bearer = [Depends(HTTPBearer(auto_error=False))] if service.options.token else []
    app.include_router(router, dependencies=bearer)
    app.get("/", include_in_schema=False)(page)
    app.get("/static/{name}", include_in_schema=False)(static)
    app.get("/favicon.ico", include_in_schema=False)(icon)
    app.add_exception_handler(StarletteHTTPException, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(Exception, _failed)
    if service.options.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(service.options.origins),
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type"],
            expose_headers=[VERSION],
        )
    return app


async def page() -> FileResponse:
    """The page."""
    return FileResponse(PAGE, headers=FRESH)


async def static(name: str) -> FileResponse:
    """What the page is made of."""
    if name not in STATIC:
        raise HTTPException(404, "no such file")
    path, kind = STATIC[name]
    return FileResponse(path, media_type=kind, headers=FRESH)


async def icon() -> Response:
    """No icon; browsers ask."""
    return Response(status_code=204)


def _refused(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, StarletteHTTPException)
    return _said(request, error.status_code, str(error.detail), dict(error.headers or {}))


def _invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = str(first["loc"][-1]) if first["loc"] else "request"
    return _said(request, 422, f"{where}: {first['msg'][:1].lower()}{first['msg'][1:]}")


def _failed(request: Request, error: Exception) -> JSONResponse:
    return _said(request, 500, "a fault of the service; its log tells more")


def _said(
    request: Request, status: int, error: str, headers: dict[str, str] | None = None
) -> JSONResponse:
    pair = getattr(request.state, "pair", service_of(request).champion)
    return JSONResponse({"error": error}, status, {VERSION: name_of(pair), **(headers or {})})
