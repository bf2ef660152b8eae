"""Nobody sees what is not theirs: the whole matrix, with every field of every event filled with a marker of its own.

The markers are made from the structs of the events. A field that is added later is filled, too, and seen here on its
way to somebody whose list below does not name it.
"""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
from msgspec import UNSET, inspect
from structlog.testing import capture_logs

from gateway.sse import SseEncoder
from streams.entry import judge
from streams.events import EVENT_TYPES, Event, Money, NotificationTarget, OrderEvent, OrderItem, decode, encode
from streams.frames import Broadcast, Frames
from streams.matrix import MATRIX, Notification, Row, notifications
from streams.snapshots import CustomerOrder, RestaurantOrder
from streams.views import View

# -- The allow-lists: field of the view -> field of the event, or the value itself -------------------------------------

EVERY_VIEW = {
    "eventId": "eventId",
    "occurredOnUtc": "occurredOnUtc",
    "schemaVersion": "schemaVersion",
}
STATUS = EVERY_VIEW | {
    "orderId": "orderId",
    "orderNumber": "orderNumber",
    "restaurantId": "restaurantId",
    "lastUpdateTimestamp": "occurredOnUtc",
    "estimatedDeliveryTime": "estimatedDeliveryTime",
    "actualDeliveryTime": "actualDeliveryTime",
}
DELIVERED = STATUS | {"deliveredAt": "occurredOnUtc"}
PAID = ("OrderPlaced", "OrderCreated", "OrderPaymentSucceeded", "OrderPaymentFailed")
ORDER_EVENTS = [name for name, cls in EVENT_TYPES.items() if issubclass(cls, OrderEvent)]
WITHOUT_STATUS = ("OrderPaymentSucceeded",)

ITEM = {"name", "quantity", "unitPrice"}
MONEY = {"amount", "currency"}

OF_BOTH_SNAPSHOTS = {
    *("orderId", "orderNumber", "status", "restaurantId", "lastUpdateTimestamp", "total"),
    *("estimatedDeliveryTime", "actualDeliveryTime", "deliveredAt", "placedAt", "paidAt", "paymentFailedAt"),
    *("acceptedAt", "preparingAt", "readyForDeliveryAt", "rejectedAt", "cancelledAt"),
}


def allowed_to_restaurant(name: str) -> dict[str, str]:
    if name in PAID:
        return STATUS | {"items": "items", "total": "total"}
    return DELIVERED if name == "OrderDelivered" else STATUS


def allowed_to_customer(name: str) -> dict[str, str]:
    if name in PAID:
        return STATUS | {"total": "total"}
    return DELIVERED if name == "OrderDelivered" else STATUS


ALLOWED: dict[str, Callable[[str], dict[str, str]]] = {
    "restaurants": allowed_to_restaurant,
    "orders": allowed_to_customer,
}

# -- Markers -----------------------------------------------------------------------------------------------------------


@dataclass
class Markers:
    """Fills structs. `of` says which marker stands where: the text as it would be found in JSON, by its path."""

    of: dict[str, str] = field(default_factory=dict)

    def body(self, name: str, **changed: object) -> dict[str, Any]:
        """An event of the type `name` in which nothing is left out."""
        return {"type": name, **self._struct(EVENT_TYPES[name], ""), **changed}

    def _struct(self, cls: type[Any], path: str) -> dict[str, Any]:
        info = inspect.type_info(cls)
        assert isinstance(info, inspect.StructType)
        return {each.encode_name: self._value(each.type, f"{path}/{each.encode_name}") for each in info.fields}

    def _value(self, kind: inspect.Type, path: str) -> object:
        match kind:
            case inspect.Metadata(type=inner):
                return self._value(inner, path)
            case inspect.UnionType(types=types):
                (inner,) = (each for each in types if not isinstance(each, inspect.NoneType))
                return self._value(inner, path)
            case inspect.StructType(cls=cls):
                return self._struct(cls, path)
            case inspect.ListType(item_type=item):
                return [self._value(item, f"{path}/0"), self._value(item, f"{path}/1")]
            case inspect.EnumType(cls=cls):
                return list(cls)[-1]  # its words mark nothing; that they stand nowhere is seen by the exact keys
            case inspect.IntType():
                return self._mark(path, 700_000 + len(self.of))
            case inspect.DateTimeType():
                return self._mark(path, f"{dt.date(2100, 1, 1) + dt.timedelta(len(self.of))}T10:00:00Z")
            case inspect.StrType(pattern=pattern):
                number = len(self.of)
                letters = "QXZ"[number // 26 % 3] + chr(65 + number % 26) + "Q"
                for candidate in (
                    f"marker-{number:03}-{path.rsplit('/', 1)[-1]}",
                    f"8{number:03}.5{number:03}",
                    letters,
                ):
                    if pattern is None or re.search(pattern, candidate):
                        return self._mark(path, candidate)
        raise AssertionError(f"teach this test a marker for {kind}, which stands at {path}")

    def _mark(self, path: str, marker: str | int) -> str | int:
        assert str(marker) not in self.of.values()
        self.of[path] = str(marker)
        return marker

    def under(self, fields: set[str]) -> set[str]:
        """The markers of these fields, and of all that is in them."""
        return {marker for path, marker in self.of.items() if path.split("/")[1] in fields}

    def found_in(self, text: str) -> set[str]:
        return {marker for marker in self.of.values() if marker in text}


def rendered(event: Event) -> Iterator[tuple[Notification, str]]:
    """What each audience is sent of an event."""
    assert isinstance(event, OrderEvent)
    for notification in notifications(event):
        yield notification, msgspec.json.encode(notification.render(event)).decode()


def leaves(value: object) -> Iterator[object]:
    if isinstance(value, dict):
        for each in value.values():
            yield from leaves(each)
    elif isinstance(value, list):
        for each in value:
            yield from leaves(each)
    else:
        yield value


@pytest.mark.parametrize("name", EVENT_TYPES)
def test_marked_event_has_every_field_and_each_marker_once(name: str) -> None:
    markers = Markers()
    event = decode(json.dumps(markers.body(name)).encode())
    assert not [each for each in event.__struct_fields__ if getattr(event, each) in (UNSET, None)]
    text = encode(event).decode()
    assert markers.found_in(text) == set(markers.of.values())
    assert all(text.count(marker) == 1 for marker in markers.of.values())


@pytest.mark.parametrize("target", [*NotificationTarget, None])
@pytest.mark.parametrize("name", ORDER_EVENTS)
def test_audience_is_sent_exactly_the_fields_on_its_list(name: str, target: str | None) -> None:
    markers = Markers()
    body = markers.body(name, target=target)
    for notification, text in rendered(decode(json.dumps(body).encode())):
        allowed = ALLOWED[notification.topic.split("/")[0]](name)
        sent = json.loads(text)
        wanted = {key: body[source] for key, source in allowed.items()} | {"topic": notification.topic}
        if name not in WITHOUT_STATUS:
            wanted["status"] = notification.status
        assert sent == wanted
        assert markers.found_in(text) == markers.under(set(allowed.values()))


@pytest.mark.parametrize("name", ORDER_EVENTS)
def test_what_is_private_is_sent_to_nobody(name: str) -> None:
    """The lists above, the other way round: these words and their values stand in nothing that leaves."""
    private = {"customerId", "customerName", "platformFee", "reason", "commandId", "target"}
    markers = Markers()
    event = decode(json.dumps(markers.body(name, target="Both")).encode())
    for notification, text in rendered(event):
        assert not markers.found_in(text) & markers.under(private)
        assert not [word for word in (*private, "Both", "customer", "email", "phone", "address") if word in text]
        assert notification.topic in (f"restaurants/{markers.of['/restaurantId']}", f"orders/{markers.of['/orderId']}")


@pytest.mark.parametrize("identity", ["auth0|5f7c8ec7", "ann@example.org", "ann"])
@pytest.mark.parametrize("name", ORDER_EVENTS)
def test_neither_an_identity_nor_its_key_is_sent(name: str, identity: str) -> None:
    event = decode(json.dumps(Markers().body(name, customerId=identity, target="Both")).encode())
    assert isinstance(event, OrderEvent)
    for notification, text in rendered(event):
        assert event.customer_key in notification.key or notification.topic.startswith("restaurants/")
        assert identity not in text
        assert event.customer_key not in text


@pytest.mark.parametrize("name", ORDER_EVENTS)
def test_field_that_the_event_does_not_say_is_omitted_and_one_that_it_clears_is_null(name: str) -> None:
    info = inspect.type_info(EVENT_TYPES[name])
    assert isinstance(info, inspect.StructType)
    optional = [each.encode_name for each in info.fields if not each.required and each.name != "schema_version"]
    full = Markers().body(name, target="Both")
    without = {key: value for key, value in full.items() if key not in optional}
    for _, text in rendered(decode(json.dumps(without).encode())):
        assert not {"orderNumber", "estimatedDeliveryTime", "actualDeliveryTime", "items", "total"} & set(
            json.loads(text)
        )
        assert None not in leaves(json.loads(text))
    cleared = full | dict.fromkeys(optional)
    for notification, text in rendered(decode(json.dumps(cleared).encode())):
        allowed = ALLOWED[notification.topic.split("/")[0]](name)
        sent = json.loads(text)
        assert {key for key, value in sent.items() if value is None} == {
            key for key, source in allowed.items() if source in optional
        }


@pytest.mark.parametrize("name", sorted(set(EVENT_TYPES) - set(ORDER_EVENTS)))
def test_fact_about_access_is_sent_to_nobody(name: str) -> None:
    event = decode(json.dumps(Markers().body(name)).encode())
    assert notifications(event) == ()


@pytest.mark.parametrize("name", ORDER_EVENTS)
def test_gap_says_which_event_on_which_topic_and_nothing_else(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    markers = Markers()
    body = json.dumps(markers.body(name, target="Both")).encode()

    def broken(event: OrderEvent, topic: str, status: str | None) -> View:
        raise RuntimeError(f"{event} {topic} {status}")

    monkeypatch.setitem(MATRIX, EVENT_TYPES[name], Row(MATRIX[EVENT_TYPES[name]].to, "Receive", "x", broken, broken))
    broadcast = Broadcast.of(judge(7, 0.0, decode(body).log_subject(), body))
    frames = Frames("e", SseEncoder())
    event_id, order, restaurant = (markers.of[path] for path in ("/eventId", "/orderId", "/restaurantId"))
    with capture_logs() as logs:
        sent = {each.topic: frames.of(broadcast, (each.key,)).decode() for each in notifications(decode(body))}
    assert sent == {
        topic: f'event: stream.gap\ndata: {{"eventId":"{event_id}","topic":"{topic}"}}\nid: e-7\n\n'
        for topic in (f"restaurants/{restaurant}", f"orders/{order}")
    }
    assert [(log["event"], log["event_id"], log["topic"]) for log in logs] == [
        ("view_failed", event_id, topic) for topic in sent
    ]
    assert markers.found_in(str(logs)) == {event_id, restaurant, order}


def test_snapshots_have_exactly_the_fields_on_their_lists() -> None:
    assert keys_of(CustomerOrder) == OF_BOTH_SNAPSHOTS
    assert keys_of(RestaurantOrder) == OF_BOTH_SNAPSHOTS | {"items"}


def test_parts_that_views_and_snapshots_share_with_events_have_exactly_these_fields() -> None:
    assert keys_of(OrderItem) == ITEM
    assert keys_of(Money) == MONEY


@pytest.mark.parametrize("snapshot", [CustomerOrder, RestaurantOrder])
def test_snapshot_leaves_nothing_out(snapshot: type[CustomerOrder]) -> None:
    """What is not known is null: each field has to be given, and none may be unset."""
    assert all(each.required for each in msgspec.structs.fields(snapshot))
    assert "Unset" not in " ".join(str(each.type) for each in msgspec.structs.fields(snapshot))


def keys_of(struct: type[Any]) -> set[str]:
    return {each.encode_name for each in msgspec.structs.fields(struct)}
