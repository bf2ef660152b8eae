"""The raw client: what it sends, what it records, how it sees a body end, and how it leaves."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

import pytest

from tests.support.http_wire import MalformedResponse
from tests.support.nats import eventually
from tests.support.scripted_server import LAST_CHUNK, STREAM_HEAD, answer, chunk, serving
from tests.support.sse_client import Ending, NoResponse, StreamRequest, open_stream

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.support.scripted_server import Exchange


def saying(*parts: bytes) -> Callable[[Exchange], Awaitable[None]]:
    """A script that says this and closes."""

    async def script(exchange: Exchange) -> None:
        await exchange.send(b"".join(parts))

    return script


async def test_request_is_what_was_asked_for() -> None:
    async with serving(saying(answer("403 Forbidden", b"no"))) as server:
        request = StreamRequest(
            f"{server.url}/orders/o1/events?since=15m",
            token="a.b.c",
            cookies={"__Host-s": "1", "t": "2"},
            last_event_id="k3f9-7",
            query={"last_event_id": "a b"},
            headers={"Origin": "https://example.test"},
        )
        async with open_stream(request) as stream:
            assert stream.status == 403
            assert not stream.is_event_stream
            assert await stream.read_to_end() is Ending.COMPLETE
            assert stream.body == b"no"
    assert server.requests[0].target == "/orders/o1/events?since=15m&last_event_id=a+b"
    assert server.requests[0].headers == {
        "host": server.url.removeprefix("http://"),
        "accept": "text/event-stream",
        "cache-control": "no-store",
        "authorization": "Bearer a.b.c",
        "cookie": "__Host-s=1; t=2",
        "last-event-id": "k3f9-7",
        "origin": "https://example.test",
    }


async def test_blocks_are_recorded_with_their_arrival() -> None:
    blocks = b"event: a\ndata: 1\nid: k-1\n\nid: k-2\n\n"

    async with (
        serving(saying(STREAM_HEAD, chunk(blocks), LAST_CHUNK)) as server,
        open_stream(StreamRequest(server.url)) as stream,
    ):
        assert stream.is_event_stream
        first = await stream.next_block()
        assert first is not None
        assert (first.event, first.data, first.id) == ("a", "1", "k-1")
        assert [block.id async for block in stream] == ["k-2"]
        assert await stream.next_block() is None
        assert stream.ending is Ending.COMPLETE
    assert stream.body == blocks
    assert stream.arrivals[0].at <= stream.arrivals[1].at <= asyncio.get_running_loop().time()


async def test_the_wanted_event_is_found_among_others() -> None:
    body = b"event: a\ndata: 1\n\nid: k-2\n\nevent: b\ndata: 3\n\n"

    async with serving(saying(STREAM_HEAD, chunk(body))) as server, open_stream(StreamRequest(server.url)) as stream:
        assert (await stream.next_event("b")).data == "3"
        with pytest.raises(AssertionError, match="CUT"):
            await stream.next_event("c")


@pytest.mark.parametrize(
    ("wire", "ending"),
    [
        (chunk(b"id: 1\n\n") + LAST_CHUNK, Ending.COMPLETE),
        (chunk(b"id: 1\n\n"), Ending.CUT),
        (b"9\r\nid: 1\n\n", Ending.CUT),
    ],
)
async def test_end_of_body_is_told_from_a_cut(wire: bytes, ending: Ending) -> None:
    async with serving(saying(STREAM_HEAD, wire)) as server, open_stream(StreamRequest(server.url)) as stream:
        assert await stream.read_to_end() is ending
        assert stream.body == b"id: 1\n\n"


async def test_a_reset_is_told_from_a_cut() -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.send(STREAM_HEAD)
        exchange.reset()

    async with serving(script) as server, open_stream(StreamRequest(server.url)) as stream:
        assert await stream.read_to_end() is Ending.RESET


@pytest.mark.parametrize(("abruptly", "seen"), [(False, b""), (True, ConnectionResetError)])
async def test_client_leaves_in_order_or_abruptly_even_while_it_reads(
    abruptly: bool, seen: bytes | type[Exception]
) -> None:
    how: asyncio.Future[bytes | Exception] = asyncio.get_running_loop().create_future()

    async def script(exchange: Exchange) -> None:
        await exchange.send(STREAM_HEAD + chunk(b"id: 1\n\n"))
        how.set_result(await exchange.gone())

    async with serving(script) as server, open_stream(StreamRequest(server.url)) as stream:
        await stream.next_block()
        reading = asyncio.create_task(stream.read_to_end())
        await eventually(lambda: stream._reading)
        stream.reset() if abruptly else stream.close()
        assert await reading is Ending.LEFT
        result = await asyncio.wait_for(how, 5)
        assert result == seen if isinstance(seen, bytes) else isinstance(result, seen)


@pytest.mark.parametrize("leave_after", [1, 7, 8, 13])
async def test_client_leaves_at_any_byte(leave_after: int) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.send(STREAM_HEAD + chunk(b"id: 1\n\nid: 2\n\n"))
        await exchange.gone()

    async with serving(script) as server, open_stream(StreamRequest(server.url, leave_after=leave_after)) as stream:
        assert await stream.read_to_end() is Ending.LEFT
    assert stream.body == b"id: 1\n\nid: 2\n\n"[:leave_after]
    assert [block.id for block in stream.blocks] == ["1"] * (leave_after >= 7)


async def test_a_client_that_does_not_read_stalls_the_server() -> None:
    waiting: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def script(exchange: Exchange) -> None:
        exchange.bound_send_buffer(4096)
        await exchange.send(STREAM_HEAD)
        waiting.set_result(exchange.offer(chunk(b"data: %b\n\n" % (b"x" * 10_000)) * 100))
        await exchange.send(LAST_CHUNK)

    async with (
        serving(script) as server,
        open_stream(StreamRequest(server.url, receive_buffer=4096)) as stream,
    ):
        assert await asyncio.wait_for(waiting, 5) > 900_000
        assert await stream.read_to_end() is Ending.COMPLETE
        assert len(stream.blocks) == 100


async def test_no_response_is_no_stream() -> None:
    async with serving(saying(b"HTTP/1.1 200")) as server:
        with pytest.raises(NoResponse) as caught:
            async with open_stream(StreamRequest(server.url)):
                pass
        assert caught.value.received == b"HTTP/1.1 200"


async def test_nonsense_is_no_stream() -> None:
    async with serving(saying(b"220 ready\r\n\r\n")) as server:
        with pytest.raises(MalformedResponse):
            async with open_stream(StreamRequest(server.url)):
                pass


async def test_nobody_there_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        host, port = listener.getsockname()
    with pytest.raises(ConnectionRefusedError):
        async with open_stream(StreamRequest(f"http://{host}:{port}/")):
            pass
