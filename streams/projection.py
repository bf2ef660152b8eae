"""The log in SQL: what every order and every member of staff is after the log's events up to a position.

One worker applies the log, and the position is its fence: each transaction first moves the position on from where this
worker knows it to be. If it is not there, somebody else moved it and nothing is applied, so each entry takes effect
exactly once however many workers there are.

Every column is decided by the last event that says it, so applying a part of the log to rows that already contain that
part changes nothing: a rebuild relies on that.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

import msgspec
from sqlalchemy import insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from streams import deliveries
from streams.applying import apply_entries
from streams.database import DatabaseBusy, execute, reading, writing
from streams.entry import Entry
from streams.errors import StreamsError
from streams.lives import Lives
from streams.tables import LIVE, position

_SEQUENCES = ("first_sequence", "last_sequence", "sequence")

SetAside: TypeAlias = Callable[[Entry, str], Awaitable[None]]


class Position(msgspec.Struct, frozen=True, gc=False):
    """The last entry that is applied; `time` is the log's own time of it, in Unix seconds."""

    epoch: str
    sequence: int
    time: float


class Fenced(StreamsError):
    """The position is not where this worker left it, or can't be moved now: another worker is active.

    Nothing was applied. Read the position again before the next attempt.
    """

    def __init__(self, epoch: str, after: int) -> None:
        super().__init__(f"the projection is not at {epoch}-{after}, or is being moved: another worker is active")
        self.epoch = epoch
        self.after = after


class Projection:
    """The projection in the database behind `engine`. With `delivers_alarms` those that it reads are queued for the
    webhook, in the same transaction.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        lives: Lives = Lives(),  # noqa: B008 - frozen
        *,
        delivers_alarms: bool = False,
    ) -> None:
        self._engine = engine
        self._delivers_alarms = delivers_alarms
        self._lives = lives
        self._may_begin = False

    async def position(self) -> Position | None:
        """How far the log is applied, or None in a new database.

        Raises:
            DatabaseUnavailable
        """
        async with reading(self._engine) as connection:
            found = await read_position(connection)
        self._may_begin = found is None
        return found

    async def apply(
        self, epoch: str, after: int, entries: Sequence[Entry], upto: tuple[int, float], set_aside: SetAside
    ) -> None:
        """Apply what follows `after`, in one transaction that takes the position to `upto` (sequence and log time).

        `entries` are in the log's order, all of them behind `after` and none beyond `upto`. One that is malformed,
        stands under a subject not its own or contradicts its order is handed to `set_aside` with a reason, before the
        commit: after a crash in between it is handed over again. A type that this version doesn't know is skipped.

        The first row of a new database is made only after `position` has found none: a database that was emptied under
        a running worker does not look like a new one.

        Raises:
            Fenced: another worker is active.
            DatabaseUnavailable
        """
        if upto[0] < after or (entries and not after < entries[0].sequence <= entries[-1].sequence <= upto[0]):
            raise ValueError(f"entries from {after} to {upto[0]} expected")
        try:
            async with writing(self._engine) as connection:
                await self._advance(connection, epoch, after, upto)
                applied = await apply_entries(connection, LIVE, entries, self._lives)
                if self._delivers_alarms and applied.alarms:
                    await deliveries.queue(connection, applied.alarms)
                for entry, reason in applied.refused:
                    await set_aside(entry, reason)
        except DatabaseBusy as error:
            raise Fenced(epoch, after) from error

    async def set_position(self, epoch: str, sequence: int, time: float) -> None:
        """Put the position where an operator says that it is, whoever is active.

        With another epoch, what the tables have from beyond `sequence` is not in this log, or elsewhere in it. It
        stays, as older than the log: its sequences are moved below 1, in their order.

        Raises:
            DatabaseBusy, DatabaseUnavailable
        """
        async with writing(self._engine, limited=False) as connection:
            found = await read_position(connection, locked=True)
            if found is not None and found.epoch != epoch:
                await _age(connection, beyond=sequence, by=found.sequence + 1)
            await put_position(connection, found, Position(epoch, sequence, time))

    async def _advance(self, connection: AsyncConnection, epoch: str, after: int, upto: tuple[int, float]) -> None:
        target = Position(epoch, *upto)
        fence = update(position).where(position.c.epoch == epoch, position.c.sequence == after)
        if (await execute(connection, fence.values(msgspec.structs.asdict(target)))).rowcount == 1:
            return
        if not self._may_begin:
            raise Fenced(epoch, after)
        self._may_begin = False
        try:
            await put_position(connection, None, target)
        except IntegrityError as error:
            raise Fenced(epoch, after) from error


async def read_position(connection: AsyncConnection, *, locked: bool = False) -> Position | None:
    """The position in this transaction; `locked` keeps it there until the transaction ends."""
    statement = select(position.c.epoch, position.c.sequence, position.c.time)
    found = (await execute(connection, statement.with_for_update() if locked else statement)).one_or_none()
    return None if found is None else Position(found.epoch, found.sequence, found.time)


async def put_position(connection: AsyncConnection, found: Position | None, target: Position) -> None:
    """Replace `found`, which `read_position` locked. If that was None and a row has come since: IntegrityError."""
    row = msgspec.structs.asdict(target)
    if found is None:
        await execute(connection, insert(position), {"id": 1, **row})
    else:
        await execute(connection, update(position).values(row))


async def _age(connection: AsyncConnection, *, beyond: int, by: int) -> None:
    for table in LIVE:
        older = {name: table.c[name] - by for name in _SEQUENCES if name in table.c}
        begun = next(table.c[name] for name in _SEQUENCES if name in table.c)
        await execute(connection, update(table).where(begun > beyond).values(older))
