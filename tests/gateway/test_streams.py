"""Streams over real sockets: openings, verdicts, snapshots, resumes, refusals and ends."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from streams.subjects import identity_key
from tests.gateway.ways import CORE
from tests.support.logs import append_order, append_orders, append_staff
from tests.support.nats import client, eventually
from tests.support.sse_client import Ending, SseStream, open_stream

if TYPE_CHECKING:
    from tests.support.event_stream import Block
    from tests.support.gateway import Passline, RunningGateway


async def opened(stream: SseStream) -> dict[str, Any]:
    """The data of `stream.opened`, with its id if it has one."""
    block = await stream.next_event("stream.opened")
    return {**said(block), "id": block.id}


def said(block: Block) -> dict[str, Any]:
    """What a block's data says."""
    found: dict[str, Any] = json.loads(block.data or "null")
    return found


async def event_ids(stream: SseStream, count: int) -> list[str]:
    """The event ids of the next `count` events that are the log's."""
    found: list[str] = []
    while len(found) < count:
        block = await stream.next_block()
        assert block is not None, f"the stream ended after {found}"
        if block.type.startswith("Receive"):
            found.append(said(block)["eventId"])
    return found


def sequence(cursor: str) -> int:
    return int(cursor.split("-")[1])


async def applied(gateway: RunningGateway, upto: int) -> None:
    """Wait until the projection has come to `upto`."""

    async def is_there() -> bool:
        async with gateway.gateway.facts.reading() as decision:
            return decision.sql.position.sequence >= upto

    await eventually(is_there)


@CORE
async def test_stream_opens_with_a_head_that_proxies_leave_alone(passline: Passline) -> None:
    gateway = await passline.gateway()
    async with open_stream(gateway.kitchen("r1")) as stream:
        assert stream.status == 200
        header = stream.head.header
        assert header("content-type") == "text/event-stream; charset=utf-8"
        assert header("cache-control") == "no-store, no-transform"
        assert header("x-accel-buffering") == "no"
        assert header("transfer-encoding") == "chunked"
        assert header("connection") is None
        assert header("content-length") is None


@CORE
async def test_fresh_stream_begins_with_the_state_and_goes_on_with_what_follows(passline: Passline) -> None:
    gateway = await passline.gateway()
    last = await append_order(passline.nc, "placed", kind="OrderPlaced", total={"amount": "25.00", "currency": "EUR"})
    await applied(gateway, last)
    async with open_stream(gateway.kitchen("r1")) as stream:
        told = await opened(stream)
        assert told["verdict"] == "fresh"
        assert told["topics"] == ["restaurants/r1"]
        assert told["id"] is None
        snapshot = await stream.next_event("snapshot")
        assert snapshot.id == told["from"]
        state = said(snapshot)
        assert state["topic"] == "restaurants/r1"
        assert [(order["orderId"], order["status"]) for order in state["orders"]] == [("o1", "Placed")]
        await append_order(passline.nc, "accepted")
        assert await event_ids(stream, 1) == ["accepted"]


@CORE
async def test_customer_sees_their_order_and_its_state(passline: Passline) -> None:
    gateway = await passline.gateway()
    last = await append_order(passline.nc, "placed", kind="OrderPlaced", items=[{"name": "Pizza", "quantity": 1}])
    await applied(gateway, last)
    async with open_stream(gateway.customer("o1")) as stream:
        await opened(stream)
        order = said(await stream.next_event("snapshot"))["order"]
        assert order["status"] == "Placed"
        assert "items" not in order
        await append_order(passline.nc, "delivered", kind="OrderDelivered")
        block = await stream.next_event("ReceiveOrderStatusChanged")
        assert said(block)["deliveredAt"] == "2026-11-20T10:00:00Z"


async def test_order_is_waited_for_a_moment_and_has_its_owner_at_once(passline: Passline) -> None:
    """While the worker stands still, the tail alone knows the order."""
    gateway = await passline.gateway()
    await passline.stop_worker()
    opening = asyncio.create_task(_open_and_read(gateway))
    await append_order(passline.nc, "placed", kind="OrderPlaced", order="new")
    told, ids = await opening
    assert told["verdict"] == "fresh"
    assert ids == ["placed"]


async def _open_and_read(gateway: RunningGateway) -> tuple[dict[str, Any], list[str]]:
    async with open_stream(gateway.customer("new")) as stream:
        told = await opened(stream)
        assert said(await stream.next_event("snapshot")) == {"topic": "orders/new", "order": None}
        return told, await event_ids(stream, 1)


@CORE
async def test_client_that_comes_back_gets_exactly_what_it_missed(passline: Passline) -> None:
    gateway = await passline.gateway()
    await append_orders(passline.nc, 10)
    async with open_stream(gateway.kitchen("r1", query={"since": "1h"})) as stream:
        assert await event_ids(stream, 4) == ["e0", "e1", "e2", "e3"]
        last_id = await _id_of(stream, "e3")
    async with open_stream(gateway.kitchen("r1", last_event_id=last_id)) as stream:
        told = await opened(stream)
        assert (told["verdict"], told["id"], told["from"]) == ("resumed", last_id, last_id)
        assert await event_ids(stream, 6) == ["e4", "e5", "e6", "e7", "e8", "e9"]


async def _id_of(stream: SseStream, event_id: str) -> str:
    """The cursor of an event that has been read."""
    for block in stream.blocks:
        if block.type.startswith("Receive") and said(block)["eventId"] == event_id:
            assert block.id is not None
            return block.id
    raise AssertionError(f"{event_id} has not come")


@CORE
async def test_client_that_was_away_longer_than_the_window_gets_it_from_the_log(passline: Passline) -> None:
    gateway = await passline.gateway(window_events=5)
    await append_orders(passline.nc, 700)
    await eventually(lambda: gateway.gateway.hub.head == 700)
    epoch = gateway.gateway.hub.frames.epoch
    async with open_stream(gateway.kitchen("r1", last_event_id=f"{epoch}-20")) as stream:
        assert (await opened(stream))["verdict"] == "resumed"
        assert await event_ids(stream, 680) == [f"e{index}" for index in range(20, 700)]
        await append_order(passline.nc, "live")
        assert await event_ids(stream, 1) == ["live"]


async def test_position_in_the_query_serves_a_new_event_source_and_the_header_comes_first(passline: Passline) -> None:
    gateway = await passline.gateway()
    await append_orders(passline.nc, 10)
    await eventually(lambda: gateway.gateway.hub.head == 10)
    epoch = gateway.gateway.hub.frames.epoch
    query = {"last_event_id": f"{epoch}-3", "since": "1h"}
    async with open_stream(gateway.kitchen("r1", query=query)) as stream:
        assert (await opened(stream))["from"] == f"{epoch}-3"
    async with open_stream(gateway.kitchen("r1", query=query, last_event_id=f"{epoch}-7")) as stream:
        assert (await opened(stream))["from"] == f"{epoch}-7"


@pytest.mark.parametrize(
    ("cursor", "reason"),
    [
        ("other-5", "epoch"),
        ("nonsense", "invalid"),
        ("{epoch}-99999", "ahead"),
        ("*", "invalid"),
        ("x" * 300, "invalid"),
    ],
)
async def test_position_that_means_nothing_is_a_reset_with_a_reason(
    passline: Passline, cursor: str, reason: str
) -> None:
    gateway = await passline.gateway()
    await append_orders(passline.nc, 10)
    await applied(gateway, 10)
    cursor = cursor.format(epoch=gateway.gateway.hub.frames.epoch)
    async with open_stream(gateway.kitchen("r1", last_event_id=cursor)) as stream:
        told = await opened(stream)
        assert (told["verdict"], told["reason"]) == ("reset", reason)
        assert sequence((await stream.next_event("snapshot")).id or "") >= 10


async def test_client_ahead_of_this_processs_tail_waits_for_it(passline: Passline) -> None:
    """It was served by a process that had read further; that is no reset."""
    gateway = await passline.gateway()
    await append_orders(passline.nc, 5)
    await eventually(lambda: gateway.gateway.hub.head == 5)
    epoch = gateway.gateway.hub.frames.epoch
    async with client(passline.server, "gateway") as other:
        request = gateway.kitchen("r1", last_event_id=f"{epoch}-6")
        publishing = asyncio.create_task(append_order(other, "six"))
        await publishing
        async with open_stream(request) as stream:
            assert (await opened(stream))["verdict"] == "resumed"
            await append_order(other, "seven")
            assert await event_ids(stream, 1) == ["seven"]


@CORE
async def test_quiet_stream_moves_its_client_by_heartbeats(passline: Passline) -> None:
    gateway = await passline.gateway(heartbeat_seconds=0.2)
    async with open_stream(gateway.kitchen("quiet")) as stream:
        await opened(stream)
        await append_orders(passline.nc, 3)
        await eventually(lambda: gateway.gateway.hub.head == 3)
        heard = await _heartbeat_at(stream, 3)
        assert heard == f"{gateway.gateway.hub.frames.epoch}-3"


async def _heartbeat_at(stream: SseStream, wanted: int) -> str:
    while True:
        block = await stream.next_block()
        assert block is not None
        if block.data is None:
            assert block.id is not None
            if sequence(block.id) >= wanted:
                return block.id


async def test_somebody_elses_stream_is_refused_for_good(passline: Passline) -> None:
    gateway = await passline.gateway()
    await append_order(passline.nc, "placed", kind="OrderPlaced")
    for request in (
        gateway.customer("o1", "c2"),
        gateway.stream("restaurants/r1", gateway.token("somebody", restaurants={"r2": "owner"})),
        gateway.stream("restaurants/r1", gateway.token("c1")),
        gateway.stream("restaurants/r1", gateway.token("books", restaurants={"r1": "finance"})),
    ):
        async with open_stream(request) as stream:
            assert stream.status == 403
            assert stream.head.header("content-type") == "application/problem+json"
            await stream.read_to_end()
            assert json.loads(stream.body)["title"] == "Forbidden"


async def test_identity_that_is_no_id_owns_its_order_by_its_key(passline: Passline) -> None:
    gateway = await passline.gateway()
    identity = "auth0|5f7c8ec7c33c6c004bbafe82"
    body = {"customer": identity_key(identity), "order": "o7"}
    await append_order(passline.nc, "wrong", **body, kind="OrderPlaced")
    await append_order(passline.nc, "right", **body, kind="OrderPlaced", customerId=identity)
    async with open_stream(gateway.customer("o7", identity, query={"since": "1h"})) as stream:
        assert await event_ids(stream, 1) == ["right"]


async def test_unheard_of_order_is_not_found_after_a_wait(passline: Passline) -> None:
    gateway = await passline.gateway()
    async with open_stream(gateway.customer("nobody-knows")) as stream:
        assert stream.status == 404
        await stream.read_to_end()
        assert json.loads(stream.body)["title"] == "Not Found"


async def test_missing_or_bad_token_is_unauthorized(passline: Passline) -> None:
    gateway = await passline.gateway()
    for token in (None, "nonsense", "x" * 9000):
        request = gateway.stream("restaurants/r1", token)  # type: ignore[arg-type]
        async with open_stream(request) as stream:
            assert stream.status == 401
            assert (stream.head.header("www-authenticate") or "").startswith("Bearer")


@pytest.mark.parametrize("bad", ["*", ">", "a.b", "a%20b", "x" * 300, "a%00", "a%0a", "%2e%2e", "%c3%a9"])
async def test_id_that_is_none_is_refused_and_reads_nobodys_events(passline: Passline, bad: str) -> None:
    gateway = await passline.gateway()
    token = gateway.token("c1", restaurants={"r1": "owner"})
    for kind in ("restaurants", "orders"):
        async with open_stream(gateway.stream(f"{kind}/{bad}", token)) as stream:
            assert stream.status in (400, 404, 422)
            assert stream.head.header("content-type") == "application/problem+json"


@CORE
async def test_stream_ends_with_its_token_and_says_so(passline: Passline) -> None:
    gateway = await passline.gateway()
    token = gateway.token("boss", life_seconds=2, restaurants={"r1": "owner"})
    async with open_stream(gateway.stream("restaurants/r1", token)) as stream:
        closing = await stream.next_event("stream.closing")
        assert said(closing) == {"reason": "expired"}
        assert await stream.read_to_end() is Ending.CUT
    async with open_stream(gateway.stream("restaurants/r1", token)) as stream:
        assert stream.status == 401


@CORE
async def test_revoked_staff_are_out_before_any_later_event(passline: Passline) -> None:
    gateway = await passline.gateway()
    token = gateway.token("ann")
    await append_staff(passline.nc, "s1", "StaffAssigned", restaurant="r1", subject="ann", role="staff")
    await append_staff(passline.nc, "s2", "StaffAssigned", restaurant="r2", subject="ann", role="staff")
    await eventually(lambda: gateway.gateway.hub.head == 2)
    async with (
        open_stream(gateway.stream("restaurants/r1", token)) as first,
        open_stream(gateway.stream("restaurants/r2", token)) as second,
    ):
        await opened(first)
        await opened(second)
        await append_order(passline.nc, "before")
        await append_staff(passline.nc, "s3", "StaffRevoked", restaurant="r1", subject="ann", role="staff")
        await append_order(passline.nc, "after")
        await append_order(passline.nc, "other", restaurant="r2")
        assert await event_ids(first, 1) == ["before"]
        closing = await first.next_event("stream.closing")
        assert said(closing) == {"reason": "revoked"}
        assert await first.read_to_end() is Ending.CUT
        assert "after" not in first.body.decode()
        assert await event_ids(second, 1) == ["other"]
    async with open_stream(gateway.stream("restaurants/r1", token)) as stream:
        assert stream.status == 403


@CORE
async def test_while_the_worker_stands_still_the_revoked_stay_out_and_new_owners_get_in(passline: Passline) -> None:
    gateway = await passline.gateway()
    await append_staff(passline.nc, "s1", "StaffAssigned", restaurant="r1", subject="ann", role="staff")
    await append_order(passline.nc, "old", kind="OrderPlaced", order="old")
    await applied(gateway, 2)
    await passline.stop_worker()
    await append_staff(passline.nc, "s2", "StaffRevoked", restaurant="r1", subject="ann", role="staff")
    await append_staff(passline.nc, "s3", "StaffAssigned", restaurant="r1", subject="bob", role="staff")
    await append_order(passline.nc, "placed", kind="OrderPlaced", order="new", customer="c9")
    await append_order(passline.nc, "moved", kind="OrderAccepted", order="old")
    await eventually(lambda: gateway.gateway.hub.head == 6)
    async with open_stream(gateway.stream("restaurants/r1", gateway.token("ann"))) as stream:
        assert stream.status == 403
    async with open_stream(gateway.customer("new", "c9")) as stream:
        assert await event_ids(stream, 1) == ["placed"]
    async with open_stream(gateway.stream("restaurants/r1", gateway.token("bob"))) as stream:
        await opened(stream)
        snapshot = await stream.next_event("snapshot")
        assert sequence(snapshot.id or "") == 2
        assert [(each["orderId"], each["status"]) for each in said(snapshot)["orders"]] == [("old", "Placed")]
        assert await event_ids(stream, 2) == ["placed", "moved"]
        passline.start_worker()
        await append_order(passline.nc, "last")
        assert await event_ids(stream, 1) == ["last"]
    await applied(gateway, 7)
    async with open_stream(gateway.stream("restaurants/r1", gateway.token("ann"))) as stream:
        assert stream.status == 403


async def test_token_from_before_a_revocation_does_not_bring_the_role_back(passline: Passline) -> None:
    gateway = await passline.gateway()
    token = gateway.token("ann", restaurants={"r1": "owner"})
    async with open_stream(gateway.stream("restaurants/r1", token)) as stream:
        await opened(stream)
        await append_staff(passline.nc, "s1", "StaffRevoked", restaurant="r1", subject="ann", role="owner")
        assert said(await stream.next_event("stream.closing")) == {"reason": "revoked"}
    async with open_stream(gateway.stream("restaurants/r1", token)) as stream:
        assert stream.status == 403


@CORE
async def test_draining_process_ends_its_streams_and_refuses_softly(passline: Passline) -> None:
    first, second = await passline.gateway(), await passline.gateway()
    await append_orders(passline.nc, 3)
    async with open_stream(first.kitchen("r1", query={"since": "1h"})) as stream:
        assert await event_ids(stream, 3) == ["e0", "e1", "e2"]
        await first.gateway.drain(0.1)
        closing = await stream.next_event("stream.closing")
        assert said(closing) == {"reason": "drain"}
        assert closing.retry_ms is not None
        assert 500 <= closing.retry_ms <= 750
        assert await stream.read_to_end() is Ending.CUT
        last_id = stream.parser.last_event_id
    assert not first.gateway.readiness.ready
    async with open_stream(first.kitchen("r1")) as refused:
        assert refused.status == 200
        assert await refused.read_to_end() is Ending.CUT
        assert refused.body.startswith(b"retry: ")
        assert refused.body.count(b"\n") == 2
    await append_order(passline.nc, "later")
    async with open_stream(second.kitchen("r1", last_event_id=last_id)) as stream:
        assert await event_ids(stream, 1) == ["later"]


@CORE
async def test_client_that_leaves_is_forgotten(passline: Passline) -> None:
    gateway = await passline.gateway()
    async with open_stream(gateway.kitchen("r1")) as stream:
        await opened(stream)
        assert len(gateway.gateway.hub) == 1
    await eventually(lambda: len(gateway.gateway.hub) == 0)


@CORE
async def test_slow_client_is_paused_and_misses_nothing(passline: Passline) -> None:
    gateway = await passline.gateway()
    async with open_stream(gateway.kitchen("r1", receive_buffer=4096)) as slow:
        items = [{"name": "x" * 500, "quantity": 1}] * 20
        for begin in range(0, 600, 50):
            await asyncio.gather(
                *(append_order(passline.nc, f"e{n}", kind="OrderPlaced", items=items) for n in range(begin, begin + 50))
            )
        subscriber = next(iter(gateway.gateway.hub._subscribers))
        await eventually(lambda: subscriber.paused)
        ids = await event_ids(slow, 600)
        assert sorted(ids) == sorted(f"e{n}" for n in range(600))
        await append_order(passline.nc, "live")
        assert await event_ids(slow, 1) == ["live"]


async def test_two_topics_of_one_process_don_not_mix(passline: Passline) -> None:
    gateway = await passline.gateway()
    async with open_stream(gateway.kitchen("r1")) as first, open_stream(gateway.kitchen("r2")) as second:
        await opened(first)
        await opened(second)
        for index in range(6):
            await append_order(passline.nc, f"e{index}", restaurant=f"r{index % 2 + 1}", order=f"o{index % 2}")
        assert await event_ids(first, 3) == ["e0", "e2", "e4"]
        assert await event_ids(second, 3) == ["e1", "e3", "e5"]
