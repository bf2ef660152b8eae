"""Making the projection anew from the log, beside the live one.

What is older than the log comes from the present tables, the rest from the log, through the same code that applies it
live. It goes into temporary tables, which disturb nobody and vanish with the connection if the rebuild does not come to
its end. Then one transaction puts it in the place of the present rows, together with the position. It is copied rather
than renamed: rows obey the snapshots of readers that are under way, a renamed table would not.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TypeAlias

import structlog
from sqlalchemy import bindparam, delete, insert, select, text, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from streams import deliveries
from streams.applying import apply_entries
from streams.database import DatabaseBusy, answering, connected, execute, transaction
from streams.entry import Entry
from streams.errors import StreamsError
from streams.events import OrderEvent
from streams.lives import Lives
from streams.projection import Position, put_position, read_position
from streams.repetition import seen_before
from streams.tables import LIVE, SHADOW, shadow_metadata

ReadLog: TypeAlias = Callable[[int], AsyncIterator[Sequence[Entry]]]

_log = structlog.get_logger()


class WrongEpoch(StreamsError):
    """The tables belong to another epoch of the log. Nothing was changed."""

    def __init__(self, found: str, wanted: str) -> None:
        super().__init__(f"the projection is of epoch {found}, the log of {wanted}: run `passline epoch bump` first")
        self.found = found
        self.wanted = wanted


async def rebuild(
    engine: AsyncEngine,
    *,
    epoch: str,
    first: int,
    read: ReadLog,
    progress: Callable[[int], None],
    lives: Lives = Lives(),  # noqa: B008 - frozen
    delivers_alarms: bool = False,
) -> Position:
    """Make the projection anew and return the position that it is true at then.

    `first` is the log's first sequence. `read(after)` gives the entries that follow `after` in batches and ends at the
    log's head. `progress` is told the last sequence of each batch. Nothing is published and nothing set aside. With
    `delivers_alarms` those alarms are queued for the webhook that no worker has read, since none will.

    A live worker goes on meanwhile. If it is further than what was read here, reading goes on, too; once it is not,
    the swap fences it out, and it continues from the new position.

    Raises:
        WrongEpoch: the position is of another epoch than `epoch`.
        DatabaseUnavailable
    """
    alarms: list[tuple[Entry, OrderEvent]] = []
    async with _workshop(engine) as connection:
        reached = await _begin(connection, epoch, first)
        while True:
            async for entries in read(reached.sequence):
                if not entries:
                    continue
                async with transaction(connection):
                    applied = await apply_entries(connection, SHADOW, entries, lives)
                alarms += applied.alarms if delivers_alarms else ()
                reached = Position(epoch, entries[-1].sequence, entries[-1].time)
                progress(reached.sequence)
            if await _swap(connection, reached, alarms):
                return reached
            _log.info("projection.rebuild_goes_on", sequence=reached.sequence)


@asynccontextmanager
async def _workshop(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """A connection without limits, which is not used again: temporary tables and settings end with it."""
    async with connected(engine, statement_seconds=None) as connection:
        try:
            if engine.dialect.name == "postgresql":
                async with transaction(connection):
                    await execute(connection, text("SET SESSION statement_timeout = 0"))
            yield connection
        finally:
            await connection.invalidate()


async def _begin(connection: AsyncConnection, epoch: str, first: int) -> Position:
    async with transaction(connection):
        live = await read_position(connection)
        if live is not None and live.epoch != epoch:
            raise WrongEpoch(live.epoch, epoch)
        async with answering(connection):
            await connection.run_sync(shadow_metadata.create_all, checkfirst=False)
        await _copy_older(connection, first)
    if live is not None and live.sequence < first - 1:
        _log.warning("projection.rebuild_gap", first_lost=live.sequence + 1, last_lost=first - 1)
    is_at_first = live is not None and live.sequence == first - 1
    return Position(epoch, first - 1, live.time if live is not None and is_at_first else 0.0)


async def _copy_older(connection: AsyncConnection, first: int) -> None:
    """Take over what the log no longer tells.

    An order that began before the log's first entry and went on after it is taken as it is now: what the log still
    tells is applied to it again and decides. For that it must not count as a repetition. Likewise workflows and carts.
    """
    is_older = LIVE.orders.c.first_sequence < first
    for table, shadow in zip(LIVE, SHADOW, strict=True):
        older = select(*table.c)
        if "first_sequence" in table.c:
            older = older.where(table.c.first_sequence < first)
        elif table is LIVE.alarms_due:  # they are a part of their orders
            older = older.where(table.c.order_id.in_(select(LIVE.orders.c.order_id).where(is_older)))
        else:
            older = older.where(table.c.sequence < first)
        await execute(connection, insert(shadow).from_select(table.c.keys(), older))
    for table in (SHADOW.orders, SHADOW.team_carts):
        (key,) = table.primary_key
        columns = (key.label("key"), table.c.applied, table.c.first_sequence)
        going_on = (await execute(connection, select(*columns).where(table.c.last_sequence >= first))).all()
        rows = [{"id": row.key, "applied": seen_before(first, row.applied, row.first_sequence)} for row in going_on]
        if rows:
            await execute(connection, update(table).where(key == bindparam("id")), rows)


async def _swap(connection: AsyncConnection, reached: Position, alarms: Sequence[tuple[Entry, OrderEvent]]) -> bool:
    """Put the rebuilt rows in the place of the live ones, unless the live ones are further or can't be locked now."""
    try:
        async with transaction(connection, to_write=True):
            live = await read_position(connection, locked=True)
            if live is not None and live.epoch != reached.epoch:
                raise WrongEpoch(live.epoch, reached.epoch)
            if live is not None and live.sequence > reached.sequence:
                return False
            for table, shadow in zip(LIVE, SHADOW, strict=True):
                await execute(connection, delete(table))
                await execute(connection, insert(table).from_select(shadow.c.keys(), select(*shadow.c)))
            await put_position(connection, live, reached)
            if live is not None and (unread := [each for each in alarms if each[0].sequence > live.sequence]):
                await deliveries.queue(connection, unread)
    except (DatabaseBusy, IntegrityError):  # IntegrityError: a worker has just begun the first row
        return False
    return True
