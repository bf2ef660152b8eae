"""`passline outbox`: from an application's outbox into the log, and what of it is not there."""

from __future__ import annotations

import asyncio
import datetime as dt
import signal
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

from gateway.commands.context import connection, data_dir_option, progress_bar, read_settings
from gateway.errors import GatewayError
from gateway.opening import parse_since
from streams.backlog import Backlog, Counts, Unpublished, discard, open_outbox, retry, unpublished
from streams.relay import Relay

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from gateway.settings import Settings
    from streams.backlog import BrokerUser
    from streams.outbox import Outbox

    Engine = Any  # SQLAlchemy's, which has its home in streams

F = TypeVar("F", bound="Callable[..., Any]")

LISTED = 100
"""Events that `passline outbox list` shows."""


class NoOutboxSet(GatewayError):
    """It is not known where the outbox is."""

    def __init__(self) -> None:
        super().__init__(
            "which database has the outbox? Set PASSLINE_OUTBOX_DATABASE_URL, as in postgresql://user:password@host/shop"
        )


class LeftInOutbox(GatewayError):
    """Some events are not in the log, and won't be before a person has looked."""

    def __init__(self, counts: Counts) -> None:
        self.counts = counts
        parked = f"{counts.parked} parked, {counts.held_up} held up behind them"
        waiting = f", {counts.waiting} waiting" if counts.waiting else ""
        super().__init__(f"not everything is in the log: {parked}{waiting}; see `passline outbox list`")


class NotParked(GatewayError):
    """What was named is not there, or not parked."""

    def __init__(self, ids: list[int]) -> None:
        self.ids = ids
        super().__init__(f"not a parked event of this outbox: {', '.join(map(str, ids))}; see `passline outbox list`")


class _Span(click.ParamType[int]):
    name = "span"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Seconds; the same spans as in `?since=`, which are before a moment."""
        try:
            seconds = -int(parse_since(str(value), 0.0))
        except ValueError:
            seconds = -1
        if not 0 <= seconds <= 366 * 86_400:
            self.fail(f"{value!r} is not a span such as 0s, 15m, 1h or 7d", param, ctx)
        return seconds


def _outbox_options(command: F) -> F:
    for option in (
        click.option("--outbox-table", metavar="NAME", help="The outbox in it.  [default: passline_outbox]"),
        click.option(
            "--outbox-database-url", metavar="URL", help="The application's database; better by its variable."
        ),
    ):
        command = option(command)
    return command


@click.group
def outbox() -> None:
    """Events that an application has committed together with its own data, on their way into the log."""


# -- The relay ---------------------------------------------------------------------------------------------------------


@outbox.command("relay")
@_outbox_options
@click.option(
    "--user",
    type=click.Choice(["publisher", "access"]),
    default="publisher",
    show_default=True,
    help="The broker's user: publisher relays all but what is said of staff, passes and tokens; access relays that.",
)
@click.option("--keep", type=_Span(), metavar="SPAN", help="Delete what was published so long ago.  [default: 1d]")
@click.option("--once", is_flag=True, help="Publish what there is, and end.")
@data_dir_option
def relay_command(
    outbox_database_url: str | None,
    outbox_table: str | None,
    user: BrokerUser,
    keep: int | None,
    once: bool,
    data_dir: Path | None,
) -> None:
    """Publish what is in the outbox, each event once, in the order of each order, as it is committed.

    Any number of relays may run: one is active, the others take over when it ends. SIGTERM or Ctrl-C ends it after the
    events that are on their way; a second one ends at once. What the broker refuses for good is parked, and later
    events of the same order wait behind it.

    \b
    Example:
      PASSLINE_OUTBOX_DATABASE_URL=postgresql://shop:…@db/shop passline outbox relay
      passline outbox relay --once --keep 7d
    """
    given = {"outbox_database_url": outbox_database_url, "outbox_table": outbox_table, "outbox_keep_seconds": keep}
    settings = read_settings("error" if once else "info", data_dir=data_dir, **given)
    try:
        asyncio.run(_drain(settings, user) if once else _relay(settings, user))
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.exit(1)  # at once, as was asked for


async def _relay(settings: Settings, user: BrokerUser) -> None:
    async with _relaying(settings, user) as (relay, _):
        await relay.run()


async def _drain(settings: Settings, user: BrokerUser) -> None:
    async with _relaying(settings, user) as (relay, backlog):
        with progress_bar() as progress:
            task = progress.add_task("events", total=(await backlog.counts()).waiting)
            await relay.drain(lambda published: progress.update(task, completed=published))
        click.echo(f"{relay.published} published")
        if any(left := await backlog.counts()):
            raise LeftInOutbox(left)


@asynccontextmanager
async def _relaying(settings: Settings, user: BrokerUser) -> AsyncIterator[tuple[Relay, Backlog]]:
    async with connection(settings, user) as broker, _opened(settings) as (engine, found):
        backlog = Backlog(engine, found, user)
        relay = Relay(backlog, broker.log, broker.publisher, keep_seconds=settings.outbox_keep_seconds)
        _stop_on_signals(relay)
        yield relay, backlog


def _stop_on_signals(relay: Relay) -> None:
    task = asyncio.current_task()
    assert task is not None
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        relay.stop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, task.cancel)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)


@asynccontextmanager
async def _opened(settings: Settings) -> AsyncIterator[tuple[Engine, Outbox]]:
    if settings.outbox_database_url is None:
        raise NoOutboxSet
    async with open_outbox(
        settings.outbox_database_url, settings.outbox_table, statement_seconds=settings.statement_seconds
    ) as (engine, found):
        yield engine, found


# -- What is not in the log --------------------------------------------------------------------------------------------


@outbox.command("list")
@_outbox_options
@click.option("--parked", is_flag=True, help="Only what the broker refuses for good.")
def list_command(outbox_database_url: str | None, outbox_table: str | None, parked: bool) -> None:
    """Show what is not in the log, oldest first: id, when it was added, how it is, its type, eventId and lane, and why.

    A lane is what is kept in order: one order, one cart. What is parked holds up what follows in its lane.

    \b
    Example:
      passline outbox list --parked
    """

    async def listed(engine: Engine, found: Outbox) -> list[Unpublished]:
        return await unpublished(engine, found, parked_only=parked, limit=LISTED + 1)

    rows = _with_outbox(outbox_database_url, outbox_table, listed)
    for row in rows[:LISTED]:
        click.echo(_line(row))
    if len(rows) > LISTED:
        click.echo(f"and more; these are the oldest {LISTED}", err=True)


@outbox.command("retry")
@_outbox_options
@click.argument("ids", type=int, nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Everything that is parked.")
def retry_command(
    outbox_database_url: str | None, outbox_table: str | None, ids: tuple[int, ...], everything: bool
) -> None:
    """Let parked events be published again, once the reason for it is mended.

    \b
    Example:
      passline outbox retry 1042
      passline outbox retry --all
    """
    if bool(ids) == everything:
        raise click.UsageError("name the events by their ids, or give --all")
    done = _with_outbox(outbox_database_url, outbox_table, lambda engine, found: retry(engine, found, ids))
    _tell(done, ids, "to be published again")


@outbox.command("discard")
@_outbox_options
@click.argument("ids", type=int, nargs=-1, required=True)
def discard_command(outbox_database_url: str | None, outbox_table: str | None, ids: tuple[int, ...]) -> None:
    """Delete parked events: they never enter the log, and what follows in their lanes does.

    \b
    Example:
      passline outbox discard 1042
    """
    done = _with_outbox(outbox_database_url, outbox_table, lambda engine, found: discard(engine, found, ids))
    _tell(done, ids, "discarded")


R = TypeVar("R")


def _with_outbox(url: str | None, table: str | None, body: Callable[[Engine, Outbox], Awaitable[R]]) -> R:
    settings = read_settings(outbox_database_url=url, outbox_table=table)

    async def run() -> R:
        async with _opened(settings) as (engine, found):
            return await body(engine, found)

    return asyncio.run(run())


def _tell(done: list[int], asked: tuple[int, ...], what: str) -> None:
    click.echo(f"{len(done)} {what}")
    if missing := sorted(set(asked) - set(done)):
        raise NotParked(missing)


def _line(row: Unpublished) -> str:
    added = dt.datetime.fromtimestamp(row.created_at, dt.UTC).isoformat(timespec="seconds")
    state = "parked" if row.parked else f"attempts={row.attempts}"
    line = f"{row.id}  {added}  {state}  {row.type}  {row.event_id}  {row.lane}"
    return f"{line}  {row.problem}" if row.problem else line
