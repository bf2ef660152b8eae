"""A raw client for event streams: a socket, HTTP/1.1 and an event stream parser, with nothing hidden in between.

It reads only when it is asked to, so a client that is not read from is a stalled one. It records status, headers, the
bytes of the body, each block with its arrival, and how the body ended.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections import deque
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING, Self
from urllib.parse import urlencode, urlsplit

from tests.support.event_stream import Block, EventStreamParser
from tests.support.http_wire import BodyDecoder, MalformedResponse, ResponseHead, parse_head

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

CONNECT_SECONDS = 10.0
_READ_BYTES = 64 * 1024


class Ending(Enum):
    """How a body ended."""

    COMPLETE = auto()  # with its last chunk, or with its last byte by its length
    CUT = auto()  # the connection closed before that
    RESET = auto()  # the connection was reset before that
    LEFT = auto()  # this side closed the connection


class NoResponse(Exception):
    """The connection ended before a whole response head had come. `received` is what came."""

    def __init__(self, received: bytes) -> None:
        super().__init__(f"the connection ended before the response's head: {received[:200]!r}")
        self.received = received


@dataclass(frozen=True, slots=True)
class Arrival:
    """A block, and when its last byte was read (seconds, monotonic)."""

    block: Block
    at: float


@dataclass(frozen=True)
class StreamRequest:
    """A GET for an event stream. `url` is plain http; `query` is added to what it has.

    `receive_buffer` bounds the kernel's receive buffer (SO_RCVBUF, bytes): a small one makes a slow reader. After
    `leave_after` bytes of the body the client leaves, wherever in a block that is.
    """

    url: str
    token: str | None = None
    cookies: Mapping[str, str] = field(default_factory=dict)
    last_event_id: str = ""
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    receive_buffer: int | None = None
    leave_after: int | None = None

    @property
    def target(self) -> tuple[str, int]:
        """Host and port to connect to."""
        parts = urlsplit(self.url)
        assert parts.scheme == "http", f"only plain http: {self.url}"
        assert parts.hostname is not None, f"an absolute address: {self.url}"
        return parts.hostname, parts.port or 80

    def encode(self) -> bytes:
        """The request's bytes. Header values are sent as UTF-8, as browsers send `Last-Event-ID`."""
        parts = urlsplit(self.url)
        query = "&".join(part for part in (parts.query, urlencode(self.query)) if part)
        path = (parts.path or "/") + (f"?{query}" if query else "")
        headers = {"Host": parts.netloc, "Accept": "text/event-stream", "Cache-Control": "no-store"}
        if self.token is not None:
            headers["Authorization"] = f"Bearer {self.token}"
        if self.cookies:
            headers["Cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        if self.last_event_id:
            headers["Last-Event-ID"] = self.last_event_id
        headers |= self.headers
        lines = [f"GET {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
        return "\r\n".join([*lines, "", ""]).encode()


class SseStream:
    """A response to a `StreamRequest`. Of the body, only what was asked for has been read.

    `arrivals` are all blocks so far, `body` all bytes so far, `ending` is None while the body has not ended.
    """

    def __init__(self, connection: socket.socket, head: ResponseHead, request: StreamRequest) -> None:
        self.head = head
        self.parser = EventStreamParser(request.last_event_id)
        self.body = bytearray()
        self.arrivals: list[Arrival] = []
        self.ending: Ending | None = None
        self._connection = connection
        self._decoder = BodyDecoder(head)
        self._leave_after = request.leave_after
        self._unread: deque[Block] = deque()
        self._reading = False
        if self._decoder.complete:
            self.ending = Ending.COMPLETE

    @property
    def status(self) -> int:
        return self.head.status

    @property
    def is_event_stream(self) -> bool:
        """Whether an EventSource would take the response: 200 and the right type, anything else fails it for good."""
        content_type = (self.head.header("content-type") or "").partition(";")[0].strip().lower()
        return self.status == 200 and content_type == "text/event-stream"

    @property
    def ended(self) -> bool:
        return self.ending is not None

    @property
    def blocks(self) -> list[Block]:
        """All blocks that have arrived."""
        return [arrival.block for arrival in self.arrivals]

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Block:
        while not self._unread:
            if not await self.read():
                raise StopAsyncIteration
        return self._unread.popleft()

    async def next_block(self, within: float = 10.0) -> Block | None:
        """The next block, None when the body has ended. Raises TimeoutError: `within` seconds passed without one."""
        async with asyncio.timeout(within):
            return await anext(self, None)

    async def next_event(self, event: str, within: float = 10.0) -> Block:
        """The next block that fires `event`; those before it are passed over. Fails if the body ends first."""
        async with asyncio.timeout(within):
            async for block in self:
                if block.data is not None and block.type == event:
                    return block
        raise AssertionError(f"the body ended ({self.ending}) without a further {event}: {bytes(self.body[-500:])!r}")

    async def read_to_end(self, within: float = 10.0) -> Ending:
        """Read all that comes until the body has ended."""
        async with asyncio.timeout(within):
            while await self.read():
                pass
        assert self.ending is not None
        return self.ending

    async def read(self) -> bool:
        """Wait for something to come, take it off the socket, and tell whether there may be more."""
        if self.ended:
            return False
        self._reading = True
        try:
            data = await asyncio.get_running_loop().sock_recv(self._connection, _READ_BYTES)
        except ConnectionError:
            self._end(Ending.RESET)
            return False
        finally:
            self._reading = False
            if self.ending is Ending.LEFT:  # meanwhile
                self._connection.close()
        if not self.ended:
            self._take(data)
        return not self.ended

    def close(self) -> None:
        """Leave; what was not read is lost. Harmless when closed already, and while somebody reads.

        The other side sees a FIN, or a RST if something was not read: so the kernel does it.
        """
        self._end(Ending.LEFT)
        if self._reading:
            self._connection.shutdown(socket.SHUT_RD)  # wakes the reader, who closes
        else:
            self._connection.close()

    def reset(self) -> None:
        """Leave with a RST, as a client does that crashes."""
        if self._connection.fileno() >= 0:
            self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def _take(self, data: bytes) -> None:
        if not data:
            self._end(Ending.CUT)
            return
        payload = self._decoder.feed(data)
        if self._leave_after is not None:
            payload = payload[: self._leave_after - len(self.body)]
        self.body += payload
        now = time.monotonic()
        for block in self.parser.feed(payload):
            self.arrivals.append(Arrival(block, now))
            self._unread.append(block)
        if len(self.body) == self._leave_after:
            self.close()
        elif self._decoder.complete:
            self._end(Ending.COMPLETE)

    def _end(self, ending: Ending) -> None:
        if self.ending is None:
            self.ending = ending


@asynccontextmanager
async def open_stream(request: StreamRequest) -> AsyncIterator[SseStream]:
    """Send the request and read the response's head. Leaving the block closes the connection.

    Raises:
        OSError: not connected, or no head within CONNECT_SECONDS (then a TimeoutError).
        NoResponse: the connection ended before the response's head.
        MalformedResponse: what came is no HTTP/1.1 response.
    """
    connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        stream = await _exchange(connection, request)
    except BaseException:
        connection.close()
        raise
    try:
        yield stream
    finally:
        stream.close()


async def _exchange(connection: socket.socket, request: StreamRequest) -> SseStream:
    loop = asyncio.get_running_loop()
    connection.setblocking(False)
    if request.receive_buffer is not None:
        # Before the connection is made: the window is settled with the first segment.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, request.receive_buffer)
    async with asyncio.timeout(CONNECT_SECONDS):
        await loop.sock_connect(connection, request.target)
        if connection.getsockname() == connection.getpeername():
            raise ConnectionRefusedError("nobody listened there, and the kernel connected the socket to itself")
        await loop.sock_sendall(connection, request.encode())
        received = b""
        while (parsed := parse_head(received)) is None:
            data = await loop.sock_recv(connection, _READ_BYTES)
            if not data:
                raise NoResponse(received)
            received += data
    head, rest = parsed
    if 100 <= head.status < 200:
        raise MalformedResponse("an interim response that nobody asked for", received)
    stream = SseStream(connection, head, request)
    if rest:
        stream._take(rest)
    return stream
