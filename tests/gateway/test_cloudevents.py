"""CloudEvents 1.0 in its three content modes: what is taken, what is refused, and where it is said to be wrong."""

from __future__ import annotations

import base64
import datetime as dt
import json
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import cloudevents.v1.conversion as first_sdk
import pytest
from cloudevents.core.bindings.http import to_binary_event, to_structured_event
from cloudevents.core.v1.event import CloudEvent
from cloudevents.v1.http import CloudEvent as FirstCloudEvent
from hypothesis import given
from hypothesis import strategies as st

from gateway.ingest import (
    MAX_EVENTS,
    ContentTooLarge,
    UnprocessableContent,
    UnsupportedMediaType,
    UnusableBody,
    is_single_event,
    parse_events,
)
from streams.events import MAX_EVENT_BYTES, decode, encode
from tests.gateway.serving import problem

if TYPE_CHECKING:
    from collections.abc import Sequence

    from streams.events import AnyEvent
    from tests.gateway.conftest import Rest

PATH = "/api/v1/events"
JSON = "application/json"
STRUCTURED = "application/cloudevents+json"
BATCH = "application/cloudevents-batch+json"
TIME = "2026-11-20T12:00:00Z"
DATA = {"orderId": "o1", "restaurantId": "r1", "customerId": "c1"}
EVENT = {"type": "OrderPlaced", "eventId": "e1", "occurredOnUtc": TIME, **DATA}
ATTRIBUTES = {"specversion": "1.0", "id": "e1", "source": "/orders", "type": "OrderPlaced", "time": TIME}
HEADERS = {f"ce-{name}": value for name, value in ATTRIBUTES.items()}


def cloud_event(**members: Any) -> dict[str, Any]:
    return {**ATTRIBUTES, "data": DATA, **members}


def without(name: str, members: dict[str, Any]) -> dict[str, Any]:
    return {each: value for each, value in members.items() if each != name}


def dumped(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def encoded(value: object) -> str:
    """A value as `data_base64` has it."""
    return base64.b64encode(dumped(value)).decode()


def structured(value: object) -> AnyEvent:
    (event,) = parse_events(dumped(value), STRUCTURED)
    return event


def binary(headers: dict[str, str], value: object = DATA, content_type: str = JSON) -> AnyEvent:
    (event,) = parse_events(dumped(value), content_type, tuple(headers.items()))
    return event


def expected(**fields: Any) -> AnyEvent:
    return decode(dumped({**EVENT, **fields}))


# -- Taken -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        cloud_event(),
        cloud_event(type="com.example.orders.OrderPlaced"),
        cloud_event(type="v2.OrderPlaced"),
        cloud_event(data=EVENT),
        cloud_event(data={**EVENT, "occurredOnUtc": "2026-11-20T13:00:00.000+01:00"}),
        cloud_event(data={**DATA, "occurredOnUtc": TIME}, time=None),
        without("time", cloud_event(data=EVENT)),
        cloud_event(data={**DATA, "occurredAtUtc": "of another type's"}),
        cloud_event(datacontenttype="application/json"),
        cloud_event(datacontenttype='Text/JSON ; charset="UTF-8"'),
        cloud_event(datacontenttype="application/vnd.example.order+json"),
        cloud_event(datacontenttype=None, subject=None, dataschema=None, tenant=None),
        cloud_event(
            subject="o1", dataschema="https://example.com/order.json", tenant="é😀", attempt=-(2**31), test=False
        ),
        cloud_event(traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        {**without("data", cloud_event()), "data_base64": encoded(DATA)},
        {**without("data", cloud_event(datacontenttype="application/json")), "data_base64": encoded(EVENT)},
        {
            **without("data", cloud_event()),
            "data_base64": base64.b64encode(b"\xef\xbb\xbf" + dumped(DATA)).decode(),
        },
    ],
)
def test_cloud_event_in_json_is_its_event(value: dict[str, Any]) -> None:
    assert structured(value) == expected()
    assert parse_events(dumped([value, value]), BATCH) == [expected(), expected()]


@pytest.mark.parametrize(
    "content_type", ["Application/CloudEvents+JSON; charset=utf-8", f'{STRUCTURED};charset="UTF8"']
)
def test_charset_and_byte_order_mark_are_as_with_other_bodies(content_type: str) -> None:
    body = b"\xef\xbb\xbf\r\n " + dumped(cloud_event()) + b"\n"
    assert parse_events(body, content_type) == [expected()]


def test_of_a_name_that_is_there_twice_the_last_counts() -> None:
    """As in an event that is not wrapped."""
    twice = json.dumps(cloud_event()).replace('"id": "e1"', '"id": "e0", "id": "e1"')
    twice = twice.replace('"orderId": "o1"', '"orderId": "o0", "orderId": "o1"')
    assert parse_events(twice.encode(), STRUCTURED) == [expected()]
    assert parse_events(twice.encode().replace(b'"type"', b'"type": "x", "type"'), STRUCTURED) == [expected()]


def test_headers_beside_a_cloud_event_in_json_are_not_looked_at() -> None:
    """They may repeat its attributes (HTTP protocol binding, section 3.2.3)."""
    headers = (("ce-id", "other"), ("ce-source", "%"))
    assert parse_events(dumped(cloud_event()), STRUCTURED, headers) == [expected()]


@pytest.mark.parametrize(
    "content_type", ["", "application/json", "text/json; charset=utf-8", "application/vnd.example+json"]
)
@pytest.mark.parametrize("value", [DATA, EVENT])
def test_event_beside_attributes_in_headers_is_taken(content_type: str, value: object) -> None:
    assert binary(HEADERS, value, content_type) == expected()


@pytest.mark.parametrize(
    "header",
    [
        {"Ce-Id": "e1", "CE-TYPE": "com.example.OrderPlaced"},
        {"ce-id": "%65%31"},
        {"ce-id": ' "e1"\t'},
        {"ce-id": r'e"\1"'},
        {"ce-source": "https://example.com/?a=%25C3%25A9"},
        {"ce-subject": "Euro%20%E2%82%AC%20%F0%9F%98%80"},  # the specification's own example
        {"ce-subject": "%f0%9f%98%80"},
        {"ce-subject": 'as older versions had it: "a \\"word\\"" and spaces'},
        {"ce-tenant": ""},
        {"x-request-id": "%"},
        {"traceparent": '"'},
    ],
)
def test_header_is_unescaped(header: dict[str, str]) -> None:
    given_now = {name.lower() for name in header}
    assert binary({**{name: value for name, value in HEADERS.items() if name not in given_now}, **header}) == expected()


@pytest.mark.parametrize(
    "source",
    [
        # The specification's.
        "https://github.com/cloudevents",
        "mailto:cncf-wg-serverless@lists.cncf.io",
        "urn:uuid:6e8bc430-9c3a-11d9-9669-0800200c9a66",
        "/cloudevents/spec/pull/123",
        "/sensors/tn-1234567/alerts",
        "1-555-123-4567",
        # RFC 3986, sections 1.1.2 and 5.4.
        "ftp://ftp.is.co.za/rfc/rfc1808.txt",
        "ldap://[2001:db8::7]/c=GB?objectClass?one",
        "news:comp.infosystems.www.servers.unix",
        "tel:+1-816-555-1212",
        "telnet://192.0.2.16:80/",
        "urn:oasis:names:specification:docbook:dtd:xml:4.1.2",
        "//g",
        "?y",
        "g;x=1/../y#s/./x?",
        "./g:h",
        "http://user:secret@[v1.a:b]:80?q",
        "%C3%A9",
    ],
)
def test_source_is_any_uri_reference(source: str) -> None:
    assert structured(cloud_event(source=source)) == expected()
    assert binary({**HEADERS, "ce-source": source.replace("%", "%25")}) == expected()


@pytest.mark.parametrize("fields", [{}, {"occurredAtUtc": TIME}, {"occurredAtUtc": "2026-11-20T13:00:00+01:00"}])
def test_order_processed_has_the_id_that_its_cloud_event_has(fields: dict[str, str]) -> None:
    data = {"correlationId": "c1", "orderId": 17, **fields}
    event = structured(cloud_event(type="OrderProcessed", data=data))
    assert event.event_id == "e1"
    assert event.occurred_on_utc == dt.datetime(2026, 11, 20, 12, tzinfo=dt.UTC)
    with pytest.raises(UnprocessableContent) as refusal:
        structured(cloud_event(type="OrderProcessed", data={**data, "occurredAtUtc": "2026-11-20T12:00:01Z"}))
    assert refusal.value.pointer == "/data/occurredAtUtc"


# -- Refused: JSON ---------------------------------------------------------------------------------------------------

TEXT = "Expected `str`, got `int`"


@pytest.mark.parametrize(
    ("value", "pointer", "detail"),
    [
        # What a CloudEvent must have.
        *[
            (without(name, cloud_event()), "", f"`{name}` of a CloudEvent is missing")
            for name in ATTRIBUTES
            if name != "time"
        ],
        (cloud_event(id=None), "", "`id` of a CloudEvent is missing"),
        (EVENT, "", "`specversion` of a CloudEvent is missing"),
        (cloud_event(specversion="0.3"), "/specversion", "version 1.0"),
        (cloud_event(specversion=1), "/specversion", "must be text"),
        (cloud_event(id=7), "/id", "must be text"),
        (cloud_event(id=""), "/id", "Expected `str` matching regex"),
        (cloud_event(id="a b"), "/id", "Expected `str` matching regex"),
        (cloud_event(id="x" * 129), "/id", "Expected `str` matching regex"),
        (cloud_event(type=""), "/type", "unknown event type ''"),
        (cloud_event(type="OrderTeleported"), "/type", "unknown event type 'OrderTeleported'"),
        (cloud_event(type="OrderPlaced.v2"), "/type", "unknown event type 'v2'"),
        (cloud_event(type="OrderPlaced."), "/type", "unknown event type ''"),
        (cloud_event(type="com.example.orderplaced"), "/type", "unknown event type 'orderplaced'"),
        *[
            (cloud_event(source=source), "/source", "URI reference")
            for source in (
                "",
                " ",
                "a b",
                "%zz",
                "http://[::1",
                ":a",
                "1a:b",
                "a#b#c",
                "<x>",
                "é",
                "a\\b",
                "[x]",
            )
        ],
        # What it may have.
        (cloud_event(time="yesterday"), "/time", "RFC3339"),
        (cloud_event(time="2026-11-20T12:00:00"), "/time", "timezone"),
        (cloud_event(time=5), "/time", "Expected `datetime`, got `int`"),
        (cloud_event(time="yesterday", data=EVENT), "/time", "RFC3339"),
        (cloud_event(datacontenttype="application/xml"), "/datacontenttype", "JSON in UTF-8"),
        (cloud_event(datacontenttype="application/json; charset=latin-1"), "/datacontenttype", "JSON in UTF-8"),
        (cloud_event(datacontenttype="json"), "/datacontenttype", "JSON in UTF-8"),
        (cloud_event(datacontenttype=""), "/datacontenttype", "JSON in UTF-8"),
        (cloud_event(datacontenttype=5), "/datacontenttype", "JSON in UTF-8"),
        (cloud_event(tenantId="x"), "/tenantId", "small letters and digits"),
        (cloud_event(**{"a~b/c": "x"}), "/a~0b~1c", "small letters and digits"),
        (cloud_event(**{"": "x"}), "/", "small letters and digits"),
        (cloud_event(**{"X" * 65: "x"}), "", "small letters and digits"),
        (cloud_event(tenant={"id": "x"}), "/tenant", "got `object`"),
        (cloud_event(tenant=["x"]), "/tenant", "got `array`"),
        (cloud_event(tenant=1.5), "/tenant", "got `float`"),
        (cloud_event(tenant=2**31), "/tenant", "2147483647"),
        (cloud_event(tenant="a\nb"), "/tenant", "control character"),
        (cloud_event(tenant="\x85"), "/tenant", "control character"),
        (cloud_event(subject="\U0010ffff"), "/subject", "noncharacter"),
        # Its data.
        (without("data", cloud_event()), "", "no `data`"),
        (cloud_event(data=None), "/data", "Expected `object`, got `null`"),
        (cloud_event(data=[DATA]), "/data", "Expected `object`, got `array`"),
        (cloud_event(data=json.dumps(DATA)), "/data", "Expected `object`, got `str`"),
        (cloud_event(data={**DATA, "orderId": "o.*"}), "/data/orderId", "Expected `str` matching regex"),
        (cloud_event(data={**DATA, "items": [{"name": "x", "quantity": 0}]}), "/data/items/0/quantity", "`int` >= 1"),
        (cloud_event(data=without("orderId", DATA)), "/data", "missing required field `orderId`"),
        (without("time", cloud_event()), "/data", "missing required field `occurredOnUtc`"),
        (without("time", cloud_event(data={**DATA, "occurredOnUtc": "x"})), "/data/occurredOnUtc", "RFC3339"),
        (cloud_event(data={**DATA, "customerId": "line\nfeed"}), "/data", "customerId: an identity is"),
        # What it says twice.
        (
            cloud_event(data={**DATA, "eventId": "e2"}),
            "/data/eventId",
            "the data's `eventId` and the attribute `id` differ",
        ),
        (cloud_event(data={**DATA, "eventId": 1}), "/data/eventId", TEXT),
        (cloud_event(data={**DATA, "eventId": None}), "/data/eventId", "got `null`"),
        (cloud_event(data={**DATA, "type": "OrderAccepted"}), "/data/type", "`type` and the attribute `type` differ"),
        (cloud_event(type="a.OrderPlaced", data={**DATA, "type": "a.OrderPlaced"}), "/data/type", "differ"),
        (
            cloud_event(data={**DATA, "occurredOnUtc": "2026-11-20T12:00:00.001Z"}),
            "/data/occurredOnUtc",
            "`time` differ",
        ),
        (cloud_event(data={**DATA, "occurredOnUtc": "x"}), "/data/occurredOnUtc", "RFC3339"),
        # Base64.
        (cloud_event(data_base64=encoded(DATA)), "/data_base64", "there is `data` already"),
        *[
            ({**without("data", cloud_event(**more)), "data_base64": value}, pointer, detail)
            for more, value, pointer, detail in (
                ({}, "e30", "/data_base64", "Invalid base64"),
                ({}, "_-8=", "/data_base64", "Invalid base64"),
                ({}, None, "/data_base64", "Expected `bytes`, got `null`"),
                ({}, "", "/data_base64", "truncated"),
                ({}, "e30gfQ==", "/data_base64", "malformed"),
                ({}, encoded([DATA]), "/data_base64", "got `array`"),
                ({}, encoded({**DATA, "orderId": "o.*"}), "/data_base64", "(at /orderId in it)"),
                ({}, encoded({**DATA, "eventId": "e2"}), "/data_base64", "differ (at /eventId in it)"),
                ({"datacontenttype": "application/avro"}, encoded(DATA), "/datacontenttype", "JSON in UTF-8"),
            )
        ],
        # No object at all.
        (5, "", "Expected `object`, got `int`"),
        (None, "", "Expected `object`, got `null`"),
    ],
)
def test_what_is_wrong_with_a_cloud_event_in_json_is_pointed_at(value: object, pointer: str, detail: str) -> None:
    with pytest.raises(UnprocessableContent) as refusal:
        structured(value)
    assert (refusal.value.index, refusal.value.pointer, refusal.value.header) == (0, pointer, None)
    assert detail in refusal.value.detail
    with pytest.raises(UnprocessableContent) as refusal:
        parse_events(dumped([cloud_event(id="e0"), value]), BATCH)
    assert (refusal.value.index, refusal.value.pointer) == (1, f"/1{pointer}")
    assert detail in refusal.value.detail


@pytest.mark.parametrize(
    ("second", "pointer", "detail"),
    [
        (cloud_event(data={**DATA, "reason": "x"}), "/1/id", "same eventId"),
        (cloud_event(id="e2", data={**DATA, "restaurantId": "r2"}), "/1/data/restaurantId", "another restaurantId"),
        (cloud_event(id="e2", data={**DATA, "customerId": "c2"}), "/1/data/customerId", "another customerId"),
    ],
)
def test_contradiction_between_two_events_of_a_batch_is_pointed_at(
    second: dict[str, Any], pointer: str, detail: str
) -> None:
    with pytest.raises(UnprocessableContent, match=detail) as refusal:
        parse_events(dumped([cloud_event(), second]), BATCH)
    assert (refusal.value.index, refusal.value.pointer) == (1, pointer)


def test_first_wrong_event_of_a_batch_is_told() -> None:
    """Whether it is wrong by itself, as a CloudEvent, or beside an earlier one."""
    other_owner = cloud_event(id="e2", data={**DATA, "customerId": "c2"})
    with pytest.raises(UnprocessableContent) as refusal:
        parse_events(dumped([cloud_event(), other_owner, {}]), BATCH)
    assert refusal.value.pointer == "/1/data/customerId"


@pytest.mark.parametrize(
    ("body", "content_type", "index", "pointer"),
    [
        (b"", STRUCTURED, None, ""),
        (b"\xef\xbb\xbf \n", STRUCTURED, None, ""),
        (b"", BATCH, None, ""),
        (b" \n", BATCH, None, ""),
        (b"[]", BATCH, None, ""),
        (b"{}", BATCH, None, ""),
        (dumped(cloud_event()), BATCH, None, ""),
        (dumped([cloud_event()]), STRUCTURED, 0, ""),
        (b"[]", STRUCTURED, 0, ""),
        (b"{", STRUCTURED, 0, ""),
        (b"[{}", BATCH, None, ""),
        (dumped(cloud_event()) + b"x", STRUCTURED, 0, ""),
        (json.dumps(cloud_event()).encode("utf-16"), STRUCTURED, 0, ""),
        (dumped(cloud_event(tenant="?")).replace(b"?", b"\xff"), STRUCTURED, 0, "/tenant"),
        (dumped(cloud_event(tenant="?")).replace(b"?", b"\\ud800"), STRUCTURED, 0, ""),
        (dumped(cloud_event(tenant="?")).replace(b"tenant", b"\xff"), STRUCTURED, 0, ""),
        (b'{"data":' + b"[" * 60_000, STRUCTURED, 0, ""),
        (b"[" * 60_000, BATCH, 0, "/0"),
        (b'[{"data":' + b"[" * 60_000, BATCH, None, ""),
    ],
)
def test_what_is_no_cloud_event_or_no_batch_is_refused(
    body: bytes, content_type: str, index: int | None, pointer: str
) -> None:
    with pytest.raises(UnprocessableContent) as refusal:
        parse_events(body, content_type)
    assert (refusal.value.index, refusal.value.pointer) == (index, pointer)


# -- Refused: headers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "value", "detail"),
    [
        ("ce-specversion", None, "is missing"),
        ("ce-id", None, "is missing"),
        ("ce-source", None, "is missing"),
        ("ce-type", None, "is missing"),
        ("ce-specversion", "0.3", "version 1.0"),
        ("ce-source", "", "URI reference"),
        ("ce-source", "a%20b", "URI reference"),
        ("ce-source", "%25zz", "URI reference"),
        ("ce-type", "com.example.OrderTeleported", "unknown event type 'OrderTeleported'"),
        ("ce-id", "", "Expected `str` matching regex"),
        ("ce-id", "a%20b", "Expected `str` matching regex"),
        ("ce-time", "now", "RFC3339"),
        ("ce-time", "", "RFC3339"),
        ("ce-id", "e%", "two hexadecimal digits"),
        ("ce-id", "e%4", "two hexadecimal digits"),
        ("ce-id", "e%u0041", "two hexadecimal digits"),
        ("ce-id", "é", "percent-encoded"),
        ("ce-id", '"e1', "counterpart"),
        ("ce-id", '"e1\\"', "counterpart"),
        ("ce-subject", 'e"', "counterpart"),
        ("ce-subject", "%C0%A0", "not UTF-8"),  # the specification's own example
        ("ce-subject", "%ED%A0%80", "not UTF-8"),
        ("ce-subject", "%ff", "not UTF-8"),
        ("ce-subject", "%00", "control character"),
        ("ce-subject", "a\tb", "control character"),
        ("ce-subject", "%EF%BF%BF", "noncharacter"),
        ("ce-data", "{}", "this name"),
        ("ce-datacontenttype", "application/json", "this name"),
        ("ce-tenant-id", "x", "this name"),
        ("ce-data_base64", "x", "this name"),
        ("ce-", "x", "this name"),
    ],
)
def test_what_is_wrong_with_a_header_is_told_by_its_name(header: str, value: str | None, detail: str) -> None:
    headers = without(header, HEADERS) if value is None else {**HEADERS, header: value}
    with pytest.raises(UnprocessableContent) as refusal:
        binary(headers)
    assert (refusal.value.index, refusal.value.pointer, refusal.value.header) == (None, "", header)
    assert refusal.value.detail.startswith(f"the header `{header}`: ")
    assert detail in refusal.value.detail


def test_header_that_is_there_twice_is_refused() -> None:
    headers = (*HEADERS.items(), ("Ce-Subject", "a"), ("cE-sUBJECT", "a"))
    with pytest.raises(UnprocessableContent) as refusal:
        parse_events(dumped(DATA), JSON, headers)
    assert refusal.value.header == "ce-subject"


@pytest.mark.parametrize(
    ("value", "pointer", "detail"),
    [
        ({**DATA, "orderId": "o.*"}, "/orderId", "Expected `str` matching regex"),
        ({**DATA, "items": [{"name": 1, "quantity": 1}]}, "/items/0/name", TEXT),
        ({**DATA, "eventId": "e2"}, "/eventId", "the data's `eventId` and the attribute `id` differ"),
        ({**DATA, "type": "OrderAccepted"}, "/type", "differ"),
        ({**DATA, "occurredOnUtc": "2026-11-20T12:00:01Z"}, "/occurredOnUtc", "differ"),
        ([DATA], "", "Expected `object`, got `array`"),
        ([], "", "Expected `object`, got `array`"),
        (None, "", "Expected `object`, got `null`"),
    ],
)
def test_what_is_wrong_beside_the_headers_is_pointed_at_in_the_body(value: object, pointer: str, detail: str) -> None:
    with pytest.raises(UnprocessableContent) as refusal:
        binary(HEADERS, value)
    assert (refusal.value.index, refusal.value.pointer, refusal.value.header) == (0, pointer, None)
    assert detail in refusal.value.detail


@pytest.mark.parametrize(
    "content_type",
    ["text/plain", "application/xml", "application/x-ndjson", "application/json; charset=latin-1", "json"],
)
def test_data_that_is_no_json_beside_headers_is_refused(content_type: str) -> None:
    with pytest.raises(UnsupportedMediaType, match="ce-") as refusal:
        binary(HEADERS, DATA, content_type)
    assert refusal.value.status == 415


@pytest.mark.parametrize("headers", [(), (("ce-traceparent", "%"), ("ce-Tenant_Id", "x"), ("content-type", "ce-id"))])
def test_without_a_header_that_every_cloud_event_has_it_is_none(headers: tuple[tuple[str, str], ...]) -> None:
    assert parse_events(dumped([EVENT]), JSON, headers) == [expected()]


# -- Limits ----------------------------------------------------------------------------------------------------------


def test_as_many_events_as_elsewhere_are_taken() -> None:
    values = [cloud_event(id=f"e{number}") for number in range(MAX_EVENTS + 1)]
    assert len(parse_events(dumped(values[1:]), BATCH)) == MAX_EVENTS
    with pytest.raises(ContentTooLarge, match="at most 1000 events"):
        parse_events(dumped(values), BATCH)


def test_event_may_be_as_long_as_elsewhere_however_it_is_wrapped() -> None:
    items = [{"name": "x" * 500, "quantity": 1} for _ in range(124)]
    room = MAX_EVENT_BYTES - len(encode(expected(items=items, customerName="")))
    longest: dict[str, Any] = {**DATA, "items": items, "customerName": "y" * room}
    assert len(encode(structured(cloud_event(data=longest)))) == MAX_EVENT_BYTES
    for data, is_taken in ((longest, True), ({**longest, "customerName": "y" * (room + 1)}, False)):
        ways: list[tuple[bytes, str, tuple[tuple[str, str], ...]]] = [
            (dumped(cloud_event(data=data)), STRUCTURED, ()),
            (dumped({**without("data", cloud_event()), "data_base64": encoded(data)}), STRUCTURED, ()),
            (dumped(data), JSON, tuple(HEADERS.items())),
        ]
        for body, content_type, headers in ways:
            if is_taken:
                assert len(parse_events(body, content_type, headers)) == 1
                continue
            with pytest.raises(ContentTooLarge) as refusal:
                parse_events(body, content_type, headers)
            assert (refusal.value.status, refusal.value.index, refusal.value.pointer) == (413, 0, "")


def test_attributes_that_are_dropped_have_a_limit_too() -> None:
    structured(cloud_event(tenant="x" * MAX_EVENT_BYTES))
    with pytest.raises(ContentTooLarge) as refusal:
        parse_events(dumped([cloud_event(), cloud_event(tenant="x" * 2 * MAX_EVENT_BYTES)]), BATCH)
    assert refusal.value.pointer == "/1"


# -- Anything at all -------------------------------------------------------------------------------------------------

ids = st.text("abcXYZ019_-", min_size=1, max_size=64)
event_ids = st.text([chr(code) for code in range(0x21, 0x7F)], min_size=1, max_size=128)
texts = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=40)
times = st.datetimes(timezones=st.just(dt.UTC)).map(dt.datetime.isoformat)
events = st.fixed_dictionaries(
    {
        "type": st.sampled_from(["OrderPlaced", "OrderAccepted", "OrderCancelled"]),
        "eventId": event_ids,
        "occurredOnUtc": times,
        "orderId": ids,
        "restaurantId": ids,
        "customerId": event_ids,
    },
    optional={"customerName": texts | st.none(), "reason": texts, "unknown": texts | st.lists(st.integers())},
)
attribute_texts = st.text(
    st.characters(exclude_categories=["Cc", "Cs", "Cn"]).filter(lambda letter: ord(letter) & 0xFFFE != 0xFFFE)
)
extensions = st.dictionaries(
    st.text("abcxyz019", min_size=1).map(lambda name: f"x{name}"), attribute_texts | st.booleans() | st.integers(-5, 5)
)
repeated = st.sets(st.sampled_from(["type", "eventId", "occurredOnUtc"]))


def header_value(value: object) -> str:
    """As the HTTP protocol binding has it: everything is encoded that must be, and some that need not."""
    return quote(json.dumps(value) if isinstance(value, bool | int) else str(value), safe="!#$&'()*+,;=:@[]{}|\\^`<>~")


@given(events, texts, extensions, st.sampled_from(["", "com.example."]), repeated)
def test_event_is_the_same_in_every_mode(
    event: dict[str, Any], source: str, more: dict[str, Any], prefix: str, repeated: set[str]
) -> None:
    plain = parse_events(dumped(event), JSON)
    attributes = {
        **more,
        "specversion": "1.0",
        "type": prefix + event["type"],
        "id": event["eventId"],
        "time": event["occurredOnUtc"],
        "source": f"https://example.com/{quote(source)}",
    }
    data = {name: value for name, value in event.items() if name in repeated or name not in EVENT or name in DATA}
    headers = tuple((f"ce-{name}", header_value(value)) for name, value in attributes.items())
    in_json, in_base64 = {**attributes, "data": data}, {**attributes, "data_base64": encoded(data)}
    assert parse_events(dumped(in_json), STRUCTURED) == plain
    assert parse_events(json.dumps(in_base64, ensure_ascii=False).encode(), STRUCTURED) == plain
    assert parse_events(dumped([in_json, in_base64]), BATCH) == plain * 2
    assert parse_events(dumped(data), JSON, headers) == plain


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
values = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=10)
near_cloud_events = st.builds(
    lambda changes, gone: without(gone, cloud_event(**changes)),
    st.dictionaries(st.sampled_from([*ATTRIBUTES, "data", "data_base64", "datacontenttype", "x", "X"]), values),
    st.sampled_from([*ATTRIBUTES, "data", ""]),
)
header_texts = st.text(st.characters(max_codepoint=0xFF)) | st.sampled_from([*HEADERS.values(), '"', "%", "%zz", '"\\'])
near_headers = st.lists(st.tuples(st.sampled_from([*HEADERS, "ce-x", "CE-ID", "ce-"]), header_texts)).map(
    lambda changes: [*HEADERS.items(), *changes]
) | st.dictionaries(st.sampled_from([*HEADERS, "ce-x"]), header_texts).map(
    lambda changes: list({**HEADERS, **changes}.items())
)


def parsed(
    body: bytes, content_type: str, headers: Sequence[tuple[str, str]]
) -> tuple[list[AnyEvent], UnusableBody | None]:
    try:
        return parse_events(body, content_type, headers), None
    except UnusableBody as refusal:
        return [], refusal


def check(body: bytes, content_type: str, headers: Sequence[tuple[str, str]] = ()) -> None:
    """Either events, each of which can be published, or the one kind of refusal."""
    events, refusal = parsed(body, content_type, headers)
    if refusal is not None:
        assert refusal.status in (413, 415, 422)
        assert refusal.detail
        assert refusal.pointer == "" or (refusal.pointer.startswith("/") and refusal.index is not None)
        return
    assert events
    for event in events:
        assert decode(encode(event)) == event
    assert is_single_event(body, content_type, headers) is not (content_type == BATCH)


@given(st.binary() | near_cloud_events.map(lambda value: dumped(value)), st.sampled_from([STRUCTURED, BATCH]))
def test_any_body_is_events_or_a_refusal(body: bytes, content_type: str) -> None:
    check(body, content_type)


@given(st.lists(near_cloud_events, max_size=3))
def test_any_batch_is_events_or_a_refusal(values: list[object]) -> None:
    check(dumped(values), BATCH)


@given(near_headers, values | st.just(DATA) | st.just(EVENT))
def test_any_headers_are_an_event_or_a_refusal(headers: list[tuple[str, str]], value: object) -> None:
    check(dumped(value), JSON, headers)


# -- Over HTTP, as the SDK for Python sends it -----------------------------------------------------------------------


@pytest.fixture
def database_kind() -> str:
    """Ingest asks the database for owners only."""
    return "sqlite"


def sdk_event(event: dict[str, Any], *, data: Any = None, **attributes: Any) -> CloudEvent:
    """An event as somebody writes it who uses CloudEvents and has no `eventId` and the like in their data."""
    members = {name: value for name, value in event.items() if name not in ("type", "eventId", "occurredOnUtc")}
    return CloudEvent(
        {
            "type": f"com.example.{event['type']}",
            "id": event["eventId"],
            "time": dt.datetime.fromisoformat(event["occurredOnUtc"]),
            "source": "https://example.com/orders",
            "subject": "Prêt à manger, 100 %",
            **attributes,
        },
        members if data is None else data,
    )


async def stored(rest: Rest) -> list[Any]:
    """The bodies of the log's entries."""
    log = rest.gateway.gateway.log
    entries = [await log.get(sequence) for sequence in range(1, (await log.state()).last + 1)]
    return [json.loads(entry.data) for entry in entries if entry is not None]


async def post(rest: Rest, headers: dict[str, str], body: bytes) -> Any:
    return await rest.http.post(PATH, content=body, headers={**rest.order_service, **headers})


@pytest.mark.parametrize("to_message", [to_structured_event, to_binary_event])
@pytest.mark.parametrize("datacontenttype", [{}, {"datacontenttype": "application/json; charset=utf-8"}])
async def test_what_the_sdk_sends_is_the_event(rest: Rest, to_message: Any, datacontenttype: dict[str, str]) -> None:
    event = rest.event("OrderPlaced", customerName="Ådå")
    message = to_message(sdk_event(event, **datacontenttype))
    response = await post(rest, message.headers, message.body)
    assert response.status_code == 200, response.text
    assert [(each["eventId"], each["status"]) for each in response.json()["results"]] == [(event["eventId"], "stored")]
    assert await stored(rest) == [{**event, "schemaVersion": 1}]
    again = await rest.post(event)
    assert again.json()["results"][0]["status"] == "duplicate"


@pytest.mark.parametrize("to_message", [to_structured_event, to_binary_event])
async def test_what_the_sdk_sends_of_bytes_is_the_event(rest: Rest, to_message: Any) -> None:
    event = rest.event("OrderPlaced")
    message = to_message(sdk_event(event, data=dumped(event), datacontenttype=JSON))
    assert (await post(rest, message.headers, message.body)).status_code == 200
    assert await stored(rest) == [{**event, "schemaVersion": 1}]


@pytest.mark.parametrize("to_message", [first_sdk.to_structured, first_sdk.to_binary])
async def test_what_the_sdks_first_interface_sends_is_the_event(rest: Rest, to_message: Any) -> None:
    event = rest.event("OrderPlaced")
    attributes = dict(sdk_event(event).get_attributes(), time=event["occurredOnUtc"], subject="o1")
    headers, body = to_message(FirstCloudEvent(attributes, event))
    assert (await post(rest, headers, body)).status_code == 200
    assert await stored(rest) == [{**event, "schemaVersion": 1}]


async def test_batch_of_what_the_sdk_sends_enters_the_log_in_its_order(rest: Rest) -> None:
    """The SDK has no batches: they are an array of what it has."""
    events = [rest.event(kind) for kind in ("OrderPlaced", "OrderAccepted", "OrderPreparing")]
    bodies = [to_structured_event(sdk_event(event)).body for event in events]
    response = await post(rest, {"content-type": BATCH}, b"[" + b",".join(bodies) + b"]")
    assert [each["status"] for each in response.json()["results"]] == ["stored"] * 3
    assert [event["eventId"] for event in await stored(rest)] == [event["eventId"] for event in events]


async def test_single_cloud_event_fails_as_it_does_unwrapped_and_one_of_a_batch_by_itself(rest: Rest) -> None:
    await rest.happened(rest.event("OrderPlaced"))
    message = to_binary_event(sdk_event(rest.event("OrderAccepted", restaurant="r2"), datacontenttype="text/json"))
    assert problem(await post(rest, message.headers, message.body))["status"] == 409
    message = to_structured_event(sdk_event(rest.event("OrderAccepted", restaurant="r2")))
    assert problem(await post(rest, message.headers, message.body))["status"] == 409
    batch = await post(rest, {"content-type": BATCH}, b"[" + message.body + b"]")
    assert (batch.status_code, batch.json()["results"][0]["problem"]["status"]) == (207, 409)


async def test_wrong_cloud_event_is_told_where_it_was_sent(rest: Rest) -> None:
    good, bad = sdk_event(rest.event("OrderPlaced")), sdk_event(rest.event("OrderAccepted", "o.*"))
    bodies = [to_structured_event(each).body for each in (good, bad)]
    told = problem(await post(rest, {"content-type": BATCH}, b"[" + b",".join(bodies) + b"]"))
    assert (told["status"], told["errors"][0]["pointer"]) == (422, "#/1/data/orderId")
    message = to_binary_event(good)
    told = problem(await post(rest, {**message.headers, "ce-subject": "%C0%A0"}, message.body))
    assert told["status"] == 422
    assert "`ce-subject`" in told["detail"]
    twice = [*rest.order_service.items(), *message.headers.items(), ("ce-id", "other")]
    told = problem(await rest.http.post(PATH, content=message.body, headers=twice))
    assert told["status"] == 422
    assert "`ce-id`" in told["detail"]
    assert await stored(rest) == []
