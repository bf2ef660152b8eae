"""Bodies of publishing requests: what is taken, what is refused, and where it is said to be wrong."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.ingest import (
    MAX_BODY_BYTES,
    MAX_EVENTS,
    ContentTooLarge,
    UnprocessableContent,
    UnsupportedMediaType,
    UnusableBody,
    parse_events,
)
from streams.events import MAX_EVENT_BYTES, AnyEvent, OrderAccepted, OrderPlaced, StaffAssigned, decode, encode

JSON = "application/json"
LINES = "application/x-ndjson"


def order(event_id: str = "e1", **fields: Any) -> dict[str, Any]:
    return {
        "type": "OrderPlaced",
        "eventId": event_id,
        "occurredOnUtc": "2026-11-20T12:00:00Z",
        "orderId": "o1",
        "restaurantId": "r1",
        "customerId": "c1",
        **fields,
    }


def staff(event_id: str = "s1", **fields: Any) -> dict[str, Any]:
    return {
        "type": "StaffAssigned",
        "eventId": event_id,
        "occurredOnUtc": "2026-11-20T12:00:00Z",
        "restaurantId": "r1",
        "subject": "auth0|5f",
        "role": "staff",
        **fields,
    }


def without(field: str, event: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in event.items() if name != field}


def lines(*events: object, end: bytes = b"\n") -> bytes:
    return b"".join(json.dumps(event).encode() + end for event in events)


# -- Taken -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (json.dumps([order("a"), staff("b")]).encode(), JSON),
        (json.dumps([order("a"), staff("b")], indent=4).encode(), "Application/JSON; charset=UTF-8"),
        (b"\r\n\t [" + json.dumps(order("a")).encode() + b",\n" + json.dumps(staff("b")).encode() + b"]\n", JSON),
        (b"\xef\xbb\xbf" + json.dumps([order("a"), staff("b")]).encode(), JSON),
        (lines(order("a"), staff("b")), LINES),
        (lines(order("a"), staff("b"), end=b"\r\n"), "application/jsonl"),
        (b"\n  \r\n" + lines(order("a"), end=b"\n\n\r\n\t\n") + json.dumps(staff("b")).encode(), "application/ndjson"),
        (b"\xef\xbb\xbf" + lines(order("a"), staff("b")), 'application/jsonlines ;charset="utf-8"'),
    ],
)
def test_events_are_taken_in_their_order(body: bytes, content_type: str) -> None:
    first, second = parse_events(body, content_type)
    assert (type(first), first.event_id) == (OrderPlaced, "a")
    assert (type(second), second.event_id) == (StaffAssigned, "b")


def test_single_event_is_taken() -> None:
    (event,) = parse_events(b"\xef\xbb\xbf\n" + json.dumps(order()).encode() + b"\n", JSON)
    assert event == decode(json.dumps(order()).encode())


def test_unknown_field_is_dropped() -> None:
    (event,) = parse_events(json.dumps(order(internalFee="12.00", customerEmail="a@b")).encode(), JSON)
    assert encode(event) == encode(decode(json.dumps(order()).encode()))


def test_same_event_twice_is_taken() -> None:
    """As an outbox sends it that has not kept count: it is a duplicate, not a contradiction."""
    body = json.dumps([order(), order(occurredOnUtc="2026-11-20T13:00:00+01:00")]).encode()
    assert len(parse_events(body, JSON)) == 2


def test_as_many_events_as_allowed_are_taken() -> None:
    events = [order(f"e{number}") for number in range(MAX_EVENTS)]
    assert len(parse_events(json.dumps(events).encode(), JSON)) == MAX_EVENTS
    assert len(parse_events(lines(*events), LINES)) == MAX_EVENTS


def test_event_as_long_as_allowed_is_taken() -> None:
    body = encode(decode(json.dumps(order(customerName="")).encode()))
    padding = MAX_EVENT_BYTES - len(body)
    assert len(parse_events(body[:-1] + b" " * padding + body[-1:], JSON)) == 1
    with pytest.raises(ContentTooLarge):
        parse_events(body[:-1] + b" " * (padding + 1) + body[-1:], JSON)


# -- Refused ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content_type",
    [
        "",
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/cloudevents",
        "application/cloudevents+avro",
        "application/cloudevents-batch+xml",
        "application/cloudevents+json; charset=utf-16",
        "application/json; charset=latin-1",
        "application/json, application/json",
        "application/json\n",
        "application/json\ud800",
        "\u0130/json",
        "x" * 100_000,
    ],
)
def test_other_media_type_is_refused(content_type: str) -> None:
    with pytest.raises(UnsupportedMediaType, match="application/json") as refusal:
        parse_events(json.dumps(order()).encode(), content_type)
    assert refusal.value.status == 415
    assert len(str(refusal.value)) < 400


def test_too_long_body_is_refused() -> None:
    with pytest.raises(ContentTooLarge, match=str(MAX_BODY_BYTES)) as refusal:
        parse_events(b" " * (MAX_BODY_BYTES + 1), JSON)
    assert (refusal.value.status, refusal.value.index, refusal.value.pointer) == (413, None, "")


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (json.dumps([order(f"e{number}") for number in range(MAX_EVENTS + 1)]).encode(), JSON),
        (lines(*(order(f"e{number}") for number in range(MAX_EVENTS + 1))), LINES),
        (b"[" + b"{}," * 1_000_000 + b"{}]", JSON),
        (b"1\n" * 2_000_000, LINES),
    ],
)
def test_too_many_events_are_refused(body: bytes, content_type: str) -> None:
    with pytest.raises(ContentTooLarge, match="at most 1000 events"):
        parse_events(body, content_type)


def test_too_long_event_is_told_by_its_place() -> None:
    with pytest.raises(ContentTooLarge) as refusal:
        parse_events(json.dumps([order("a"), order("b", padding="x" * MAX_EVENT_BYTES)]).encode(), JSON)
    assert (refusal.value.status, refusal.value.index, refusal.value.pointer) == (413, 1, "/1")


def test_event_that_is_too_long_only_as_it_would_be_published_is_refused() -> None:
    """What it leaves to a default is said in what is published."""
    items = [{"name": "x" * 500, "quantity": 1} for _ in range(122)]
    event = order(items=items, reason="", orderNumber="", customerName="")
    for field in ("reason", "orderNumber", "customerName"):
        event[field] = "y" * min(512, MAX_EVENT_BYTES - len(json.dumps(event, separators=(",", ":"))))
    body = json.dumps(event, separators=(",", ":")).encode()
    assert len(body) == MAX_EVENT_BYTES
    with pytest.raises(ContentTooLarge, match=str(len(encode(decode(body))))):
        parse_events(body, JSON)


@pytest.mark.parametrize("body", [b"", b" \r\n\t", b"[]", b" [ ] ", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("content_type", [JSON, LINES])
def test_body_without_an_event_is_refused(body: bytes, content_type: str) -> None:
    with pytest.raises(UnprocessableContent) as refusal:
        parse_events(body, content_type)
    assert refusal.value.status == 422


@pytest.mark.parametrize(
    ("events", "index", "pointer", "detail"),
    [
        ([order("a"), order("b", orderId="o.*")], 1, "/1/orderId", "Expected `str` matching regex"),
        ([order("a", items=[{"name": "x", "quantity": 0}])], 0, "/0/items/0/quantity", "Expected `int` >= 1"),
        ([without("orderId", order("a"))], 0, "/0", "missing required field `orderId`"),
        ([order("a"), order("b", type="OrderTeleported")], 1, "/1/type", "unknown event type 'OrderTeleported'"),
        ([order("a", customerId="line\nfeed")], 0, "/0", "customerId: an identity is"),
        ([order("a"), 5], 1, "/1", "Expected `object`, got `int`"),
        ([order("a"), [order("b")]], 1, "/1", "Expected `object`, got `array`"),
        ([order("a"), order("b"), order("a", reason="x")], 2, "/2/eventId", "same eventId"),
        ([order("a"), staff("a")], 1, "/1/eventId", "same eventId"),
        ([order("a"), order("b", restaurantId="r2")], 1, "/1/restaurantId", "another restaurantId"),
        ([order("a"), order("b", customerId="c2")], 1, "/1/customerId", "another customerId"),
        # The first wrong one is told, whatever it is that is wrong.
        ([order("a"), order("b", customerId="c2"), order("c", orderId="")], 1, "/1/customerId", "another customerId"),
        ([order("a"), order("b", orderId=""), order("c", customerId="c2")], 1, "/1/orderId", "Expected `str`"),
    ],
)
def test_first_wrong_event_is_pointed_at(events: list[object], index: int, pointer: str, detail: str) -> None:
    bodies = [(json.dumps(events).encode(), JSON), (lines(*events), LINES)]
    for body, content_type in bodies:
        with pytest.raises(UnprocessableContent) as refusal:
            parse_events(body, content_type)
        assert (refusal.value.index, refusal.value.pointer) == (index, pointer)
        assert detail in refusal.value.detail


def test_pointer_into_a_single_event_begins_at_the_event() -> None:
    with pytest.raises(UnprocessableContent) as refusal:
        parse_events(json.dumps(order(orderId="a b")).encode(), JSON)
    assert (refusal.value.index, refusal.value.pointer) == (0, "/orderId")


@pytest.mark.parametrize(
    "body",
    [
        b"[",
        b"[{}",
        b'{"type":',
        json.dumps([order()]).encode() + b"x",
        json.dumps(order()).encode() * 2,
        json.dumps([order()]).encode("utf-16"),
        b'[{"a":"\xff"}]',
        b'[{"a":"\\ud800"}]',
        b"[" * 60_000,
        b'[{"a":' + b"[" * 30_000 + b"]" * 30_000 + b"}]",
        b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
        json.dumps(order()).encode().replace(b'"o1"', b"9" * 50_000),
        json.dumps(order()).encode().replace(b'"o1"', b"1e999999999"),
        json.dumps(order(customerName="\ud800")).encode(),
        json.dumps(order(customerName="?")).encode().replace(b"?", b"\xed\xa0\x80"),
    ],
)
@pytest.mark.parametrize("content_type", [JSON, LINES])
def test_what_is_no_json_is_refused(body: bytes, content_type: str) -> None:
    with pytest.raises(UnprocessableContent):
        parse_events(body, content_type)


# -- Anything at all -------------------------------------------------------------------------------------------------

content_types = st.sampled_from([JSON, LINES, "application/jsonl; charset=utf-8"])
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
values = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=10)
near_events = st.builds(
    lambda base, changes, gone: {name: value for name, value in {**base, **changes}.items() if name not in gone},
    st.sampled_from([order(), order("e2"), staff()]),
    st.dictionaries(st.sampled_from([*order(), *staff(), "items", "total", "reason", "schemaVersion", "x"]), values),
    st.sets(st.sampled_from(list(order())), max_size=1),
)


def parsed(body: bytes, content_type: str) -> tuple[list[AnyEvent], UnusableBody | None]:
    try:
        return parse_events(body, content_type), None
    except UnusableBody as refusal:
        return [], refusal


def check(body: bytes, content_type: str) -> None:
    """Either events, each of which can be published, or the one kind of refusal."""
    events, refusal = parsed(body, content_type)
    if refusal is not None:
        assert refusal.status in (413, 415, 422)
        assert refusal.detail
        assert refusal.pointer == "" or (refusal.pointer.startswith("/") and refusal.index is not None)
        return
    assert 1 <= len(events) <= MAX_EVENTS
    for event in events:
        assert event.log_subject().isascii()
        assert decode(encode(event)) == event


@given(st.binary(), content_types | st.text())
def test_any_bytes_are_events_or_a_refusal(body: bytes, content_type: str) -> None:
    check(body, content_type)


@given(values | st.lists(near_events) | near_events, content_types)
def test_any_json_is_events_or_a_refusal(value: object, content_type: str) -> None:
    check(json.dumps(value).encode("utf-8", "surrogatepass"), content_type)
    check(json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass"), content_type)


@given(
    st.lists(near_events, min_size=1, max_size=4),
    st.integers(min_value=0),
    st.binary(max_size=3),
    st.integers(min_value=0, max_value=3),
    content_types,
)
def test_damaged_events_are_events_or_a_refusal(
    events: list[object], place: int, put: bytes, taken: int, content_type: str
) -> None:
    body = json.dumps(events).encode() if content_type == JSON else lines(*events)
    place %= len(body)
    check(body[:place] + put + body[place + taken :], content_type)


@given(st.lists(st.sampled_from([b"\n", b"\r\n", b" ", b"\t\n"]), min_size=2), st.integers(min_value=1, max_value=20))
def test_blank_lines_change_nothing(blanks: list[bytes], count: int) -> None:
    body = b"".join(
        blanks[number % len(blanks)] + json.dumps(order(f"e{number}")).encode() + b"\n" for number in range(count)
    )
    events = parse_events(body, LINES)
    assert [event.event_id for event in events] == [f"e{number}" for number in range(count)]
    assert all(isinstance(event, OrderPlaced) and not isinstance(event, OrderAccepted) for event in events)
