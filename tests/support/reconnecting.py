"""A client that behaves as a browser's `EventSource` does, and writes down for the checker all that it meets.

It comes back after `retry` with its last event id; a response that is no event stream ends it for good (HTML Living
Standard, section 9.2.3), unless the page around it is patient and opens another one where it stopped.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Self

import msgspec

from tests.support.records import ClientLog, Connection, Opened, Received
from tests.support.sse_client import NoResponse, open_stream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from random import Random

    from tests.support.event_stream import Block
    from tests.support.records import Grant
    from tests.support.sse_client import SseStream, StreamRequest

DEFAULT_RETRY_MS = 3000
"""Chromium's, before it is told another."""


class ReconnectingClient:
    """`async with ReconnectingClient(…) as client:` runs while inside. `log` is its record for the checker.

    `pause_seconds` turns the milliseconds of `retry` into the time that it really waits. `cuts` is asked at each new
    connection after how many bytes of the body to leave it, None for never; `leaves_behind` at each block whether to
    leave there. One with `patience_seconds` comes back so long after a refusal.

    `topics` is asked at each new connection for the topics of that one: the request's address is then that of streams
    of several. `called` says under which name the record has a topic, where it is not the topic's own: what an order's
    guests are shown is not what its customer is.
    """

    def __init__(
        self,
        name: str,
        request: StreamRequest,
        grants: Iterable[Grant],
        *,
        pause_seconds: Callable[[int], float] = lambda retry_ms: retry_ms / 1000,
        cuts: Callable[[], int | None] = lambda: None,
        leaves_behind: Callable[[Block], bool] = lambda _: False,
        patience_seconds: float | None = None,
        topics: Callable[[], Sequence[str]] | None = None,
        called: Mapping[str, str] | None = None,
    ) -> None:
        self.log = ClientLog(name, tuple(grants))
        self.last_event_id = request.last_event_id
        self.retry_ms = DEFAULT_RETRY_MS
        self.failed: int | None = None  # the status that ended it for good
        self.seen: set[str] = set()  # the ids of all events that came
        self._request = request
        self._pause_seconds = pause_seconds
        self._cuts = cuts
        self._leaves_behind = leaves_behind
        self._patience_seconds = patience_seconds
        self._topics = topics
        self._called = called or {}
        self._changed = asyncio.Event()
        self._may_read = asyncio.Event()
        self._may_read.set()
        # While inside:
        self._task: asyncio.Task[None]
        # While connected:
        self._stream: SseStream | None = None
        self._record = Connection(0)

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run(), name=self.log.client)
        self._task.add_done_callback(lambda _: self._changed.set())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])
        if not self._task.cancelled():
            self._task.result()

    @property
    def connected(self) -> bool:
        """Whether a stream is open and has said where it begins."""
        return self._stream is not None and self._record.opened is not None

    def stop_reading(self) -> None:
        """Take nothing more off the socket, but for a piece that is being waited for."""
        self._may_read.clear()

    def resume_reading(self) -> None:
        """Go on after `stop_reading`."""
        self._may_read.set()

    def drop(self, *, abruptly: bool = False) -> None:
        """Leave the present connection, if there is one, by RST if `abruptly`; then come back and read again."""
        if self._stream is not None:
            self._stream.reset() if abruptly else self._stream.close()
        self._may_read.set()

    async def until(self, condition: Callable[[], bool], within: float = 10.0) -> None:
        """Wait until the condition holds, looking whenever the client has met something.

        Raises TimeoutError; fails at once if the client has ended for good without it.
        """
        async with asyncio.timeout(within):
            while not condition():
                if self._task.done():
                    self._task.result()
                    raise AssertionError(f"{self.log.client} ended for good with {self.failed}")
                self._changed.clear()
                await self._changed.wait()

    async def _run(self) -> None:
        while self.failed is None:
            topics = None if self._topics is None else tuple(self._topics())
            self._record = Connection(
                number=len(self.log.connections) + 1,
                asked=self.last_event_id or self._request.query.get("last_event_id"),
                since=not self.last_event_id and "since" in self._request.query,
                topics=topics,
            )
            self.log.connections.append(self._record)
            try:
                await self._connect(topics or ())
            except (OSError, NoResponse):
                pass  # nobody there, or not any more: it comes back as after any other end
            self._changed.set()
            if self.failed is None:
                await asyncio.sleep(self._pause_seconds(self.retry_ms))

    async def _connect(self, topics: Sequence[str]) -> None:
        request = replace(self._request, last_event_id=self.last_event_id, leave_after=self._cuts())
        if topics:
            request = replace(request, url=f"{request.url}?{'&'.join(f'topic={topic}' for topic in topics)}")
        async with open_stream(request) as stream:
            self._record.status = stream.status
            if not stream.is_event_stream:
                if self._patience_seconds is None:
                    self.failed = stream.status
                else:
                    await asyncio.sleep(self._patience_seconds)
                return
            self._stream = stream
            try:
                async for block in stream:
                    self._take(block)
                    self._changed.set()
                    if self._leaves_behind(block):
                        return
                    await self._may_read.wait()
            finally:
                self._stream = None
                if stream.parser.retry_ms is not None:
                    self.retry_ms = stream.parser.retry_ms

    def _take(self, block: Block) -> None:
        self.last_event_id = block.last_event_id
        if block.data is not None and block.type == "stream.opened" and self._record.opened is None:
            opened = msgspec.json.decode(block.data, type=Opened)
            self._record.opened = msgspec.structs.replace(opened, id=block.id)
            return
        record = received(block)
        if record.topic is not None and record.topic in self._called:
            record = msgspec.structs.replace(record, topic=self._called[record.topic])
        self._record.blocks.append(record)
        if record.event_id is not None:
            self.seen.add(record.event_id)


class _Data(msgspec.Struct):
    event_id: str | None = msgspec.field(default=None, name="eventId")
    topic: str | None = None


def received(block: Block) -> Received:
    """A block as the checker reads it."""
    if block.data is None:
        return Received(block.id)
    data = msgspec.json.decode(block.data, type=_Data)
    return Received(block.id, block.type, data.event_id, data.topic)


def random_cuts(random: Random, *, probability: float, upto: int) -> Callable[[], int | None]:
    """Cuts of which each happens with `probability`, anywhere in the first `upto` bytes of a body."""
    return lambda: random.randint(1, upto) if random.random() < probability else None
