"""Who there is: restaurants with their staff, orders with their customers; and what they ask for.

Everybody has a token of their own. Orders belong to the restaurants in turn; each customer has placed one.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import msgspec

from bench.servers.passline import publish_all
from bench.settling import projected
from streams.cursor import Cursor
from streams.log import Log

if TYPE_CHECKING:
    from bench.servers.passline import Passline

_OCCURRED = "2026-11-20T18:04:11Z"
_ORDER: dict[str, Any] = {
    "orderNumber": "A-1234",
    "customerName": "Ada Lovelace",
    "items": [{"name": "Margherita", "quantity": 2, "unitPrice": {"amount": "9.50", "currency": "EUR"}}],
    "total": {"amount": "19.00", "currency": "EUR"},
}


class Event(msgspec.Struct, frozen=True):
    """What is published: where it stands in the log, its id, and its body."""

    subject: str
    event_id: str
    body: bytes


class Population(msgspec.Struct, frozen=True):
    """`restaurants` with `staff` people each, and `orders` in all."""

    restaurants: int
    staff: int
    orders: int

    def __len__(self) -> int:
        """How many people there are."""
        return self.restaurants * self.staff + self.orders

    def founding(self) -> Iterator[Event]:
        """What makes everybody known: staff assigned, then orders placed."""
        for restaurant in range(self.restaurants):
            for person in range(self.staff):
                yield _assigned(f"r{restaurant}", _staff(restaurant, person))
        for order in range(self.orders):
            yield self.order_event("OrderPlaced", order, **_ORDER)

    def order_event(self, kind: str, order: int, mark: str = "", **more: Any) -> Event:
        """An event of an order. Events of the same kind and order are told apart by `mark`."""
        restaurant, customer = f"r{order % self.restaurants}", _customer(order)
        event_id = f"{kind}-{order}{mark}"
        said = {"orderId": _order(order), "restaurantId": restaurant, "customerId": customer} | more
        return Event(f"orders.{restaurant}.{customer}.{_order(order)}.{kind}", event_id, _body(kind, event_id, **said))

    def order_topic(self, server: Passline, order: int, *, cursor: str | None = None, snapshot: bool = False) -> bytes:
        """The request of an order's customer, with a token made now."""
        token = server.token(_customer(order))
        return server.stream(f"orders/{_order(order)}", token, cursor=cursor, snapshot=snapshot)

    def restaurant_topic(
        self, server: Passline, restaurant: int, person: int, *, cursor: str | None = None, snapshot: bool = False
    ) -> bytes:
        """The request of one of a restaurant's staff, with a token made now."""
        token = server.token(_staff(restaurant, person))
        return server.stream(f"restaurants/r{restaurant}", token, cursor=cursor, snapshot=snapshot)

    def requests(self, server: Passline, *, cursor: str | None = None, snapshot: bool = False) -> list[bytes]:
        """Of everybody, in an order that is mixed but always the same."""
        found = [
            self.restaurant_topic(server, restaurant, person, cursor=cursor, snapshot=snapshot)
            for restaurant in range(self.restaurants)
            for person in range(self.staff)
        ]
        found += [self.order_topic(server, order, cursor=cursor, snapshot=snapshot) for order in range(self.orders)]
        random.Random(1).shuffle(found)  # noqa: S311
        return found


async def make_known(server: Passline, events: Iterable[Event]) -> Cursor:
    """Publish all, wait until the worker has applied them; the log's end then.

    Raises:
        PublishRefused, NotSettled
    """
    async with server.client("gateway") as nc:
        await publish_all(nc, events, in_flight=512)
        state = await Log(nc).state()
    await projected(server.data_dir, state.last)
    return Cursor(state.epoch, state.last)


def _order(number: int) -> str:
    return f"order-{number:06}"


def _customer(order: int) -> str:
    return f"customer-{order:06}"


def _staff(restaurant: int, person: int) -> str:
    return f"staff-{restaurant}-{person}"


def _assigned(restaurant: str, subject: str) -> Event:
    event_id = f"StaffAssigned-{subject}"
    body = _body("StaffAssigned", event_id, restaurantId=restaurant, subject=subject, role="staff")
    return Event(f"access.{restaurant}.StaffAssigned", event_id, body)


def _body(kind: str, event_id: str, **said: Any) -> bytes:
    told = {"type": kind, "eventId": event_id, "occurredOnUtc": _OCCURRED} | said
    return msgspec.json.encode(told)
