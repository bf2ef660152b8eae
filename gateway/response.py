"""The stream response: the head, then whatever the hub writes, until the stream is cut.

After the head the connection is handed over to the hub. On a server without that extension the same bytes go through
ASGI's `send`: the same behaviour at a higher cost.

Every end is a cut, without the last chunk: some clients take an orderly end for "done" and never come back. So the
ASGI callable returns without completing the body, and the server closes the connection.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

import msgspec
import structlog

from gateway.handover import EXTENSION, LAST_BYTES_SECONDS, LAST_WORDS_SECONDS, ClientGone, HandoverRefused, unchunked
from gateway.sse import CONTENT_TYPE
from streams.errors import SubscriptionRefused
from streams.subscriber import End, Grant, Subscriber

if TYPE_CHECKING:
    from litestar.types import Receive, Scope, Send

    from gateway.handover import Handover, StreamConnection
    from gateway.sse import SseEncoder
    from streams.hub import Hub
    from streams.topics import Feed

BUFFER_BYTES = 64 * 1024
"""What a connection holds for a client that does not read, beside one frame; beyond it the subscriber is paused."""

STREAM_HEADERS = (
    (b"content-type", CONTENT_TYPE),
    # Proxies must neither keep, nor compress, nor collect what passes.
    (b"cache-control", b"no-store, no-transform"),
    (b"x-accel-buffering", b"no"),
)

_log = structlog.get_logger()


class Opening(msgspec.Struct, frozen=True, gc=False):
    """How a stream begins: `blocks` are written first, then the events of `feeds` past `start`.

    `address` is the client's, as the caps count it; `since` as in `Subscriber`.
    """

    feeds: tuple[Feed, ...]
    start: int
    grant: Grant
    address: str
    blocks: bytes
    since: tuple[int, ...] | None = None


class StreamResponse:
    """An ASGI application that is one stream.

    Without an `opening` this is a soft refusal: 200, a time to come back, and a body that is cut. It is the one answer
    that browsers, the npm client and fetch clients all take as "come back later".
    """

    def __init__(self, hub: Hub, encoder: SseEncoder, opening: Opening | None = None) -> None:
        self._hub = hub
        self._encoder = encoder
        self._opening = opening

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Subscribe, and see to it that what the hub writes is sent until one side ends it."""
        hand_over = cast("Handover | None", (scope.get("extensions") or {}).get(EXTENSION))
        if hand_over is not None:
            hand_over.hold_head()
        await send({"type": "http.response.start", "status": 200, "headers": STREAM_HEADERS})
        if hand_over is not None:
            try:
                self._begin(hand_over(), hand_over.take_head())
            except ClientGone:
                return
            except HandoverRefused as error:
                _log.warning("stream.not_handed_over", reason=str(error))
            else:
                return
        connection = AsgiConnection(send)
        self._begin(connection)
        await connection.run(receive)

    def _begin(self, connection: StreamConnection | AsgiConnection, head: bytes = b"") -> None:
        """Give the connection to the hub; or tell the client when to come back, and cut it. `head` goes out first."""
        opening = self._opening
        if opening is not None:
            subscriber = Subscriber(
                connection, opening.feeds, opening.start, opening.grant, opening.address, opening.since
            )
            subscriber.paused = connection.is_full
            connection.subscriber = subscriber
            try:
                self._hub.subscribe(subscriber, head + opening.blocks)
            except SubscriptionRefused as refusal:
                connection.subscriber = None
                _log.info("stream.refused_softly", reason=str(refusal))
            else:
                return
        connection.finish(head + self._encoder.retry())


class AsgiConnection:
    """A `streams.subscriber.Connection` over an ASGI `send`, with a bounded buffer between the hub and the socket.

    What it is given is framed as chunks; the server frames by itself, so the frames come off again. Of a slow client's
    progress only so much is seen as the server tells: that it takes more, having sent most of what it held.
    """

    is_full = False

    def __init__(self, send: Send) -> None:
        self._send = send
        self._waiting: list[bytes] = []
        self._size = 0
        self._sent = 0
        self._wake = asyncio.Event()
        self._finished = False
        self._sender: asyncio.Task[None] | None = None
        self._last_bytes: asyncio.TimerHandle | None = None
        self.subscriber: Subscriber | None = None

    def write(self, data: bytes) -> None:
        """Take the bytes; pause the subscriber where too much waits."""
        self._waiting.append(data)
        self._size += len(data)
        self._wake.set()
        if self._size > BUFFER_BYTES and self.subscriber is not None and not self.subscriber.paused:
            self.subscriber.pause()

    def finish(self, data: bytes) -> None:
        """Send all that was taken and `data`, then end; a client that doesn't take it in time is cut."""
        self.write(data)
        self._finished = True
        self._last_bytes = asyncio.get_running_loop().call_later(LAST_BYTES_SECONDS, self.abort)

    def abort(self) -> None:
        """End at once; what was not sent is dropped."""
        self._finished = True
        self._waiting.clear()
        self._wake.set()
        if self._sender is not None:
            self._sender.cancel()

    def progress(self) -> int | None:
        """Bytes that the server has taken, None while none wait for that."""
        return self._sent if self._size else None

    async def run(self, receive: Receive) -> None:
        """Send until the stream is finished, aborted, or the client has gone."""
        self._sender = asyncio.create_task(self._send_all())
        watcher = asyncio.create_task(self._watch(receive))
        try:
            await asyncio.wait({self._sender, watcher}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if self.subscriber is not None:
                self.subscriber.close(End.GONE)
            if self._last_bytes is not None:
                self._last_bytes.cancel()
            for task in (self._sender, watcher):
                task.cancel()
            await asyncio.gather(self._sender, watcher, return_exceptions=True)

    async def _send_all(self) -> None:
        while not (self._finished and not self._waiting):
            await self._wake.wait()
            self._wake.clear()
            while self._waiting:
                data = b"".join(self._waiting)
                self._waiting.clear()
                await self._send({"type": "http.response.body", "body": unchunked(data), "more_body": True})
                self._size -= len(data)
                self._sent += len(data)
                subscriber = self.subscriber
                if (
                    subscriber is not None
                    and subscriber.paused
                    and not subscriber.closed
                    and self._size <= BUFFER_BYTES
                ):
                    subscriber.resume()
        await asyncio.sleep(LAST_WORDS_SECONDS)

    async def _watch(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
