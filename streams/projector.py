"""The worker's loop: the log, entry by entry, into the projection.

It reads on from the projection's own position and moves that in the same transaction, so it needs no acknowledgements,
and any number of projectors may run: one is active, the others find themselves fenced and look again.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING

import structlog

from streams.database import DatabaseUnavailable
from streams.dead import DeadLetters
from streams.errors import StreamsError
from streams.projection import Fenced, Position, Projection
from streams.reader import PlaceLost, PositionExpired, Reader

if TYPE_CHECKING:
    from nats.aio.client import Client

    from streams.log import Log

_FENCED_SECONDS = 1.0
_RETRY_SECONDS = 1.0

_log = structlog.get_logger()


class Projector:
    """Applies the log to `projection`. `halted` says what keeps it from going on, None while nothing does."""

    def __init__(self, client: Client, log: Log, projection: Projection) -> None:
        self._client = client
        self._log = log
        self._projection = projection
        self.halted: str | None = None

    async def run(self) -> None:
        """Apply until cancelled. Whatever is away is waited for; what needs an operator is said once and waited for."""
        while True:
            try:
                await self._follow()
            except Fenced as fenced:
                _log.debug("projector.fenced", reason=str(fenced))
                await asyncio.sleep(_FENCED_SECONDS)
            except PlaceLost as lost:
                self._halt(_remedy(lost))
                await asyncio.sleep(_RETRY_SECONDS)
            except DatabaseUnavailable as error:
                self._halt(f"the database is away: {error}")
                await asyncio.sleep(_RETRY_SECONDS)
            except StreamsError as error:
                self._halt(f"the broker is away: {error}")
                await asyncio.sleep(_RETRY_SECONDS)

    async def _follow(self) -> None:
        position = await self._projection.position() or await self._begin()
        reader = Reader(self._client, self._log, position.epoch, position.sequence, time=position.time or None)
        dead = DeadLetters(self._client, self._log, position.epoch)
        applied = position.sequence
        async with aclosing(reader.batches()) as batches:
            async for batch in batches:
                if self.halted is not None:
                    _log.info("projector.goes_on", position=applied)
                    self.halted = None
                if batch.entries:
                    last = batch.entries[-1]
                    await self._projection.apply(
                        position.epoch, applied, batch.entries, (last.sequence, last.time), dead.set_aside
                    )
                    applied = last.sequence

    async def _begin(self) -> Position:
        """A new database: before the log's first entry. Of several projectors one makes the row, the others follow."""
        state = await self._log.state()
        position = Position(state.epoch, state.first - 1, 0.0)
        await self._projection.apply(
            position.epoch, position.sequence, [], (position.sequence, position.time), _nothing_to_set_aside
        )
        return position

    def _halt(self, reason: str) -> None:
        if self.halted != reason:
            _log.error("projector.halted", reason=reason)
            self.halted = reason


def _remedy(lost: PlaceLost) -> str:
    if isinstance(lost, PositionExpired):
        return (
            f"{lost}: what was between is gone before it was applied; restore a newer backup of the database, or run "
            "`passline epoch bump` to go on from the log's end without it"
        )
    return f"{lost}: run `passline epoch bump`, which makes one history of the log and the database"


async def _nothing_to_set_aside(*_: object) -> None:
    raise AssertionError("there are no entries")
