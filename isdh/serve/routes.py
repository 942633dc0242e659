"""The API: encode, search, look at the collection, and what machines ask."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Depends, HTTPException, Query, Request, Response
from numpy.typing import NDArray

from isdh.codes import check_codes, unpack
from isdh.collection import MOST, Collection
from isdh.errors import InputError
from isdh.search import Pair
from isdh.serve import answers, guard, told
from isdh.serve.service import Service

VERSION = "X-Isdh-Version"  # <registered model>/<version>, of every answer
HEX = re.compile(r"(?:[0-9a-fA-F]{2})+")
PAGE = 200  # most pictures of one listing
Alias = Literal["champion", "challenger"]
Text = Annotated[str, Query(min_length=1, max_length=1024)]
PICTURE = {
    "requestBody": {
        "required": True,
        "description": "The bytes of a JPEG, PNG, WebP, GIF, BMP, TIFF or PPM file.",
        "content": {
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
            "image/*": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}
NO_PICTURE = (400, 408, 413, 415, 503)


def _refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What a route answers beside its own, for OpenAPI."""
    return {status: {"model": answers.Refusal} for status in (401, 403, 404, 422, *statuses)}


class Wanted:
    """What a search is asked for besides the picture."""

    def __init__(
        self,
        k: Annotated[
            int, Query(ge=1, description=f"Neighbours; {MOST} or the whole collection at most.")
        ] = 20,
        radius: Annotated[
            int | None, Query(ge=0, description="Only pictures at this distance or nearer.")
        ] = None,
        label: Annotated[
            list[str] | None,
            Query(description="Only pictures that have this label; all of them if repeated."),
        ] = None,
    ) -> None:
        self.k = k
        self.radius = radius
        self.labels = label or []


def service_of(request: Request) -> Service:
    """The service that a request came to."""
    service: Service = request.app.state.service
    return service


def taken(request: Request, response: Response, alias: Alias = "champion") -> Pair:
    """The pair that one request is answered from, whatever takes its place meanwhile."""
    pair = request.state.pair = service_of(request).pair(alias)
    request.state.alias = alias
    response.headers[VERSION] = told.name_of(pair)
    return pair


Serving = Annotated[Service, Depends(service_of)]
Taking = Annotated[Pair, Depends(taken)]
Wanting = Annotated[Wanted, Depends()]
router = APIRouter()


async def _found(
    service: Service, pair: Pair, request: Request, wanted: Wanted, query: told.Query
) -> answers.Found:
    columns = _columns(pair.collection, wanted.labels)
    k = min(wanted.k, MOST, len(pair.collection.searched))
    radius = None if wanted.radius is None else min(wanted.radius, pair.collection.bits)

    def search() -> answers.Found:
        neighbours = pair.collection.search(
            query.code, k=k, radius=radius, labels=columns, without=query.row
        )
        return told.answer(pair, request.state.alias, query, neighbours, asked=wanted.k, k=k)

    return await service.searched(search)


@router.post("/api/encode", tags=["codes"], openapi_extra=PICTURE, responses=_refusals(*NO_PICTURE))
async def encode(service: Serving, pair: Taking, request: Request) -> answers.Encoded:
    """A picture's code."""
    code = await service.code_of(pair, request)
    bits = "".join(map(str, unpack(code[None], pair.collection.bits)[0]))
    return answers.Encoded(
        model=told.model(pair, request.state.alias), code=code.tobytes().hex(), bits=bits
    )


@router.post(
    "/api/search", tags=["search"], openapi_extra=PICTURE, responses=_refusals(*NO_PICTURE)
)
async def search_by_picture(
    service: Serving, pair: Taking, wanted: Wanting, request: Request
) -> answers.Found:
    """The pictures most similar to one that is sent."""
    _columns(pair.collection, wanted.labels)
    return await _found(
        service, pair, request, wanted, told.Query(await service.code_of(pair, request))
    )


@router.get("/api/search/image", tags=["search"], responses=_refusals())
async def search_by_image(
    service: Serving, pair: Taking, wanted: Wanting, request: Request, id: Text
) -> answers.Found:
    """The pictures most similar to one of the collection, which is left out itself."""
    row = _row(pair.collection, id)
    return await _found(service, pair, request, wanted, told.Query(pair.collection.codes[row], row))


@router.get("/api/search/code", tags=["search"], responses=_refusals())
async def search_by_code(
    service: Serving, pair: Taking, wanted: Wanting, request: Request, code: Text
) -> answers.Found:
    """The pictures with the nearest codes. A code means nothing to another model."""
    return await _found(
        service, pair, request, wanted, told.Query(_code(pair.collection.bits, code))
    )


@router.get("/api/pictures", tags=["collection"], responses=_refusals())
async def pictures(
    service: Serving,
    pair: Taking,
    request: Request,
    offset: Annotated[int, Query(ge=0)] = 0,
    limit: Annotated[int, Query(ge=1, le=PAGE)] = 24,
    split: Literal["train", "query", "database", "added"] | None = None,
    label: Annotated[list[str] | None, Query()] = None,
) -> answers.Pictures:
    """Some pictures of the collection."""
    columns = _columns(pair.collection, label or [])

    def look() -> answers.Pictures:
        rows = _rows(pair.collection, split, columns)
        shown = rows[offset : offset + limit] if offset < len(rows) else rows[:0]
        return answers.Pictures(
            model=told.model(pair, request.state.alias),
            pictures=[told.picture(pair.collection, int(row)) for row in shown],
            offset=offset,
            total=len(rows),
        )

    return await service.searched(look)


@router.get(
    "/api/picture",
    tags=["collection"],
    response_class=Response,
    responses={200: {"content": {"image/webp": {}}}, 304: {}, **_refusals(503)},
)
async def picture(
    service: Serving,
    pair: Taking,
    request: Request,
    id: Text,
    size: Literal["small", "large"] = "small",
) -> Response:
    """A small copy of a picture of the collection."""
    path = pair.collection.files[_row(pair.collection, id)]
    with service.place():
        try:
            made = await service.decoded(lambda: service.thumbnails.of(path, size))
        except HTTPException as error:
            raise HTTPException(404, f"id={id[:80]!r}: {error.detail}") from None
    head = {
        VERSION: told.name_of(pair),
        "ETag": f'"{made.tag}"',
        "Cache-Control": "private, no-cache",
    }
    if request.headers.get("if-none-match") == head["ETag"]:
        return Response(status_code=304, headers=head)
    return Response(made.data, media_type="image/webp", headers=head)


@router.get("/version", tags=["service"], responses={401: {"model": answers.Refusal}})
async def version(service: Serving, response: Response) -> answers.Version:
    """What is served: models, labels, limits."""
    response.headers[VERSION] = told.name_of(service.champion)
    return await service.searched(lambda: told.version(service))


@router.get("/ready", tags=["service"])
async def ready(service: Serving, response: Response) -> answers.Ready:
    """Whether searches are answered, and whether by what the registry says."""
    serving = service.current.serving
    response.headers[VERSION] = told.name_of(service.champion)
    return answers.Ready(
        ready=True,
        version=told.name_of(service.champion),
        refused={
            alias: each.version.number if each.version else ""
            for alias, each in serving.refused.items()
        },
        registry="does not answer" if serving.fault else "answers",
    )


@router.get("/health", tags=["service"])
async def health() -> answers.Health:
    """The process lives."""
    return answers.Health(status="ok")


@router.get(
    "/metrics",
    tags=["service"],
    response_class=Response,
    responses={200: {"content": {"text/plain": {}}}, 401: {"model": answers.Refusal}},
)
async def metrics(service: Serving) -> Response:
    """Numbers for Prometheus."""
    return Response(service.meters.text(), media_type="text/plain; version=0.0.4")


@router.post("/api/session", tags=["service"], status_code=204, responses=_refusals())
async def session(service: Serving, request: Request) -> Response:
    """For browsers: a cookie in the place of the token, which pictures of a page cannot carry."""
    answer = Response(status_code=204)
    if token := service.options.token:
        answer.set_cookie(
            guard.COOKIE,
            guard.session(token),
            httponly=True,
            samesite="strict",
            secure="https" in (request.url.scheme, request.headers.get("x-forwarded-proto")),
        )
    return answer


def _columns(collection: Collection, labels: Sequence[str]) -> list[int]:
    try:
        return collection.label_columns(labels)
    except InputError as error:
        raise HTTPException(422, str(error)) from None


def _row(collection: Collection, image: str) -> int:
    row = collection.row(image)
    if row is None:
        raise HTTPException(404, f"id={image[:80]!r}: no picture of the collection")
    return row


def _code(bits: int, text: str) -> NDArray[np.uint8]:
    """A code of the collection's length, from hex.

    Raises:
        HTTPException: 422, it is none.
    """
    width = -(-bits // 8)
    if not HEX.fullmatch(text) or len(text) != 2 * width:
        raise HTTPException(
            422, f"code of {len(text)} characters: want {2 * width} of hex, {bits} bits"
        )
    code = np.frombuffer(bytes.fromhex(text), np.uint8)
    try:
        check_codes(code[None], bits, "code")
    except InputError:
        raise HTTPException(422, f"code: bits beyond the {bits}th are set; they are 0") from None
    return code


def _rows(collection: Collection, split: str | None, columns: Sequence[int]) -> NDArray[np.int64]:
    keep = collection.labels[:, columns].all(axis=1)
    if split is not None:
        keep &= np.asarray(collection.splits) == split
    return np.flatnonzero(keep)
