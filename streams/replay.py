"""The deeper past: pages of the log for subscribers whose cursor the window doesn't cover any more.

Few pages are read at once, one for all who need the same, and none is kept for a client that does not read. A task
belongs to a page that is being read, never to a connection.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING

import msgspec
import structlog

from streams.errors import StreamsError
from streams.frames import Broadcast
from streams.reader import EpochChanged, PlaceLost, PositionExpired, Reader
from streams.subjects import without_contained
from streams.subscriber import End, Subscriber

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from nats.aio.client import Client

    from streams.log import Log

MAX_PAGES_AT_ONCE = 64
PAGE_ENTRIES = 500
_RETRY_SECONDS = 1.0

_log = structlog.get_logger()


class Page(msgspec.Struct, frozen=True):
    """All that some filters find past a position and up to `upto`."""

    broadcasts: list[Broadcast]
    upto: int


class Wanted(msgspec.Struct, frozen=True):
    """What a subscriber needs; those who want the same share one page."""

    epoch: str
    filters: tuple[str, ...]
    after: int


async def read_page(client: Client, log: Log, wanted: Wanted, fence: int, *, limit: int = PAGE_ENTRIES) -> Page:
    """Read what `wanted` asks for, up to the position `fence` or about `limit` entries.

    Raises:
        PlaceLost: retention has passed the position, before or while it was read.
        StreamsError: the broker is away.
    """
    filters = without_contained(list(wanted.filters))
    reader = Reader(client, log, wanted.epoch, wanted.after, filters=filters)
    found: list[Broadcast] = []
    upto = fence
    async with aclosing(reader.batches()) as batches:
        async for batch in batches:
            found.extend(Broadcast.of(entry) for entry in batch.entries if entry.sequence <= fence)
            if reader.position >= fence:
                break
            if len(found) >= limit:
                upto = reader.position
                break
            if batch.pending == 0 and not await _more(log, filters, reader.position, fence):
                break
    # What was read is whole only if nothing of it was gone by then.
    state = await log.state()
    if state.epoch != wanted.epoch:
        raise EpochChanged(wanted.epoch, state.epoch)
    if state.first > wanted.after + 1:
        raise PositionExpired(wanted.after, state.first)
    return Page(found, upto)


async def _more(log: Log, filters: Sequence[str], after: int, fence: int) -> bool:
    """Whether the log has more up to the fence. The consumer may be on a follower that is behind; the leader knows."""
    for each in filters:
        stored = await log.next_match(after, each)
        if stored is not None and stored.sequence <= fence:
            return True
    return False


class Replay:
    """Serves the subscribers that a hub calls `behind`. Run it as a task; `wants` only takes a note.

    `read` is `read_page` for this process's connection; `epoch` and `head` tell what the hub is at.
    """

    def __init__(
        self,
        read: Callable[[Wanted, int], Awaitable[Page]],
        epoch: Callable[[], str],
        head: Callable[[], int],
        *,
        max_pages: int = MAX_PAGES_AT_ONCE,
    ) -> None:
        self._read = read
        self._epoch = epoch
        self._head = head
        self._free = asyncio.Semaphore(max_pages)
        self._waiting: dict[Wanted, list[Subscriber]] = {}
        self._noted: set[Subscriber] = set()
        self._wake = asyncio.Event()
        self.pages_read = 0

    def __len__(self) -> int:
        return len(self._noted)

    def wants(self, subscriber: Subscriber) -> None:
        """Note that a subscriber needs a page. Harmless when it is noted already."""
        if subscriber not in self._noted:
            self._noted.add(subscriber)
            wanted = Wanted(self._epoch(), subscriber.filters, subscriber.cursor)
            self._waiting.setdefault(wanted, []).append(subscriber)
            self._wake.set()

    async def run(self) -> None:
        """Read pages until cancelled. A page that can't be read now is tried again; its subscribers stay open."""
        async with asyncio.TaskGroup() as pages:
            while True:
                await self._wake.wait()
                await self._free.acquire()
                if not self._waiting:
                    self._wake.clear()
                    self._free.release()
                    continue
                wanted = next(iter(self._waiting))
                pages.create_task(self._serve(wanted, self._waiting.pop(wanted)))

    async def _serve(self, wanted: Wanted, subscribers: list[Subscriber]) -> None:
        try:
            waiting = [each for each in subscribers if not (each.closed or each.paused)]
            page = await self._read(wanted, self._head()) if waiting else None
        except PlaceLost as lost:
            _log.info("replay.place_lost", position=wanted.after, reason=str(lost))
            for subscriber in subscribers:
                subscriber.close(End.LAGGED)
            page = None
        except StreamsError as error:
            _log.warning("replay.broker_away", position=wanted.after, reason=str(error))
            asyncio.get_running_loop().call_later(_RETRY_SECONDS, self._again, subscribers)
            return
        finally:
            self._free.release()
        self._noted.difference_update(subscribers)
        if page is not None:
            self.pages_read += 1
            self._hand_out(page, subscribers)

    def _hand_out(self, page: Page, subscribers: list[Subscriber]) -> None:
        for subscriber in subscribers:
            # Who stopped reading meanwhile asks again when it reads on; nothing is kept for it.
            if not (subscriber.closed or subscriber.paused):
                subscriber.accept(page.broadcasts, page.upto)

    def _again(self, subscribers: list[Subscriber]) -> None:
        self._noted.difference_update(subscribers)
        for subscriber in subscribers:
            if not (subscriber.closed or subscriber.paused):
                self.wants(subscriber)
