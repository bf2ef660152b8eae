"""Signals over HTTP: who may send which, and what of it the streams of two gateway processes see."""

from __future__ import annotations

import json
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from streams.log import Log
from tests.gateway.serving import problem
from tests.support.delivery import Clock
from tests.support.nats import eventually
from tests.support.sse_client import open_stream

if TYPE_CHECKING:
    from tests.gateway.conftest import Rest

POSITION = {"type": "courier_position", "lat": 52.52, "lon": 13.405}
TYPING = {"type": "typing"}
VIEWING = {"type": "viewing"}


@pytest.fixture
def database_kind() -> str:
    """Signals are in no database."""
    return "sqlite"


async def send(rest: Rest, signal: Any, headers: dict[str, str], order: str = "o1") -> httpx.Response:
    return await rest.http.post(f"/api/v1/orders/{order}/signals", json=signal, headers=headers)


def courier(rest: Rest) -> dict[str, str]:
    return rest.bearer("cora", scopes=["courier"])


async def test_signal_reaches_live_streams_at_every_process_and_is_never_replayed(rest: Rest) -> None:
    other = await rest.passline.gateway()
    cursor = await rest.happened(rest.event("OrderPlaced"))
    log = Log(rest.passline.nc)
    async with AsyncExitStack() as stack:
        requests = [rest.gateway.customer("o1"), other.customer("o1"), other.kitchen("r1")]
        streams = [await stack.enter_async_context(open_stream(request)) for request in requests]
        for stream in streams:
            await stream.next_event("snapshot")
        sent = await send(rest, POSITION | {"heading": 90, "accuracy": 5.5, "name": "Cora"}, courier(rest))
        assert sent.status_code == 202
        received = [await stream.next_event("ReceiveSignal") for stream in streams[:2]]
        told = json.loads(received[0].data or "")
        assert {"at": told.pop("at")} == sent.json()
        assert told == {
            "topic": "orders/o1",
            "orderId": "o1",
            "from": "courier",
            **POSITION,
            "heading": 90.0,
            "accuracy": 5.5,
        }
        assert received[0].data == received[1].data
        assert {block.id for block in received} == {None}
        assert {stream.parser.last_event_id for stream in streams[:2]} == {cursor}
        assert (await log.state()).last == int(cursor.rpartition("-")[2])
        last = await rest.happened(rest.event("OrderAccepted"))
        await streams[2].next_event("ReceiveOrderStatusChanged")
        assert b"ReceiveSignal" not in streams[2].body
    async with open_stream(rest.gateway.customer("o1", last_event_id=cursor)) as again:
        await again.next_event("ReceiveOrderStatusChanged")
        assert again.parser.last_event_id == last
        assert b"ReceiveSignal" not in again.body


async def test_sender_is_told_by_the_side_and_gets_the_signal_too(rest: Rest) -> None:
    await rest.happened(rest.event("OrderPlaced"))
    async with open_stream(rest.gateway.customer("o1")) as stream:
        await stream.next_event("snapshot")
        for signal, headers in (
            (TYPING, rest.bearer("c1")),
            (VIEWING | {"role": "chef"}, rest.bearer("boss", restaurants={"r1": "owner"})),
            (POSITION, rest.bearer("boss", restaurants={"r1": "owner"}, scopes=["courier"])),
        ):
            assert (await send(rest, signal, headers)).status_code == 202
        told = [json.loads((await stream.next_event("ReceiveSignal")).data or "") for _ in range(3)]
    assert [(signal["type"], signal["from"], signal.get("role")) for signal in told] == [
        ("typing", "customer", None),
        ("viewing", "restaurant", "chef"),
        ("courier_position", "courier", None),
    ]


async def test_guest_with_a_link_sees_where_the_courier_is_and_no_more(rest: Rest) -> None:
    await rest.happened(rest.event("OrderPlaced"))
    given = (await rest.http.post("/api/v1/orders/o1/guest-pass", headers=rest.bearer("c1"))).json()["pass"]
    async with open_stream(rest.gateway.stream("orders/o1", given)) as stream:
        await stream.next_event("snapshot")
        for signal, headers in ((TYPING, rest.bearer("c1")), (POSITION, courier(rest))):
            assert (await send(rest, signal, headers)).status_code == 202
        told = json.loads((await stream.next_event("ReceiveSignal")).data or "")
        assert told.pop("at")
        assert told == {"topic": "orders/o1", "orderId": "o1", "from": "courier", **POSITION}
    assert (await send(rest, POSITION, {"authorization": f"Bearer {given}"})).status_code == 401


async def test_who_may_signal_what(rest: Rest) -> None:
    await rest.happened(
        rest.event("OrderPlaced"),
        rest.staff_event("StaffAssigned", "ann", role="staff"),
        rest.staff_event("StaffAssigned", "bob", role="finance"),
        rest.staff_event("StaffAssigned", "cid", role="owner", restaurant="r2"),
    )
    senders = {
        "owner": rest.bearer("boss", restaurants={"r1": "owner"}),
        "staff": rest.bearer("ann"),
        "finance": rest.bearer("bob"),
        "owner of another restaurant": rest.bearer("cid"),
        "customer": rest.bearer("c1"),
        "another customer": rest.bearer("c2"),
        "courier": courier(rest),
        "service": rest.bearer("service", scopes=["events:publish", "access:publish", "orders:command"]),
        "nobody": {},
    }
    allowed = {
        who: tuple([(await send(rest, signal, headers)).status_code for signal in (TYPING, VIEWING, POSITION)])
        for who, headers in senders.items()
    }
    assert allowed == {
        "owner": (202, 202, 202),
        "staff": (202, 202, 202),
        "finance": (403, 403, 403),
        "owner of another restaurant": (403, 403, 403),
        "customer": (202, 202, 403),
        "another customer": (403, 403, 403),
        "courier": (403, 403, 202),
        "service": (403, 403, 403),
        "nobody": (401, 401, 401),
    }


async def test_order_that_nobody_has_heard_of_takes_no_signal(rest: Rest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streams.facts.WAIT_FOR_ORDER_SECONDS", 0.05)
    assert problem(await send(rest, POSITION, courier(rest), "nowhere"))["status"] == 404


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        (b"", "#"),
        (b"{", "#"),
        (b"[]", "#"),
        (b'"\xff"', "#"),
        (b"{}", "#"),
        (b'{"type":"shouting"}', "#/type"),
        (b'{"type":1}', "#/type"),
        (b'{"type":"typing","role":"Ada Lovelace"}', "#/role"),
        (b'{"type":"viewing","role":null}', "#/role"),
        (b'{"type":"courier_position","lat":1}', "#"),
        (b'{"type":"courier_position","lat":91,"lon":1}', "#/lat"),
        (b'{"type":"courier_position","lat":1,"lon":-180.5}', "#/lon"),
        (b'{"type":"courier_position","lat":"1","lon":1}', "#/lat"),
        (b'{"type":"courier_position","lat":1,"lon":NaN}', "#"),
        (b'{"type":"courier_position","lat":1,"lon":1,"heading":360}', "#/heading"),
        (b'{"type":"courier_position","lat":1,"lon":1,"accuracy":-1}', "#/accuracy"),
    ],
)
async def test_wrong_signal_is_refused_with_the_place_where_it_is_wrong(rest: Rest, body: bytes, pointer: str) -> None:
    headers = {**courier(rest), "content-type": "application/json"}
    told = problem(await rest.http.post("/api/v1/orders/o1/signals", content=body, headers=headers))
    assert (told["status"], told["errors"][0]["pointer"]) == (422, pointer)


async def test_signal_is_json_of_a_kilobyte_at_most(rest: Rest) -> None:
    await rest.happened(rest.event("OrderPlaced"))
    headers = rest.bearer("c1")
    room = 1024 - len(json.dumps(TYPING | {"more": ""}, separators=(",", ":")))
    assert (await send(rest, TYPING | {"more": "x" * room}, headers)).status_code == 202
    assert problem(await send(rest, TYPING | {"more": "x" * (room + 1)}, headers))["status"] == 413
    as_text = {**headers, "content-type": "text/plain"}
    response = await rest.http.post("/api/v1/orders/o1/signals", content=b'{"type":"typing"}', headers=as_text)
    assert problem(response)["status"] == 415


async def test_who_signals_too_often_is_told_to_wait(rest: Rest, monkeypatch: pytest.MonkeyPatch) -> None:
    await rest.happened(rest.event("OrderPlaced"), rest.event("OrderPlaced", "o2"))
    clock = Clock()
    monkeypatch.setattr(rest.gateway.gateway.hub, "clock", clock)
    headers = rest.bearer("c1")
    answers = [await send(rest, TYPING, headers) for _ in range(6)]
    assert [answer.status_code for answer in answers] == [202] * 5 + [429]
    assert problem(answers[-1])["type"] == "urn:passline:problem:rate-exceeded"
    assert answers[-1].headers["retry-after"] == "1"
    assert (await send(rest, TYPING, headers, "o2")).status_code == 202
    assert (await send(rest, TYPING, rest.bearer("boss", restaurants={"r1": "owner"}))).status_code == 202
    clock.now += 1
    assert (await send(rest, TYPING, headers)).status_code == 202


async def test_signal_while_the_broker_is_away_is_lost_and_later_ones_are_not(rest: Rest) -> None:
    """It is not kept until the broker is back: it would be worth nothing then."""
    await rest.happened(rest.event("OrderPlaced"))
    client = rest.gateway.gateway.signals._client
    headers = rest.bearer("c1")
    async with open_stream(rest.gateway.customer("o1")) as stream:
        await stream.next_event("snapshot")
        with rest.hung_broker():
            await eventually(lambda: not client.is_connected, within=20)
            response = await send(rest, TYPING, headers)
            assert problem(response)["status"] == 503
            assert 1 <= int(response.headers["retry-after"]) <= 3
        await eventually(lambda: client.is_connected, within=20)
        assert (await send(rest, VIEWING, headers)).status_code == 202
        assert json.loads((await stream.next_event("ReceiveSignal")).data or "")["type"] == "viewing"
