"""`passline epoch`: after a restore, one history of the log and the database."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import click

from gateway.commands.context import connection, data_dir_option, read_settings
from streams.cursor import Cursor
from streams.database import open_database
from streams.migrations import check_schema
from streams.projection import Position, Projection
from streams.reader import PlaceLost, check_place

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.settings import Settings
    from streams.log import Log


@click.group
def epoch() -> None:
    """The log's epoch, which tells positions in it from positions in another history of it."""


@epoch.command
@data_dir_option
def bump(data_dir: Path | None) -> None:
    """Give the log a new epoch, and the projection its position in it.

    For after a restore of the broker's store or of the database: every client is told to begin anew, and readers go
    on. The projection is then at the log's end, unless it is at an entry that the log still has: from there it goes on.

    \b
    Example:
      passline epoch bump --data-dir /var/lib/passline
    """
    position, skipped = asyncio.run(_bump(read_settings(data_dir=data_dir)))
    click.echo(f"the log's epoch is {position.epoch}, the projection is at {Cursor(position.epoch, position.sequence)}")
    if skipped:
        click.echo("What the log has and the projection has not: `passline projection rebuild` applies it.", err=True)


async def _bump(settings: Settings) -> tuple[Position, bool]:
    """The projection's new position, and whether there are entries up to it that may not have been applied."""
    async with (
        connection(settings, "worker") as reading,
        connection(settings, "admin") as administering,
        open_database(settings.sql_url, statement_seconds=settings.statement_seconds) as engine,
    ):
        await check_schema(engine)
        log, projection = reading.log, Projection(engine)
        kept = await _still_there(log, projection)
        new = await administering.bump_epoch()
        position = Position(new, kept.sequence, kept.time) if kept is not None else await _end(log, new)
        await projection.set_position(position.epoch, position.sequence, position.time)
        return position, kept is None and position.sequence > 0


async def _still_there(log: Log, projection: Projection) -> Position | None:
    """The projection's position, if what it was at stands in the log still: then all that follows it can be applied."""
    position = await projection.position()
    if position is None:
        return None
    try:
        await check_place(log, position.epoch, position.sequence, position.time or None)
    except PlaceLost:
        return None
    return position


async def _end(log: Log, epoch: str) -> Position:
    last = (await log.state()).last
    stored = await log.get(last) if last else None
    return Position(epoch, last, stored.time if stored is not None else 0.0)
