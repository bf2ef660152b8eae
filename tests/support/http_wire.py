"""A client's side of HTTP/1.1 (RFC 9112): bytes to a response head and a body whose end is known. Pure.

Our own, because the tests need to know what HTTP clients hide: whether a body ended with its last chunk or was cut.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum, auto

_CHUNK_SIZE = re.compile(rb"[0-9A-Fa-f]{1,15}")
_MAX_HEAD_BYTES = 64 * 1024


class MalformedResponse(Exception):
    """Bytes that are no HTTP/1.1 response."""

    def __init__(self, problem: str, data: bytes) -> None:
        super().__init__(f"{problem}: {data[:200]!r}")


@dataclass(frozen=True)
class ResponseHead:
    """Status and headers; `headers` as sent and in order, names in lower case."""

    status: int
    headers: tuple[tuple[str, str], ...]

    def header(self, name: str) -> str | None:
        """A header's value; of several with this name, all, joined by commas (RFC 9110, section 5.3)."""
        values = [value for each, value in self.headers if each == name.lower()]
        return ", ".join(values) if values else None


def parse_head(data: bytes) -> tuple[ResponseHead, bytes] | None:
    """The head and what follows it; None while it is not complete. Raises MalformedResponse."""
    head, found, rest = data.partition(b"\r\n\r\n")
    if not found:
        if len(data) > _MAX_HEAD_BYTES:
            raise MalformedResponse("a head without an end", data)
        return None
    status_line, *lines = head.split(b"\r\n")
    version, _, status = status_line.partition(b" ")
    if version not in (b"HTTP/1.1", b"HTTP/1.0") or not status[:3].isdigit():
        raise MalformedResponse("no status line", status_line)
    headers = []
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon or name != name.strip() or not name:
            raise MalformedResponse("no header", line)
        headers.append((name.decode("ascii").lower(), value.strip().decode("latin-1")))
    return ResponseHead(int(status[:3]), tuple(headers)), rest


class BodyDecoder:
    """A response body by its framing: chunked, a length, or until the connection closes.

    `complete` becomes true with the last chunk or byte; a body that lasts until close never is. Bytes after the end
    of the body are kept in `excess`.
    """

    def __init__(self, head: ResponseHead) -> None:
        self.complete = False
        self.excess = b""
        self.until_close = False
        self._buffer = bytearray()
        self._state = _Chunk.SIZE
        self._left = 0
        codings = (head.header("transfer-encoding") or "").lower()
        length = head.header("content-length")
        self.chunked = codings == "chunked"
        if codings and not self.chunked:
            raise MalformedResponse("a transfer coding that nobody asked for", codings.encode())
        if self.chunked and length is not None:
            raise MalformedResponse("a length beside chunked coding", length.encode())
        if head.status in (204, 304):
            self.complete = True
        elif length is not None:
            self._left = int(length)
            self.complete = self._left == 0
        elif not self.chunked:
            self.until_close = True

    def feed(self, data: bytes) -> bytes:
        """The part of the body that `data` brings. Raises MalformedResponse."""
        if self.complete:
            self.excess += data
            return b""
        if self.until_close:
            return data
        if not self.chunked:
            taken, rest = data[: self._left], data[self._left :]
            self._left -= len(taken)
            self._finish_if(self._left == 0, rest)
            return taken
        self._buffer += data
        return b"".join(self._chunks())

    def _chunks(self) -> list[bytes]:
        found: list[bytes] = []
        while not self.complete:
            if self._state is _Chunk.DATA:
                taken = bytes(self._buffer[: self._left])
                if not taken:
                    return found
                del self._buffer[: len(taken)]
                self._left -= len(taken)
                found.append(taken)
                if self._left == 0:
                    self._state = _Chunk.END
                continue
            line, end, rest = self._buffer.partition(b"\r\n")
            if not end:
                if len(self._buffer) > _MAX_HEAD_BYTES:
                    raise MalformedResponse("a line of chunked coding without an end", bytes(self._buffer))
                return found
            self._buffer = rest
            self._take_line(bytes(line))
        return found

    def _take_line(self, line: bytes) -> None:
        match self._state:
            case _Chunk.SIZE:
                size = line.partition(b";")[0].strip()
                if not _CHUNK_SIZE.fullmatch(size):
                    raise MalformedResponse("no chunk size", line)
                self._left = int(size, 16)
                self._state = _Chunk.DATA if self._left else _Chunk.TRAILER
            case _Chunk.END:
                if line:
                    raise MalformedResponse("a chunk longer than its size", line)
                self._state = _Chunk.SIZE
            case _:
                self._finish_if(not line, bytes(self._buffer))

    def _finish_if(self, done: bool, rest: bytes) -> None:
        if done:
            self.complete = True
            self.excess += rest
            self._buffer.clear()


class _Chunk(Enum):
    SIZE = auto()
    DATA = auto()
    END = auto()
    TRAILER = auto()
