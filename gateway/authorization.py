"""Who may see what: the facts at a position, handed to the policies.

`Facts` answer from memory where they can, a `Decision` from one transaction that a snapshot is read in, too.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from auth.claims import PassClaims, Role
from auth.errors import PassRefused, TokenRevoked
from auth.policies import (
    Standing,
    must_be_able_to_command,
    must_be_cart_member,
    must_be_device_of,
    must_be_order_owner,
    must_be_restaurant_owner,
    must_be_restaurant_staff,
    must_be_workflow_user,
    must_have_pass_for,
    must_see_finance,
)
from streams.carts import CartUnknown
from streams.commands import Capacity
from streams.devices import DEVICE
from streams.facts import OrderUnknown
from streams.passes import DELIVERY, GUEST_PASS, delivery_of, guests_until
from streams.staff import STAFF
from streams.tokens import TOKENS
from streams.workflows import WorkflowUnknown

if TYPE_CHECKING:
    from auth.claims import Claims
    from streams.carts import Cart, CartFacts
    from streams.events import Command
    from streams.facts import Decision, Facts
    from streams.passes import PassKey
    from streams.snapshots import OrderOwner
    from streams.workflows import Workflow, WorkflowFacts


async def must_hold(facts: Facts | Decision, claims: Claims) -> None:
    """A token that was revoked opens nothing. Raises TokenRevoked (of a pass PassRefused), FactsUnavailable."""
    revoked = await facts.state(TOKENS, ())
    if revoked.holds(claims.token_id, claims.key, claims.issued_at):
        raise PassRefused if isinstance(claims, PassClaims) else TokenRevoked


async def standing(facts: Facts | Decision, claims: Claims, restaurant_id: str) -> Standing:
    """What the caller is to a restaurant, as the policies want it. Raises FactsUnavailable."""
    known = await facts.state(STAFF, (restaurant_id, claims.key))
    return Standing(frozenset(Role(role) for role in known.roles), known.revoked_at)


async def may_see_restaurant(facts: Facts | Decision, claims: Claims, restaurant_id: str) -> None:
    """Owner and staff of a restaurant see its orders. Raises NotAllowed, FactsUnavailable."""
    must_be_restaurant_staff(claims, restaurant_id, await standing(facts, claims, restaurant_id))


async def may_manage_restaurant(facts: Facts | Decision, claims: Claims, restaurant_id: str) -> None:
    """The owner alone decides about a restaurant's devices. Raises NotAllowed, FactsUnavailable."""
    must_be_restaurant_owner(claims, restaurant_id, await standing(facts, claims, restaurant_id))


async def may_see_finance(facts: Facts | Decision, claims: Claims, restaurant_id: str) -> None:
    """The owner and the finance role see a restaurant's bookings. Raises NotAllowed, FactsUnavailable."""
    must_see_finance(claims, restaurant_id, await standing(facts, claims, restaurant_id))


async def guests_order(facts: Facts, claims: PassClaims, order_id: str) -> OrderOwner:
    """Whose the order is that a guest's pass is for. A pass that was given a moment ago is waited for.

    Raises:
        PassRefused: it is for something else, which is seen before anything is looked up; or the log does not know it.
        FactsUnavailable
    """
    must_have_pass_for(claims, f"orders/{order_id}")
    known = await facts.settled(GUEST_PASS, _pass_key(claims, order_id), lambda state: state.is_issued)
    if not known.is_good:
        raise PassRefused
    try:
        return await facts.owner(order_id)
    except OrderUnknown as error:
        raise PassRefused from error


async def may_see_as_guest(facts: Facts | Decision, claims: PassClaims, order_id: str, owner: OrderOwner) -> None:
    """Who has a pass for an order, until some time after its delivery. Raises PassRefused, FactsUnavailable."""
    if not (await facts.state(GUEST_PASS, _pass_key(claims, order_id))).is_good:
        raise PassRefused
    until = guests_until(await facts.state(DELIVERY, delivery_of(order_id, owner)))
    if until is not None and time.time() >= until:
        raise PassRefused


async def may_see_workflow(
    facts: Facts | Decision, kind: WorkflowFacts, claims: Claims, correlation_id: str
) -> Workflow:
    """Whom a workflow is bound to. Returns it.

    Raises:
        WorkflowUnknown: it is bound to nobody, or over.
        NotAllowed: it is bound to somebody else.
        FactsUnavailable
    """
    workflow = await facts.state(kind, correlation_id)
    if workflow.user_key is None or kind.is_over(workflow, time.time()):
        raise WorkflowUnknown(correlation_id)
    must_be_workflow_user(claims, workflow.user_key)
    return workflow


async def may_see_cart(facts: Facts | Decision, kind: CartFacts, claims: Claims, cart_id: str) -> None:
    """The present members of a cart see it.

    Raises:
        CartUnknown: nobody has heard of it, or it is over.
        NotAllowed: they are none.
        FactsUnavailable
    """
    must_be_in_cart(await facts.state(kind, cart_id), kind, claims, cart_id)


def must_be_in_cart(cart: Cart, kind: CartFacts, claims: Claims, cart_id: str) -> None:
    """The same of a cart that is known. Raises CartUnknown, NotAllowed."""
    if cart.last_time is None or kind.is_over(cart, time.time()):
        raise CartUnknown(cart_id)
    must_be_cart_member(claims, cart.members)


def _pass_key(claims: PassClaims, order_id: str) -> PassKey:
    assert claims.token_id is not None
    return order_id, claims.token_id


async def may_act_as_device(facts: Facts | Decision, claims: Claims, restaurant_id: str) -> None:
    """A device of a restaurant, as long as it is registered there. `device_fact` is what takes that back.

    Raises:
        NotAllowed: it is no device.
        PassRefused: it is another restaurant's, or one no more.
        FactsUnavailable
    """
    must_be_device_of(claims, restaurant_id)
    assert isinstance(claims, PassClaims)
    assert claims.device_id is not None
    if not (await facts.state(DEVICE, (restaurant_id, claims.device_id))).is_registered:
        raise PassRefused


async def may_command(facts: Facts | Decision, claims: Claims, command: Command, owner: OrderOwner) -> Capacity:
    """As what the caller may ask for something to be done with an order: the table is `auth.policies.MAY_COMMAND`.

    Raises:
        Forbidden: nobody of that table.
        FactsUnavailable
    """
    restaurant_id = owner.restaurant_id
    if isinstance(claims, PassClaims):
        await may_act_as_device(facts, claims, restaurant_id)
    known = await standing(facts, claims, restaurant_id)
    return Capacity(must_be_able_to_command(claims, command, restaurant_id, owner.customer_key, known))


def may_see_order(claims: Claims, owner: OrderOwner) -> None:
    """The customer who placed an order sees it as customers do. Raises NotAllowed."""
    must_be_order_owner(claims, owner.customer_key)
