"""Streams: one endpoint for each kind of topic, and one for several topics at once.

What comes after the head is the hub's. A temporary refusal is never a status, which would end an EventSource for good.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Annotated, Any, TypeAlias

import msgspec
import structlog
from litestar import Request, get
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import HeaderParameter, PathParameter, QueryParameter

from auth.claims import Claims
from auth.errors import Forbidden
from gateway.audiences import Access, find_access
from gateway.authentication import TAKES_PASS
from gateway.authorization import must_hold
from gateway.openapi import BEARER, PASS, SESSION, CorrelationId, OrderId, RestaurantId, refusals
from gateway.opening import Asked, Begin, PositionUnknown, begin
from gateway.problems import TopicRefused
from gateway.process import Gateway
from gateway.response import Opening, StreamResponse
from gateway.routes.options import options
from streams.cursor import Cursor
from streams.errors import SubscriptionRefused, TopicUnknown
from streams.facts import Decision, Facts, FactsUnavailable
from streams.subjects import ID_PATTERN
from streams.subscriber import Ending, Grant
from streams.topics import Topic, TopicKind

MAX_TOPICS = 100
"""The most topics of one stream."""

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
CustomerKey: TypeAlias = Annotated[
    str, PathParameter(pattern=ID_PATTERN, description="The customer's key, as `POST /session` tells it.")
]
CartId: TypeAlias = Annotated[str, PathParameter(pattern=ID_PATTERN, description="The cart's id.")]
CouponId: TypeAlias = Annotated[str, PathParameter(pattern=ID_PATTERN, description="The coupon's id.")]
Topics: TypeAlias = Annotated[
    list[str],
    QueryParameter(
        name="topic", min_items=1, max_items=MAX_TOPICS, description="A topic, as `restaurants/<id>`; once for each."
    ),
]

Asker: TypeAlias = Request[Claims, Any, Any]

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


class _Prepared(msgspec.Struct, frozen=True, gc=False):
    """A stream about to begin: past `start`, with the topics' `states` at that position if it begins with snapshots."""

    grant: Grant
    start: int
    states: list[dict[str, Any]]


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
    asked = Asked.of(last_event_id, last_event_id_in_query, since)
    return await _open(request, Topic(TopicKind.RESTAURANT, restaurant_id), asked=asked, with_snapshot=with_snapshot)


@get(
    "/partners/{restaurant_id:str}/events",
    summary="Every order of a restaurant, for its devices, its owner and staff",
    tags=["streams"],
    security=[BEARER, SESSION, PASS],
    opt=dict(TAKES_PASS),
    responses=_STREAM | refusals(401, 403, 422),
)
async def partner_events(
    request: Asker,
    restaurant_id: RestaurantId,
    last_event_id: LastEventId = None,
    last_event_id_in_query: LastEventIdInQuery = None,
    since: Since = None,
    with_snapshot: WithSnapshot = True,
) -> StreamResponse:
    """Open `partners/<id>`."""
    asked = Asked.of(last_event_id, last_event_id_in_query, since)
    return await _open(request, Topic(TopicKind.PARTNER, restaurant_id), asked=asked, with_snapshot=with_snapshot)


@get(
    "/orders/{order_id:str}/events",
    summary="One order, for the customer who placed it and their guests",
    tags=["streams"],
    security=[BEARER, SESSION, PASS],
    opt=dict(TAKES_PASS),
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
    asked = Asked.of(last_event_id, last_event_id_in_query, since)
    return await _open(request, Topic(TopicKind.ORDER, order_id), asked=asked, with_snapshot=with_snapshot)


@get(
    "/customers/{customer_key:str}/events",
    summary="Every order of a customer, for that customer",
    tags=["streams"],
    security=[BEARER, SESSION],
    responses=_STREAM | refusals(401, 403, 422),
)
async def customer_events(
    request: Asker,
    customer_key: CustomerKey,
    last_event_id: LastEventId = None,
    last_event_id_in_query: LastEventIdInQuery = None,
    since: Since = None,
    with_snapshot: WithSnapshot = True,
) -> StreamResponse:
    """Open `customers/<key>`."""
    asked = Asked.of(last_event_id, last_event_id_in_query, since)
    return await _open(request, Topic(TopicKind.CUSTOMER, customer_key), asked=asked, with_snapshot=with_snapshot)


@get(
    "/carts/{cart_id:str}/events",
    summary="One cart, for its members from their joining on",
    tags=["streams"],
    security=[BEARER, SESSION],
    responses=_STREAM | refusals(401, 403, 404, 422),
)
async def cart_events(
    request: Asker,
    cart_id: CartId,
    last_event_id: LastEventId = None,
    last_event_id_in_query: LastEventIdInQuery = None,
    since: Since = None,
    with_snapshot: WithSnapshot = True,
) -> StreamResponse:
    """Open `carts/<id>`, where there are carts (`PASSLINE_TEAM_CARTS`)."""
    asked = Asked.of(last_event_id, last_event_id_in_query, since)
    return await _open(request, Topic(TopicKind.CART, cart_id), asked=asked, with_snapshot=with_snapshot)


@get(
    "/workflows/{correlation_id:str}/events",
    summary="One workflow, for whom it is bound to",
    tags=["streams"],
    security=[BEARER, SESSION],
    responses=_STREAM | refusals(401, 403, 404, 422),
)
async def workflow_events(
    request: Asker,
    correlation_id: CorrelationId,
    last_event_id: LastEventId = None,
    last_event_id_in_query: LastEventIdInQuery = None,
    since: Since = None,
    with_snapshot: WithSnapshot = True,
) -> StreamResponse:
    """Open `workflows/<correlation id>`. Who has not bound it does so first, by `POST`."""
    asked = Asked.of(last_event_id, last_event_id_in_query, since)
    return await _open(request, Topic(TopicKind.WORKFLOW, correlation_id), asked=asked, with_snapshot=with_snapshot)


@get(
    "/restaurants/{restaurant_id:str}/finance/events",
    summary="The bookings of a restaurant, for its owner and its finance role",
    tags=["streams"],
    security=[BEARER, SESSION],
    responses=_STREAM | refusals(401, 403, 422),
)
async def finance_events(
    request: Asker,
    restaurant_id: RestaurantId,
    last_event_id: LastEventId = None,
    last_event_id_in_query: LastEventIdInQuery = None,
    since: Since = None,
) -> StreamResponse:
    """Open `finance/<restaurant>`."""
    asked = Asked.of(last_event_id, last_event_id_in_query, since)
    return await _open(request, Topic(TopicKind.FINANCE, restaurant_id), asked=asked)


@get(
    "/coupons/{coupon_id:str}/events",
    summary="The uses of one coupon, for marketing",
    tags=["streams"],
    security=[BEARER, SESSION],
    responses=_STREAM | refusals(401, 403, 422),
)
async def coupon_events(
    request: Asker,
    coupon_id: CouponId,
    last_event_id: LastEventId = None,
    last_event_id_in_query: LastEventIdInQuery = None,
    since: Since = None,
) -> StreamResponse:
    """Open `coupons/<id>`."""
    asked = Asked.of(last_event_id, last_event_id_in_query, since)
    return await _open(request, Topic(TopicKind.COUPON, coupon_id), asked=asked)


@get(
    "/marketing/events",
    summary="The uses of all coupons, for marketing",
    tags=["streams"],
    security=[BEARER, SESSION],
    responses=_STREAM | refusals(401, 403, 422),
)
async def marketing_events(
    request: Asker,
    last_event_id: LastEventId = None,
    last_event_id_in_query: LastEventIdInQuery = None,
    since: Since = None,
) -> StreamResponse:
    """Open `marketing`."""
    asked = Asked.of(last_event_id, last_event_id_in_query, since)
    return await _open(request, Topic(TopicKind.MARKETING), asked=asked)


@get(
    "/events",
    summary="Several topics on one stream",
    tags=["streams"],
    security=[BEARER, SESSION],
    responses=_STREAM | refusals(401, 403, 404, 422),
)
async def events(
    request: Asker,
    topics: Topics,
    last_event_id: LastEventId = None,
    last_event_id_in_query: LastEventIdInQuery = None,
    since: Since = None,
    with_snapshot: WithSnapshot = True,
) -> StreamResponse:
    """Open up to 100 topics, each authorized by itself; a refusal of one refuses the stream and names the topic.

    Each event says its `topic`. One cursor stands for all, and means the same on any other set of topics. A browser has
    six connections to an origin: this is how it watches more.
    """
    asked = Asked.of(last_event_id, last_event_id_in_query, since)
    wanted = [Topic.parse(text) for text in dict.fromkeys(topics)]
    return await _open(request, *wanted, asked=asked, with_snapshot=with_snapshot)


async def _open(request: Asker, *topics: Topic, asked: Asked, with_snapshot: bool = True) -> StreamResponse:
    """Decide, find where to begin, and hand both to the response.

    Raises:
        Forbidden, TopicUnknown: of the only topic.
        TopicRefused: the same of one of several.
    """
    # Not by Litestar's dependencies: those would be a third of what a connect costs.
    gateway: Gateway = request.app.state.gateway
    claims = request.user
    address = gateway.peers.client_address(request.scope)
    try:
        if not gateway.accepts_streams:
            return _come_back(gateway, "this process takes no streams now")
        gateway.hub.arrive(address)
        known_at = gateway.facts.position  # whatever comes from now on, the hub has seen by the time it is asked
        ways = [await _find(gateway, claims, topic, alone=len(topics) == 1) for topic in topics]
        beginning = await begin(asked, gateway.hub, gateway.log, lost_upto=gateway.tail.lost_upto, now=time.time())
        prepared = await _prepare(gateway, claims, ways, beginning, known_at, with_snapshot=with_snapshot)
        await gateway.renewals.present_for_stream(claims)
    except (FactsUnavailable, PositionUnknown, SubscriptionRefused) as error:
        return _come_back(gateway, str(error))
    names = [way.feed.topic for way in ways]
    _log.info("stream.opened", topics=names, subject=claims.key, verdict=beginning.verdict.kind)
    blocks = _first_blocks(gateway, names, beginning, prepared)
    feeds, since = tuple([way.feed for way in ways]), tuple([way.since for way in ways])
    opening = Opening(feeds, prepared.start, prepared.grant, address, blocks, since if any(since) else None)
    return StreamResponse(gateway.hub, gateway.encoder, opening)


async def _find(gateway: Gateway, claims: Claims, topic: Topic, *, alone: bool) -> Access:
    try:
        return await find_access(gateway, claims, topic)
    except (Forbidden, TopicUnknown) as refusal:
        if alone:
            raise
        raise TopicRefused(str(topic), refusal) from refusal


async def _allow(way: Access, facts: Facts | Decision, *, alone: bool) -> None:
    try:
        await way.allow(facts)
    except (Forbidden, TopicUnknown) as refusal:
        if alone:
            raise
        raise TopicRefused(way.feed.topic, refusal) from refusal


async def _prepare(
    gateway: Gateway, claims: Claims, ways: Sequence[Access], beginning: Begin, known_at: int, *, with_snapshot: bool
) -> _Prepared:
    """Snapshots are read in the transaction that the decision is taken by; without them, memory may do.

    The ways were found by what was known at the position `known_at`.
    """
    facts, alone = gateway.facts, len(ways) == 1
    floor = min(way.since for way in ways)
    if with_snapshot and beginning.verdict.kind != "resumed" and any(way.state for way in ways):
        if any(way.since for way in ways):
            await facts.applied(max(way.since for way in ways))  # a state from before they might see it is none
        async with facts.reading() as decision:
            # Memory is as good as the database where the projection is not ahead of it.
            await must_hold(facts if decision.sql.position.sequence <= facts.position else decision, claims)
            for way in ways:
                await _allow(way, decision, alone=alone)
            states = [{"topic": way.feed.topic, **await way.state(decision)} for way in ways if way.state]
            start = max(decision.sql.position.sequence, floor)
            endings = await _endings(ways, decision)
            return _Prepared(_grant(gateway, claims, ways, known_at, endings), start, states)
    await must_hold(facts, claims)
    for way in ways:
        await _allow(way, facts, alone=alone)
    endings = await _endings(ways, facts)
    start = max(gateway.hub.head if beginning.after is None else beginning.after, floor)
    return _Prepared(_grant(gateway, claims, ways, known_at, endings), start, [])


async def _endings(ways: Sequence[Access], facts: Facts | Decision) -> tuple[Ending, ...]:
    found: tuple[Ending, ...] = ()
    for way in ways:
        if way.endings is not None:
            found += await way.endings(facts)
    return found


def _grant(
    gateway: Gateway, claims: Claims, ways: Sequence[Access], decided_at: int, endings: tuple[Ending, ...]
) -> Grant:
    expires_at = gateway.hub.clock() + claims.expires_at - time.time()
    revocable_by = ways[0].revocable_by
    if len(ways) > 1:
        revocable_by = tuple(dict.fromkeys([fact for way in ways for fact in way.revocable_by]))
    return Grant(
        gateway.facts.epoch,
        decided_at,
        revocable_by,
        expires_at,
        claims.key,
        token_id=claims.token_id,
        issued_at=claims.issued_at,
        endings=endings,
    )


def _first_blocks(gateway: Gateway, topics: list[str], beginning: Begin, prepared: _Prepared) -> bytes:
    """`stream.opened`, and the snapshots if there are any: then only the last one carries the id."""
    start = str(Cursor(prepared.grant.epoch, prepared.start))
    verdict = beginning.verdict
    told: dict[str, Any] = {
        "verdict": verdict.kind,
        "from": start,
        "head": gateway.hub.frames.cursor(gateway.hub.head),
        "topics": topics,
    }
    if verdict.reason is not None:
        told["reason"] = verdict.reason
    if verdict.lost is not None:
        # What comes begins at `start`: with a snapshot that is further on than what the log has lost.
        told["lost"] = {"from": str(Cursor(prepared.grant.epoch, verdict.lost[0])), "to": start}
    encoder, states = gateway.encoder, prepared.states
    blocks = [encoder.opened(_json.encode(told), None if states else start)]
    for number, state in enumerate(states, 1):
        blocks.append(encoder.event("snapshot", _json.encode(state), start if number == len(states) else None))
    return b"".join(blocks)


def _come_back(gateway: Gateway, reason: str) -> StreamResponse:
    _log.info("stream.refused_softly", reason=reason)
    return StreamResponse(gateway.hub, gateway.encoder)


HANDLERS = (
    options("/events", "GET", "POST"),
    restaurant_events,
    partner_events,
    order_events,
    customer_events,
    cart_events,
    workflow_events,
    finance_events,
    coupon_events,
    marketing_events,
    events,
)
