"""Histories of a log for tests of the projection, and what they come to, computed in plain Python."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

import msgspec
from hypothesis import strategies as st
from msgspec import UNSET

from streams.entry import Entry, judge
from streams.events import (
    Event,
    Money,
    OrderAccepted,
    OrderCancelled,
    OrderCreated,
    OrderDelivered,
    OrderEvent,
    OrderItem,
    OrderPaymentFailed,
    OrderPaymentSucceeded,
    OrderPlaced,
    OrderPreparing,
    OrderReadyForDelivery,
    OrderRejected,
    Role,
    StaffAssigned,
    StaffRevoked,
    UnknownEventType,
    encode,
)
from streams.subjects import identity_key

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

EPOCH = "e1"
NOON = dt.datetime(2026, 11, 20, 12, 0, 0, 123456, tzinfo=dt.UTC)
PIZZA = OrderItem(name="Pizza", quantity=2, unit_price=Money("9.50", "EUR"))


class History:
    """A log that grows by what a test says; `first` is its first sequence."""

    def __init__(self, first: int = 1) -> None:
        self.first = first
        self.entries: list[Entry] = []

    @property
    def last(self) -> int:
        return self.first + len(self.entries) - 1

    @property
    def head(self) -> tuple[int, float]:
        """What `Projection.apply` takes the position to, once it has everything."""
        return self.last, log_time(self.last)

    def order(self, kind: type[OrderEvent], order_id: str = "o1", **fields: Any) -> Entry:
        said: dict[str, Any] = {"restaurant_id": "r1", "customer_id": "c1", "event_id": f"e-{self.last + 1}"}
        said |= fields
        said.setdefault("occurred_on_utc", NOON + dt.timedelta(seconds=self.last + 1))
        return self.add(kind(order_id=order_id, **said))

    def staff(self, kind: type[StaffAssigned | StaffRevoked], subject: str = "s1", **fields: Any) -> Entry:
        said: dict[str, Any] = {"restaurant_id": "r1", "event_id": f"e-{self.last + 1}", "occurred_on_utc": NOON}
        said |= fields
        return self.add(kind(subject=subject, **said))

    def add(self, event: Event) -> Entry:
        return self.raw(event.log_subject(), encode(event))

    def raw(self, subject: str, body: bytes) -> Entry:
        sequence = self.last + 1
        entry = judge(sequence, log_time(sequence), subject, body)
        self.entries.append(entry)
        return entry

    def after(self, sequence: int, most: int | None = None) -> list[Entry]:
        """At most so many entries behind `sequence`."""
        start = max(0, sequence + 1 - self.first)
        return self.entries[start:] if most is None else self.entries[start : start + most]


def log_time(sequence: int) -> float:
    return 1_800_000_000.25 + sequence / 1000


class Model:
    """The state after a history, one entry at a time, with none of the projection's code."""

    def __init__(self, entries: Sequence[Entry] = ()) -> None:
        self.orders: dict[str, dict[str, Any]] = {}
        self.roles: dict[tuple[str, str], set[Role]] = {}
        self.revoked: dict[tuple[str, str], tuple[float, int]] = {}
        self.set_aside: list[int] = []
        self._seen: set[tuple[str, ...]] = set()
        for entry in entries:
            self.apply(entry)

    def apply(self, entry: Entry) -> None:
        event = entry.event
        if event is None:
            if not isinstance(entry.problem, UnknownEventType):
                self.set_aside.append(entry.sequence)
        elif isinstance(event, OrderEvent):
            self._apply_order(entry, event)
        elif isinstance(event, StaffAssigned | StaffRevoked):
            self._apply_staff(entry, event)

    def _apply_order(self, entry: Entry, event: OrderEvent) -> None:
        owner = (event.restaurant_id, identity_key(event.customer_id))
        order = self.orders.setdefault(event.order_id, {"owner": owner, "first": entry.sequence})
        if order["owner"] != owner:
            self.set_aside.append(entry.sequence)
            return
        if ("order", event.order_id, event.event_id) in self._seen:
            return
        self._seen.add(("order", event.order_id, event.event_id))
        for field in ("order_number", "items", "total", "estimated_delivery_time", "actual_delivery_time"):
            if (value := getattr(event, field)) is not UNSET:
                order[field] = value
        order["updated"] = event.occurred_on_utc
        match event:
            case OrderPlaced():
                order |= {"placed": event.occurred_on_utc, "status": "Placed", "stage": "Placed"}
            case OrderPaymentSucceeded():
                order |= {"paid": event.occurred_on_utc, "failed": False}
            case OrderPaymentFailed():
                order |= {"payment_failed": event.occurred_on_utc, "status": "PaymentFailed", "failed": True}
            case _:
                status = event.type_name().removeprefix("Order")
                order |= {status: event.occurred_on_utc, "status": status, "stage": status}

    def _apply_staff(self, entry: Entry, event: StaffAssigned | StaffRevoked) -> None:
        member = (event.restaurant_id, identity_key(event.subject))
        if (*member, event.event_id) in self._seen:
            return
        self._seen.add((*member, event.event_id))
        held = self.roles.setdefault(member, set())
        if isinstance(event, StaffAssigned):
            held.add(event.role)
        else:
            held -= {event.role} if event.role else set(Role)
            self.revoked[member] = (entry.time, entry.sequence)

    def order(self, order_id: str, *, items: bool) -> dict[str, Any]:
        """The order as JSON shows it, to its restaurant (with `items`) or to its customer."""
        order = self.orders[order_id]
        shown = {
            "orderId": order_id,
            "orderNumber": order.get("order_number"),
            "status": order.get("status"),
            "restaurantId": order["owner"][0],
            "lastUpdateTimestamp": order["updated"],
            "estimatedDeliveryTime": order.get("estimated_delivery_time"),
            "actualDeliveryTime": order.get("actual_delivery_time"),
            "deliveredAt": order.get("Delivered"),
            "placedAt": order.get("placed"),
            "paidAt": order.get("paid"),
            "paymentFailedAt": order.get("payment_failed"),
            "acceptedAt": order.get("Accepted"),
            "preparingAt": order.get("Preparing"),
            "readyForDeliveryAt": order.get("ReadyForDelivery"),
            "rejectedAt": order.get("Rejected"),
            "cancelledAt": order.get("Cancelled"),
            "total": order.get("total"),
        }
        if items:
            shown["items"] = order.get("items")
        utc = {
            name: value.astimezone(dt.UTC) if isinstance(value, dt.datetime) else value for name, value in shown.items()
        }
        found: dict[str, Any] = as_json(utc)
        return found

    def open_orders(self, restaurant_id: str) -> list[dict[str, Any]]:
        return self._shown(restaurant_id, {None, "Placed", "Accepted", "Preparing", "ReadyForDelivery"})

    def new_orders(self, restaurant_id: str) -> list[dict[str, Any]]:
        return self._shown(restaurant_id, {None, "Placed"}, unpaid=False)

    def active_orders(self, restaurant_id: str) -> list[dict[str, Any]]:
        return self._shown(restaurant_id, {"Accepted", "Preparing", "ReadyForDelivery"})

    def _shown(self, restaurant_id: str, stages: set[str | None], *, unpaid: bool = True) -> list[dict[str, Any]]:
        found = [
            (order["first"], order_id)
            for order_id, order in self.orders.items()
            if order["owner"][0] == restaurant_id and order.get("stage") in stages
            if unpaid or not order.get("failed")
        ]
        return [self.order(order_id, items=True) for _, order_id in sorted(found)]


def as_json(value: object) -> Any:
    """What a client reads of it."""
    return msgspec.json.decode(msgspec.json.encode(value))


ORDERS = ("o1", "o2", "o3")
RESTAURANTS = ("r1", "r2")
CUSTOMERS = ("c1", "auth0|5f")
SUBJECTS = ("s1", "auth0|staff")
ORDER_EVENTS = (
    OrderPlaced,
    OrderCreated,
    OrderPaymentSucceeded,
    OrderPaymentFailed,
    OrderAccepted,
    OrderPreparing,
    OrderReadyForDelivery,
    OrderDelivered,
    OrderRejected,
    OrderCancelled,
)

# Few ids, so that events repeat, contradict and follow one another often.
_event_ids = st.integers(1, 12).map("e-{}".format)
_zones = st.integers(-14 * 60, 14 * 60).map(lambda minutes: dt.timezone(dt.timedelta(minutes=minutes)))
_times = st.datetimes(
    min_value=dt.datetime(1, 1, 2),  # noqa: DTZ001 - the strategy wants naive bounds
    max_value=dt.datetime(9999, 12, 30),  # noqa: DTZ001
    timezones=_zones,
)
_text = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)
_money = st.builds(
    Money, amount=st.from_regex(r"-?[0-9]{1,15}(\.[0-9]{1,6})?", fullmatch=True), currency=st.just("EUR")
)
_items = st.lists(
    st.builds(OrderItem, name=_text, quantity=st.integers(1, 9), unit_price=st.none() | _money | st.just(UNSET)),
    max_size=2,
)


def _maybe(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.just(UNSET) | st.none() | values


_order_events = st.sampled_from(ORDER_EVENTS).flatmap(
    lambda kind: st.builds(
        kind,
        event_id=_event_ids,
        occurred_on_utc=_times,
        order_id=st.sampled_from(ORDERS),
        restaurant_id=st.sampled_from(("r1", "r1", "r1", "r2")),
        customer_id=st.sampled_from(("c1", "c1", "c1", "auth0|5f")),
        order_number=_maybe(_text),
        items=_maybe(_items),
        total=_maybe(_money),
        estimated_delivery_time=_maybe(_times),
        actual_delivery_time=_maybe(_times),
    )
)
_staff_fields: dict[str, Any] = {
    "event_id": _event_ids,
    "occurred_on_utc": _times,
    "restaurant_id": st.sampled_from(RESTAURANTS),
    "subject": st.sampled_from(SUBJECTS),
}
_staff_events = st.builds(StaffAssigned, **_staff_fields, role=st.sampled_from(Role)) | st.builds(
    StaffRevoked, **_staff_fields, role=_maybe(st.sampled_from(Role))
)
_foreign = st.sampled_from(
    [
        ("orders.r1.c1.o1.OrderPlaced", b"{"),
        ("orders.r1.c1.o1.OrderPlaced", b'{"type":"OrderPlaced"}'),
        ("orders.r1.c1.o1.OrderTeleported", b'{"type":"OrderTeleported","orderId":"o1"}'),
        ("orders.r1.c1.o9.OrderPlaced", encode(OrderPlaced(
            event_id="e-1", occurred_on_utc=NOON, order_id="o1", restaurant_id="r1", customer_id="c1"
        ))),
    ]
)  # fmt: skip


def _history(messages: list[Event | tuple[str, bytes]], first: int) -> History:
    history = History(first)
    for message in messages:
        if isinstance(message, tuple):
            history.raw(*message)
        else:
            history.add(message)
    return history


def histories(most: int = 30) -> st.SearchStrategy[History]:
    """Logs of at most so many entries, in any order that makes sense or none."""
    messages = st.lists(st.one_of(_order_events, _order_events, _order_events, _staff_events, _foreign), max_size=most)
    return st.builds(_history, messages, st.integers(1, 10**6))


def cut(entries: Sequence[Entry], sizes: Sequence[int]) -> Iterator[Sequence[Entry]]:
    """The entries in batches of these sizes, over and over."""
    start = index = 0
    while start < len(entries):
        size = sizes[index % len(sizes)]
        yield entries[start : start + size]
        start, index = start + size, index + 1
