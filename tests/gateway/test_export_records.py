"""What is exported of an entry, and in which form: the views and nothing else."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from cloudevents.core.bindings.http import HTTPMessage, from_http_event
from cloudevents.core.formats.json import JSONFormat
from structlog.testing import capture_logs

import streams.matrix
from gateway.export_records import CloudEvents, NdJson, Selection, gap
from streams.cursor import Cursor
from streams.entry import judge
from streams.events import OrderAccepted, decode, encode
from streams.matrix import Row, notifications
from streams.topics import Audience, audience_of, finance_feed, restaurant_feed
from tests.streams.test_leaks import TOLD, allowed
from tests.support.markers import Markers
from tests.support.samples import TYPES, sample

if TYPE_CHECKING:
    from streams.entry import Entry

EVERYTHING = Selection(frozenset(Audience))


def entry(body: dict[str, Any], sequence: int = 7) -> Entry:
    event = decode(json.dumps(body).encode())
    return judge(sequence, 0.0, event.log_subject(), encode(event))


@pytest.mark.parametrize("name", TYPES)
def test_every_audience_is_exported_what_its_streams_show(name: str) -> None:
    found = entry(
        sample(
            name, **({"target": "Both"} if name.startswith(("Order", "Command")) and "Processed" not in name else {})
        )
    )
    assert found.event is not None
    wanted = {
        (audience_of(each.key), each.topic, each.name, msgspec.json.encode(each.render(found.event)))
        for each in notifications(found.event)
    }
    records = EVERYTHING.records(found, "e")
    assert {(each.audience, each.topic, each.name, each.data) for each in records} == wanted
    assert {each.cursor for each in records} <= {"e-7"}


@pytest.mark.parametrize("form", [NdJson(), CloudEvents("/passline")])
@pytest.mark.parametrize("name", TOLD)
def test_nothing_leaves_that_the_audience_may_not_see(name: str, form: NdJson | CloudEvents) -> None:
    markers = Markers()
    found = entry(markers.body(name))
    assert found.event is not None
    by_audience = {audience_of(each.key): each for each in notifications(found.event)}
    for record in EVERYTHING.records(found, "e"):
        assert record.audience is not None
        text = form.line(record).decode()
        may = markers.under(set(allowed(by_audience[record.audience], name).values()))
        assert markers.found_in(text) <= may | markers.found_in(record.topic)


def test_one_topic_is_exported_alone_and_once() -> None:
    selection = Selection(frozenset({Audience.RESTAURANT}), (restaurant_feed("r1"), finance_feed("r1")))
    assert [each.topic for each in selection.records(entry(sample("OrderAccepted")), "e")] == ["restaurants/r1"]
    assert [each.topic for each in selection.records(entry(sample("RevenueRecorded")), "e")] == ["finance/r1"]
    two = Selection(feeds=(restaurant_feed("r2"), restaurant_feed("r1")))
    assert [each.topic for each in two.records(entry(sample("OrderAccepted")), "e")] == ["restaurants/r1"]
    alone = Selection(feeds=(restaurant_feed("r1"),))
    assert [each.topic for each in alone.records(entry(sample("OrderAccepted")), "e")] == ["restaurants/r1"]
    assert alone.records(entry(sample("OrderAccepted", restaurantId="r2")), "e") == []
    assert alone.records(entry(sample("OrderAccepted", target="Customer")), "e") == []
    assert alone.records(judge(1, 0.0, "orders.r1.c1.o1.OrderAccepted", b"nonsense"), "e") == []


def test_fee_is_exported_where_customers_are_shown_it() -> None:
    fee = {"amount": "2.00", "currency": "EUR"}
    placed = entry(sample("OrderPlaced", platformFee=fee))
    for shows_fee in (True, False):
        selection = Selection(frozenset({Audience.CUSTOMER}), shows_fee=shows_fee)
        (record,) = selection.records(placed, "e")
        assert json.loads(record.data).get("platformFee") == (fee if shows_fee else None)


def test_view_that_fails_leaves_a_gap_and_nothing_of_the_event(monkeypatch: pytest.MonkeyPatch) -> None:
    def faulty(event: OrderAccepted, _: object) -> None:
        raise ValueError("not today")

    row = streams.matrix.MATRIX[OrderAccepted]
    told = {**row.told, Audience.RESTAURANT: msgspec.structs.replace(row.told[Audience.RESTAURANT], view=faulty)}
    matrix: dict[Any, Row] = streams.matrix.MATRIX
    monkeypatch.setitem(matrix, OrderAccepted, Row(told, row.status, row.to))
    with capture_logs() as logs:
        (record,) = Selection(frozenset({Audience.RESTAURANT})).records(entry(sample("OrderAccepted")), "e")
    assert (record.name, json.loads(record.data)) == ("stream.gap", {"eventId": "e1", "topic": "restaurants/r1"})
    assert [each["event"] for each in logs] == ["view_failed"]


def test_ndjson_has_the_fields_of_the_stream_and_the_audience() -> None:
    (record,) = Selection(feeds=(restaurant_feed("r1"),)).records(entry(sample("OrderAccepted")), "k3f9")
    line = NdJson().line(record)
    assert line.startswith(NdJson.beginning)
    assert line.endswith(b"}\n")
    assert line.count(b"\n") == 1
    said = json.loads(line)
    assert said == {
        "id": "k3f9-7",
        "event": "ReceiveOrderStatusChanged",
        "audience": "restaurants",
        "data": json.loads(record.data),
    }
    assert NdJson().batch([record, record]) == line * 2


@pytest.mark.parametrize("name", TOLD)
def test_cloud_events_are_read_by_the_sdk(name: str) -> None:
    records = EVERYTHING.records(entry(sample(name)), "k3f9")
    form = CloudEvents("https://orders.example/passline/")
    seen = set()
    for record in records:
        assert form.line(record).startswith(form.beginning)
        message = HTTPMessage(headers={"content-type": "application/cloudevents+json"}, body=form.line(record))
        event = from_http_event(message, JSONFormat())
        assert event.get_type() == f"passline.{record.name}"
        source = event.get_source()
        assert source.startswith(f"https://orders.example/passline/{record.audience}")
        assert event.get_time() is not None
        assert event.get_extension("passlinecursor") == "k3f9-7"
        assert event.get_data() == json.loads(record.data)
        assert event.get_id() == json.loads(record.data)["eventId"]
        seen.add((source, event.get_id()))
    assert len(seen) == len(records)
    assert json.loads(form.batch(records)) == [json.loads(form.line(record)) for record in records]


def test_gap_is_a_record_as_well() -> None:
    record = gap("expired", Cursor("k3f9", 3), Cursor("k3f9", 9))
    assert json.loads(NdJson().line(record)) == {
        "id": "k3f9-9",
        "event": "stream.gap",
        "audience": None,
        "data": {"reason": "expired", "lost": {"from": "k3f9-3", "to": "k3f9-9"}},
    }
    said = json.loads(CloudEvents("/passline").line(record))
    assert (said["type"], said["source"], said["id"]) == ("passline.stream.gap", "/passline", "gap.k3f9-3.k3f9-9")
