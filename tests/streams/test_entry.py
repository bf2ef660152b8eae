"""Every message of the log becomes an entry, whatever it is."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.entry import Entry, SubjectMismatch, judge
from streams.events import EventError, MalformedEvent, OrderAccepted, UnknownEventType

ACCEPTED = {
    "type": "OrderAccepted",
    "eventId": "e1",
    "occurredOnUtc": "2026-11-20T10:00:00Z",
    "orderId": "o1",
    "restaurantId": "r1",
    "customerId": "c1",
}
BODY = json.dumps(ACCEPTED).encode()
SUBJECT = "orders.r1.c1.o1.OrderAccepted"


def test_event_under_its_own_subject_is_an_entry_without_a_problem() -> None:
    entry = judge(7, 1234.5, SUBJECT, BODY)
    assert (entry.sequence, entry.time, entry.subject, entry.body) == (7, 1234.5, SUBJECT, BODY)
    assert isinstance(entry.event, OrderAccepted)
    assert entry.problem is None


@pytest.mark.parametrize(
    "subject",
    [
        *["orders.r2.c1.o1.OrderAccepted", "orders.r1.c2.o1.OrderAccepted", "orders.r1.c1.o2.OrderAccepted"],
        *[
            "orders.r1.c1.o1.OrderPlaced",
            "orders.r1.c1.o1",
            "orders.r1.c1.o1.OrderAccepted.x",
            "access.r1.OrderAccepted",
        ],
        *["orders.R1.c1.o1.OrderAccepted", "orders.r1.c1.o1.*", "orders.>", ""],
    ],
)
def test_event_under_any_other_subject_is_a_mismatch_and_no_event(subject: str) -> None:
    entry = judge(7, 0.0, subject, BODY)
    assert entry.event is None
    assert isinstance(entry.problem, SubjectMismatch)
    assert str(entry.problem) == f"stands under {subject!r}, belongs under {SUBJECT!r}"


def test_customer_stands_in_the_subject_as_a_key() -> None:
    body = json.dumps(ACCEPTED | {"customerId": "auth0|5f"}).encode()
    key = "h_872e9080a6fff15590c646f28bc10d39f6646141"
    assert judge(1, 0.0, f"orders.r1.{key}.o1.OrderAccepted", body).problem is None
    assert isinstance(judge(1, 0.0, "orders.r1.auth0|5f.o1.OrderAccepted", body).problem, SubjectMismatch)


def test_alias_stands_under_its_own_name() -> None:
    body = json.dumps(ACCEPTED | {"type": "OrderCreated"}).encode()
    assert judge(1, 0.0, "orders.r1.c1.o1.OrderCreated", body).problem is None
    assert isinstance(judge(1, 0.0, "orders.r1.c1.o1.OrderPlaced", body).problem, SubjectMismatch)


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"", MalformedEvent),
        (BODY[:-1], MalformedEvent),
        (BODY.replace(b"o1", b"o.1"), MalformedEvent),
        (BODY.replace(b"c1", b"c\xff"), MalformedEvent),
        (BODY.ljust(64 * 1024 + 1), MalformedEvent),
        (BODY.replace(b"OrderAccepted", b"OrderPickedUp"), UnknownEventType),
    ],
)
def test_body_that_is_no_event_is_an_entry_with_its_problem(body: bytes, problem: type[EventError]) -> None:
    entry = judge(7, 1.0, SUBJECT, body)
    assert type(entry.problem) is problem
    assert entry == Entry(7, 1.0, SUBJECT, body, None, problem=entry.problem)


BODIES = st.binary(max_size=60) | st.builds(
    lambda at, patch: BODY[:at] + patch + BODY[at + len(patch) :], st.integers(0, len(BODY)), st.binary(max_size=6)
)


@given(st.text() | st.just(SUBJECT), BODIES)
def test_judging_never_raises_and_an_entry_has_an_event_or_a_problem(subject: str, body: bytes) -> None:
    entry = judge(1, 0.0, subject, body)
    assert (entry.event is None) == isinstance(entry.problem, EventError)
    assert (entry.sequence, entry.subject, entry.body) == (1, subject, body)
