"""Guests' passes: a link for whoever waits for an order and has no account here."""

from __future__ import annotations

import datetime as dt
import secrets
import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated, Final, TypeAlias

import msgspec
import structlog
from litestar import Request, Response, delete, post
from litestar.datastructures import State
from litestar.di import NamedDependency
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import JSONBody, PathParameter
from msgspec import Meta

from auth.claims import Claims
from auth.passes import MAX_PASS_SECONDS, Passes
from gateway.authentication import Carrier
from gateway.authorization import may_see_order
from gateway.openapi import BEARER, SESSION, Body, OrderId, refusals
from gateway.problems import NEVER_KEPT
from gateway.process import Gateway
from gateway.recording import new_event_id, now_utc, record
from streams.events import PassIssued, PassRevoked
from streams.passes import DELIVERY, GUEST_PASS, DeliveredLongAgo, PassUnknown, delivery_of, guests_until
from streams.subjects import ID_PATTERN

if TYPE_CHECKING:
    from streams.snapshots import OrderOwner

PASSES_SCOPE: Final = "passes:issue"
"""Of services that give guests their links, as the one that sends a customer's mail."""

MAX_BODY_BYTES: Final = 1024

Asker: TypeAlias = Request[Claims, Carrier, State]
PassId: TypeAlias = Annotated[
    str, PathParameter(pattern=ID_PATTERN, description="The pass's id, as its issue told it.")
]

_log = structlog.get_logger()


class WantedPass(Body, frozen=True, kw_only=True):
    """What may be said of a pass: how long it lives, a day at most."""

    life_seconds: Annotated[int, Meta(ge=1, le=MAX_PASS_SECONDS)] = MAX_PASS_SECONDS


class GuestPass(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A pass, and a link with it. Neither is told again. It ends at `expiresAt`, or two hours after the order's
    delivery if that is earlier.
    """

    text: str = msgspec.field(name="pass")
    url: str
    expires_at: dt.datetime
    pass_id: str


@post(
    "/orders/{order_id:str}/guest-pass",
    status_code=HTTPStatus.CREATED,
    summary="Give a guest a pass for an order",
    tags=["guests"],
    security=[BEARER, SESSION],
    request_max_body_size=MAX_BODY_BYTES,
    responses=refusals(401, 403, 404, 409, 413, 422, 503),
)
async def issue_pass(
    request: Asker,
    order_id: OrderId,
    gateway: NamedDependency[Gateway],
    passes: NamedDependency[Passes],
    data: JSONBody[WantedPass | None] = None,
) -> Response[GuestPass]:
    """For the customer who placed the order, and the scope `passes:issue`.

    409: the order was delivered more than two hours ago.
    """
    owner = await _may_issue(gateway, request.user, order_id)
    expires_at = await _end(gateway, order_id, owner, (data or WantedPass()).life_seconds)
    pass_id = secrets.token_hex(16)
    event = PassIssued(
        event_id=new_event_id(),
        occurred_on_utc=now_utc(),
        order_id=order_id,
        pass_id=pass_id,
        expires_at=dt.datetime.fromtimestamp(expires_at, dt.UTC),
    )
    await record(gateway.publisher, event)
    _log.info("pass.issued", order=order_id, pass_id=pass_id, by=request.user.key)
    text = passes.for_guest(order_id, pass_id, expires_at)
    origin = gateway.settings.public_url or f"{gateway.settings.browser_scheme}://{request.headers.get('host', '')}"
    answer = GuestPass(
        text=text, url=f"{origin}/track/{order_id}?pass={text}", expires_at=event.expires_at, pass_id=pass_id
    )
    return Response(answer, headers=dict(NEVER_KEPT))


@delete(
    "/orders/{order_id:str}/guest-pass/{pass_id:str}",
    summary="Revoke a guest's pass",
    tags=["guests"],
    security=[BEARER, SESSION],
    responses=refusals(401, 403, 404, 422, 503) | {204: ResponseSpec(None, description="It is good no more.")},
)
async def revoke_pass(
    request: Asker, order_id: OrderId, pass_id: PassId, gateway: NamedDependency[Gateway]
) -> Response[None]:
    """For the customer who placed the order, and the scope `passes:issue`. Its open streams end at once."""
    await _may_issue(gateway, request.user, order_id)
    known = await gateway.facts.settled(GUEST_PASS, (order_id, pass_id), lambda state: state.is_issued)
    if not known.is_issued:
        raise PassUnknown(pass_id)
    if not known.is_revoked:
        event = PassRevoked(event_id=new_event_id(), occurred_on_utc=now_utc(), order_id=order_id, pass_id=pass_id)
        await record(gateway.publisher, event)
        _log.info("pass.revoked", order=order_id, pass_id=pass_id, by=request.user.key)
    return Response(None, headers=dict(NEVER_KEPT))


async def _may_issue(gateway: Gateway, claims: Claims, order_id: str) -> OrderOwner:
    """Whose the order is. Raises OrderUnknown, NotAllowed, FactsUnavailable."""
    owner = await gateway.facts.owner(order_id)
    if PASSES_SCOPE not in claims.scopes:
        may_see_order(claims, owner)
    return owner


async def _end(gateway: Gateway, order_id: str, owner: OrderOwner, life_seconds: int) -> int:
    """When a pass ends that is made now, in Unix seconds. Raises DeliveredLongAgo, FactsUnavailable."""
    now = time.time()
    expires_at = now + life_seconds
    until = guests_until(await gateway.facts.state(DELIVERY, delivery_of(order_id, owner)))
    if until is not None:
        expires_at = min(expires_at, until)
    if expires_at <= now:
        raise DeliveredLongAgo(order_id)
    return int(expires_at)


HANDLERS = [issue_pass, revoke_pass]
