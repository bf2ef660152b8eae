"""The listening socket, and one gateway process on it: when it listens, what it tells, and how it drains."""

from __future__ import annotations

import asyncio
import json
import logging
import shutil
import signal
import socket
import time
import traceback
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Self

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from auth.claims import Role
from auth.keys import development_key
from gateway import process, serve
from gateway.children import Status
from gateway.handover import HandoverProtocol
from gateway.minting import mint_token
from gateway.process import due_to_end
from gateway.response import AsgiConnection
from gateway.serve import GatewayServer, as_meant
from gateway.settings import Settings
from gateway.supervisor import ListenerNotUsable, listen
from gateway.worker import run as run_worker
from streams.database import open_database
from streams.errors import StreamMissing
from streams.migrations import WrongSchema
from streams.projection import Projection
from streams.tail import Place, find_place
from tests.support.logs import append_order
from tests.support.nats import client, eventually
from tests.support.sse_client import Ending, StreamRequest, open_stream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from nats.aio.client import Client

    from streams.embedded import EmbeddedNats

# -- The listening socket --------------------------------------------------------------------------------------------


def test_port_that_is_taken_is_told_in_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ListenerNotUsable, match=f"127.0.0.1:{port} .*Address already in use.*--port") as refusal:
            listen("127.0.0.1", port)
    assert refusal.value.port == port
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("host", ["no-such-host.invalid", "203.0.113.7", "a" * 300])
def test_host_that_is_not_ours_is_told_in_one_line(host: str) -> None:
    with pytest.raises(ListenerNotUsable, match="choose another --host") as refusal:
        listen(host, 0)
    assert refusal.value.host == host


@pytest.mark.parametrize(("host", "reached_at"), [("127.0.0.1", "127.0.0.1"), ("::1", "::1"), ("::", "127.0.0.1")])
def test_listener_holds_connections_before_anybody_takes_them(host: str, reached_at: str) -> None:
    with listen(host, 0) as listener:
        assert not listener.getblocking()
        with socket.create_connection((reached_at, listener.getsockname()[1]), timeout=5):
            pass


# -- One gateway process ---------------------------------------------------------------------------------------------


def logged(message: str) -> str | None:
    """What of a message of uvicorn's comes into the log."""
    record = logging.LogRecord("uvicorn.error", logging.ERROR, "", 0, message, (), None)
    return record.getMessage() if as_meant(record) else None


def test_only_the_complaint_about_a_cut_stream_is_kept_out_of_the_log() -> None:
    assert logged("ASGI callable returned without completing response.") is None
    for message in ("ASGI callable returned without starting response.", "Exception in ASGI application\n"):
        assert logged(message) == message


def test_start_that_fails_for_a_known_reason_is_told_in_one_line() -> None:
    def traceback_of(error: Exception) -> str:
        try:
            raise ExceptionGroup("unhandled errors in a TaskGroup", [error])
        except ExceptionGroup as group:
            return "".join(traceback.format_exception(group))

    assert logged(traceback_of(StreamMissing("EVENTS"))) == str(StreamMissing("EVENTS"))
    assert logged(traceback_of(WrongSchema(None, "0001"))) == str(WrongSchema(None, "0001"))
    unknown = traceback_of(ZeroDivisionError("of ours"))
    assert logged(unknown) == unknown


class Serving:
    """A GatewayServer in the test's own loop, and what it reported."""

    def __init__(self, settings: Settings, nc: Client, listen_seconds: float | None) -> None:
        self.reports: list[Status] = []
        self.server = GatewayServer(settings, self.reports.append, listen_seconds=listen_seconds)
        self.settings = settings
        self.nc = nc
        self.listener = listen("127.0.0.1", 0)
        self.port = self.listener.getsockname()[1]

    @property
    def connections(self) -> list[HttpToolsProtocol]:
        """Those that are no streams."""
        return [each for each in self.server.server_state.connections if isinstance(each, HttpToolsProtocol)]

    def kitchen(self) -> StreamRequest:
        token, _ = mint_token(self.settings, subject="giulia", life_seconds=60, restaurants={"r1": Role.OWNER})
        return self._stream("restaurants/r1", token)

    def customer(self, order: str) -> StreamRequest:
        token, _ = mint_token(self.settings, subject="c1", life_seconds=60)
        return self._stream(f"orders/{order}", token)

    async def drains(self) -> None:
        """The signal to end, and wait until the port has closed."""
        signal.raise_signal(signal.SIGTERM)
        await eventually(lambda: is_refused(self.port))

    def _stream(self, topic: str, token: str) -> StreamRequest:
        return StreamRequest(f"http://127.0.0.1:{self.port}/api/v1/{topic}/events?snapshot=false", token=token)


@pytest.fixture
async def settings(log_server: EmbeddedNats, migrated_sqlite: Path) -> AsyncIterator[Settings]:
    """With a broker, a database and a worker behind them."""
    data_dir = log_server.layout.data_dir
    development_key(data_dir)
    shutil.copyfile(migrated_sqlite, data_dir / "passline.db")
    settings = Settings.from_environment({}, data_dir=data_dir, drain_seconds=0.5)
    worker = asyncio.create_task(run_worker(settings, log_server.url("worker")))
    async with open_database(settings.sql_url) as engine:

        async def is_begun() -> bool:
            return await Projection(engine).position() is not None

        await eventually(is_begun)
    yield settings
    worker.cancel()
    await asyncio.wait({worker})


@asynccontextmanager
async def started(
    settings: Settings, broker: EmbeddedNats, *, listen_seconds: float | None = None
) -> AsyncIterator[Serving]:
    """On its way; nothing has been waited for."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    async with client(broker, "gateway") as nc:
        running = Serving(settings, nc, listen_seconds)
        task = asyncio.create_task(running.server.serve([running.listener]))
        try:
            yield running
        finally:
            running.server.should_exit = True
            await task
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
async def serving(settings: Settings, log_server: EmbeddedNats) -> AsyncIterator[Serving]:
    """Ready."""
    async with started(settings, log_server) as running:
        await eventually(lambda: running.reports != [] and running.reports[-1].ready)
        yield running


class RawClient:
    """A connection that says what it is told to, when it is told to."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()

    async def ask(self, request: StreamRequest | bytes) -> None:
        self._writer.write(request if isinstance(request, bytes) else request.encode())
        await self._writer.drain()

    async def answer_with(self, wanted: bytes) -> bytes:
        """All that has come by the time that `wanted` has."""
        async with asyncio.timeout(10):
            return await self._reader.readuntil(wanted)

    async def rest(self) -> bytes:
        """What comes until the other side closes."""
        async with asyncio.timeout(10):
            return await self._reader.read()


HEALTH = b"GET /health/ready HTTP/1.1\r\nHost: localhost\r\n\r\n"


async def test_server_reports_its_open_streams_and_its_position(serving: Serving) -> None:
    async with open_stream(serving.kitchen()) as stream:
        await stream.next_event("stream.opened")
        await eventually(lambda: serving.reports[-1].streams == 1)
    await eventually(lambda: serving.reports[-1].streams == 0)
    assert serving.reports[-1].cursor == serving.server.gateway.hub.frames.cursor(0)
    assert all(before != after for before, after in pairwise(serving.reports))


async def test_blocked_loop_is_reported_and_shown_by_the_health_check(serving: Serving) -> None:
    def block() -> None:
        until = time.monotonic() + 10
        while not logs and time.monotonic() < until:
            time.sleep(0.01)

    with capture_logs() as logs:
        asyncio.get_running_loop().call_soon(block)
        await eventually(lambda: serving.reports[-1].times_blocked == 1)
    assert [each["event"] for each in logs] == ["loop.blocked", "loop.unblocked"]
    assert serving.reports[-1].worst_lag_seconds >= 0.5
    async with RawClient(serving.port) as health:
        await health.ask(HEALTH)
        answer = await health.answer_with(b"}")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["worstLagSeconds"] >= 0.5


@pytest.fixture
def broken_handover(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a uvicorn would that starts its requests otherwise."""
    monkeypatch.setattr(HandoverProtocol, "_start_asgi_task", HttpToolsProtocol._start_asgi_task)


async def test_server_whose_handover_does_not_work_serves_its_streams_all_the_same(
    broken_handover: None, serving: Serving
) -> None:
    async with open_stream(serving.kitchen()) as stream:
        await stream.next_event("stream.opened")
        (subscriber,) = serving.server.gateway.hub._subscribers
        assert isinstance(subscriber.connection, AsgiConnection)
    await eventually(lambda: len(serving.server.gateway.hub) == 0)


async def test_process_whose_broker_connection_is_closed_for_good_ends_its_streams_and_itself(
    serving: Serving,
) -> None:
    async with open_stream(serving.kitchen()) as stream:
        await stream.next_event("stream.opened")
        await serving.server.gateway.publisher._client.close()
        closing = await stream.next_event("stream.closing")
        assert closing.data == '{"reason":"drain"}'
        assert await stream.read_to_end() is Ending.CUT
    assert serving.server.unfit == "the broker has closed the connection for good"
    assert serving.server.should_exit
    await eventually(lambda: is_refused(serving.port))


# -- When it listens -------------------------------------------------------------------------------------------------


@pytest.fixture
def place_found(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Until it is set, a tail does not find where to begin."""
    found = asyncio.Event()

    async def find_later(*args: Any) -> Place:
        await found.wait()
        return await find_place(*args)

    monkeypatch.setattr(process, "find_place", find_later)
    return found


async def test_who_connects_before_the_process_is_ready_waits_and_is_not_refused(
    place_found: asyncio.Event, settings: Settings, log_server: EmbeddedNats
) -> None:
    async with started(settings, log_server) as starting, RawClient(starting.port) as early:
        await early.ask(starting.kitchen())
        await eventually(lambda: hasattr(starting.server._app.state, "gateway"))
        assert starting.connections == []
        assert starting.reports == []
        place_found.set()
        await early.answer_with(b"event: stream.opened\n")
        assert starting.reports[0].ready


async def test_process_that_is_not_ready_for_long_listens_to_say_why(
    place_found: asyncio.Event, settings: Settings, log_server: EmbeddedNats
) -> None:
    async with started(settings, log_server, listen_seconds=0.1) as late, RawClient(late.port) as health:
        await health.ask(HEALTH)
        answer = await health.answer_with(b"}")
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b'"reason":"reading the log up to where it was at the start"' in answer
        place_found.set()
        await eventually(lambda: late.reports[-1].ready)


async def test_process_whose_log_is_another_one_listens_to_say_so(settings: Settings, log_server: EmbeddedNats) -> None:
    async with open_database(settings.sql_url) as engine:
        await Projection(engine).set_position("another", 7, 0.0)
    async with started(settings, log_server) as other, RawClient(other.port) as health:
        await health.ask(HEALTH)
        answer = await health.answer_with(b"}")
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"passline epoch bump" in answer


# -- How it drains ---------------------------------------------------------------------------------------------------


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is waited for before a drain is looked at in every turn of the loop, so that no wait is owed to chance."""
    monkeypatch.setattr(serve, "_STEP_SECONDS", 0)


async def test_ready_goes_false_before_the_port_closes(serving: Serving) -> None:
    signal.raise_signal(signal.SIGTERM)
    await eventually(lambda: not serving.server.gateway.readiness.ready)
    assert not is_refused(serving.port)
    await eventually(lambda: is_refused(serving.port))
    assert not serving.reports[-1].ready


@pytest.mark.usefixtures("eager")
async def test_connection_that_was_taken_before_the_port_closed_still_gets_its_stream(serving: Serving) -> None:
    async with RawClient(serving.port) as late:
        await eventually(lambda: len(serving.connections) == 1)
        await serving.drains()
        await late.ask(serving.kitchen())
        received = await late.rest()
    assert b"event: stream.opened\n" in received
    assert b'event: stream.closing\ndata: {"reason":"drain"}\n' in received


@pytest.mark.usefixtures("eager")
async def test_request_that_was_under_way_when_the_port_closed_still_becomes_a_stream(serving: Serving) -> None:
    async with RawClient(serving.port) as late:
        await late.ask(serving.customer("o-new"))  # nobody has heard of it: it is waited for
        await eventually(lambda: any(map(serve.is_undecided, serving.connections)))
        await serving.drains()
        await append_order(serving.nc, "e1", order="o-new", kind="OrderPlaced")
        received = await late.rest()
    assert b"event: stream.opened\n" in received
    assert b'event: stream.closing\ndata: {"reason":"drain"}\n' in received


async def test_connection_that_says_nothing_does_not_hold_up_the_end(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve, "HEAD_SETTLE_SECONDS", 0.1)
    async with RawClient(serving.port) as silent:
        await eventually(lambda: len(serving.connections) == 1)
        await serving.drains()
        assert await silent.rest() == b""


async def test_connection_between_two_requests_is_closed_when_the_drain_begins(serving: Serving) -> None:
    """Or a proxy that keeps connections would go on sending clients to a process that takes none."""
    serving.server._drain_seconds = 600
    serving.server.config.timeout_keep_alive = 600
    async with (
        RawClient(serving.port) as kept,
        open_stream(serving.kitchen()) as first,
        open_stream(serving.kitchen()) as second,
    ):
        for stream in (first, second):
            await stream.next_event("stream.opened")
        await kept.ask(HEALTH)
        await kept.answer_with(b"}")
        await serving.drains()
        assert await kept.rest() == b""
        await first.next_event("stream.closing")
        assert not second.ended


async def test_drained_streams_are_told_different_times_to_come_back(serving: Serving) -> None:
    async with AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(open_stream(serving.kitchen())) for _ in range(4)]
        for stream in streams:
            await stream.next_event("stream.opened")
        await serving.drains()
        told = [(await stream.next_event("stream.closing")).retry_ms for stream in streams]
    assert len(set(told)) > 1
    assert all(each is not None and 1000 <= each <= 3000 for each in told)


@given(st.integers(0, 20_000), st.floats(0.01, 600), st.floats(0, 1))
def test_drain_is_even_over_its_window(streams: int, window: float, share: float) -> None:
    assert abs(due_to_end(streams, window * share, window) - streams * share) <= 1.001
    assert due_to_end(streams, 0, window) == min(streams, 1)
    assert due_to_end(streams, window, window) == streams


def test_drain_without_a_window_ends_all_at_once() -> None:
    assert due_to_end(16_000, 0.0, 0.0) == 16_000


def is_refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except ConnectionRefusedError:
        return True
    return False
