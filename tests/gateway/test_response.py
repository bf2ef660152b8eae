"""A stream through ASGI's `send`, for servers without the hand-over: what a server that takes nothing does to it."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from gateway import response
from gateway.handover import chunk
from gateway.response import BUFFER_BYTES, AsgiConnection
from gateway.sse import SseEncoder
from streams.frames import Frames
from streams.subscriber import End
from streams.topics import restaurant_feed
from tests.gateway.ways import ON_BOTH_LOOPS
from tests.support.delivery import Delivery, accepted_block, order_entry
from tests.support.nats import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from streams.subscriber import Subscriber

pytestmark = ON_BOTH_LOOPS


class Server:
    """Takes a message only while it is `ready`, and never hears that its client has left."""

    def __init__(self) -> None:
        self.ready = asyncio.Event()
        self.body = b""
        self.done = False

    async def send(self, message: Any) -> None:
        await self.ready.wait()
        self.body += message["body"]

    async def receive(self) -> Any:
        await asyncio.get_running_loop().create_future()


@asynccontextmanager
async def streaming() -> AsyncIterator[tuple[Server, Subscriber, Delivery]]:
    """A subscriber of `restaurants/r1` over such a server."""
    delivery, server = Delivery(), Server()
    delivery.hub.window.frames = Frames("e", SseEncoder(frame=chunk))
    subscriber, _ = delivery.subscribe(restaurant_feed("r1"))
    subscriber.connection = connection = AsgiConnection(server.send)
    connection.subscriber = subscriber

    async def run() -> None:
        await connection.run(server.receive)
        server.done = True

    running = asyncio.create_task(run())
    try:
        yield server, subscriber, delivery
    finally:
        connection.abort()
        await running


async def test_progress_is_what_the_server_takes() -> None:
    async with streaming() as (server, subscriber, _):
        connection = subscriber.connection
        assert connection.progress() is None
        connection.write(chunk(b"first"))
        before = connection.progress()
        assert before is not None
        await asyncio.sleep(0.01)
        assert connection.progress() == before
        server.ready.set()
        await eventually(lambda: connection.progress() is None)
        server.ready.clear()
        connection.write(chunk(b"second"))
        assert (connection.progress() or 0) > before
        server.ready.set()
        await eventually(lambda: server.body == b"firstsecond")


async def test_client_is_paused_while_its_server_takes_nothing_and_misses_nothing() -> None:
    async with streaming() as (server, subscriber, delivery):
        subscriber.connection.write(chunk(b"x" * BUFFER_BYTES))
        assert subscriber.paused
        delivery.dispatch(order_entry(1))
        assert not subscriber.live
        server.ready.set()
        await eventually(lambda: server.body.endswith(accepted_block(1, "restaurants/r1")))
        assert subscriber.live


async def test_stream_that_ended_waits_no_longer_than_it_must_for_its_last_bytes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(response, "LAST_BYTES_SECONDS", 0.1)
    async with streaming() as (server, subscriber, _):
        subscriber.close(End.REVOKED)
        await eventually(lambda: server.done)


async def test_last_words_are_sent_before_the_stream_is_cut() -> None:
    async with streaming() as (server, subscriber, _):
        server.ready.set()
        subscriber.connection.write(chunk(accepted_block(1, "restaurants/r1")))
        subscriber.close(End.REVOKED)
        await eventually(lambda: server.done)
        assert server.body.startswith(accepted_block(1, "restaurants/r1"))
        assert b'{"reason":"revoked"}' in server.body
