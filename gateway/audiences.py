"""The audiences of the gateway's streams: for each kind of topic who may have it, and what it begins with.

This is where the parts of an audience meet: a feed (`streams.topics`), a policy (`auth.policies`) with the facts that
it asks for, and a snapshot.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import msgspec

from auth.claims import PassClaims
from auth.policies import must_be_customer, must_have_pass_for, must_have_scope
from gateway.authorization import (
    guests_order,
    may_act_as_device,
    may_see_as_guest,
    may_see_cart,
    may_see_finance,
    may_see_order,
    may_see_restaurant,
    may_see_workflow,
    must_be_in_cart,
)
from streams.carts import CartUnknown, cart_snapshot
from streams.changes import (
    cart_life_fact,
    cart_member_fact,
    delivery_fact,
    device_fact,
    guest_pass_fact,
    staff_fact,
    workflow_fact,
    workflow_life_fact,
)
from streams.devices import DEVICE
from streams.passes import DELIVERY, delivery_of, guests_until
from streams.subscriber import End, Ending
from streams.topics import (
    Feed,
    Topic,
    TopicKind,
    cart_feed,
    coupon_feed,
    customer_feed,
    finance_feed,
    guest_feed,
    marketing_feed,
    order_feed,
    partner_feed,
    restaurant_feed,
    workflow_feed,
)
from streams.workflows import workflow_snapshot

if TYPE_CHECKING:
    from auth.claims import Claims
    from gateway.process import Gateway
    from streams.facts import Decision, Facts

MARKETING_SCOPE: Final = "marketing:read"

Allow: TypeAlias = Callable[["Facts | Decision"], Awaitable[None]]
StateOf: TypeAlias = Callable[["Decision"], Awaitable[dict[str, Any]]]
EndingsOf: TypeAlias = Callable[["Facts | Decision"], Awaitable[tuple[Ending, ...]]]


class Access(msgspec.Struct, frozen=True, gc=False):
    """Somebody's way to a topic.

    Attributes:
        feed: what they are shown.
        allow: takes the decision, by the facts that it is given. Raises Forbidden, FactsUnavailable.
        revocable_by: names of the facts that would take it back (`streams.changes`).
        state: the topic's state for a snapshot; None where it has none.
        since: the position past which they may be shown.
        endings: until when they may, by what the log says; None where it says nothing of that.
    """

    feed: Feed
    allow: Allow
    revocable_by: tuple[str, ...] = ()
    state: StateOf | None = None
    since: int = 0
    endings: EndingsOf | None = None


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


async def _partner(gateway: Gateway, claims: Claims, restaurant_id: str) -> Access:
    if isinstance(claims, PassClaims):
        rests_on = await _device(gateway, claims, restaurant_id)
        may_see = may_act_as_device
    else:
        rests_on = staff_fact(restaurant_id, claims.key)
        may_see = may_see_restaurant

    async def allow(facts: Facts | Decision) -> None:
        await may_see(facts, claims, restaurant_id)

    async def state(decision: Decision) -> dict[str, Any]:
        return {"orders": await decision.sql.restaurant_snapshot(restaurant_id)}

    return Access(partner_feed(restaurant_id), allow, (rests_on,), state)


async def _device(gateway: Gateway, claims: PassClaims, restaurant_id: str) -> str:
    """The fact that a device's way rests on; one that was registered a moment ago is waited for."""
    must_have_pass_for(claims, f"{TopicKind.PARTNER}/{restaurant_id}")
    assert claims.device_id is not None
    await gateway.facts.settled(DEVICE, (restaurant_id, claims.device_id), lambda device: device.is_registered)
    return device_fact(restaurant_id, claims.device_id)


async def _order(gateway: Gateway, claims: Claims, order_id: str) -> Access:
    if isinstance(claims, PassClaims):
        return await _guest(gateway, claims, order_id)
    owner = gateway.facts.recent_owner(order_id)
    if owner is None or owner.customer_key != claims.key:  # only the order's first event may refuse somebody
        owner = await gateway.facts.owner(order_id)
    may_see_order(claims, owner)

    async def state(decision: Decision) -> dict[str, Any]:
        shows_fee = gateway.settings.show_platform_fee
        return {"order": await decision.sql.order_snapshot_for_customer(order_id, owner, shows_fee=shows_fee)}

    return Access(order_feed(order_id, owner.restaurant_id, owner.customer_key), _is_theirs, state=state)


async def _guest(gateway: Gateway, claims: PassClaims, order_id: str) -> Access:
    owner = await guests_order(gateway.facts, claims, order_id)
    delivery = delivery_of(order_id, owner)

    async def allow(facts: Facts | Decision) -> None:
        await may_see_as_guest(facts, claims, order_id, owner)

    async def state(decision: Decision) -> dict[str, Any]:
        return {"order": await decision.sql.order_snapshot_for_guest(order_id, owner)}

    async def endings(facts: Facts | Decision) -> tuple[Ending, ...]:
        until = guests_until(await facts.state(DELIVERY, delivery))
        return (Ending(delivery_fact(*delivery), gateway.on_hubs_clock(until), End.EXPIRED),)

    feed = guest_feed(order_id, owner.restaurant_id, owner.customer_key)
    assert claims.token_id is not None
    return Access(feed, allow, (guest_pass_fact(order_id, claims.token_id),), state, endings=endings)


async def _customer(gateway: Gateway, claims: Claims, customer_key: str) -> Access:
    must_be_customer(claims, customer_key)

    async def state(decision: Decision) -> dict[str, Any]:
        shows_fee = gateway.settings.show_platform_fee
        return {"orders": await decision.sql.customer_snapshot(customer_key, shows_fee=shows_fee)}

    return Access(customer_feed(customer_key), _is_theirs, state=state)


async def _workflow(gateway: Gateway, claims: Claims, correlation_id: str) -> Access:
    """An event that names the user is the authority, so what it has allowed is taken back no more."""
    kind = gateway.workflows

    async def allow(facts: Facts | Decision) -> None:
        await may_see_workflow(facts, kind, claims, correlation_id)

    async def state(decision: Decision) -> dict[str, Any]:
        return {"workflow": await workflow_snapshot(decision.sql, kind, correlation_id, time.time())}

    async def endings(facts: Facts | Decision) -> tuple[Ending, ...]:
        last = (await facts.state(kind, correlation_id)).last_time
        return (_life(gateway, workflow_life_fact(correlation_id), last, kind.life_seconds),)

    workflow = await gateway.facts.settled(kind, correlation_id, lambda each: each.user_key == claims.key)
    return Access(
        workflow_feed(correlation_id, claims.key),
        allow,
        () if workflow.accepted_for == claims.key else (workflow_fact(correlation_id),),
        state,
        endings=endings,
    )


async def _cart(gateway: Gateway, claims: Claims, cart_id: str) -> Access:
    if not gateway.settings.team_carts:
        raise CartUnknown(cart_id)
    kind = gateway.carts

    async def allow(facts: Facts | Decision) -> None:
        await may_see_cart(facts, kind, claims, cart_id)

    async def state(decision: Decision) -> dict[str, Any]:
        return {"cart": await cart_snapshot(decision.sql, cart_id, claims.key)}

    async def endings(facts: Facts | Decision) -> tuple[Ending, ...]:
        last = (await facts.state(kind, cart_id)).last_time
        return (_life(gateway, cart_life_fact(cart_id), last, kind.life_seconds),)

    cart = await gateway.facts.settled(kind, cart_id, lambda each: claims.key in each.members)
    must_be_in_cart(cart, kind, claims, cart_id)  # who joins after this would be let in with the cart as it was before
    return Access(
        cart_feed(cart_id),
        allow,
        (cart_member_fact(cart_id, claims.key),),
        state,
        since=cart.members[claims.key],
        endings=endings,
    )


def _life(gateway: Gateway, fact: str, last_time: float | None, seconds: float) -> Ending:
    """The end of what is over so long after its last event, of the log's time `last_time`."""
    over_at = None if last_time is None else last_time + seconds - time.time() + gateway.hub.clock()
    return Ending(fact, over_at, End.ENDED)


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
    TopicKind.CART: _cart,
    TopicKind.WORKFLOW: _workflow,
    TopicKind.FINANCE: _finance,
    TopicKind.COUPON: _coupon,
    TopicKind.MARKETING: _marketing,
}
