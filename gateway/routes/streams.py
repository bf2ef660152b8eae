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
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import HeaderParameter, QueryParameter

from auth.claims import Claims
from gateway.authorization import may_see_order, may_see_restaurant
from gateway.openapi import BEARER, SESSION, OrderId, RestaurantId, refusals
from gateway.opening import Asked, Begin, PositionUnknown, begin
from gateway.process import Gateway
from gateway.response import Opening, StreamResponse
from streams.cursor import Cursor
from streams.errors import SubscriptionRefused
from streams.facts import Decision, Facts, FactsUnavailable
from streams.overlay import staff_fact
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

Asker: TypeAlias = Request[Claims, Any, Any]
StateOf: TypeAlias = Callable[[Decision], Awaitable[dict[str, Any]]]
Allow: TypeAlias = Callable[[Facts | Decision], Awaitable[None]]

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


class _Topic(msgspec.Struct, frozen=True, gc=False):
    """What a stream is of: its feed, who may have it, what takes that back, and its state for a snapshot."""

    feed: Feed
    allow: Allow
    revocable_by: tuple[str, ...]
    state: StateOf


FindTopic: TypeAlias = Callable[[Gateway, Claims], Awaitable[_Topic]]


class _Prepared(msgspec.Struct, frozen=True, gc=False):
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
)
async def restaurant_events(
    request: Asker,
    restaurant_id: RestaurantId,
    last_event_id: LastEventId = None,
    last_event_id_in_query: LastEventIdInQuery = None,
    since: Since = None,
    with_snapshot: WithSnapshot = True,
) -> StreamResponse:
    """Open `restaurants/<id>`."""

    async def find(_: Gateway, claims: Claims) -> _Topic:
        async def allow(facts: Facts | Decision) -> None:
            await may_see_restaurant(facts, claims, restaurant_id)

        async def state(decision: Decision) -> dict[str, Any]:
            return {"orders": await decision.sql.restaurant_snapshot(restaurant_id)}

        return _Topic(restaurant_feed(restaurant_id), allow, (staff_fact(restaurant_id, claims.key),), state)

    asked = Asked.of(last_event_id, last_event_id_in_query, since)
    return await _open(request, find, asked, with_snapshot=with_snapshot)


@get(
    "/orders/{order_id:str}/events",
    summary="One order, for the customer who placed it",
    tags=["streams"],
    security=[BEARER, SESSION],
    responses=_STREAM | refusals(401, 403, 404, 422),
)
async def order_events(
    request: Asker,
    order_id: OrderId,
    last_event_id: LastEventId = None,
    last_event_id_in_query: LastEventIdInQuery = None,
    since: Since = None,
    with_snapshot: WithSnapshot = True,
) -> StreamResponse:
    """Open `orders/<id>`."""

    async def find(gateway: Gateway, claims: Claims) -> _Topic:
        owner = gateway.facts.recent_owner(order_id)
        if owner is None or owner.customer_key != claims.key:  # only the order's first event may refuse somebody
            owner = await gateway.facts.owner(order_id)
        may_see_order(claims, owner)

        async def allow(_: Facts | Decision) -> None:
            """Nothing takes an order from its customer."""

        async def state(decision: Decision) -> dict[str, Any]:
            return {"order": await decision.sql.order_snapshot_for_customer(order_id, owner)}

        return _Topic(order_feed(order_id, owner.restaurant_id, owner.customer_key), allow, (), state)

    asked = Asked.of(last_event_id, last_event_id_in_query, since)
    return await _open(request, find, asked, with_snapshot=with_snapshot)


async def _open(request: Asker, find: FindTopic, asked: Asked, *, with_snapshot: bool) -> StreamResponse:
    """Decide, find where to begin, and hand both to the response.

    Raises:
        Forbidden: a policy says no.
        OrderUnknown
    """
    # Not by Litestar's dependencies: those would be a third of what a connect costs.
    gateway: Gateway = request.app.state.gateway
    claims = request.user
    address = gateway.peers.client_address(request.scope)
    try:
        if not gateway.accepts_streams:
            return _come_back(gateway, "this process takes no streams now")
        gateway.hub.arrive(address)
        topic = await find(gateway, claims)
        beginning = await begin(asked, gateway.hub, gateway.log, lost_upto=gateway.tail.lost_upto, now=time.time())
        prepared = await _prepare(gateway, claims, topic, beginning, with_snapshot=with_snapshot)
    except (FactsUnavailable, PositionUnknown, SubscriptionRefused) as error:
        return _come_back(gateway, str(error))
    _log.info("stream.opened", topic=topic.feed.topic, subject=claims.key, verdict=beginning.verdict.kind)
    blocks = _first_blocks(gateway, topic, beginning, prepared)
    opening = Opening((topic.feed,), prepared.start, prepared.grant, address, blocks)
    return StreamResponse(gateway.hub, gateway.encoder, opening)


async def _prepare(
    gateway: Gateway, claims: Claims, topic: _Topic, beginning: Begin, *, with_snapshot: bool
) -> _Prepared:
    """A snapshot is read in the transaction that the decision is taken by; without one, memory may do."""
    facts = gateway.facts
    if with_snapshot and beginning.verdict.kind != "resumed":
        async with facts.reading() as decision:
            await topic.allow(decision)
            grant = _grant(gateway, claims, topic, decision.decided_at)
            return _Prepared(grant, decision.sql.position.sequence, await topic.state(decision))
    await topic.allow(facts)
    start = gateway.hub.head if beginning.after is None else beginning.after
    return _Prepared(_grant(gateway, claims, topic, facts.position), start, None)


def _grant(gateway: Gateway, claims: Claims, topic: _Topic, decided_at: int) -> Grant:
    expires_at = gateway.hub.clock() + claims.expires_at - time.time()
    return Grant(gateway.facts.epoch, decided_at, topic.revocable_by, expires_at, claims.key)


def _first_blocks(gateway: Gateway, topic: _Topic, beginning: Begin, prepared: _Prepared) -> bytes:
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
    if verdict.lost is not None:
        # What comes begins at `start`: with a snapshot that is further on than what the log has lost.
        told["lost"] = {"from": str(Cursor(prepared.grant.epoch, verdict.lost[0])), "to": start}
    if prepared.state is None:
        return gateway.encoder.opened(_json.encode(told), start)
    snapshot = _json.encode({"topic": topic.feed.topic, **prepared.state})
    return gateway.encoder.opened(_json.encode(told), None) + gateway.encoder.event("snapshot", snapshot, start)


def _come_back(gateway: Gateway, reason: str) -> StreamResponse:
    _log.info("stream.refused_softly", reason=reason)
    return StreamResponse(gateway.hub, gateway.encoder)


HANDLERS = (restaurant_events, order_events)
