"""The connection after its request, on real sockets and on both event loops: what it costs, and what clients may do."""

from __future__ import annotations

import asyncio
import random
import socket
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import handover
from gateway.handover import chunk, unchunked
from streams.subscriber import End
from tests.gateway.test_streams import event_ids, opened
from tests.support.logs import append_order, append_orders
from tests.support.nats import eventually
from tests.support.sse_client import Ending, open_stream

if TYPE_CHECKING:
    from tests.support.gateway import Passline, RunningGateway


@pytest.fixture
def database_kind() -> str:
    return "sqlite"


class RawClient:
    """A socket that says what it is told to."""

    def __init__(self, gateway: RunningGateway) -> None:
        host, port = gateway.url.removeprefix("http://").split(":")
        self.address = (host, int(port))
        self.received = b""
        self._socket = socket.socket()
        self._socket.setblocking(False)

    async def connect(self) -> None:
        await asyncio.get_running_loop().sock_connect(self._socket, self.address)

    async def send(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self._socket, data)

    async def until(self, wanted: bytes) -> bytes:
        """All that has come, once `wanted` is in it."""
        async with asyncio.timeout(10):
            while wanted not in self.received:
                data = await asyncio.get_running_loop().sock_recv(self._socket, 65536)
                assert data, f"it ended after {self.received!r}"
                self.received += data
        return self.received

    async def ended(self) -> bool:
        """Wait until the other side closes or resets the connection."""
        async with asyncio.timeout(10):
            try:
                while data := await asyncio.get_running_loop().sock_recv(self._socket, 65536):
                    self.received += data
            except ConnectionError:
                pass
        return True

    def half_close(self) -> None:
        self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self._socket.close()


def head_of(gateway: RunningGateway, restaurant: str = "r1", version: str = "1.1") -> bytes:
    """A request for a restaurant's stream, as bytes."""
    token = gateway.token("chef", restaurants={restaurant: "staff"})
    return (
        f"GET /api/v1/restaurants/{restaurant}/events HTTP/{version}\r\n"
        f"Host: localhost\r\nAuthorization: Bearer {token}\r\n\r\n"
    ).encode()


async def test_open_streams_have_no_task_of_their_own(passline: Passline) -> None:
    gateway = await passline.gateway()
    before = len(asyncio.all_tasks())
    clients = [RawClient(gateway) for _ in range(50)]
    for client in clients:
        await client.connect()
        await client.send(head_of(gateway))
        await client.until(b"event: snapshot")
    assert len(gateway.gateway.hub) == 50
    assert len(asyncio.all_tasks()) <= before + 1
    for client in clients:
        client.close()
    await eventually(lambda: len(gateway.gateway.hub) == 0)


async def test_client_that_closes_half_of_the_connection_has_left(passline: Passline) -> None:
    gateway = await passline.gateway()
    client = RawClient(gateway)
    await client.connect()
    await client.send(head_of(gateway))
    await client.until(b"event: snapshot")
    client.half_close()
    assert await client.ended()
    await eventually(lambda: len(gateway.gateway.hub) == 0)
    client.close()


async def test_pipelined_request_is_not_answered_and_does_not_hide_that_the_client_left(passline: Passline) -> None:
    gateway = await passline.gateway()
    client = RawClient(gateway)
    await client.connect()
    await client.send(head_of(gateway) + b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await client.until(b"event: snapshot")
    await client.send(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await append_order(passline.nc, "first")
    received = await client.until(b"ReceiveOrderStatusChanged")
    assert b'"live"' not in received
    client.close()
    await eventually(lambda: len(gateway.gateway.hub) == 0)


async def test_client_that_keeps_on_sending_is_cut(passline: Passline) -> None:
    gateway = await passline.gateway()
    client = RawClient(gateway)
    await client.connect()
    await client.send(head_of(gateway))
    await client.until(b"event: snapshot")
    try:
        for _ in range(40):
            await client.send(b"x" * 1000)
    except ConnectionError:
        pass
    assert await client.ended()
    await eventually(lambda: len(gateway.gateway.hub) == 0)
    client.close()


async def test_stream_outlives_the_keep_alive_time_of_its_connection(passline: Passline) -> None:
    gateway = await passline.gateway(heartbeat_seconds=0.3)
    async with open_stream(gateway.kitchen("r1")) as stream:
        await opened(stream)
        for _ in range(6):  # uvicorn is set to one second in tests
            block = await stream.next_block()
            assert block is not None


async def test_request_head_that_does_not_end_is_cut(passline: Passline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handover, "HEAD_SECONDS", 0.3)
    gateway = await passline.gateway()
    silent, slow, stream = RawClient(gateway), RawClient(gateway), RawClient(gateway)
    for client in (silent, slow, stream):
        await client.connect()
    await stream.send(head_of(gateway))
    await slow.send(b"GET /health/live HTTP/1.1\r\nHost: local")
    assert await silent.ended()
    assert await slow.ended()
    assert slow.received == b""
    await append_order(passline.nc, "first")
    await stream.until(b"ReceiveOrderStatusChanged")
    for client in (silent, slow, stream):
        client.close()


async def test_request_head_that_is_too_long_is_cut(passline: Passline) -> None:
    gateway = await passline.gateway()
    client = RawClient(gateway)
    await client.connect()
    try:
        await client.send(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n")
        for number in range(400):
            await client.send(b"X-%d: " % number + b"a" * 1000 + b"\r\n")
            await asyncio.sleep(0)
    except ConnectionError:
        pass
    assert await client.ended()
    assert client.received == b""
    client.close()
    ordinary = RawClient(gateway)
    await ordinary.connect()
    await ordinary.send(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nX-Long: " + b"a" * 20_000 + b"\r\n\r\n")
    await ordinary.until(b'{"live":true}')
    ordinary.close()


async def test_later_requests_of_a_connection_are_served_as_ever(passline: Passline) -> None:
    gateway = await passline.gateway()
    client = RawClient(gateway)
    await client.connect()
    for _ in range(3):
        client.received = b""
        await client.send(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await client.until(b'{"live":true}')
    await client.send(head_of(gateway))
    await client.until(b"event: snapshot")
    client.close()


async def test_http_1_0_client_gets_the_same_bytes(passline: Passline) -> None:
    """uvicorn frames its bodies for such clients, too; nginx speaks so to what is behind it, and understands them."""
    gateway = await passline.gateway()
    client = RawClient(gateway)
    await client.connect()
    await client.send(head_of(gateway, version="1.0"))
    received = await client.until(b"event: snapshot")
    assert b"transfer-encoding: chunked" in received
    client.close()


async def test_client_that_stops_reading_is_cut_after_the_limit_and_harms_nobody(passline: Passline) -> None:
    gateway = await passline.gateway(progress_seconds=0.5)
    items = [{"name": "x" * 500, "quantity": 1}] * 20
    async with (
        open_stream(gateway.kitchen("r1", receive_buffer=4096)) as stalled,
        open_stream(gateway.kitchen("r1")) as other,
    ):
        await opened(stalled)
        await opened(other)
        for number in range(120):
            await append_order(passline.nc, f"e{number}", kind="OrderPlaced", items=items)
        assert await event_ids(other, 120) == [f"e{number}" for number in range(120)]
        await eventually(lambda: gateway.gateway.hub.ended[End.STALLED] == 1)
        assert len(gateway.gateway.hub) == 1
        assert await stalled.read_to_end() in (Ending.CUT, Ending.RESET)


async def test_clients_that_are_torn_off_during_fan_outs_leave_nothing_behind(passline: Passline) -> None:
    gateway = await passline.gateway()
    dice = random.Random(20261120)
    publishing = asyncio.create_task(append_orders(passline.nc, 400))
    for _ in range(150):
        client = RawClient(gateway)
        await client.connect()
        await client.send(head_of(gateway))
        if dice.random() < 0.7:
            await client.until(b"event: snapshot")
        if dice.random() < 0.5:
            client._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.close()
    await publishing
    await eventually(lambda: len(gateway.gateway.hub) == 0)
    async with open_stream(gateway.kitchen("r1", query={"since": "1h"})) as stream:
        assert len(await event_ids(stream, 400)) == 400


@given(st.lists(st.binary(min_size=1, max_size=200), max_size=5))
def test_frames_come_off_as_they_were_put_on(payloads: list[bytes]) -> None:
    assert unchunked(b"".join(map(chunk, payloads))) == b"".join(payloads)


def test_chunk_is_framed_as_http_1_1_does() -> None:
    assert chunk(b"id: e-1\n\n") == b"9\r\nid: e-1\n\n\r\n"
    assert chunk(b"x" * 26) == b"1a\r\n" + b"x" * 26 + b"\r\n"
