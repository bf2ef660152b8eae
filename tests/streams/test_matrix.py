"""The broadcast matrix, written out a second time and compared cell by cell."""

from __future__ import annotations

from typing import TypeAlias

import msgspec
import pytest

from streams.events import EVENT_TYPES, Event, OrderEvent, decode
from streams.matrix import FACTS, LANES, MATRIX, lanes_of, notification, notifications, status_after
from streams.subjects import identity_key
from streams.topics import lane_of
from tests.support.samples import CART_EVENTS, ORDER_EVENTS, sample

RESTAURANT, PARTNER = "restaurants/r1", "partners/r1"
ORDER, GUEST, CUSTOMER = "orders/o1@r1.c1", "guests/o1@r1.c1", "customers/c1"
RESTAURANT_SIDE, CUSTOMER_SIDE = {RESTAURANT, PARTNER}, {ORDER, GUEST, CUSTOMER}
UNCHANGED = None
SAME = None

Line: TypeAlias = tuple[str, str | None, str | None]

# fmt: off
TOLD: dict[str, Line] = {
    # event                   SSE event name                   on partners/             status after it
    "OrderPlaced":           ("ReceiveOrderPlaced",            "NewOrder",              "Placed"),
    "OrderCreated":          ("ReceiveOrderPlaced",            "NewOrder",              "Placed"),
    "OrderPaymentSucceeded": ("ReceiveOrderPaymentSucceeded",  SAME,                    UNCHANGED),
    "OrderPaymentFailed":    ("ReceiveOrderPaymentFailed",     SAME,                    "PaymentFailed"),
    "OrderAccepted":         ("ReceiveOrderStatusChanged",     "OrderAccepted",         "Accepted"),
    "OrderPreparing":        ("ReceiveOrderStatusChanged",     "OrderPreparing",        "Preparing"),
    "OrderReadyForDelivery": ("ReceiveOrderStatusChanged",     "OrderReadyForDelivery", "ReadyForDelivery"),
    "OrderDelivered":        ("ReceiveOrderStatusChanged",     "OrderDelivered",        "Delivered"),
    "OrderRejected":         ("ReceiveOrderStatusChanged",     "OrderRejected",         "Rejected"),
    "OrderCancelled":        ("ReceiveOrderStatusChanged",     "OrderCancelled",        "Cancelled"),
    "OrderEtaUpdated":       ("ReceiveOrderEtaUpdated",        SAME,                    UNCHANGED),
    "OrderDelayed":          ("ReceiveOrderDelayed",           SAME,                    UNCHANGED),
    "OrderUnattended":       ("ReceiveOrderUnattended",        SAME,                    UNCHANGED),
    "CommandRejected":       ("ReceiveCommandRejected",        SAME,                    UNCHANGED),
    "CommandExpired":        ("ReceiveCommandExpired",         SAME,                    UNCHANGED),
}
OTHERS: dict[str, dict[str, tuple[str, str | None]]] = {
    # event                  key             SSE event name                 status after it
    "WorkflowAccepted":    {"workflows/w1": ("OrderStatusChanged",          "ACCEPTED")},
    "WorkflowProcessing":  {"workflows/w1": ("OrderStatusChanged",          "PROCESSING")},
    "OrderProcessed":      {"workflows/w1": ("OrderStatusChanged",          "COMPLETED")},
    "RevenueRecorded":     {"finance/r1":   ("ReceiveRevenueRecorded",      UNCHANGED)},
    "PlatformFeeRecorded": {"finance/r1":   ("ReceivePlatformFeeRecorded",  UNCHANGED)},
    "CouponUsed":          {"coupons/k1":   ("ReceiveCouponUsed",           UNCHANGED),
                            "marketing":    ("ReceiveCouponUsed",           UNCHANGED)},
    **{name:               {"carts/t1":     (f"Receive{name}",              UNCHANGED)} for name in CART_EVENTS},
}
TOLD_TO_NOBODY = {
    "StaffAssigned", "StaffRevoked", "TokenRevoked", "WorkflowBound", "PassIssued", "PassRevoked",
    "PairingOpened", "DeviceRegistered", "DeviceRevoked",
}

ABSENT = "absent"
TARGETS: dict[str | None, set[str] | None] = {
    # target       who is told
    ABSENT:       None,  # by the event's default
    None:         None,
    "Both":       RESTAURANT_SIDE | CUSTOMER_SIDE,
    "Restaurant": RESTAURANT_SIDE,
    "Customer":   CUSTOMER_SIDE,
}
# fmt: on


def event_of(name: str, target: str | None = ABSENT, customer: str = "c1") -> OrderEvent:
    body = sample(name, customerId=customer)
    event = decode(msgspec.json.encode(body if target == ABSENT else body | {"target": target}))
    assert isinstance(event, OrderEvent)
    return event


def other_event(name: str) -> Event:
    return decode(msgspec.json.encode(sample(name)))


def told_by_default(name: str) -> set[str]:
    if name in ("CommandRejected", "CommandExpired"):
        return RESTAURANT_SIDE  # the sample's target, which these must have
    return RESTAURANT_SIDE if name == "OrderUnattended" else RESTAURANT_SIDE | CUSTOMER_SIDE


def wanted_of(name: str, target: str | None) -> dict[str, tuple[str, str | None]]:
    sse_name, on_partners, status = TOLD[name]
    keys = TARGETS[target] or told_by_default(name)
    if name.startswith("Command"):
        keys = keys - {GUEST}  # who did not send the command
    return {key: (on_partners or sse_name if key == PARTNER else sse_name, status) for key in keys}


def targets_of(name: str) -> list[str | None]:
    return [target for target in TARGETS if target is not None or not name.startswith("Command")]


CELLS = [(name, target) for name in TOLD for target in targets_of(name)]


def test_every_event_there_is_has_its_line() -> None:
    assert set(MATRIX) == set(EVENT_TYPES.values())
    assert set(TOLD) == set(ORDER_EVENTS)
    assert {*TOLD, *OTHERS, *TOLD_TO_NOBODY} == set(EVENT_TYPES)
    assert {kind.type_name() for kind in FACTS} == TOLD_TO_NOBODY


@pytest.mark.parametrize(("name", "target"), CELLS)
def test_order_event_goes_to_its_audiences_under_its_name(name: str, target: str | None) -> None:
    event = event_of(name, target)
    told = {each.key: (each.name, each.status) for each in notifications(event)}
    assert told == wanted_of(name, target)
    assert len(notifications(event)) == len(told)
    assert status_after(event) == TOLD[name][2]


@pytest.mark.parametrize("name", OTHERS)
def test_other_event_goes_to_its_audiences_under_its_name(name: str) -> None:
    event = other_event(name)
    told = {each.key: (each.name, each.status) for each in notifications(event)}
    assert told == OTHERS[name]
    assert lanes_of(event) == tuple(OTHERS[name])


@pytest.mark.parametrize("customer", ["c1", "auth0|5f"])
@pytest.mark.parametrize(("name", "target"), CELLS)
def test_lanes_that_are_told_without_the_event_are_those_of_its_audiences(
    name: str, target: str | None, customer: str
) -> None:
    event = event_of(name, target, customer)
    lanes = LANES[type(event)][event.target](event.order_id, event.restaurant_id, event.customer_key)
    assert lanes == lanes_of(event)
    assert set(lanes) == {lane_of(each.key) for each in notifications(event)}
    key = identity_key(customer)
    assert set(lanes) <= {"restaurants/r1", f"orders/o1@r1.{key}", f"customers/{key}"}


@pytest.mark.parametrize(("name", "target"), CELLS)
def test_topic_of_each_audience_is_named_without_its_owners(name: str, target: str | None) -> None:
    topics = {each.key: each.topic for each in notifications(event_of(name, target))}
    wanted = {RESTAURANT: RESTAURANT, PARTNER: PARTNER, CUSTOMER: CUSTOMER, ORDER: "orders/o1", GUEST: "orders/o1"}
    assert topics == {key: wanted[key] for key in topics}


@pytest.mark.parametrize("target", [target for target in TARGETS if target is not None])
@pytest.mark.parametrize("name", sorted(TOLD_TO_NOBODY))
def test_fact_is_told_to_nobody_whatever_target_it_names(name: str, target: str) -> None:
    event = decode(msgspec.json.encode(sample(name, target=target)))
    assert notifications(event) == ()
    assert lanes_of(event) == ()
    assert status_after(event) is None


@pytest.mark.parametrize(
    "key", ["restaurants/r1", "partners/r1", "carts/t1", "workflows/w1", "finance/r1", "marketing"]
)
def test_event_has_nothing_for_an_audience_that_its_row_does_not_name(key: str) -> None:
    for name in TOLD_TO_NOBODY:
        assert notification(other_event(name), key) is None
