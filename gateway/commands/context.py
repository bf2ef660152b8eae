"""What several commands share: the data directory, the settings, a connection to the broker."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from gateway.broker_url import broker_url
from gateway.errors import GatewayError
from gateway.settings import Settings
from gateway.telemetry import configure_logging
from streams.broker import connect
from streams.command_consumer import CommandConsumer
from streams.commands import Commands
from streams.credentials import inbox_prefix
from streams.history import OrderHistory
from streams.log import Log
from streams.provision import bump_epoch
from streams.publisher import Publisher
from streams.reader import Reader

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from typing import Literal

    from nats.aio.client import Client

    from streams.credentials import Role

data_dir_option = click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Directory of the embedded broker, the database and the keys.  [default: ./passline-data]",
)


class ConnectionEnded(GatewayError):
    """The broker has closed the connection for good."""

    def __init__(self) -> None:
        super().__init__("the broker has closed the connection for good; its log says why")


class Broker(NamedTuple):
    """What can be done over a command's connection, as far as its user may: the classes of `streams`, connected."""

    log: Log
    reader: Callable[..., Reader]
    publisher: Callable[..., Publisher]
    bump_epoch: Callable[[], Awaitable[str]]
    commands: Callable[..., Commands]
    command_consumer: Callable[..., CommandConsumer]
    history: OrderHistory


def broker_over(client: Client) -> Broker:
    """All of it over one connection."""
    log = Log(client)
    return Broker(
        log=log,
        reader=partial(Reader, client, log),
        publisher=partial(Publisher, client, log),
        bump_epoch=partial(bump_epoch, client),
        commands=partial(Commands, client),
        command_consumer=partial(CommandConsumer, client),
        history=OrderHistory(client, log),
    )


def read_settings(log_level: Literal["info", "warning", "error"] = "error", **options: object) -> Settings:
    """The settings from the environment with the command's options before them; logging is set up by them.

    `log_level` is taken where none is set: what a person reads is the command's output.

    Raises:
        SettingsInvalid
    """
    settings = Settings.from_environment(os.environ, **options)
    if not os.environ.get("PASSLINE_LOG_LEVEL"):
        settings = msgspec.structs.replace(settings, log_level=log_level)
    configure_logging(settings)
    return settings


@asynccontextmanager
async def connection(settings: Settings, role: Role, url: str | None = None) -> AsyncIterator[Broker]:
    """To `url`, or else to the broker that is set, or else to the embedded one of the data directory.

    Raises:
        ConnectionEnded: in the middle of the block.
        StreamsError: no broker there, or it does not let us in.
    """
    loop = asyncio.get_running_loop()
    try:
        async with (
            asyncio.timeout(None) as block,
            connect(
                url or broker_url(settings, role),
                name="passline-command",
                inbox_prefix=inbox_prefix(role),
                on_closed=lambda: block.reschedule(loop.time()),
            ) as client,
        ):
            yield broker_over(client)
    except TimeoutError as error:
        if block.expired():
            raise ConnectionEnded from error
        raise


def progress_bar(*, shown: bool = True) -> Progress:
    """On standard error; nothing where nobody sees it move."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, disable=not (shown and console.is_terminal))
