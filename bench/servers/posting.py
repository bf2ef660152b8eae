"""A connection that posts, for servers that are published to by HTTP."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from bench.errors import BenchError

_LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)


class PostRefused(BenchError):
    """A server did not take what was posted. `head` is what it answered."""

    def __init__(self, head: str) -> None:
        super().__init__(f"not taken: {head}")
        self.head = head


class Poster:
    """One connection, used again and again, by one caller at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def post(self, path: str, body: bytes, header: str = "Accept: */*") -> None:
        """Post it, and wait for the answer. Raises PostRefused."""
        head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{header}\r\nContent-Length: {len(body)}\r\n\r\n"
        self._writer.write(head.encode() + body)
        answer = await self._reader.readuntil(b"\r\n\r\n")
        length = _LENGTH.search(answer)
        if answer[9:10] != b"2" or length is None:
            raise PostRefused(answer.decode(errors="replace"))
        await self._reader.readexactly(int(length[1]))


@asynccontextmanager
async def poster(port: int) -> AsyncIterator[Poster]:
    """A connection to a server on this machine."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield Poster(reader, writer)
    finally:
        writer.close()
