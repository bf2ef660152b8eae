"""The audiences of the gateway's streams: for each kind of topic who may have it, and what it begins with.

This is where the parts of an audience meet: a feed (`streams.topics`), a policy (`auth.policies`) with the facts that it
asks for, and a snapshot.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import msgspec

from auth.policies import must_be_customer, must_have_scope
from gateway.authorization import may_see_finance, may_see_order, may_see_restaurant
from streams.changes import staff_fact
from streams.topics import (
    Feed,
    Topic,
    TopicKind,
    coupon_feed,
    customer_feed,
    finance_feed,
    marketing_feed,
    order_feed,
    partner_feed,
    restaurant_feed,
)

if TYPE_CHECKING:
    from auth.claims import Claims
    from gateway.process import Gateway
    from streams.facts import Decision, Facts

MARKETING_SCOPE: Final = "marketing:read"

Allow: TypeAlias = Callable[["Facts | Decision"], Awaitable[None]]
StateOf: TypeAlias = Callable[["Decision"], Awaitable[dict[str, Any]]]


class Access(msgspec.Struct, frozen=True, gc=False):
    """Somebody's way to a topic.

    Attributes:
        feed: what they are shown.
        allow: takes the decision, by the facts that it is given. Raises Forbidden, FactsUnavailable.
        revocable_by: names of the facts that would take it back (`streams.changes`).
        state: the topic's state for a snapshot; None where it has none.
        since: the position past which they may be shown.
    """

    feed: Feed
    allow: Allow
    revocable_by: tuple[str, ...] = ()
    state: StateOf | None = None
    since: int = 0


Find: TypeAlias = Callable[["Gateway", "Claims", str], Awaitable[Access]]


async def find_access(gateway: Gateway, claims: Claims, topic: Topic) -> Access:
    """The caller's way to a topic. What only its `allow` can decide is not decided yet.

    Raises:
        Forbidden: a policy says no.
        OrderUnknown, FactsUnavailable
    """
    return await _AUDIENCES[topic.kind](gateway, claims, topic.id)


async def _restaurant(_: Gateway, claims: Claims, restaurant_id: str) -> Access:
    async def allow(facts: Facts | Decision) -> None:
        await may_see_restaurant(facts, claims, restaurant_id)

    async def state(decision: Decision) -> dict[str, Any]:
        return {"orders": await decision.sql.restaurant_snapshot(restaurant_id)}

    return Access(restaurant_feed(restaurant_id), allow, (staff_fact(restaurant_id, claims.key),), state)


async def _partner(_: Gateway, claims: Claims, restaurant_id: str) -> Access:
    async def allow(facts: Facts | Decision) -> None:
        await may_see_restaurant(facts, claims, restaurant_id)

    async def state(decision: Decision) -> dict[str, Any]:
        return {"orders": await decision.sql.restaurant_snapshot(restaurant_id)}

    return Access(partner_feed(restaurant_id), allow, (staff_fact(restaurant_id, claims.key),), state)


async def _order(gateway: Gateway, claims: Claims, order_id: str) -> Access:
    owner = gateway.facts.recent_owner(order_id)
    if owner is None or owner.customer_key != claims.key:  # only the order's first event may refuse somebody
        owner = await gateway.facts.owner(order_id)
    may_see_order(claims, owner)

    async def state(decision: Decision) -> dict[str, Any]:
        shows_fee = gateway.settings.show_platform_fee
        return {"order": await decision.sql.order_snapshot_for_customer(order_id, owner, shows_fee=shows_fee)}

    return Access(order_feed(order_id, owner.restaurant_id, owner.customer_key), _is_theirs, state=state)


async def _customer(gateway: Gateway, claims: Claims, customer_key: str) -> Access:
    must_be_customer(claims, customer_key)

    async def state(decision: Decision) -> dict[str, Any]:
        shows_fee = gateway.settings.show_platform_fee
        return {"orders": await decision.sql.customer_snapshot(customer_key, shows_fee=shows_fee)}

    return Access(customer_feed(customer_key), _is_theirs, state=state)


async def _finance(_: Gateway, claims: Claims, restaurant_id: str) -> Access:
    async def allow(facts: Facts | Decision) -> None:
        await may_see_finance(facts, claims, restaurant_id)

    return Access(finance_feed(restaurant_id), allow, (staff_fact(restaurant_id, claims.key),))


async def _coupon(_: Gateway, claims: Claims, coupon_id: str) -> Access:
    must_have_scope(claims, MARKETING_SCOPE)
    return Access(coupon_feed(coupon_id), _is_theirs)


async def _marketing(_: Gateway, claims: Claims, __: str) -> Access:
    must_have_scope(claims, MARKETING_SCOPE)
    return Access(marketing_feed(), _is_theirs)


async def _is_theirs(_: Facts | Decision) -> None:
    """It was decided by what the token says, and nothing in the log takes it back."""


_AUDIENCES: Final[Mapping[TopicKind, Find]] = {
    TopicKind.RESTAURANT: _restaurant,
    TopicKind.PARTNER: _partner,
    TopicKind.ORDER: _order,
    TopicKind.CUSTOMER: _customer,
    TopicKind.FINANCE: _finance,
    TopicKind.COUPON: _coupon,
    TopicKind.MARKETING: _marketing,
}
