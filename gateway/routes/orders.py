"""The state of orders, from the projection, each answer with the cursor that it is true at."""

from __future__ import annotations

import asyncio
from typing import Annotated, TypeAlias

import msgspec
from litestar import Request, Response, get
from litestar.datastructures import State
from litestar.di import NamedDependency
from litestar.params import QueryParameter

from auth.claims import Claims, PassClaims
from auth.errors import NotAllowed
from gateway.authentication import TAKES_PASS, Carrier
from gateway.authorization import guests_order, may_see_as_guest, may_see_order, may_see_restaurant
from gateway.openapi import BEARER, PASS, SESSION, OrderId, RestaurantId, refusals
from gateway.problems import NEVER_KEPT
from gateway.settings import Settings
from streams.cursor import Cursor
from streams.facts import Decision, Facts, FactsUnavailable
from streams.snapshots import MAX_PAGE, CustomerOrder, GuestOrder, OrderOwner, Page, RestaurantOrder

APPLIED_WITHIN_SECONDS = 2.0
"""So long an order that the log has may take to reach the projection before its reader is told to come back."""

_POLL_SECONDS = 0.02

Limit: TypeAlias = Annotated[int, QueryParameter(ge=1, le=MAX_PAGE, description="The most orders of this page.")]
After: TypeAlias = Annotated[
    str | None,
    QueryParameter(pattern=r"^-?[0-9]{1,18}\.[A-Za-z0-9_-]{1,64}$", description="The `next` of the page before."),
]
Asker: TypeAlias = Request[Claims, Carrier, State]


class OrdersPage(msgspec.Struct, frozen=True, kw_only=True):
    """Orders, oldest first. `next` is the `after` of the page that follows, null at the end.

    A stream from `cursor` on brings what has happened since.
    """

    orders: list[RestaurantOrder]
    next: str | None
    cursor: str


class OrderForCustomer(msgspec.Struct, frozen=True, kw_only=True):
    """An order as its customer may see it, at `cursor`."""

    order: CustomerOrder
    cursor: str


class OrderForGuest(msgspec.Struct, frozen=True, kw_only=True):
    """An order as a guest may see it, at `cursor`."""

    order: GuestOrder
    cursor: str


class OrderForRestaurant(msgspec.Struct, frozen=True, kw_only=True):
    """An order as its restaurant may see it, at `cursor`."""

    order: RestaurantOrder
    cursor: str


@get(
    "/restaurants/{restaurant_id:str}/orders/new",
    summary="Orders that wait for the restaurant's answer",
    tags=["orders"],
    security=[BEARER, SESSION],
    responses=refusals(401, 403, 422, 503),
)
async def new_orders(
    request: Asker,
    restaurant_id: RestaurantId,
    facts: NamedDependency[Facts],
    limit: Limit = 100,
    after: After = None,
) -> Response[OrdersPage]:
    """Placed, and paid or not yet paid; for the restaurant's owner and staff."""
    async with facts.reading() as decision:
        await may_see_restaurant(decision, request.user, restaurant_id)
        return _page(decision, await decision.sql.new_orders(restaurant_id, limit, after))


@get(
    "/restaurants/{restaurant_id:str}/orders/active",
    summary="Orders that the restaurant is busy with",
    tags=["orders"],
    security=[BEARER, SESSION],
    responses=refusals(401, 403, 422, 503),
)
async def active_orders(
    request: Asker,
    restaurant_id: RestaurantId,
    facts: NamedDependency[Facts],
    limit: Limit = 100,
    after: After = None,
) -> Response[OrdersPage]:
    """Accepted, in preparation, or ready; for the restaurant's owner and staff."""
    async with facts.reading() as decision:
        await may_see_restaurant(decision, request.user, restaurant_id)
        return _page(decision, await decision.sql.active_orders(restaurant_id, limit, after))


@get(
    "/orders/{order_id:str}",
    summary="One order",
    tags=["orders"],
    security=[BEARER, SESSION, PASS],
    opt=dict(TAKES_PASS),
    responses=refusals(401, 403, 404, 422, 503),
)
async def read_order(
    request: Asker, order_id: OrderId, facts: NamedDependency[Facts], settings: NamedDependency[Settings]
) -> Response[OrderForRestaurant | OrderForCustomer | OrderForGuest]:
    """For the customer who placed it, who has a guest's pass for it, and the restaurant's owner and staff, each with
    what they may see.

    An order that nobody has heard of is waited for: it may be on its way.
    """
    claims = request.user
    if isinstance(claims, PassClaims):
        owner = await guests_order(facts, claims, order_id)
    else:
        owner = await facts.owner(order_id)
    clock = asyncio.get_running_loop().time
    deadline = clock() + APPLIED_WITHIN_SECONDS
    while True:
        async with facts.reading() as decision:
            answer = await _as_seen_by(claims, order_id, owner, decision, shows_fee=settings.show_platform_fee)
        if answer is not None:
            return Response(answer, headers=dict(NEVER_KEPT))
        if clock() >= deadline:
            raise FactsUnavailable("the order is in the log and not in the projection yet")
        await asyncio.sleep(_POLL_SECONDS)


async def _as_seen_by(
    claims: Claims, order_id: str, owner: OrderOwner, decision: Decision, *, shows_fee: bool
) -> OrderForRestaurant | OrderForCustomer | OrderForGuest | None:
    """The order for a guest, for its restaurant, else for its customer; None while the projection has not come to it.

    Raises:
        NotAllowed: it is somebody else's.
        PassRefused
    """
    cursor = _cursor(decision)
    if isinstance(claims, PassClaims):
        await may_see_as_guest(decision, claims, order_id, owner)
        for_guest = await decision.sql.order_snapshot_for_guest(order_id, owner)
        return OrderForGuest(order=for_guest, cursor=cursor) if for_guest else None
    try:
        await may_see_restaurant(decision, claims, owner.restaurant_id)
    except NotAllowed:
        may_see_order(claims, owner)
        for_customer = await decision.sql.order_snapshot_for_customer(order_id, owner, shows_fee=shows_fee)
        return OrderForCustomer(order=for_customer, cursor=cursor) if for_customer else None
    for_restaurant = await decision.sql.order_snapshot_for_restaurant(order_id)
    return OrderForRestaurant(order=for_restaurant, cursor=cursor) if for_restaurant else None


def _page(decision: Decision, page: Page) -> Response[OrdersPage]:
    return Response(OrdersPage(orders=page.orders, next=page.next, cursor=_cursor(decision)), headers=NEVER_KEPT)


def _cursor(decision: Decision) -> str:
    position = decision.sql.position
    return str(Cursor(position.epoch, position.sequence))


HANDLERS = [new_orders, active_orders, read_order]
