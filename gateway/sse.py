"""The wire format of Server-Sent Events (HTML Living Standard, section 9.2). Pure functions from values to bytes.

`id` stands last in each block, so that a client that is cut inside a block has not moved past it.
"""

from __future__ import annotations

import datetime as dt
import random
import re
import time
from collections.abc import Callable

from gateway.errors import GatewayError

CONTENT_TYPE = b"text/event-stream; charset=utf-8"
"""What an EventSource accepts."""

MIN_RETRY_MS = 500
MAX_RETRY_MS = 600_000
_LINE_END = re.compile(rb"\r\n|\r|\n")  # only these: U+2028 and its kin are data
_FORBIDDEN = re.compile(r"[\r\n\0]")


class InvalidField(GatewayError, ValueError):
    """A value that can't stand in a field of an event stream. `field` is the field's name."""

    def __init__(self, field: str, wanted: str) -> None:
        super().__init__(f"{field}: {wanted}")
        self.field = field


def block(
    data: bytes | None = None,
    *,
    event: str | None = None,
    cursor: str | None = None,
    retry_ms: int | None = None,
) -> bytes:
    """One block, its blank line included. `data` is UTF-8; `cursor` becomes the `id`.

    Without `data` no event fires in the client, but the id and the retry time take effect. `retry_ms` is clamped to
    half a second and ten minutes: a client that is told to come back at once does so hundreds of times a second.

    Raises:
        InvalidField: a line end or NUL in `event` or `cursor`, or one that is not ASCII (there are clients that
            reconnect for ever over such an id), or nothing to say.
    """
    lines: list[bytes] = []
    if retry_ms is not None:
        lines.append(b"retry: %d\n" % min(max(retry_ms, MIN_RETRY_MS), MAX_RETRY_MS))
    if event is not None:
        lines.append(b"event: %b\n" % _field("event", event))
    if data is not None:
        if b"\n" in data or b"\r" in data:
            lines.extend(b"data: %b\n" % line for line in _LINE_END.split(data))
        else:
            lines.append(b"data: %b\n" % data)
    if cursor is not None:
        lines.append(b"id: %b\n" % _field("id", cursor))
    if not lines:
        raise InvalidField("data", "a block says something")
    lines.append(b"\n")
    return b"".join(lines)


def _field(name: str, value: str) -> bytes:
    if not value or not value.isascii() or _FORBIDDEN.search(value):
        raise InvalidField(name, "ASCII without line ends and NUL, and not empty")
    return value.encode("ascii")


class SseEncoder:
    """The `streams.frames.Encoder` of this gateway.

    `retry_ms` is the middle of the time after which clients come back; each is told its own, half of it more or less,
    so that they don't come back as one. `frame` is put around each block: HTTP's framing, made once for all
    connections.
    """

    def __init__(
        self,
        retry_ms: int = 2000,
        jitter: random.Random | None = None,
        frame: Callable[[bytes], bytes] = bytes,
    ) -> None:
        self._retry_ms = retry_ms
        self._frame = frame
        self._jitter = jitter or random.Random()  # noqa: S311 - spreads load, guards nothing

    def event(self, name: str, data: bytes, cursor: str | None) -> bytes:
        """One event with its data, JSON on one line."""
        return self._frame(block(data, event=name, cursor=cursor))

    def opened(self, data: bytes, cursor: str | None) -> bytes:
        """The first block of a stream. It sets the time after which this client comes back."""
        return self._frame(block(data, event="stream.opened", cursor=cursor, retry_ms=self.jittered_retry_ms()))

    def heartbeat(self, cursor: str) -> bytes:
        """Only an id: the client's last event id moves and nothing fires."""
        return self._frame(block(cursor=cursor))

    def retry(self) -> bytes:
        """Only a time to come back: the whole body of a soft refusal."""
        return self._frame(block(retry_ms=self.jittered_retry_ms()))

    def expiring(self, seconds: float) -> bytes:
        """The token ends in so many seconds, and with it the stream, unless a newer token is presented."""
        expires_at = dt.datetime.fromtimestamp(time.time() + seconds, dt.UTC)
        data = b'{"expiresAt":"%b"}' % expires_at.isoformat(timespec="seconds").replace("+00:00", "Z").encode("ascii")
        return self._frame(block(data, event="stream.expiring"))

    def closing(self, reason: str) -> bytes:
        """The last block of a stream that the server ends."""
        data = b'{"reason":"%b"}' % reason.encode("ascii")
        return self._frame(block(data, event="stream.closing", retry_ms=self.jittered_retry_ms()))

    def jittered_retry_ms(self) -> int:
        """The time to come back, in milliseconds, half of it more or less."""
        return int(self._retry_ms * self._jitter.uniform(0.5, 1.5))
