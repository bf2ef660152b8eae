"""The protocol by itself, under applications of a few lines: when it hands over, when it refuses to, what is left."""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import uvicorn
from structlog.testing import capture_logs
from uvicorn.server import ServerState

from gateway import handover
from gateway.handover import EXTENSION, ClientGone, HandoverProtocol, HandoverRefused, StreamConnection, chunk
from tests.gateway.ways import ON_BOTH_LOOPS
from tests.support.nats import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    App = Callable[[Any, Any, Any], Awaitable[None]]

pytestmark = ON_BOTH_LOOPS

GET = b"GET /%b HTTP/1.1\r\nHost: localhost\r\n\r\n"
START: Any = {"type": "http.response.start", "status": 200, "headers": []}


class Client:
    """The other end, and what the server knows of its connection."""

    def __init__(self, end: socket.socket, state: ServerState) -> None:
        self._end = end
        self.state = state

    async def send(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self._end, data)

    def read_now(self) -> bytes:
        """What there is, without a step of the event loop."""
        return self._end.recv(1 << 20)

    async def until(self, wanted: bytes) -> bytes:
        received = b""
        async with asyncio.timeout(5):
            while wanted not in received:
                data = await asyncio.get_running_loop().sock_recv(self._end, 65536)
                assert data, f"it ended after {received!r}"
                received += data
        return received

    async def ended(self) -> bytes:
        """What still came before the other side ended the connection."""
        received = b""
        async with asyncio.timeout(5):
            try:
                while data := await asyncio.get_running_loop().sock_recv(self._end, 65536):
                    received += data
            except ConnectionError:
                pass
        return received

    def leave(self) -> None:
        self._end.close()


@asynccontextmanager
async def connected(app: App) -> AsyncIterator[Client]:
    """A connection that is served by `app`."""
    here, there = socket.socketpair()
    there.setblocking(False)
    config = uvicorn.Config(app, ws="none", lifespan="off", log_config=None, access_log=False)
    config.load()
    state = ServerState()
    transport, _ = await asyncio.get_running_loop().connect_accepted_socket(
        lambda: HandoverProtocol(config, state, {}), here
    )
    try:
        yield Client(there, state)
    finally:
        there.close()
        transport.abort()
        await eventually(lambda: not state.connections and not state.tasks)


async def test_what_is_handed_over_is_all_that_is_left() -> None:
    handed_over: list[StreamConnection] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        handed_over.append(scope["extensions"][EXTENSION]())

    async with connected(app) as client:
        await client.send(GET % b"")
        await eventually(lambda: bool(handed_over) and not client.state.tasks)
        (connection,) = handed_over
        assert client.state.connections == {connection}
        connection.write(chunk(b"now") + chunk(b"later"))
        assert (await client.until(b"later\r\n")).endswith(b"\r\n\r\n3\r\nnow\r\n5\r\nlater\r\n")
        client.leave()
        await eventually(lambda: not client.state.connections)


REFUSED: dict[str, tuple[bytes, list[Any]]] = {
    "not begun": (b"GET", []),
    "ended": (b"GET", [START, {"type": "http.response.body", "body": b""}]),
    "of a known length": (b"GET", [{**START, "headers": [(b"content-length", b"5")]}]),
    "without a body": (b"HEAD", [{**START, "headers": [(b"transfer-encoding", b"chunked")]}]),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_response_at_any_other_point_is_not_handed_over(case: str) -> None:
    method, messages = REFUSED[case]
    refusals: list[Exception] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for message in messages:
            await send(message)
        try:
            scope["extensions"][EXTENSION]()
        except HandoverRefused as refused:
            refusals.append(refused)

    async with connected(app) as client:
        await client.send(GET.replace(b"GET", method) % b"")
        await eventually(lambda: len(refusals) == 1)
        assert not any(isinstance(each, StreamConnection) for each in client.state.connections)


async def test_extension_is_dead_once_its_request_has_ended() -> None:
    kept: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        kept.append(scope["extensions"][EXTENSION])
        await send(START)
        await send({"type": "http.response.body", "body": b"done"})

    async with connected(app) as client:
        await client.send(GET % b"")
        await client.until(b"done")
        await client.send(GET % b"")
        await client.until(b"done")
        with pytest.raises(HandoverRefused):
            kept[0]()


async def test_client_that_left_before_its_head_is_gone_and_nothing_worse() -> None:
    """uvicorn makes no head for it; the one that was to be held is not there to be sent."""
    ends: list[Exception] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        hand_over = scope["extensions"][EXTENSION]
        hand_over.hold_head()
        while (await receive())["type"] != "http.disconnect":
            pass
        await eventually(lambda: hand_over._protocol() is None or hand_over._protocol().transport.is_closing())
        await send(START)
        try:
            hand_over()
        except Exception as end:
            ends.append(end)

    async with connected(app) as client:
        await client.send(GET % b"")
        await eventually(lambda: len(client.state.tasks) == 1)
        client.leave()
        await eventually(lambda: len(ends) == 1)
    assert isinstance(ends[0], ClientGone)


async def test_client_that_left_while_it_was_answered_is_not_handed_over() -> None:
    gone: list[ClientGone] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await receive()
        await receive()
        try:
            scope["extensions"][EXTENSION]()
        except ClientGone as error:
            gone.append(error)

    async with connected(app) as client:
        await client.send(GET % b"")
        await client.until(b"\r\n\r\n")
        client.leave()
        await eventually(lambda: len(gone) == 1)


async def test_request_hears_that_its_client_left_though_another_one_stands_behind_it() -> None:
    heard: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        heard.append((await receive())["type"])

    async with connected(app) as client:
        await client.send(GET % b"first" + GET % b"second")
        await eventually(lambda: len(client.state.tasks) == 1)
        client.leave()
        await eventually(lambda: heard == ["http.disconnect"])


async def test_first_of_two_requests_that_came_together_is_the_one_that_is_handed_over() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(0)  # until the second one has been parsed
        await send(START)
        connection = scope["extensions"][EXTENSION]()
        connection.write(chunk(scope["raw_path"]))

    async with connected(app) as client:
        await client.send(GET % b"first" + GET % b"second")
        assert b"/first" in await client.until(b"/first\r\n")
        (connection,) = client.state.connections
        connection.shutdown()
        assert b"second" not in await client.ended()


async def test_stream_behind_an_ordinary_request_begins_after_it() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        if scope["raw_path"] == b"/stream":
            scope["extensions"][EXTENSION]().write(chunk(b"events"))
        else:
            await send({"type": "http.response.body", "body": b"page"})

    async with connected(app) as client:
        await client.send(GET % b"page" + GET % b"stream")
        received = await client.until(b"events\r\n")
        assert received.index(b"4\r\npage\r\n0\r\n\r\n") < received.index(b"6\r\nevents\r\n")
        assert received.count(b"HTTP/1.1 200") == 2


async def test_body_that_nobody_reads_does_not_hide_that_the_client_left() -> None:
    """So much of it that uvicorn has stopped reading from the connection."""
    handed_over: list[StreamConnection] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await started.wait()
        await send(START)
        handed_over.append(scope["extensions"][EXTENSION]())

    started = asyncio.Event()
    async with connected(app) as client:
        await client.send(b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n")
        await eventually(lambda: len(client.state.tasks) == 1)
        (protocol,) = client.state.connections
        sending = asyncio.create_task(client.send(b"x" * 70_000))
        await eventually(lambda: protocol.flow.read_paused)  # type: ignore[union-attr]
        started.set()
        await sending
        await eventually(lambda: len(handed_over) == 1)
        client.leave()
        await eventually(lambda: not client.state.connections)


async def test_connection_whose_buffer_was_full_already_says_so_and_when_it_is_not() -> None:
    handed_over: list[StreamConnection] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await send({"type": "http.response.body", "body": b"x" * 2_000_000, "more_body": True})
        handed_over.append(scope["extensions"][EXTENSION]())

    async with connected(app) as client:
        await client.send(GET % b"")
        await eventually(lambda: len(handed_over) == 1)
        assert handed_over[0].is_full
        await client.until(b"x\r\n")
        await eventually(lambda: not handed_over[0].is_full)


async def test_nothing_overtakes_what_waits_for_the_client() -> None:
    """As the last words would, just when the socket has room again and the event loop has not heard of it yet."""
    handed_over: list[StreamConnection] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await send({"type": "http.response.body", "body": b"x" * 2_000_000, "more_body": True})
        handed_over.append(scope["extensions"][EXTENSION]())

    async with connected(app) as client:
        await client.send(GET % b"")
        await eventually(lambda: len(handed_over) == 1)
        client.read_now()
        handed_over[0].write(chunk(b"last"))
        assert (await client.until(b"last\r\n")).endswith(b"x\r\n4\r\nlast\r\n")


async def test_connection_that_is_lost_takes_whatever_comes_and_raises_nothing() -> None:
    """The hub may not have heard of it yet, in the middle of a fan-out to others."""
    handed_over: list[StreamConnection] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        handed_over.append(scope["extensions"][EXTENSION]())

    async with connected(app) as client:
        await client.send(GET % b"")
        await eventually(lambda: len(handed_over) == 1)
        client.leave()
        await eventually(lambda: not client.state.connections)
        (connection,) = handed_over
        for _ in range(10):
            connection.write(chunk(b"late"))
        connection.finish(chunk(b"last"))
        connection.abort()
        connection.shutdown()
        assert connection.progress() is None
        await asyncio.sleep(2 * handover.LAST_WORDS_SECONDS)


async def test_connection_beyond_what_descriptors_allow_is_closed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handover, "connection_room", lambda: 0)
    monkeypatch.setattr(HandoverProtocol, "_full_told_at", float("-inf"))

    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError("nobody is served")

    with capture_logs() as logs:
        for _ in range(3):
            async with connected(app) as client:
                assert await client.ended() == b""
    assert [line["event"] for line in logs] == ["connections.full"]
