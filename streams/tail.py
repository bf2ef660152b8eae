"""The reader of this process: one, however many connections there are. What it reads goes to the facts, then the hub.

It is also what notices that the log is not the one that it was: then every stream ends with `lagged`, and the verdict
on the reconnect tells each client what it missed.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from typing import TYPE_CHECKING

import msgspec
import structlog

from streams.changes import ENDING, TAKING_BACK, over_after, taken_back_by
from streams.database import DatabaseUnavailable
from streams.errors import StreamsError
from streams.events import TokenRevoked, UnknownEventType
from streams.lives import Lives
from streams.reader import HoleInLog, PlaceLost, PositionExpired, Reader, check_place

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from nats.aio.client import Client

    from streams.entry import Entry
    from streams.facts import Facts
    from streams.hub import Hub
    from streams.log import Log
    from streams.projection import Position
    from streams.window import Window

DISPATCH_BYTES = 64 * 1024
"""Of bodies, dispatched at a time: what is dispatched together is one write, and a slow client keeps the rest of it."""

_RETRY_SECONDS = 0.5
_WATCH_SECONDS = 1.0

_log = structlog.get_logger()


def portions(entries: Sequence[Entry]) -> Iterator[Sequence[Entry]]:
    """The entries in order, as many at a time as have about DISPATCH_BYTES, one at least."""
    begin = size = 0
    for index, entry in enumerate(entries):
        size += len(entry.body)
        if size >= DISPATCH_BYTES:
            yield entries[begin : index + 1]
            begin, size = index + 1, 0
    if begin < len(entries):
        yield entries[begin:]


class Place(msgspec.Struct, frozen=True):
    """Where a tail begins: in the log called `epoch`, past `position`. The log's last sequence was `head`."""

    epoch: str
    position: int
    head: int


class PositionMismatch(StreamsError):
    """The projection's position means nothing in this log, which was made anew or restored from a backup."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"{reason}: run `passline epoch bump`, which makes one history of the log and the database")


async def find_place(log: Log, applied: Callable[[], Awaitable[Position | None]], window_entries: int) -> Place:
    """Where a tail should begin: early enough for the facts and to fill the window, and within what is retained.

    `applied` tells the projection's position; if its database is away, only the window counts.

    Raises:
        PositionMismatch: the projection is of another history.
        StreamsError: the broker is away, or has no such stream.
    """
    try:
        projection = await applied()
    except DatabaseUnavailable as error:
        _log.warning("tail.projection_unknown", reason=str(error))
        projection = None
    state = await log.state()
    begin = state.last - window_entries
    if projection is not None:
        try:
            await check_place(log, projection.epoch, projection.sequence, projection.time or None)
        except PositionExpired as expired:
            # The worker stops over this and says so; streams of what is left go on.
            _log.error("tail.projection_expired", reason=str(expired))
        except PlaceLost as lost:
            raise PositionMismatch(str(lost)) from lost
        begin = min(begin, projection.sequence)
    return Place(state.epoch, max(state.first - 1, begin), state.last)


class Tail:
    """Reads the log for `hub` and `facts`.

    `find_place` finds where to begin and `new_window` makes an empty window there. `is_ready` becomes true when the
    head of the log as it was at the start is reached, and false again only while the log is of another history than
    what was read of it; `mismatch` then says why. What stood up to `lost_upto` was lost by a hole in the log.
    """

    def __init__(
        self,
        client: Client,
        log: Log,
        hub: Hub,
        facts: Facts,
        *,
        find_place: Callable[[], Awaitable[Place]],
        new_window: Callable[[Place], Window],
        lives: Lives = Lives(),  # noqa: B008 - frozen
    ) -> None:
        self._client = client
        self._log = log
        self._hub = hub
        self._facts = facts
        self._find_place = find_place
        self._new_window = new_window
        self._lives = lives
        self.is_ready = False
        self.mismatch: str | None = None
        self.lost_upto = 0
        self.skipped = 0
        self._reader: Reader | None = None

    async def run(self) -> None:
        """Read until cancelled."""
        place = await self._settle(former_epoch=None)
        while True:
            self._reader = reader = Reader(self._client, self._log, place.epoch, place.position)
            try:
                async with aclosing(reader.batches()) as batches:
                    async for batch in batches:
                        await self._dispatch(batch.entries)
                        self.is_ready = self.is_ready or self._hub.head >= place.head
                        await asyncio.sleep(0)  # a full log must not keep the connections from their turn
            except (PositionExpired, HoleInLog) as lost:
                _log.error("tail.place_lost", position=reader.position, reason=str(lost))
                place = await self._settle(former_epoch=None, lost=lost)
            except PlaceLost as lost:
                _log.error("tail.history_lost", position=reader.position, reason=str(lost))
                self.is_ready = False
                self.mismatch = f"{lost}: run `passline epoch bump`"
                # Every stream ends now; what they would read on is not what they have read.
                self._hub.restart(self._new_window(Place(place.epoch, self._hub.head, self._hub.head)))
                place = await self._settle(former_epoch=place.epoch)

    async def watch(self) -> None:
        """Notice, until cancelled, that the log was given another epoch while its consumers go on as before."""
        while True:
            await asyncio.sleep(_WATCH_SECONDS)
            try:
                state = await self._log.state()
            except StreamsError as error:
                _log.debug("tail.not_watched", reason=str(error))
                continue
            if self._reader is not None and state.epoch != self._reader.epoch:
                self._reader.check_again()

    async def _settle(self, *, former_epoch: str | None, lost: PlaceLost | None = None) -> Place:
        """Find a place and begin there. After another history that is one of another epoch, which an operator makes."""
        while True:
            try:
                place = await self._find_place()
            except PositionMismatch as mismatch:
                if self.mismatch is None:
                    _log.error("tail.mismatch", reason=str(mismatch))
                self.mismatch = str(mismatch)
            except StreamsError as error:
                _log.warning("tail.no_place", reason=str(error))
            else:
                if place.epoch != former_epoch:
                    break
            await asyncio.sleep(_RETRY_SECONDS)
        if isinstance(lost, HoleInLog):
            self.lost_upto = lost.found - 1
            place = Place(place.epoch, max(place.position, self.lost_upto), place.head)
        elif place.epoch != self._facts.epoch:
            self.lost_upto = 0
        self._facts.restart(place.epoch, place.position)
        self._hub.restart(self._new_window(place))
        self.mismatch = None
        return place

    async def _dispatch(self, entries: list[Entry]) -> None:
        """What takes something back takes effect between what stands before it and what stands after it."""
        begin, apply = 0, self._facts.overlay.apply
        for index, entry in enumerate(entries):
            if entry.problem is not None:
                self._skip(entry)
            if entry.kind in TAKING_BACK:
                if self._may_end_streams(entry):
                    await self._fan_out(entries[begin:index])
                    begin = index
                apply(entry)
                self._take_back(entry)
            else:
                apply(entry)
            if entry.kind in ENDING:
                self._limit(entry)
        await self._fan_out(entries[begin:])

    def _may_end_streams(self, entry: Entry) -> bool:
        """Whether what stands before it must go out first. Most of what says whose a workflow is ends nobody's."""
        event = entry.event
        taken_back = taken_back_by(event) if event else None
        return taken_back is None or self._hub.rests_on(taken_back.fact)

    def _take_back(self, entry: Entry) -> None:
        event = entry.event
        if isinstance(event, TokenRevoked):
            self._hub.revoke_tokens(event.subject_key, event.jti or None, entry.sequence, entry.time)
        taken_back = taken_back_by(event) if event else None
        if taken_back is not None:
            self._hub.revoke(taken_back.fact, entry.sequence, spared=taken_back.spared)

    def _limit(self, entry: Entry) -> None:
        over = over_after(entry, self._lives)
        self._hub.limit(over.fact, entry.sequence, self._hub.clock() + over.at - time.time())

    async def _fan_out(self, entries: list[Entry]) -> None:
        for portion in portions(entries):
            for _ in self._hub.dispatch(portion):
                await asyncio.sleep(0)

    def _skip(self, entry: Entry) -> None:
        self.skipped += 1
        level = _log.info if isinstance(entry.problem, UnknownEventType) else _log.warning
        level("tail.entry_skipped", sequence=entry.sequence, subject=entry.subject, reason=str(entry.problem))
