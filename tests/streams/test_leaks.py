"""Nobody sees what is not theirs: the whole matrix, with every field of every event filled with a marker of its own.

The markers are made from the structs of the events. A field that is added later is filled, too, and seen here on its
way to somebody whose list does not name it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from msgspec import UNSET, inspect
from structlog.testing import capture_logs

from gateway.sse import SseEncoder
from streams.entry import judge
from streams.events import (
    EVENT_TYPES,
    CartItem,
    Event,
    Money,
    NotificationTarget,
    OrderEvent,
    OrderItem,
    decode,
    encode,
)
from streams.frames import Broadcast, Frames
from streams.matrix import FACTS, MATRIX, Cell, Notification, notifications
from streams.snapshots import CustomerOrder, GuestOrder, RestaurantOrder
from streams.subjects import identity_key
from streams.views import About, View
from tests.support.allow_lists import ALLOWED, ITEM, MONEY, OF_EVERY_SNAPSHOT, PAID
from tests.support.markers import Markers
from tests.support.samples import CART_EVENTS, ORDER_EVENTS

TOLD = [name for name, kind in EVENT_TYPES.items() if kind not in FACTS]

# What a view makes of a field, where it is not the field itself.
SHORTENED = {"customerName": "Ada L.", "memberName": "Ada L."}
MEMBER_REF = re.compile(r"[0-9a-f]{16}")


def rendered(event: Event, *, shows_fee: bool = False) -> Iterator[tuple[Notification, str]]:
    """What each audience is sent of an event."""
    for notification in notifications(event):
        yield notification, msgspec.json.encode(notification.render(event, shows_fee=shows_fee)).decode()


def allowed(notification: Notification, name: str) -> dict[str, str]:
    return ALLOWED[notification.key.partition("/")[0]](name)


def made_of(field: str, body: dict[str, Any], sent: dict[str, Any]) -> object:
    """What a view says of a field where it makes something else of it."""
    if field == "memberRef":
        assert MEMBER_REF.fullmatch(sent[field])
        return sent[field]
    return SHORTENED[field]


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
    unset = {each for each in event.__struct_fields__ if getattr(event, each) in (UNSET, None)}
    assert unset == {"TokenRevoked": {"subject"}, "OrderProcessed": {"occurred_at_utc"}}.get(name, set())
    text = encode(event).decode()
    assert markers.found_in(text) == set(markers.of.values())
    assert all(text.count(marker) == 1 for marker in markers.of.values())


@pytest.mark.parametrize("target", [*NotificationTarget, None])
@pytest.mark.parametrize("name", TOLD)
def test_audience_is_sent_exactly_the_fields_on_its_list(name: str, target: str | None) -> None:
    markers = Markers()
    body = markers.body(name)
    if name in ORDER_EVENTS and not (target is None and name.startswith("Command")):
        body["target"] = target
    event = decode(json.dumps(body).encode())
    for notification, text in rendered(event):
        on_list = allowed(notification, name)
        sent = json.loads(text)
        wanted = {key: body[source] for key, source in on_list.items()} | {"topic": notification.topic}
        if notification.status is not None and "status" in sent:
            wanted["status"] = notification.status
        made = {"memberRef", "memberName"} if name in CART_EVENTS else set()
        made |= {"customerName"} if notification.name == "NewOrder" else set()
        assert sent == wanted | {each: made_of(each, body, sent) for each in made}
        in_topic = markers.found_in(notification.topic)
        assert markers.found_in(text) == markers.under(set(on_list.values())) | in_topic
        assert (notification.status is not None) == ("status" in sent) or notification.name == "NewOrder"


@pytest.mark.parametrize("name", sorted(set(PAID)))
def test_fee_is_shown_to_the_customer_where_the_setting_allows_it_and_to_nobody_else(name: str) -> None:
    markers = Markers()
    body = markers.body(name, target="Both")
    fee = markers.under({"platformFee"})
    shown = {
        notification.key.partition("/")[0]
        for notification, text in rendered(decode(json.dumps(body).encode()), shows_fee=True)
        if markers.found_in(text) & fee
    }
    assert shown == {"orders", "customers"}


@pytest.mark.parametrize("name", ORDER_EVENTS)
def test_what_is_private_is_sent_to_nobody(name: str) -> None:
    """The lists above, the other way round: these words and their values stand in nothing that leaves."""
    private = {"customerId", "customerName", "platformFee", "reason", "target"}
    private |= set() if name.startswith("Command") else {"commandId"}
    markers = Markers()
    event = decode(json.dumps(markers.body(name, target="Both", customerId="secret-customer")).encode())
    for notification, text in rendered(event):
        seen = text.replace('"topic":"customers/secret-customer"', "").replace('"customerName":"Ada L."', "")
        assert not markers.found_in(seen) & markers.under(private)
        assert not [word for word in (*private, "Both", "customer", "email", "phone", "address") if word in seen]
        assert notification.topic in (
            f"restaurants/{markers.of['/restaurantId']}",
            f"partners/{markers.of['/restaurantId']}",
            f"orders/{markers.of['/orderId']}",
            "customers/secret-customer",
        )


@pytest.mark.parametrize("identity", ["auth0|5f7c8ec7", "ann@example.org", "ann"])
@pytest.mark.parametrize("name", ORDER_EVENTS)
def test_neither_an_identity_nor_its_key_is_sent_but_to_the_customer_as_their_topic(name: str, identity: str) -> None:
    event = decode(json.dumps(Markers().body(name, customerId=identity, target="Both")).encode())
    assert isinstance(event, OrderEvent)
    for notification, text in rendered(event):
        others = text.replace(f'"topic":"customers/{event.customer_key}"', "")
        assert (others != text) == (notification.key == f"customers/{event.customer_key}")
        assert identity not in others
        assert event.customer_key not in others


@pytest.mark.parametrize("identity", ["auth0|5f7c8ec7", "ann@example.org", "ann"])
@pytest.mark.parametrize("name", [*CART_EVENTS, "WorkflowAccepted"])
def test_neither_the_identity_of_a_member_or_user_nor_its_key_is_sent(name: str, identity: str) -> None:
    field = "userId" if name == "WorkflowAccepted" else "memberId"
    for _, text in rendered(decode(json.dumps(Markers().body(name, **{field: identity})).encode())):
        assert identity not in text
        assert identity_key(identity) not in text


@pytest.mark.parametrize("name", sorted(set(TOLD) - {"OrderProcessed"}))
def test_field_that_the_event_does_not_say_is_omitted_and_one_that_it_clears_is_null(name: str) -> None:
    info = inspect.type_info(EVENT_TYPES[name])
    assert isinstance(info, inspect.StructType)
    optional = [each.encode_name for each in info.fields if not each.required and each.name != "schema_version"]
    full = Markers().body(name) | ({"target": "Both"} if name in ORDER_EVENTS else {})
    without = {key: value for key, value in full.items() if key not in optional}
    for _, text in rendered(decode(json.dumps(without).encode())):
        assert not set(optional) & set(json.loads(text))
        assert None not in leaves(json.loads(text))
    cleared = full | dict.fromkeys(optional)
    for notification, text in rendered(decode(json.dumps(cleared).encode())):
        on_list = allowed(notification, name)
        sent = json.loads(text)
        made = {"memberName": "memberName", "memberRef": "memberId"} if name in CART_EVENTS else {}
        made |= {"customerName": "customerName"} if notification.name == "NewOrder" else {}
        assert {key for key, value in sent.items() if value is None} == {
            key for key, source in (on_list | made).items() if source in optional
        }


@pytest.mark.parametrize("name", sorted(set(EVENT_TYPES) - set(TOLD)))
def test_fact_about_access_is_sent_to_nobody(name: str) -> None:
    event = decode(json.dumps(Markers().body(name)).encode())
    assert notifications(event) == ()


@pytest.mark.parametrize("name", TOLD)
def test_gap_says_which_event_on_which_topic_and_nothing_else(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    markers = Markers()
    changed = {"target": "Both"} if name in ORDER_EVENTS else {}
    body = json.dumps(markers.body(name, **changed)).encode()

    def broken(event: Event, about: About) -> View:
        raise RuntimeError(f"{event} {about}")

    row = MATRIX[EVENT_TYPES[name]]
    told = {audience: Cell("Receive", broken) for audience in row.told}
    monkeypatch.setitem(MATRIX, EVENT_TYPES[name], msgspec.structs.replace(row, told=told))
    event = decode(body)
    broadcast = Broadcast.of(judge(7, 0.0, event.log_subject(), body))
    frames = Frames("e", SseEncoder())
    topics = {each.key: each.topic for each in notifications(event)}
    with capture_logs() as logs:
        sent = {key: frames.of(broadcast, (key,)).decode() for key in topics}
    assert sent == {
        key: f'event: stream.gap\ndata: {{"eventId":"{event.event_id}","topic":"{topic}"}}\nid: e-7\n\n'
        for key, topic in topics.items()
    }
    assert [(log["event"], log["event_id"], log["topic"]) for log in logs] == [
        ("view_failed", event.event_id, topic) for topic in topics.values()
    ]
    assert markers.found_in(str(logs)) == markers.found_in(event.event_id + "".join(topics.values()))


def test_snapshots_have_exactly_the_fields_on_their_lists() -> None:
    assert keys_of(GuestOrder) == OF_EVERY_SNAPSHOT
    assert keys_of(CustomerOrder) == OF_EVERY_SNAPSHOT | {"total", "platformFee"}
    assert keys_of(RestaurantOrder) == OF_EVERY_SNAPSHOT | {"total", "items"}


def test_parts_that_views_and_snapshots_share_with_events_have_exactly_these_fields() -> None:
    assert keys_of(OrderItem) == ITEM
    assert keys_of(CartItem) == ITEM | {"itemId"}
    assert keys_of(Money) == MONEY


@pytest.mark.parametrize("snapshot", [GuestOrder, CustomerOrder, RestaurantOrder])
def test_snapshot_leaves_nothing_out(snapshot: type[GuestOrder]) -> None:
    """What is not known is null: each field has to be given, and none may be unset; but for the fee, which a setting
    shows."""
    fields = [each for each in msgspec.structs.fields(snapshot) if each.name != "platform_fee"]
    assert all(each.required for each in fields)
    assert "Unset" not in " ".join(str(each.type) for each in fields)


def keys_of(struct: type[Any]) -> set[str]:
    return {each.encode_name for each in msgspec.structs.fields(struct)}
