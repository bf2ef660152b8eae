"""A server that says exactly what a test tells it to, to try clients on."""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nCache-Control: no-store\r\n"
    b"Access-Control-Allow-Origin: *\r\nAccess-Control-Allow-Headers: *\r\nTransfer-Encoding: chunked\r\n\r\n"
)
LAST_CHUNK = b"0\r\n\r\n"


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def answer(status: str, body: bytes = b"", content_type: str = "text/plain") -> bytes:
    """A whole response with its length."""
    head = f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


@dataclass(frozen=True)
class Request:
    """What a client asked; header names in lower case."""

    number: int
    method: str
    target: str
    headers: dict[str, str]

    @property
    def last_event_id(self) -> str | None:
        return self.headers.get("last-event-id")


class Exchange:
    """One request and the connection it came on. The connection closes when the script returns."""

    def __init__(self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.request = request
        self._reader = reader
        self._writer = writer

    async def body(self) -> bytes:
        """What the request carries, by its length."""
        return await self._reader.readexactly(int(self.request.headers.get("content-length", "0")))

    async def send(self, data: bytes) -> None:
        """Raises ConnectionError: the client has gone."""
        self._writer.write(data)
        await self._writer.drain()

    def offer(self, data: bytes) -> int:
        """Send without waiting. Returns how much the kernel did not take."""
        self._writer.write(data)
        return self._writer.transport.get_write_buffer_size()

    def bound_send_buffer(self, size: int) -> None:
        """SO_SNDBUF, in bytes."""
        self._writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)

    async def gone(self) -> bytes | Exception:
        """Wait until the client has closed; how: b"" is a FIN, else the error."""
        try:
            return await self._reader.read()
        except ConnectionError as error:
            return error

    def reset(self) -> None:
        """Close with a RST."""
        connection = self._writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()


@dataclass
class ScriptedServer:
    """`requests` are all so far. `failures` are what scripts raised; they fail the test when the server closes."""

    url: str
    requests: list[Request]
    failures: list[Exception]


@asynccontextmanager
async def serving(script: Callable[[Exchange], Awaitable[None]]) -> AsyncIterator[ScriptedServer]:
    """Runs `script` for every request, on a free port of the loopback interface. A client that leaves ends it."""
    running = ScriptedServer("", [], [])
    tasks: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            method, target, _ = head[0].split(" ")
            headers = dict(line.split(": ", 1) for line in head[1:] if line)
            headers = {name.lower(): value for name, value in headers.items()}
            request = Request(len(running.requests) + 1, method, target, headers)
            running.requests.append(request)
            await script(Exchange(request, reader, writer))
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        except Exception as error:  # the edge of a task: the test learns it below
            running.failures.append(error)
        finally:
            writer.close()

    def start(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(handle(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(start, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    running.url = f"http://{host}:{port}"
    try:
        yield running
    finally:
        server.close()
        for task in tuple(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()
    if running.failures:
        raise ExceptionGroup("the script failed", running.failures)
