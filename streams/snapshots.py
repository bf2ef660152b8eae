"""The current state for readers: who owns an order, who belongs to a restaurant, what is open there.

Everything that one `Reading` returns is true at its `position`, because it is one transaction.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType
from sqlalchemy import ColumnElement, RowMapping, Select, and_, not_, or_, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from streams.cursor import MAX_SEQUENCE
from streams.database import execute, reading
from streams.errors import StreamsError
from streams.events import (
    Money,
    OrderAccepted,
    OrderCreated,
    OrderItem,
    OrderPlaced,
    OrderPreparing,
    OrderReadyForDelivery,
)
from streams.matrix import MATRIX
from streams.projection import Position, read_position
from streams.tables import LIVE, from_microseconds

MAX_PAGE = 500
"""The most orders of one page."""

_NEW = (MATRIX[OrderPlaced].status, MATRIX[OrderCreated].status)
_ACTIVE = tuple(MATRIX[each].status for each in (OrderAccepted, OrderPreparing, OrderReadyForDelivery))
_AFTER = re.compile(r"(-?[0-9]{1,19})\.([A-Za-z0-9_-]{1,64})")
_items = msgspec.json.Decoder(list[OrderItem])
_money = msgspec.json.Decoder(Money)


class NoPosition(StreamsError):
    """Nothing of the log has been applied yet, so there is no state to read. It comes with the worker's first batch."""

    def __init__(self) -> None:
        super().__init__("the projection has not been begun yet")


class InvalidPage(StreamsError, ValueError):
    """A page that can't be: `after` is none of ours, or the limit is out of range."""


class OrderOwner(msgspec.Struct, frozen=True, gc=False):
    """Whose an order is, fixed by its first event."""

    restaurant_id: str
    customer_key: str


class GuestOrder(msgspec.Struct, frozen=True, kw_only=True, gc=False, rename="camel"):
    """An order as everybody may see it who may see it at all. Whole: null is what is not known."""

    order_id: str
    order_number: str | None
    status: str | None
    restaurant_id: str
    last_update_timestamp: dt.datetime
    estimated_delivery_time: dt.datetime | None
    actual_delivery_time: dt.datetime | None
    delivered_at: dt.datetime | None
    placed_at: dt.datetime | None
    paid_at: dt.datetime | None
    payment_failed_at: dt.datetime | None
    accepted_at: dt.datetime | None
    preparing_at: dt.datetime | None
    ready_for_delivery_at: dt.datetime | None
    rejected_at: dt.datetime | None
    cancelled_at: dt.datetime | None


class CustomerOrder(GuestOrder, frozen=True, kw_only=True, gc=False):
    """An order as its customer may see it. The platform's fee is there only where customers are shown it."""

    total: Money | None
    platform_fee: Money | UnsetType | None = UNSET


class RestaurantOrder(GuestOrder, frozen=True, kw_only=True, gc=False):
    """An order as its restaurant may see it: with what to cook, and without who ordered it."""

    total: Money | None
    items: list[OrderItem] | None


class Page(msgspec.Struct, frozen=True, gc=False):
    """Orders, oldest first; `next` is the `after` of the page that follows, None at the end."""

    orders: list[RestaurantOrder]
    next: str | None


class States:
    """The projection, as readers use it."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    @asynccontextmanager
    async def read(self) -> AsyncIterator[Reading]:
        """One consistent state. Keep it short: SQLite can't shorten its write-ahead log behind an open reading.

        Raises:
            NoPosition: nothing was applied yet.
            DatabaseUnavailable: here, and by every method of the reading.
        """
        async with reading(self._engine) as connection:
            position = await read_position(connection)
            if position is None:
                raise NoPosition
            yield Reading(connection, position)


class Reading:
    """The state at `position`."""

    def __init__(self, connection: AsyncConnection, position: Position) -> None:
        self.position = position
        self._connection = connection

    async def order_owners(self, order_ids: Collection[str]) -> dict[str, OrderOwner]:
        """Whose the orders are, as far as they were heard of up to the position."""
        orders = LIVE.orders.c
        rows = await self.rows(
            select(orders.order_id, orders.restaurant_id, orders.customer_key).where(orders.order_id.in_(order_ids))
        )
        return {row["order_id"]: OrderOwner(row["restaurant_id"], row["customer_key"]) for row in rows}

    async def restaurant_snapshot(self, restaurant_id: str) -> list[RestaurantOrder]:
        """The restaurant's open orders, oldest first: those neither delivered nor rejected nor cancelled."""
        return [_restaurant_order(row) for row in await self.rows(_open_orders(restaurant_id))]

    async def order_snapshot_for_restaurant(self, order_id: str) -> RestaurantOrder | None:
        """The order, open or not."""
        row = await self._first(_ORDER.where(LIVE.orders.c.order_id == order_id))
        return None if row is None else _restaurant_order(row)

    async def order_snapshot_for_customer(
        self, order_id: str, owner: OrderOwner, *, shows_fee: bool = False
    ) -> CustomerOrder | None:
        """The order, open or not, if it is that owner's."""
        row = await self._first(_CUSTOMER_ORDER.where(*_is_owned(order_id, owner)))
        return None if row is None else _customer_order(row, shows_fee=shows_fee)

    async def order_snapshot_for_guest(self, order_id: str, owner: OrderOwner) -> GuestOrder | None:
        """The order, open or not, if it is that owner's."""
        row = await self._first(_ORDER.where(*_is_owned(order_id, owner)))
        return None if row is None else GuestOrder(**_seen_by_all(row))

    async def customer_snapshot(self, customer_key: str, *, shows_fee: bool = False) -> list[CustomerOrder]:
        """The customer's open orders, oldest first: those neither delivered nor rejected nor cancelled."""
        orders = LIVE.orders.c
        rows = await self.rows(
            _CUSTOMER_ORDER.where(orders.customer_key == customer_key, orders.is_open).order_by(*_KEY)
        )
        return [_customer_order(row, shows_fee=shows_fee) for row in rows]

    async def new_orders(self, restaurant_id: str, limit: int = 100, after: str | None = None) -> Page:
        """Orders that wait for the restaurant's answer, unless their payment failed last.

        Raises:
            InvalidPage: `limit` is not in 1 to MAX_PAGE, or `after` was never given out.
        """
        orders = LIVE.orders.c
        waiting = and_(or_(orders.stage.is_(None), orders.stage.in_(_NEW)), not_(orders.payment_failed))
        return await self._page(restaurant_id, waiting, limit, after)

    async def active_orders(self, restaurant_id: str, limit: int = 100, after: str | None = None) -> Page:
        """Orders that the restaurant has taken on and that are not on their way yet: accepted to ready.

        Raises:
            InvalidPage: `limit` is not in 1 to MAX_PAGE, or `after` was never given out.
        """
        return await self._page(restaurant_id, LIVE.orders.c.stage.in_(_ACTIVE), limit, after)

    async def _page(self, restaurant_id: str, which: ColumnElement[bool], limit: int, after: str | None) -> Page:
        if not 1 <= limit <= MAX_PAGE:
            raise InvalidPage(f"a page has 1 to {MAX_PAGE} orders")
        statement = _open_orders(restaurant_id).where(which).limit(limit + 1)
        if after is not None:
            statement = statement.where(tuple_(*_KEY) > tuple_(*_parse_after(after)))
        rows = await self.rows(statement)
        following = f"{rows[limit - 1]['first_sequence']}.{rows[limit - 1]['order_id']}" if len(rows) > limit else None
        return Page([_restaurant_order(row) for row in rows[:limit]], following)

    async def rows(self, statement: Select[Any]) -> Sequence[RowMapping]:
        """What the statement finds in this state."""
        return (await execute(self._connection, statement)).mappings().all()

    async def _first(self, statement: Select[Any]) -> RowMapping | None:
        return (await execute(self._connection, statement)).mappings().first()


_KEY = (LIVE.orders.c.first_sequence, LIVE.orders.c.order_id)
_HIDDEN = {"customer_id", "customer_key", "customer_name", "platform_fee", "delivered_log_time", "applied"}
_ORDER = select(*(column for column in LIVE.orders.c if column.name not in _HIDDEN))
_CUSTOMER_ORDER = _ORDER.add_columns(LIVE.orders.c.platform_fee)


def _is_owned(order_id: str, owner: OrderOwner) -> tuple[ColumnElement[bool], ...]:
    orders = LIVE.orders.c
    return (
        orders.order_id == order_id,
        orders.restaurant_id == owner.restaurant_id,
        orders.customer_key == owner.customer_key,
    )


def _open_orders(restaurant_id: str) -> Select[Any]:
    orders = LIVE.orders.c
    return _ORDER.where(orders.restaurant_id == restaurant_id, orders.is_open).order_by(*_KEY)


def _parse_after(after: str) -> tuple[int, str]:
    match = _AFTER.fullmatch(after)
    if match is None or abs(int(match[1])) > MAX_SEQUENCE:
        raise InvalidPage("not the end of any page")
    return int(match[1]), match[2]


def _restaurant_order(row: RowMapping) -> RestaurantOrder:
    items = row["items"]
    return RestaurantOrder(
        **_seen_by_all(row), total=_amount(row["total"]), items=None if items is None else _items.decode(items)
    )


def _customer_order(row: RowMapping, *, shows_fee: bool) -> CustomerOrder:
    fee = _amount(row["platform_fee"]) if shows_fee else UNSET
    return CustomerOrder(**_seen_by_all(row), total=_amount(row["total"]), platform_fee=fee)


def _seen_by_all(row: RowMapping) -> dict[str, Any]:
    return {
        "order_id": row["order_id"],
        "order_number": row["order_number"],
        "status": row["status"],
        "restaurant_id": row["restaurant_id"],
        "last_update_timestamp": from_microseconds(row["last_update"]),
        "estimated_delivery_time": _time(row["estimated_delivery_time"]),
        "actual_delivery_time": _time(row["actual_delivery_time"]),
        "delivered_at": _time(row["delivered_at"]),
        "placed_at": _time(row["placed_at"]),
        "paid_at": _time(row["paid_at"]),
        "payment_failed_at": _time(row["payment_failed_at"]),
        "accepted_at": _time(row["accepted_at"]),
        "preparing_at": _time(row["preparing_at"]),
        "ready_for_delivery_at": _time(row["ready_at"]),
        "rejected_at": _time(row["rejected_at"]),
        "cancelled_at": _time(row["cancelled_at"]),
    }


def _amount(text: str | None) -> Money | None:
    return None if text is None else _money.decode(text)


def _time(microseconds: int | None) -> dt.datetime | None:
    return None if microseconds is None else from_microseconds(microseconds)
