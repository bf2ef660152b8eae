"""Bodies of events: what is one, what is none and why, for every type there is."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import UNSET, inspect

from streams.events import (
    EVENT_TYPES,
    MAX_EVENT_BYTES,
    Event,
    EventError,
    MalformedEvent,
    NotificationTarget,
    OrderCreated,
    OrderEvent,
    OrderPlaced,
    UnknownEventType,
    decode,
    encode,
    processed_event_id,
    split_path,
)
from tests.support.samples import ORDER_EVENTS, TYPES, sample

# It has an id and a time of its own.
PLAIN = [name for name in TYPES if name != "OrderProcessed"]
PRINTABLE = st.characters(exclude_categories=("C", "Z"), include_characters=" ")


def values_of(kind: inspect.Type) -> st.SearchStrategy[Any]:
    """Everything that a field of this type may hold, from what the struct says of it: a new field is covered, too."""
    match kind:
        case inspect.Metadata(type=inner):
            return values_of(inner)
        case inspect.UnionType(types=types):
            return st.one_of([values_of(each) for each in types])
        case inspect.NoneType():
            return st.none()
        case inspect.StrType(pattern=None, min_length=least, max_length=most):
            return st.text(PRINTABLE, min_size=least or 0, max_size=min(most or 64, 64))
        case inspect.StrType(pattern=str(pattern)) if "[A-Z]{3}" in pattern:
            return st.sampled_from(["EUR", "USD"])  # two of one event are often the same
        case inspect.StrType(pattern=str(pattern)):
            return st.from_regex(pattern).filter(lambda text: len(text) <= 512)
        case inspect.IntType(ge=least, le=most):
            return st.integers(least, most)
        case inspect.DateTimeType():
            zones = st.integers(-1439, 1439).map(lambda minutes: dt.timezone(dt.timedelta(minutes=minutes)))
            return st.datetimes(timezones=zones)
        case inspect.EnumType(cls=cls):
            return st.sampled_from(cls)
        case inspect.ListType(item_type=item):
            return st.lists(values_of(item), max_size=3)
        case inspect.StructType(cls=cls):
            return structs_of(cls)
    raise AssertionError(f"teach this test what {kind} may hold")


def structs_of(cls: type[Any]) -> st.SearchStrategy[Any]:
    """Any struct of a type; its optional fields are there or not."""
    fields = fields_of(cls)
    required = {field.name: values_of(field.type) for field in fields if field.required}
    optional = {field.name: values_of(field.type) for field in fields if not field.required}

    def make(given: dict[str, Any]) -> Any:
        try:
            return cls(**given)
        except ValueError:  # its fields contradict one another
            return None

    return st.fixed_dictionaries(required, optional=optional).map(make).filter(bool)


def fields_of(cls: type[Any]) -> tuple[inspect.Field, ...]:
    found = inspect.type_info(cls)
    assert isinstance(found, inspect.StructType)
    return found.fields


def read(body: object) -> Event:
    return decode(json.dumps(body).encode())


def refused(body: object) -> EventError:
    with pytest.raises(EventError) as refusal:
        read(body)
    return refusal.value


# -- What is an event --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TYPES)
def test_event_survives_its_body(name: str) -> None:
    @settings(max_examples=25)
    @given(structs_of(EVENT_TYPES[name]))
    def survives(event: Event) -> None:
        body = encode(event)
        assert b"\n" not in body
        assert json.loads(body)["type"] == name
        decoded = decode(body)
        assert type(decoded) is type(event)
        assert decoded == event
        assert encode(decoded) == body

    survives()


@pytest.mark.parametrize("name", PLAIN)
def test_event_of_the_required_fields_alone_is_enough(name: str) -> None:
    event = read(sample(name))
    assert event.type_name() == name
    assert event.schema_version == 1
    assert json.loads(encode(event)) == sample(name) | {"schemaVersion": 1}


@pytest.mark.parametrize("name", PLAIN)
def test_field_that_is_left_out_stays_so_and_null_stays_null(name: str) -> None:
    for field in fields_of(EVENT_TYPES[name]):
        if field.required or field.name == "schema_version":
            continue
        body = sample(name)
        if name == "TokenRevoked" or body.pop(field.encode_name, None) is not None:
            continue  # one of several that are required
        left_out = read(body)
        assert getattr(left_out, field.name) is UNSET
        assert field.encode_name not in json.loads(encode(left_out))
        cleared = read(body | {field.encode_name: None})
        assert getattr(cleared, field.name) is None
        assert json.loads(encode(cleared))[field.encode_name] is None


@pytest.mark.parametrize("name", PLAIN)
def test_required_field_is_required_and_never_null(name: str) -> None:
    for field in fields_of(EVENT_TYPES[name]):
        if field.required:
            without = sample(name)
            del without[field.encode_name]
            assert refused(without).detail == f"Object missing required field `{field.encode_name}`"
            assert refused(sample(name, **{field.encode_name: None})).path == f"/{field.encode_name}"


PROCESSED = {"type": "OrderProcessed", "correlationId": "w1", "orderId": 7, "occurredAtUtc": "2026-11-20T10:00:00Z"}


@pytest.mark.parametrize("order_id", ["o-1", 7, 0, 2**63 - 1])
def test_processed_order_is_taken_as_its_service_sends_it(order_id: str | int) -> None:
    event = read(PROCESSED | {"orderId": order_id})
    assert json.loads(encode(event)) == {
        "type": "OrderProcessed",
        "eventId": processed_event_id("w1", order_id),
        "occurredOnUtc": "2026-11-20T10:00:00Z",
        "schemaVersion": 1,
        "correlationId": "w1",
        "orderId": order_id,
    }
    assert decode(encode(event)) == event


def test_processed_order_that_is_sent_again_is_the_same_event() -> None:
    again = read(PROCESSED | {"occurredAtUtc": "2026-11-20T11:00:00Z"})
    assert again.event_id == read(PROCESSED).event_id == "OrderProcessed-25b2e242d93e013537a7f284b4976af42de5a7b0"
    assert read(PROCESSED | {"orderId": 8}).event_id != again.event_id
    assert read(PROCESSED | {"eventId": "own"}).event_id == "own"


def test_processed_order_without_a_time_is_refused() -> None:
    refusal = refused({name: value for name, value in PROCESSED.items() if name != "occurredAtUtc"})
    assert refusal.detail == "`occurredAtUtc` or `occurredOnUtc` is required"


@pytest.mark.parametrize("both", [{"jti": "j1", "subject": "s1"}, {}])
def test_revocation_of_tokens_names_a_token_or_a_person(both: dict[str, str]) -> None:
    body = {name: value for name, value in sample("TokenRevoked").items() if name != "jti"}
    assert refused(body | both).detail == "either `jti` or `subject` is required, and not both"
    assert read(body | {"subject": "auth0|5f"}).log_subject() == (
        "access.h_872e9080a6fff15590c646f28bc10d39f6646141.TokenRevoked"
    )
    assert read(body | {"jti": "j1"}).log_subject() == "access.j1.TokenRevoked"


def test_booking_in_two_currencies_is_refused() -> None:
    refusal = refused(sample("RevenueRecorded", newBalance={"amount": "1", "currency": "EUR"}))
    assert refusal.detail == "newBalance: its currency is another than the amount's"


def test_order_created_is_order_placed_under_its_own_name() -> None:
    event = read(sample("OrderCreated"))
    assert type(event) is OrderCreated
    assert isinstance(event, OrderPlaced)
    assert event.log_subject() == "orders.r1.c1.o1.OrderCreated"


def test_subject_of_an_event_is_made_of_its_own_ids() -> None:
    assert read(sample("OrderAccepted")).log_subject() == "orders.r1.c1.o1.OrderAccepted"
    assert read(sample("StaffRevoked")).log_subject() == "access.r1.StaffRevoked"
    hashed = read(sample(customerId="auth0|5f"))
    assert hashed.log_subject() == "orders.r1.h_872e9080a6fff15590c646f28bc10d39f6646141.o1.OrderPlaced"


def test_unknown_field_is_ignored_at_every_depth() -> None:
    item = {"name": "soup", "quantity": 1, "unitPrice": {"amount": "1", "currency": "USD", "x": 1}, "x": [{}]}
    event = read(sample(items=[item], x={"deep": [1, None]}, order_id="snake", Total=1))
    assert event == read(sample(items=[{"name": "soup", "quantity": 1, "unitPrice": item["unitPrice"]}]))
    assert b'"x"' not in encode(event)


@pytest.mark.parametrize("target", list(NotificationTarget))
def test_target_is_one_of_three_words(target: str) -> None:
    event = read(sample(target=target))
    assert isinstance(event, OrderEvent)
    assert event.target == target


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-11-20T10:00:00Z", "2026-11-20T10:00:00+00:00"),
        ("2026-11-20T10:00:00.5Z", "2026-11-20T10:00:00.500000+00:00"),
        ("2026-11-20T10:00:00.1234564Z", "2026-11-20T10:00:00.123456+00:00"),
        ("2026-11-20T10:00:00.1234567Z", "2026-11-20T10:00:00.123457+00:00"),
        ("2026-11-20T10:00:00.9999999+00:00", "2026-11-20T10:00:01+00:00"),
        ("2026-11-20T12:30:00+02:30", "2026-11-20T10:00:00+00:00"),
        ("2026-11-19T22:00:00.0000000-12:00", "2026-11-20T10:00:00+00:00"),
        ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00+00:00"),
    ],
)
def test_time_is_an_instant_whatever_its_offset_and_its_fraction(text: str, moment: str) -> None:
    event = read(sample(occurredOnUtc=text, estimatedDeliveryTime=text, actualDeliveryTime=text))
    assert isinstance(event, OrderEvent)
    wanted = dt.datetime.fromisoformat(moment)
    assert (event.occurred_on_utc, event.estimated_delivery_time, event.actual_delivery_time) == (wanted,) * 3
    assert decode(encode(event)) == event


def test_event_of_the_greatest_length_is_one_and_a_byte_more_is_too_long() -> None:
    body = json.dumps(sample()).encode()
    assert decode(body.ljust(MAX_EVENT_BYTES)) == decode(body)
    with pytest.raises(MalformedEvent, match="an event has at most 65536 bytes, this one 65537"):
        decode(body.ljust(MAX_EVENT_BYTES + 1))


# -- What is none ------------------------------------------------------------------------------------------------------

MONEY: dict[str, object] = {"amount": "25.00", "currency": "USD"}
ITEM: dict[str, object] = {"name": "soup", "quantity": 1}
NO_VERSIONS: tuple[object, ...] = (0, -1, "1", 1.5, True, 10**400, None)
NO_MONEY: tuple[object, ...] = ("25.00", 25, [], True)
WRONG: list[tuple[str, object, str]] = [
    # A line feed at the end, which `$` alone would let through.
    *[(field, "x\n", f"/{field}") for field in ("eventId", "orderId", "restaurantId", "commandId")],
    ("total", MONEY | {"amount": "25.00\n"}, "/total/amount"),
    ("platformFee", MONEY | {"currency": "USD\n"}, "/platformFee/currency"),
    # Ids that would be a path or a pattern in a subject.
    *[("orderId", text, "/orderId") for text in ("*", ">", "a.b", "a b", "", "x" * 65, "é", "a/b")],
    *[("restaurantId", text, "/restaurantId") for text in ("*", ">", "a.b", "x" * 300)],
    *[("eventId", text, "/eventId") for text in ("", "a b", "é", "\0", "x" * 129)],
    ("orderId", 7, "/orderId"),
    # NUL, which a database refuses.
    *[(field, "a\0b", f"/{field}") for field in ("orderNumber", "customerName", "reason")],
    ("items", [ITEM, ITEM | {"name": "\0"}], "/items/1/name"),
    ("customerName", "x" * 513, "/customerName"),
    # Times.
    *[
        ("occurredOnUtc", text, "/occurredOnUtc")
        for text in ("2026-11-20T10:00:00", "2026-11-20", "10:00:00Z", "now", "", "2026-02-30T10:00:00Z", 5, 5.5)
    ],
    ("occurredOnUtc", "9999-12-31T23:59:59.9999999Z", "/occurredOnUtc"),
    ("occurredOnUtc", "2026-11-20T10:00:00Z\n", "/occurredOnUtc"),
    ("estimatedDeliveryTime", "2026-11-20T10:00:00", "/estimatedDeliveryTime"),
    # Targets as a flag enum's other spellings.
    *[("target", text, "/target") for text in (0, 1, 2, 3, "3", "Restaurant, Customer", "both", "", ["Both"], True)],
    # Money and items.
    *[("total", value, "/total") for value in NO_MONEY],
    *[
        ("total", MONEY | {"amount": text}, "/total/amount")
        for text in (25, 25.0, "", "1e3", "+1", ".5", "5.", "1,5", "NaN", "١", "1" * 16, "1.1234567")
    ],
    *[("total", MONEY | {"currency": text}, "/total/currency") for text in ("usd", "US", "USDT", "", None)],
    ("items", {}, "/items"),
    ("items", [ITEM] * 1001, "/items"),
    *[("items", [ITEM | {"quantity": count}], "/items/0/quantity") for count in (0, -1, 1.5, "1", True, 1_000_001)],
    ("items", [ITEM, ITEM, {"name": "soup"}], "/items/2"),
    ("items", [ITEM | {"unitPrice": {"amount": "1"}}], "/items/0/unitPrice"),
    *[("schemaVersion", version, "/schemaVersion") for version in NO_VERSIONS],
    # Identities; which field it was stands in the detail.
    ("customerId", "", "/customerId"),
    ("customerId", "x" * 257, "/customerId"),
    *[("customerId", text, "") for text in ("a\n", "a\0", "\u2028", "\t")],
]


@pytest.mark.parametrize(("field", "value", "path"), WRONG)
def test_wrong_value_is_refused_with_a_pointer_to_it(field: str, value: object, path: str) -> None:
    refusal = refused(sample(**{field: value}))
    assert isinstance(refusal, MalformedEvent)
    assert refusal.path == path
    assert str(refusal) == (f"{refusal.detail} (at {path})" if path else refusal.detail)


@pytest.mark.parametrize("name", ORDER_EVENTS)
def test_identity_that_is_not_printable_is_refused_by_name(name: str) -> None:
    assert refused(sample(name, customerId="a\n")).detail.startswith("customerId: an identity is 1 to 256 printable")


@pytest.mark.parametrize("name", ["StaffAssigned", "StaffRevoked"])
def test_staff_event_of_no_identity_or_of_an_unknown_role_is_refused(name: str) -> None:
    assert refused(sample(name, subject="a\0")).detail.startswith("subject: an identity is 1 to 256 printable")
    assert refused(sample(name, role="cook")).path == "/role"
    assert refused(sample(name, role=1)).path == "/role"


@pytest.mark.parametrize("name", ["OrderPickedUp", "orderplaced", "OrderPlaced ", "OrderEvent", "", "x" * 5000])
def test_unknown_type_is_told_apart_from_a_malformed_event(name: str) -> None:
    refusal = refused({"type": name})
    assert isinstance(refusal, UnknownEventType)
    assert (refusal.type, refusal.path) == (name, "/type")
    assert len(refusal.detail) < 500


@pytest.mark.parametrize(
    "body", [{}, {"type": 5}, {"type": None}, {"type": ["OrderPlaced"]}, [], None, 1, "OrderPlaced"]
)
def test_body_without_a_type_is_malformed(body: object) -> None:
    assert isinstance(refused(body), MalformedEvent)


@pytest.mark.parametrize(
    "body",
    [
        *[b"", b" ", b"{", b"}", b"nul", b"\xef\xbb\xbf{}", b"\xff\xfe", b"{}{}", b'{"type":"OrderPlaced"}x'],
        *[b'{"type":"\xff"}', b'{"type":"OrderPlaced","eventId":"\xed\xa0\x80"}', b'{"type":"\\ud800"}'],
        *[b"[" * 60_000, b'{"type":"OrderPlaced","x":' + b"[" * 60_000, b'{"a":' * 12_000],
        b'{"type":"OrderPlaced","schemaVersion":' + b"9" * 5000 + b"}",
    ],
)
def test_body_that_is_no_json_is_malformed(body: bytes) -> None:
    with pytest.raises(MalformedEvent):
        decode(body)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
FIELDS = sorted({field.encode_name for cls in EVENT_TYPES.values() for field in fields_of(cls)} | {"type"})


@given(st.sampled_from(TYPES), st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=3))
def test_whatever_a_field_holds_it_is_an_event_or_an_event_error(name: str, fields: dict[str, object]) -> None:
    try:
        event = read(sample(name, **fields))
    except EventError:
        return
    assert decode(encode(event)) == event


@given(
    st.sampled_from(TYPES), st.integers(0, 200), st.integers(0, 20), st.binary(max_size=20) | st.text().map(str.encode)
)
def test_whatever_bytes_come_it_is_an_event_or_an_event_error(name: str, at: int, cut: int, patch: bytes) -> None:
    body = json.dumps(sample(name)).encode()
    for damaged in (patch, body[:at] + patch + body[at + cut :]):
        try:
            decode(damaged)
        except EventError:
            pass


# -- What is said about it ---------------------------------------------------------------------------------------------


def test_value_that_looks_like_a_path_does_not_move_the_pointer() -> None:
    refusal = refused(sample(target="x - at `$.total`"))
    assert refusal.path == "/target"
    assert refusal.detail == "Invalid enum value 'x - at `$.total`'"


def test_error_repeats_only_a_little_of_what_was_sent() -> None:
    refusal = refused(sample(target="x" * 60_000))
    assert refusal.path == "/target"
    assert len(str(refusal)) < 300


def test_message_of_msgspec_becomes_a_detail_and_a_json_pointer() -> None:
    assert split_path("Expected `int`, got `str` - at `$.items[12].unitPrice.amount`") == (
        "Expected `int`, got `str`",
        "/items/12/unitPrice/amount",
    )
    assert split_path("Expected `object`, got `int` - at `$[3]`") == ("Expected `object`, got `int`", "/3")
    assert split_path("Input data was truncated") == ("Input data was truncated", "")


def test_error_carries_its_facts_and_says_where_in_its_text() -> None:
    error = EventError("wrong", "/total")
    assert (str(error), error.detail, error.path) == ("wrong (at /total)", "wrong", "/total")
    assert str(EventError("wrong")) == "wrong"


def test_events_are_known_by_the_names_they_are_published_under() -> None:
    assert " ".join(EVENT_TYPES) == (
        "OrderPlaced OrderCreated OrderPaymentSucceeded OrderPaymentFailed OrderAccepted OrderPreparing "
        "OrderReadyForDelivery OrderDelivered OrderRejected OrderCancelled OrderEtaUpdated OrderDelayed "
        "OrderUnattended CommandRejected CommandExpired TeamCartCreated TeamCartMemberJoined TeamCartMemberLeft "
        "TeamCartMemberRemoved "
        "TeamCartItemAdded TeamCartItemUpdated TeamCartItemRemoved TeamCartQuoteUpdated TeamCartLockedForPayment "
        "TeamCartPaymentAuthorized TeamCartPaymentFailed TeamCartConverted TeamCartExpired WorkflowBound "
        "WorkflowAccepted WorkflowProcessing OrderProcessed RevenueRecorded PlatformFeeRecorded CouponUsed "
        "StaffAssigned StaffRevoked TokenRevoked PassIssued PassRevoked PairingOpened DeviceRegistered DeviceRevoked"
    )
    for name, cls in EVENT_TYPES.items():
        assert cls.type_name() == name
