"""The one way to read the log, for the tail, the worker and deep replays alike.

A reader goes on from a position. It re-creates its consumer wherever that ends, and before each creation it asks the
stream's leader whether the position still means what it meant. Read without filters, it proves sequence + 1.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec
import structlog

from streams.consumer import Consumer, ConsumerLost
from streams.entry import Entry
from streams.errors import StreamsError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from nats.aio.client import Client

    from streams.log import Log, LogState

_BACKOFF_SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0)

_SAME_TIME_SECONDS = 5e-6  # a float of Unix seconds is exact to less, a database column to a microsecond

_log = structlog.get_logger()


class PlaceLost(StreamsError):
    """The log can't be read on from a position: what followed it is not there, or is something else."""


class EpochChanged(PlaceLost):
    """The log is another one. `found` is its epoch."""

    def __init__(self, expected: str, found: str) -> None:
        super().__init__(f"the log's epoch is {found}, the position is of {expected}")
        self.expected, self.found = expected, found


class PositionExpired(PlaceLost):
    """Retention has passed the position. `first` is the first sequence that is left."""

    def __init__(self, position: int, first: int) -> None:
        super().__init__(f"the log begins at {first}, the position is {position}")
        self.position, self.first = position, first


class PositionAhead(PlaceLost):
    """The log ends before the position: it was restored from a backup, or lost its end."""

    def __init__(self, position: int, last: int) -> None:
        super().__init__(f"the log ends at {last}, the position is {position}")
        self.position, self.last = position, last


class PositionForeign(PlaceLost):
    """What stands at the position is not what was read there: the log was restored from a backup and went on."""

    def __init__(self, position: int) -> None:
        super().__init__(f"the entry at {position} is another one than was read there")
        self.position = position


class HoleInLog(PlaceLost):
    """Entries are missing inside the log, which is append-only: somebody has changed the stream's configuration."""

    def __init__(self, position: int, found: int) -> None:
        super().__init__(f"the log has nothing between {position} and {found}")
        self.position, self.found = position, found


class Batch(msgspec.Struct, frozen=True, gc=False):
    """Entries in the log's order, and how many more the consumer had when the last of them was sent.

    A batch without entries says that there were none when a consumer was made.
    """

    entries: list[Entry]
    pending: int


async def check_place(log: Log, epoch: str, position: int, time: float | None) -> LogState:
    """Whether a position still means what it meant; the log's state, if so. `time` is its entry's, if known.

    Raises:
        EpochChanged, PositionExpired, PositionAhead, PositionForeign
        StreamsError: the broker is away, or has no such stream.
    """
    state = await log.state()
    if state.epoch != epoch:
        raise EpochChanged(epoch, state.epoch)
    if state.first > position + 1:
        raise PositionExpired(position, state.first)
    if state.last < position:
        raise PositionAhead(position, state.last)
    if time is not None and state.first <= position:
        stored = await log.get(position)
        if stored is not None and abs(stored.time - time) > _SAME_TIME_SECONDS:
            raise PositionForeign(position)
    return state


class Reader:
    """Reads the log called `epoch` on from `position`, whose entry has the log time `time` (Unix seconds), if known.

    With `filters` it gets only what stands on those subjects, which must not contain one another.
    """

    def __init__(
        self,
        client: Client,
        log: Log,
        epoch: str,
        position: int,
        *,
        time: float | None = None,
        filters: Sequence[str] = (),
    ) -> None:
        self._client = client
        self._log = log
        self._filters = tuple(filters)
        self._failures = 0
        self._suspected_hole: int | None = None
        self._consumer: Consumer | None = None
        self.epoch = epoch
        self.position = position
        self.time = time

    async def batches(self) -> AsyncGenerator[Batch, None]:
        """Batches as they come, without end. Close the generator to stop; a broker that is away is waited for.

        Raises:
            PlaceLost: one of its leaves; nothing more can be read from this position.
        """
        while True:
            try:
                await check_place(self._log, self.epoch, self.position, self.time)
                async with Consumer(self._client, self.position, self._filters) as consumer:
                    self._consumer = consumer
                    if consumer.pending == 0:
                        yield Batch([], 0)
                    while True:
                        entries = await consumer.next_entries()
                        contiguous = self._contiguous(entries)
                        if contiguous:
                            self._failures = 0
                            self.position, self.time = contiguous[-1].sequence, contiguous[-1].time
                            yield Batch(contiguous, consumer.pending)
                        if len(contiguous) < len(entries):
                            self._suspect_hole(entries[len(contiguous)].sequence)
            except PlaceLost:
                raise
            except ConsumerLost as lost:
                _log.info("reader.consumer_lost", position=self.position, reason=str(lost))
                await self._pause()
            except StreamsError as error:
                level = _log.warning if self._failures == 0 else _log.debug
                level("reader.broker_away", position=self.position, reason=str(error))
                await self._pause()

    def check_again(self) -> None:
        """Have the place checked, as before each creation of a consumer, although the present one is well."""
        if self._consumer is not None:
            self._consumer.abandon("the place is checked again")

    def _contiguous(self, entries: list[Entry]) -> list[Entry]:
        """As many of the entries as follow the position without a hole; with filters holes are meant to be."""
        if self._filters:
            return entries
        expected = self.position + 1
        if entries[-1].sequence == expected + len(entries) - 1:
            return entries
        return [each for index, each in enumerate(entries) if each.sequence == expected + index]

    def _suspect_hole(self, found: int) -> None:
        """Retention may have moved since the check; the next check finds out. A hole is there the second time, too."""
        if self._suspected_hole == self.position:
            raise HoleInLog(self.position, found)
        self._suspected_hole = self.position
        raise ConsumerLost(f"{self.position} is followed by {found}")

    async def _pause(self) -> None:
        seconds = _BACKOFF_SECONDS[min(self._failures, len(_BACKOFF_SECONDS) - 1)]
        self._failures += 1
        await asyncio.sleep(seconds)
