"""Streams: a restaurant's orders for its kitchen, one order for its customer.

What comes after the head is the hub's. A temporary refusal is never a status, which would end an EventSource for good.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, TypeAlias

import msgspec
import structlog
from litestar import Request, get
from litestar.di import NamedDependency, Provide
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import HeaderParameter, QueryParameter

from auth.claims import Claims
from gateway.authorization import may_see_order, may_see_restaurant
from gateway.openapi import BEARER, SESSION, OrderId, RestaurantId, refusals
from gateway.opening import Asked, Begin, PositionUnknown, begin
from gateway.process import Gateway
from gateway.response import StreamResponse
from streams.cursor import Cursor, Reset
from streams.facts import Decision, FactsUnavailable, staff_fact
from streams.subscriber import Grant
from streams.topics import Feed, order_feed, restaurant_feed

LastEventId: TypeAlias = Annotated[
    str | None,
    HeaderParameter(name="last-event-id", description="Where a returning client stopped; an EventSource sends it."),
]
LastEventIdInQuery: TypeAlias = Annotated[
    str | None,
    QueryParameter(name="last_event_id", description="The same for a new EventSource, which can send no header."),
]
Since: TypeAlias = Annotated[
    str | None,
    QueryParameter(description="From this log time on: RFC 3339 with an offset, or a span before now, as `15m`."),
]
WithSnapshot: TypeAlias = Annotated[
    bool, QueryParameter(name="snapshot", description="Whether a stream that does not resume begins with the state.")
]

StateOf: TypeAlias = Callable[[Decision], Awaitable[dict[str, Any]]]
Allow: TypeAlias = Callable[[Decision], Awaitable[None]]

_STREAM = {
    200: ResponseSpec(
        str,
        generate_examples=False,
        media_type="text/event-stream",
        description="The stream. A body that is cut after its first `retry` says: come back later.",
    )
}

_log = structlog.get_logger()
_json = msgspec.json.Encoder()


async def _asked(
    last_event_id: LastEventId = None, last_event_id_in_query: LastEventIdInQuery = None, since: Since = None
) -> Asked:
    return Asked.of(last_event_id, last_event_id_in_query, since)


_DEPENDENCIES = {"asked": Provide(_asked)}


class _Topic(msgspec.Struct, frozen=True):
    """What a stream is of: its feed, who may have it, what takes that back, and its state for a snapshot."""

    feed: Feed
    allow: Allow
    revocable_by: tuple[str, ...]
    state: StateOf


class _Prepared(msgspec.Struct, frozen=True):
    """A stream about to begin: past `start`, with `state` at that position if it begins with a snapshot."""

    grant: Grant
    start: int
    state: dict[str, Any] | None


@get(
    "/restaurants/{restaurant_id:str}/events",
    summary="Every order of a restaurant, for its owner and staff",
    tags=["streams"],
    security=[BEARER, SESSION],
    responses=_STREAM | refusals(401, 403, 422),
    dependencies=_DEPENDENCIES,
)
async def restaurant_events(
    request: Request[Claims, Any, Any],
    gateway: NamedDependency[Gateway],
    restaurant_id: RestaurantId,
    asked: NamedDependency[Asked],
    with_snapshot: WithSnapshot = True,
) -> StreamResponse:
    """Open `restaurants/<id>`."""
    claims = request.user

    async def allow(decision: Decision) -> None:
        await may_see_restaurant(decision, claims, restaurant_id)

    async def state(decision: Decision) -> dict[str, Any]:
        return {"orders": await decision.sql.restaurant_snapshot(restaurant_id)}

    topic = _Topic(restaurant_feed(restaurant_id), allow, (staff_fact(restaurant_id, claims.key),), state)
    return await _open(gateway, claims, topic, asked, with_snapshot=with_snapshot)


@get(
    "/orders/{order_id:str}/events",
    summary="One order, for the customer who placed it",
    tags=["streams"],
    security=[BEARER, SESSION],
    responses=_STREAM | refusals(401, 403, 404, 422),
    dependencies=_DEPENDENCIES,
)
async def order_events(
    request: Request[Claims, Any, Any],
    gateway: NamedDependency[Gateway],
    order_id: OrderId,
    asked: NamedDependency[Asked],
    with_snapshot: WithSnapshot = True,
) -> StreamResponse:
    """Open `orders/<id>`."""
    claims = request.user
    if not gateway.accepts_streams:
        return _come_back(gateway, "this process takes no streams now")
    try:
        owner = await gateway.facts.owner(order_id)
    except FactsUnavailable as error:
        return _come_back(gateway, str(error))

    async def allow(_: Decision) -> None:
        may_see_order(claims, owner)

    async def state(decision: Decision) -> dict[str, Any]:
        return {"order": await decision.sql.order_snapshot_for_customer(order_id)}

    topic = _Topic(order_feed(order_id, owner.restaurant_id, owner.customer_key), allow, (), state)
    return await _open(gateway, claims, topic, asked, with_snapshot=with_snapshot)


async def _open(
    gateway: Gateway, claims: Claims, topic: _Topic, asked: Asked, *, with_snapshot: bool
) -> StreamResponse:
    """Decide, find where to begin, and hand both to the response.

    Raises:
        Forbidden: a policy says no.
    """
    if not gateway.accepts_streams:
        return _come_back(gateway, "this process takes no streams now")
    try:
        beginning = await begin(asked, gateway.hub, gateway.log, lost_upto=gateway.tail.lost_upto, now=time.time())
        async with gateway.facts.reading() as decision:
            await topic.allow(decision)
            prepared = await _prepare(gateway, claims, topic, beginning, decision, with_snapshot=with_snapshot)
    except (FactsUnavailable, PositionUnknown) as error:
        return _come_back(gateway, str(error))
    _log.info("stream.opened", topic=topic.feed.topic, subject=claims.key, verdict=beginning.verdict.kind)
    return StreamResponse(
        gateway.hub,
        gateway.encoder,
        feeds=(topic.feed,),
        start=prepared.start,
        grant=prepared.grant,
        opening=_opening(gateway, topic, asked, beginning, prepared),
    )


async def _prepare(
    gateway: Gateway, claims: Claims, topic: _Topic, beginning: Begin, decision: Decision, *, with_snapshot: bool
) -> _Prepared:
    grant = Grant(
        gateway.facts.epoch,
        decision.decided_at,
        topic.revocable_by,
        gateway.hub.clock() + claims.expires_at - time.time(),
    )
    if with_snapshot and beginning.verdict.kind != "resumed":
        return _Prepared(grant, decision.sql.position.sequence, await topic.state(decision))
    return _Prepared(grant, gateway.hub.head if beginning.after is None else beginning.after, None)


def _opening(gateway: Gateway, topic: _Topic, asked: Asked, beginning: Begin, prepared: _Prepared) -> bytes:
    """`stream.opened`, and the snapshot if there is one: then only that carries the id."""
    start = str(Cursor(prepared.grant.epoch, prepared.start))
    verdict = beginning.verdict
    told: dict[str, Any] = {
        "verdict": verdict.kind,
        "from": start,
        "head": gateway.hub.frames.cursor(gateway.hub.head),
        "topics": [topic.feed.topic],
    }
    if verdict.reason is not None:
        told["reason"] = verdict.reason
    if verdict.reason is Reset.EXPIRED and asked.cursor is not None:
        lost_from = Cursor(prepared.grant.epoch, Cursor.parse(asked.cursor).sequence + 1)
        told["lost"] = {"from": str(lost_from), "to": start}
    if prepared.state is None:
        return gateway.encoder.opened(_json.encode(told), start)
    snapshot = _json.encode({"topic": topic.feed.topic, **prepared.state})
    return gateway.encoder.opened(_json.encode(told), None) + gateway.encoder.event("snapshot", snapshot, start)


def _come_back(gateway: Gateway, reason: str) -> StreamResponse:
    _log.info("stream.refused_softly", reason=reason)
    return StreamResponse(gateway.hub, gateway.encoder)


HANDLERS = (restaurant_events, order_events)
