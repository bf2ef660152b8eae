"""The AsyncAPI document, beside the OpenAPI one that Litestar serves."""

from __future__ import annotations

from litestar import Response, get

from gateway.asyncapi import encoded_document
from gateway.authentication import PUBLIC


@get(
    "/schema/asyncapi.json",
    media_type="application/vnd.aai.asyncapi+json;version=3.0.0",
    include_in_schema=False,
    opt=dict(PUBLIC),
    sync_to_thread=False,
)
def asyncapi() -> Response[bytes]:
    """As `passline schema asyncapi` prints it."""
    return Response(encoded_document(), media_type="application/vnd.aai.asyncapi+json;version=3.0.0")


HANDLERS = (asyncapi,)
