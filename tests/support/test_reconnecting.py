"""The client that behaves as an EventSource, alone and, with many of it, before a small gateway and the checker."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from random import Random

import pytest

from tests.support.checker import check
from tests.support.findings import Broken
from tests.support.nats import eventually
from tests.support.reconnecting import DEFAULT_RETRY_MS, ReconnectingClient, random_cuts
from tests.support.records import Connection, Grant, History, Opened, Position, Published, Received
from tests.support.scripted_server import LAST_CHUNK, STREAM_HEAD, Exchange, answer, chunk, serving
from tests.support.sse_client import StreamRequest

TOPIC = "restaurants/r1"
OPENED = b'event: stream.opened\ndata: {"verdict":"fresh","from":"k-0","head":"k-0"}\nid: k-0\n\n'


def at_once(retry_ms: int) -> float:
    """A pause for tests that don't want to wait."""
    return 0


def client_of(url: str) -> ReconnectingClient:
    return ReconnectingClient("ada", StreamRequest(url), [Grant(TOPIC)], pause_seconds=at_once)


async def test_client_comes_back_with_its_last_event_id_after_every_end() -> None:
    async def script(exchange: Exchange) -> None:
        number = exchange.request.number
        if number == 1:
            return  # no response at all
        await exchange.send(STREAM_HEAD + chunk(b"id: k-%d\n\nid: k-99\n" % number))
        if number == 2:
            await exchange.send(LAST_CHUNK)
        elif number == 3:
            exchange.reset()
        elif number == 5:
            await exchange.gone()

    async with serving(script) as server, client_of(server.url) as client:
        await client.until(lambda: client.last_event_id == "k-5")

    assert [request.last_event_id for request in server.requests] == [None, None, "k-2", "k-3", "k-4"]
    assert client.log.connections[4] == Connection(5, asked="k-4", status=200, blocks=[Received("k-5")])


async def test_client_waits_as_long_as_it_was_told() -> None:
    pauses: list[int] = []

    def pause(retry_ms: int) -> float:
        pauses.append(retry_ms)
        return 0

    async def script(exchange: Exchange) -> None:
        if exchange.request.number > 1:
            await exchange.send(STREAM_HEAD + chunk(b"retry: 700\n"))
        if exchange.request.number == 3:
            await exchange.gone()

    async with (
        serving(script) as server,
        ReconnectingClient("ada", StreamRequest(server.url), [], pause_seconds=pause) as client,
    ):
        await client.until(lambda: len(pauses) == 2)
    assert pauses == [DEFAULT_RETRY_MS, 700]


@pytest.mark.parametrize(
    ("response", "status"),
    [
        (answer("403 Forbidden", b"{}", "application/problem+json"), 403),
        (answer("503 Service Unavailable"), 503),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204),
        (answer("200 OK", b"<html>", "text/html"), 200),
    ],
)
async def test_a_response_that_is_no_event_stream_ends_the_client(response: bytes, status: int) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.send(response)

    async with serving(script) as server, client_of(server.url) as client:
        await client.until(lambda: client.failed == status)
        with pytest.raises(AssertionError, match=f"ada ended for good with {status}"):
            await client.until(lambda: False)
    assert len(server.requests) == 1


async def test_what_came_is_recorded_as_the_checker_reads_it() -> None:
    blocks = (
        OPENED.replace(b"id: k-0\n", b"")
        + b'event: snapshot\ndata: {"topic":"restaurants/r1","orders":[]}\nid: k-3\n\n'
        + b'event: ReceiveOrderPlaced\ndata: {"eventId":"a","topic":"restaurants/r1","total":null}\nid: k-4\n\n'
        + b'id: k-5\n\nevent: stream.closing\ndata: {"reason":"drain"}\nretry: 5\n\nevent: half\ndata: {"eve'
    )

    async def script(exchange: Exchange) -> None:
        await exchange.send(STREAM_HEAD + chunk(blocks))
        await exchange.gone()

    async with serving(script) as server, client_of(server.url) as client:
        await client.until(lambda: client.connected and len(client.log.connections[0].blocks) == 4)
        assert client.seen == {"a"}

    assert client.log.connections == [
        Connection(
            1,
            status=200,
            opened=Opened("fresh", id=None, from_="k-0", head="k-0"),
            blocks=[
                Received("k-3", "snapshot", None, TOPIC),
                Received("k-4", "ReceiveOrderPlaced", "a", TOPIC),
                Received("k-5"),
                Received(None, "stream.closing"),
            ],
        )
    ]


async def test_client_can_be_told_to_drop() -> None:
    ends: list[bytes | Exception] = []

    async def script(exchange: Exchange) -> None:
        await exchange.send(STREAM_HEAD + chunk(OPENED))
        ends.append(await exchange.gone())

    async with serving(script) as server, client_of(server.url) as client:
        for number, abruptly in enumerate((True, False), start=1):
            await client.until(lambda: client.connected)
            client.drop(abruptly=abruptly)
            await client.until(lambda number=number: len(client.log.connections) > number)  # type: ignore[misc]
        await eventually(lambda: len(ends) == 2)
        assert isinstance(ends[0], ConnectionResetError)
        assert ends[1] == b""


async def test_client_can_be_told_to_stop_reading() -> None:
    stopped = asyncio.Event()
    waiting: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def script(exchange: Exchange) -> None:
        exchange.bound_send_buffer(4096)
        await exchange.send(STREAM_HEAD + chunk(OPENED))
        await stopped.wait()
        await exchange.send(chunk(b"id: k-1\n\n"))  # the piece that is being waited for
        waiting.set_result(exchange.offer(chunk(b"data: {%b}\n\n" % (b" " * 10_000)) * 100))
        await exchange.send(chunk(b"id: k-2\n\n"))
        await exchange.gone()

    async with (
        serving(script) as server,
        ReconnectingClient("ada", StreamRequest(server.url, receive_buffer=4096), []) as client,
    ):
        await client.until(lambda: client.connected)
        client.stop_reading()
        stopped.set()
        assert await asyncio.wait_for(waiting, 5) > 900_000
        await client.until(lambda: client.last_event_id == "k-1")
        client.resume_reading()
        await client.until(lambda: client.last_event_id == "k-2")
    assert len(client.log.connections) == 1
    assert len(client.log.connections[0].blocks) == 102


async def test_an_address_where_nobody_listens_is_tried_again() -> None:
    async with serving(lambda exchange: exchange.send(b"")) as server:
        pass
    async with client_of(server.url) as client:
        await client.until(lambda: len(client.log.connections) == 5)
    assert client.log.connections[3] == Connection(4)


# -- many of them, before a small gateway ------------------------------------------------------------------------------


@dataclass
class SmallGateway:
    """Serves one topic from a log in memory. `loses` is a sequence that it leaves out for those who resume."""

    loses: int = 0
    log: list[str] = field(default_factory=list)
    grown: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def publish(self, event_id: str) -> Published:
        async with self.grown:
            self.log.append(event_id)
            self.grown.notify_all()
        return Published(event_id, (TOPIC,), "ok", f"k-{len(self.log)}")

    async def serve(self, exchange: Exchange) -> None:
        asked = Position.parse(exchange.request.last_event_id or "")
        at = asked.sequence if asked else len(self.log)
        opened = {"verdict": "resumed" if asked else "fresh", "from": f"k-{at}", "head": f"k-{len(self.log)}"}
        await exchange.send(STREAM_HEAD + chunk(_block("stream.opened", opened, at)))
        while True:
            async with self.grown:
                while len(self.log) <= at:
                    await self.grown.wait()
            for event_id in self.log[at:]:
                at += 1
                if asked is None or at != self.loses:
                    await exchange.send(chunk(_block("Event", {"eventId": event_id, "topic": TOPIC}, at)))


def _block(event: str, data: dict[str, str], sequence: int) -> bytes:
    return f"event: {event}\ndata: {json.dumps(data)}\nid: k-{sequence}\n\n".encode()


async def run_through(gateway: SmallGateway) -> History:
    """200 events for 20 clients that leave anywhere, all of which get to the end."""
    random = Random(7)
    history = History()
    async with serving(gateway.serve) as server, AsyncExitStack() as stack:
        clients = [
            ReconnectingClient(
                f"client-{number}",
                StreamRequest(server.url),
                [Grant(TOPIC)],
                pause_seconds=at_once,
                cuts=random_cuts(random, probability=0.9, upto=1500),
            )
            for number in range(20)
        ]
        for client in clients:
            await stack.enter_async_context(client)
            await client.until(lambda client=client: client.connected)  # type: ignore[misc]
        for number in range(200):
            history.published.append(await gateway.publish(f"event-{number}"))
            await asyncio.sleep(0)
        for client in clients:
            client.log.until = f"k-{len(gateway.log)}"
            await client.until(lambda client=client: client.last_event_id == "k-200")  # type: ignore[misc]
            history.clients.append(client.log)
    return history


async def test_clients_that_drop_at_random_resume_without_a_finding() -> None:
    report = check(await run_through(SmallGateway()))

    report.assert_clean()
    assert report.owed == report.delivered == 20 * 200
    assert report.resumed > 100


async def test_a_gateway_that_loses_an_event_for_those_who_resume_is_found_out() -> None:
    report = check(await run_through(SmallGateway(loses=100)))

    assert {finding.broken for finding in report.findings} == {Broken.MISSING}
