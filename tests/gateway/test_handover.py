"""The connection after its request, on real sockets and on both event loops: what it costs, and what clients may do."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import random
import socket
import struct
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from litestar import Request
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from gateway import handover
from gateway.handover import HandoverProtocol, StreamConnection, chunk, unchunked
from tests.gateway.test_streams import event_ids, opened
from tests.gateway.ways import ON_BOTH_LOOPS
from tests.support.logs import append_order, append_orders
from tests.support.nats import eventually
from tests.support.sse_client import open_stream

if TYPE_CHECKING:
    from tests.support.gateway import Passline, RunningGateway


pytestmark = ON_BOTH_LOOPS

_SO_ATTACH_FILTER = 26  # from Linux's headers; Python's module does not name them
_BPF_RETURN = 0x06


class RawClient:
    """A socket that says what it is told to. `receive_buffer` bounds the kernel's (bytes): a small one is soon full."""

    def __init__(self, gateway: RunningGateway, receive_buffer: int | None = None) -> None:
        host, port = gateway.url.removeprefix("http://").split(":")
        self.address = (host, int(port))
        self.received = b""
        self._socket = socket.socket()
        self._socket.setblocking(False)
        if receive_buffer is not None:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)

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

    async def read_some(self, size: int) -> None:
        """Take up to `size` bytes, at least one."""
        async with asyncio.timeout(10):
            data = await asyncio.get_running_loop().sock_recv(self._socket, size)
        assert data, f"it ended after {self.received[-300:]!r}"
        self.received += data

    def vanish(self) -> None:
        """Nothing that is sent to this socket arrives from now on, nor is it answered: as if a cable were pulled.

        By a packet filter of one instruction, "take 0 bytes of it". Needs no rights.
        """
        program = ctypes.create_string_buffer(struct.pack("HBBI", _BPF_RETURN, 0, 0, 0))
        filter_ = struct.pack("HP", 1, ctypes.addressof(program))
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, filter_)

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


def head_of(gateway: RunningGateway, restaurant: str = "r1", *, subject: str = "chef", version: str = "1.1") -> bytes:
    """A request for a restaurant's stream, as bytes. A subject may have four of a restaurant."""
    token = gateway.token(subject, restaurants={restaurant: "staff"})
    return (
        f"GET /api/v1/restaurants/{restaurant}/events HTTP/{version}\r\n"
        f"Host: localhost\r\nAuthorization: Bearer {token}\r\n\r\n"
    ).encode()


async def test_open_streams_have_no_task_of_their_own(passline: Passline) -> None:
    gateway = await passline.gateway()
    before = len(asyncio.all_tasks())
    clients = [RawClient(gateway) for _ in range(50)]
    for number, client in enumerate(clients):
        await client.connect()
        await client.send(head_of(gateway, subject=f"chef-{number}"))
        await client.until(b"event: snapshot")
    assert len(gateway.gateway.hub) == 50
    assert len(asyncio.all_tasks()) <= before + 1
    for client in clients:
        client.close()
    await eventually(lambda: len(gateway.gateway.hub) == 0)


async def test_nothing_of_its_request_stays_with_an_open_stream(passline: Passline) -> None:
    """Not even until the garbage collector comes, which with thousands of streams is seldom and costs much."""
    gateway = await passline.gateway()
    client = RawClient(gateway)
    await client.connect()
    gc.collect()
    gc.disable()
    try:
        await client.send(head_of(gateway) + b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await client.until(b"event: snapshot")
        await eventually(lambda: left_of_requests() == [])
    finally:
        gc.enable()
    client.close()


def left_of_requests() -> list[object]:
    return [each for each in gc.get_objects() if isinstance(each, HandoverProtocol | RequestResponseCycle | Request)]


async def test_kernel_holds_little_for_a_stream(passline: Passline) -> None:
    """It tells twice what it was told, since it counts its own overhead; unasked it would take 2.5 MB and more."""
    gateway = await passline.gateway()
    async with open_stream(gateway.kitchen("r1")) as stream:
        await opened(stream)
        (subscriber,) = gateway.gateway.hub._subscribers
        assert isinstance(subscriber.connection, StreamConnection)
        taken = subscriber.connection._socket.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
        assert taken == 2 * handover.KERNEL_BUFFER_BYTES


async def test_connections_beyond_what_descriptors_allow_are_closed_and_those_that_are_there_stay(
    passline: Passline, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = await passline.gateway()
    monkeypatch.setattr(handover, "connection_room", lambda: 2)
    first, second, third, fourth = (RawClient(gateway) for _ in range(4))
    for client in (first, second):
        await client.connect()
        await client.send(head_of(gateway))
        await client.until(b"event: snapshot")
    await third.connect()
    assert await third.ended()
    assert third.received == b""
    await append_order(passline.nc, "live")
    await second.until(b'"eventId":"live"')
    first.close()
    await eventually(lambda: len(gateway.gateway.hub) == 1)
    await fourth.connect()
    await fourth.send(head_of(gateway))
    await fourth.until(b"event: snapshot")
    for client in (second, third, fourth):
        client.close()


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


async def test_clients_that_are_torn_off_during_fan_outs_leave_nothing_behind(passline: Passline) -> None:
    gateway = await passline.gateway()
    dice = random.Random(20261120)
    publishing = asyncio.create_task(append_orders(passline.nc, 400))
    for number in range(150):
        client = RawClient(gateway)
        await client.connect()
        await client.send(head_of(gateway, subject=f"chef-{number}"))
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
