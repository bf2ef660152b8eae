"""`passline projection`: the tables that the worker makes from the log."""

from __future__ import annotations

import asyncio
import datetime as dt
from contextlib import aclosing
from typing import TYPE_CHECKING

import click

from gateway.commands.context import connection, data_dir_option, progress_bar, read_settings
from gateway.errors import GatewayError
from streams.cursor import Cursor
from streams.database import open_database
from streams.migrations import check_schema, migrate
from streams.projection import Position, Projection
from streams.rebuild import rebuild

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from gateway.commands.context import Broker
    from gateway.settings import Settings
    from streams.entry import Entry


class NotBegun(GatewayError):
    """Nothing of the log has been applied."""

    def __init__(self) -> None:
        super().__init__("nothing of the log has been applied yet: `passline serve` begins it")


@click.group
def projection() -> None:
    """The tables that say what every order is now, made from the log."""


@projection.command("rebuild")
@data_dir_option
def rebuild_command(data_dir: Path | None) -> None:
    """Make the tables anew from the log, and swap them in; what is older than the log is taken over.

    Streams go on meanwhile, and so does the worker. Nothing is published.

    \b
    Example:
      passline projection rebuild --data-dir /var/lib/passline
    """
    position = asyncio.run(_rebuild(read_settings(data_dir=data_dir)))
    click.echo(f"rebuilt up to {_cursor(position)}")


@projection.command("migrate")
@data_dir_option
def migrate_command(data_dir: Path | None) -> None:
    """Take the tables to this version's schema, all of the way or not at all.

    `passline serve` does so by itself where the database is its own.

    \b
    Example:
      PASSLINE_DATABASE_URL=postgresql://passline:…@db/passline passline projection migrate
    """
    settings = read_settings(data_dir=data_dir)
    click.echo(f"the schema is {asyncio.run(migrate(settings.sql_url))}")


@projection.command("position")
@data_dir_option
def position_command(data_dir: Path | None) -> None:
    """Tell how far the log is applied: the cursor of the last entry, and the log's time of it.

    \b
    Example:
      passline projection position
    """
    position = asyncio.run(_position(read_settings(data_dir=data_dir)))
    if position is None:
        raise NotBegun
    at = dt.datetime.fromtimestamp(position.time, dt.UTC).isoformat() if position.time else "-"
    click.echo(f"{_cursor(position)} {at}")


async def _rebuild(settings: Settings) -> Position:
    async with (
        connection(settings, "worker") as broker,
        open_database(settings.sql_url, statement_seconds=settings.statement_seconds) as engine,
    ):
        await check_schema(engine)
        state = await broker.log.state()

        def read(after: int) -> AsyncIterator[Sequence[Entry]]:
            return _up_to_head(broker, state.epoch, after)

        with progress_bar() as progress:
            task = progress.add_task("entries", total=state.last - state.first + 1)
            return await rebuild(
                engine,
                epoch=state.epoch,
                first=state.first,
                read=read,
                progress=lambda sequence: progress.update(task, completed=sequence - state.first + 1),
                lives=settings.lives,
                delivers_alarms=settings.alert_webhook is not None,
            )


async def _up_to_head(broker: Broker, epoch: str, after: int) -> AsyncIterator[Sequence[Entry]]:
    head = (await broker.log.state()).last
    reader = broker.reader(epoch, after)
    async with aclosing(reader.batches()) as batches:
        while reader.position < head:
            yield (await anext(batches)).entries


async def _position(settings: Settings) -> Position | None:
    async with open_database(settings.sql_url, statement_seconds=settings.statement_seconds) as engine:
        await check_schema(engine)
        return await Projection(engine).position()


def _cursor(position: Position) -> Cursor:
    return Cursor(position.epoch, position.sequence)
