"""OPTIONS where the methods of one path are several handlers: Litestar's own answer would name one of them."""

from __future__ import annotations

from litestar import HttpMethod, Response, route
from litestar.handlers import HTTPRouteHandler

from gateway.authentication import PUBLIC


def options(path: str, *methods: str) -> HTTPRouteHandler:
    """The handler that answers OPTIONS of `path`, which has `methods`. Register it before any of theirs."""
    allow = ", ".join(sorted((*methods, "OPTIONS")))

    @route(path, http_method=[HttpMethod.OPTIONS], status_code=204, include_in_schema=False, opt=dict(PUBLIC))
    async def tell_methods() -> Response[None]:
        return Response(None, headers={"allow": allow})

    return tell_methods
