"""The broadcast matrix, written out a second time and compared cell by cell."""

from __future__ import annotations

import json
from typing import TypeAlias

import pytest

from streams.events import EVENT_TYPES, Event, OrderEvent, decode
from streams.matrix import KEYS, MATRIX, To, notifications, status_after
from streams.subjects import identity_key

RESTAURANT, CUSTOMER = "restaurants/r1", "orders/o1"
AUDIENCES = (RESTAURANT, CUSTOMER)
UNCHANGED = None

Line: TypeAlias = tuple[str, str | None]

# fmt: off
TOLD: dict[str, Line] = {
    # event                   SSE event name                   status after it
    "OrderPlaced":           ("ReceiveOrderPlaced",            "Placed"),
    "OrderCreated":          ("ReceiveOrderPlaced",            "Placed"),
    "OrderPaymentSucceeded": ("ReceiveOrderPaymentSucceeded",  UNCHANGED),
    "OrderPaymentFailed":    ("ReceiveOrderPaymentFailed",     "PaymentFailed"),
    "OrderAccepted":         ("ReceiveOrderStatusChanged",     "Accepted"),
    "OrderPreparing":        ("ReceiveOrderStatusChanged",     "Preparing"),
    "OrderReadyForDelivery": ("ReceiveOrderStatusChanged",     "ReadyForDelivery"),
    "OrderDelivered":        ("ReceiveOrderStatusChanged",     "Delivered"),
    "OrderRejected":         ("ReceiveOrderStatusChanged",     "Rejected"),
    "OrderCancelled":        ("ReceiveOrderStatusChanged",     "Cancelled"),
}
FACTS = ("StaffAssigned", "StaffRevoked")

ABSENT = "absent"
TARGETS: dict[str | None, tuple[str, ...]] = {
    # target       who is told; every order event is for both by default
    ABSENT:       (RESTAURANT, CUSTOMER),
    None:         (RESTAURANT, CUSTOMER),
    "Both":       (RESTAURANT, CUSTOMER),
    "Restaurant": (RESTAURANT,),
    "Customer":   (CUSTOMER,),
}
# fmt: on


def event_of(name: str, target: str | None = ABSENT, customer: str = "c1") -> Event:
    body: dict[str, object] = {"type": name, "eventId": "e1", "occurredOnUtc": "2026-11-20T10:00:00Z"}
    body |= {"restaurantId": "r1", "orderId": "o1", "customerId": customer, "subject": "s1", "role": "staff"}
    return decode(json.dumps(body if target == ABSENT else body | {"target": target}).encode())


def test_every_event_there_is_has_its_line() -> None:
    assert set(MATRIX) == set(EVENT_TYPES.values())
    assert {*TOLD, *FACTS} == set(EVENT_TYPES)
    for name in EVENT_TYPES:
        assert issubclass(EVENT_TYPES[name], OrderEvent) == (name in TOLD)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", TOLD)
def test_order_event_goes_to_its_audiences_under_its_name(name: str, target: str | None) -> None:
    sse_name, status = TOLD[name]
    event = event_of(name, target)
    told = {each.topic: (each.name, each.status) for each in notifications(event)}
    for audience in AUDIENCES:
        assert told.get(audience) == ((sse_name, status) if audience in TARGETS[target] else None)
    assert len(notifications(event)) == len(told) == len(TARGETS[target])
    assert status_after(event) == status


@pytest.mark.parametrize("customer", ["c1", "auth0|5f"])
@pytest.mark.parametrize("name", TOLD)
def test_order_event_is_routed_by_restaurant_and_by_order_with_its_owners(name: str, customer: str) -> None:
    keys = [(each.topic, each.key) for each in notifications(event_of(name, customer=customer))]
    assert keys == [(RESTAURANT, "restaurants/r1"), (CUSTOMER, f"orders/o1@r1.{identity_key(customer)}")]


@pytest.mark.parametrize("customer", ["c1", "auth0|5f"])
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", TOLD)
def test_keys_that_are_told_without_the_event_are_those_of_its_notifications(
    name: str, target: str | None, customer: str
) -> None:
    event = event_of(name, target, customer)
    assert isinstance(event, OrderEvent)
    assert KEYS[type(event)][event.target](event.order_id, event.restaurant_id, event.customer_key) == tuple(
        each.key for each in notifications(event)
    )


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", FACTS)
def test_fact_is_told_to_nobody_whatever_target_it_names(name: str, target: str | None) -> None:
    event = event_of(name, target)
    assert notifications(event) == ()
    assert status_after(event) is None
    assert MATRIX[type(event)].to is To.NOBODY
