"""The session cookie: a bearer token kept where a browser's `EventSource` will send it."""

from __future__ import annotations

import datetime as dt
import time

import msgspec
from litestar import Request, Response, delete, post
from litestar.datastructures import State
from litestar.di import NamedDependency
from litestar.openapi.datastructures import ResponseSpec

from auth.claims import Claims
from auth.errors import MissingToken
from auth.sessions import clear_session, set_session
from gateway.authentication import PUBLIC, Carrier, bearer_token, check_session_origin
from gateway.openapi import BEARER, refusals
from gateway.problems import NEVER_KEPT
from gateway.process import Gateway
from gateway.routes.options import options
from gateway.settings import Settings


class Session(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Who a session is for. `key` stands for the subject in paths and topics."""

    subject: str
    key: str
    expires_at: dt.datetime


@post(
    "/session",
    status_code=200,
    summary="Keep the bearer token in the session cookie",
    tags=["session"],
    security=[BEARER],
    responses=refusals(401, 403, 422, 503),
)
async def begin_session(
    request: Request[Claims, Carrier, State], settings: NamedDependency[Settings]
) -> Response[Session]:
    """The token in the `Authorization` header becomes the session cookie, until it expires.

    Streams that its subject has open go on by it, if it is newer than theirs.
    """
    token = bearer_token(request.headers)
    if token is None:  # a session begets no session
        raise MissingToken
    claims = request.user
    gateway: Gateway = request.app.state.gateway
    await gateway.renewals.present(claims)
    cookie = set_session(token, expires_at=claims.expires_at, now=time.time(), insecure=settings.insecure_cookies)
    return Response(
        Session(
            subject=claims.subject,
            key=claims.key,
            expires_at=dt.datetime.fromtimestamp(claims.expires_at, dt.UTC),
        ),
        headers={"set-cookie": cookie, **NEVER_KEPT},
    )


@delete(
    "/session",
    summary="End the session",
    tags=["session"],
    opt=dict(PUBLIC),
    responses=refusals(401, 403) | {204: ResponseSpec(None, description="There is no session any more.")},
)
async def end_session(request: Request[None, None, State], settings: NamedDependency[Settings]) -> Response[None]:
    """Takes the cookie back, whatever is in it. The token itself stays good until it expires."""
    if bearer_token(request.headers) is None:  # no page of another site can send one
        check_session_origin(request.headers, request.method, settings)
    return Response(None, headers={"set-cookie": clear_session(insecure=settings.insecure_cookies)})


HANDLERS = [options("/session", "DELETE", "POST"), begin_session, end_session]
