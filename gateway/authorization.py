"""Who may see what: the facts at a position, handed to the policies.

`Facts` answer from memory where they can, a `Decision` from one transaction that a snapshot is read in, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from auth.claims import Role
from auth.policies import Standing, must_be_order_owner, must_be_restaurant_staff, must_see_finance
from streams.staff import STAFF

if TYPE_CHECKING:
    from auth.claims import Claims
    from streams.facts import Decision, Facts
    from streams.snapshots import OrderOwner


async def standing(facts: Facts | Decision, claims: Claims, restaurant_id: str) -> Standing:
    """What the caller is to a restaurant, as the policies want it. Raises FactsUnavailable."""
    known = await facts.state(STAFF, (restaurant_id, claims.key))
    return Standing(frozenset(Role(role) for role in known.roles), known.revoked_at)


async def may_see_restaurant(facts: Facts | Decision, claims: Claims, restaurant_id: str) -> None:
    """Owner and staff of a restaurant see its orders. Raises NotAllowed, FactsUnavailable."""
    must_be_restaurant_staff(claims, restaurant_id, await standing(facts, claims, restaurant_id))


async def may_see_finance(facts: Facts | Decision, claims: Claims, restaurant_id: str) -> None:
    """The owner and the finance role see a restaurant's bookings. Raises NotAllowed, FactsUnavailable."""
    must_see_finance(claims, restaurant_id, await standing(facts, claims, restaurant_id))


def may_see_order(claims: Claims, owner: OrderOwner) -> None:
    """The customer who placed an order sees it as customers do. Raises NotAllowed."""
    must_be_order_owner(claims, owner.customer_key)
