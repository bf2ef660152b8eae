"""What is judged without being decoded is judged as if it had been."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec import inspect

from streams import outline as module
from streams.entry import Entry, SubjectMismatch, judge
from streams.events import EVENT_TYPES, EventError, OrderEvent, decode
from streams.matrix import lanes_of
from streams.outline import KINDS, outline

ORDER_EVENTS = [name for name, kind in EVENT_TYPES.items() if issubclass(kind, OrderEvent)]
CUSTOMERS = {"c1": "c1", "auth0|5f": "h_872e9080a6fff15590c646f28bc10d39f6646141", "h_1": None, "a.b": None, "": None}
MONEY = {"amount": "9.50", "currency": "EUR"}
FALSE_MONEY = {"amount": "1e5", "currency": "EUR"}
FULL: dict[str, Any] = {
    "type": "OrderAccepted",
    "eventId": "e1",
    "occurredOnUtc": "2026-11-20T10:00:00.123Z",
    "schemaVersion": 1,
    "orderId": "o1",
    "restaurantId": "r1",
    "customerId": "c1",
    "orderNumber": "A-7",
    "customerName": "Ada Łovelace",
    "items": [{"name": "Pizza", "quantity": 2, "unitPrice": MONEY}, {"name": "Water", "quantity": 1}],
    "total": {"amount": "19", "currency": "USD"},
    "platformFee": {"amount": "-0.123456", "currency": "EUR"},
    "estimatedDeliveryTime": "2026-11-20T12:00:00+02:00",
    "actualDeliveryTime": None,
    "reason": "none",
    "target": "Both",
    "commandId": "k-1",
}


def subject_of(body: dict[str, Any]) -> str:
    return f"orders.{body['restaurantId']}.{body['customerId']}.{body['orderId']}.{body['type']}"


def strictly(sequence: int, time: float, subject: str, body: bytes) -> Entry:
    """`judge` with nothing but `decode`."""
    try:
        event = decode(body)
        if event.log_subject() != subject:
            raise SubjectMismatch(subject, event.log_subject())
    except EventError as problem:
        return Entry(sequence, time, subject, body, None, problem=problem)
    order_id = event.order_id if isinstance(event, OrderEvent) else None
    return Entry(sequence, time, subject, body, type(event), order_id, lanes_of(event))


def told(entry: Entry) -> object:
    """All that an entry says."""
    return *msgspec.structs.astuple(entry)[:-1], type(entry.problem), str(entry.problem)


# -- Bodies that are almost an event -----------------------------------------------------------------------------------

TEXTS = st.sampled_from(
    [
        *("", " ", "x", "o1", "a b", "a.b", "-", "_", "A" * 64, "A" * 65, "x" * 128, "x" * 129, "x" * 256, "x" * 257),
        *("x" * 512, "x" * 513, "é", "ﬁ", "\u2028", "a\0b", "\0", "a\nb", "o1\n", "\x7f", "\x1f", "~", "!", "*", ">"),
        *("٣", "\ud800", "\U0001f600", "h_1", "2026-11-20T10:00:00Z", "2026-11-20T10:00:00", "Restaurant", "both"),
        *("1", "-1", "+1", ".5", "5.", "1e5", "0.1234567", "1" * 16, "1 EUR", "EUR", "EURO", "eur", "NaN", "1,5"),
    ]
)
VALUES = st.one_of(
    TEXTS,
    st.sampled_from([None, True, 0, 1, -1, 1.5, 1_000_000, 1_000_001, 10**30, [], {}, [None], [[]] * 1001, MONEY]),
    st.builds(lambda amount, currency: {"amount": amount, "currency": currency}, TEXTS, TEXTS),
    st.builds(
        lambda name, quantity, price: [{"name": name, "quantity": quantity, "unitPrice": price}],
        TEXTS,
        st.sampled_from([0, 1, 1_000_001, "1", 1.0]),
        st.sampled_from([None, MONEY, {"amount": "1e5", "currency": "EUR"}, {"amount": "1"}, {}]),
    ),
    st.just([{"name": "Pizza", "quantity": 1, "unitPrice": MONEY}] * 1001),
)


@st.composite
def bodies(draw: st.DrawFn) -> tuple[str, bytes]:
    """A body with a subject, often its own: a whole event with a few of its fields changed, left out or repeated."""
    fields = dict(FULL, type=draw(st.sampled_from(ORDER_EVENTS)), customerId=draw(st.sampled_from([*CUSTOMERS])))
    fields["target"] = draw(st.sampled_from([None, "Both", "Restaurant", "Customer"]))
    for name in draw(st.lists(st.sampled_from([*FULL, "unknown"]), max_size=3)):
        if draw(st.booleans()):
            fields.pop(name, None)
        else:
            fields[name] = draw(VALUES)
    named = {**FULL, **fields}
    named["customerId"] = CUSTOMERS.get(named["customerId"] if isinstance(named["customerId"], str) else "", "c1")
    separators = draw(st.sampled_from([(",", ":"), (", ", ": "), (" ,\r\n", "\t: ")]))
    parts = [(name, json.dumps(value, ensure_ascii=draw(st.booleans()))) for name, value in fields.items()]
    if draw(st.booleans()):
        parts = draw(st.permutations(parts))
    for name in draw(st.lists(st.sampled_from([*FULL]), max_size=1)):
        parts.append((name, json.dumps(draw(st.one_of(VALUES, st.sampled_from(ORDER_EVENTS))))))
    text = separators[0].join(f"{json.dumps(name)}{separators[1]}{value}" for name, value in parts)
    body = f"{{{text}}}".encode(errors="surrogatepass")
    if draw(st.integers(0, 9)) == 0:
        at = draw(st.integers(0, len(body)))
        body = body[:at] + draw(st.binary(max_size=3)) + body[at + draw(st.integers(0, 3)) :]
    return draw(st.sampled_from([subject_of(named)] * 9 + ["orders.r2.c1.o1.OrderAccepted"])), body


NO_MONEY = {"total": None, "platformFee": None, "items": None}


def encoded(fields: dict[str, Any] | None = None, /, **changed: object) -> tuple[str, bytes]:
    """A whole event with these fields changed."""
    fields = FULL | (fields or {}) | changed
    return subject_of(fields), json.dumps(fields, ensure_ascii=False).encode()


@settings(max_examples=800)
@given(bodies())
@example((subject_of(FULL), json.dumps(FULL)[:-1].encode() + b', "type": "OrderPlaced"}'))
@example((subject_of(FULL | {"type": "OrderPlaced"}), json.dumps(FULL)[:-1].encode() + b', "type": "OrderPlaced"}'))
@example(encoded(customerKey="c2"))
@example(encoded(customerKey=["c2"]))
@example(encoded(orderId="a.b"))
@example(encoded(orderId="é"))
@example(encoded(restaurantId="a$b"))
@example(encoded(restaurantId="a.b"))
@example(encoded(customerId="h_1"))
@example(encoded(customerId="a\x7f"))
@example(encoded(eventId="a b"))
@example(encoded(eventId="é"))
@example(encoded(eventId="a\x7f"))
@example(encoded(eventId=""))
@example(encoded(commandId="a b"))
@example(encoded(commandId=""))
@example(encoded(reason="a\0b"))
@example(encoded(total={"amount": "1e5", "currency": "EUR"}))
@example(encoded(platformFee={"amount": "1", "currency": "EUR "}))
@example(encoded(items=[{"name": "Pizza", "quantity": 1, "unitPrice": {"amount": "", "currency": "1 EUR"}}]))
@example(encoded(NO_MONEY | {"total": FALSE_MONEY}))
@example(encoded(NO_MONEY | {"platformFee": FALSE_MONEY}))
@example(encoded(NO_MONEY | {"items": [{"name": "Pizza", "quantity": 1, "unitPrice": FALSE_MONEY}]}))
@example((subject_of(FULL), json.dumps(FULL).encode().ljust(64 * 1024 + 1)))
@example((subject_of(FULL), b'{"type":"OrderAccepted","unknown":' + b"[" * 10_000))
def test_entry_is_judged_as_if_its_event_had_been_decoded(placed: tuple[str, bytes]) -> None:
    subject, body = placed
    wanted = strictly(7, 1.5, subject, body)
    found = judge(7, 1.5, subject, body)
    assert told(found) == told(wanted)
    if wanted.problem is None:
        event = decode(body)
        assert found.event == event
        if isinstance(event, OrderEvent):
            assert found.order_owner() == (event.restaurant_id, event.customer_key)


# -- And is worth having -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [None, "Both", "Restaurant", "Customer"])
@pytest.mark.parametrize("name", [kind.type_name() for kind in KINDS.values()])
def test_ordinary_events_are_not_decoded_to_be_judged(
    name: str, target: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject, body = encoded(type=name, target=target)
    wanted = strictly(1, 0.0, subject, body)

    def unwanted(_: bytes) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr("streams.entry.decode", unwanted)
    assert told(judge(1, 0.0, subject, body)) == told(wanted)


@pytest.mark.parametrize("left_out", [*list(FULL)[3:4], *list(FULL)[7:]])
def test_nothing_that_is_optional_is_needed(left_out: str) -> None:
    fields = {name: value for name, value in FULL.items() if name != left_out}
    assert outline(json.dumps(fields, ensure_ascii=False).encode()) is not None


# -- The fields are those of the events --------------------------------------------------------------------------------


# What a pattern says of the length, the outline says as a length. Amounts are looked at by themselves.
COUNTED = {"{1,64}$": (1, 64), "{1,128}$": (1, 128)}


def limits_of(kind: inspect.Type) -> object:
    """A type as far as it limits values, without its regular expressions and the names of its structs."""
    match kind:
        case inspect.StrType(min_length=least, max_length=most, pattern=pattern):
            counted = [length for count, length in COUNTED.items() if pattern and count in pattern]
            return ("str", *(counted[0] if counted else (least, most)))
        case inspect.Metadata(type=inner):
            return limits_of(inner)
        case inspect.UnionType(types=types):
            return ("union", *sorted(repr(limits_of(each)) for each in types))
        case inspect.ListType(item_type=item, max_length=most):
            return ("list", limits_of(item), most)
        case inspect.StructType(fields=fields):
            return tuple((each.encode_name, limits_of(each.type), each.required) for each in fields)
    return kind


def fields_of(cls: type[Any]) -> dict[str, tuple[object, bool, object]]:
    info = inspect.type_info(cls)
    assert isinstance(info, inspect.StructType)
    return {each.encode_name: (limits_of(each.type), each.required, each.default) for each in info.fields}


@pytest.mark.parametrize("fields", module.KINDS)
def test_outline_has_the_events_own_fields_with_their_limits(fields: type[Any]) -> None:
    found = fields_of(fields)
    del found["customerKey"]
    assert found == fields_of(module.KINDS[fields])
