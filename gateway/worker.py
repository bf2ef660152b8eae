"""The other process: it applies the log to the database. Gateways only read that."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from gateway.background import background
from gateway.errors import ProcessUnfit
from streams.broker import connect
from streams.credentials import inbox_prefix
from streams.database import open_database
from streams.log import Log
from streams.projection import Projection
from streams.projector import Projector

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.settings import Settings


async def run(settings: Settings, nats_url: str, on_ready: Callable[[], None] = lambda: None) -> None:
    """The worker's whole life, until cancelled. `nats_url` is where the broker is, for the user `worker`. `on_ready` is
    called when it is connected there and applies; a database that is away is waited for after that, too.

    Raises:
        ProcessUnfit: it can't go on; start the process anew.
        StreamsError: the broker or the database can't be reached at the start.
    """
    unfit: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def give_up(reason: str) -> None:
        if not unfit.done():
            unfit.set_result(reason)

    async with (
        connect(
            nats_url,
            name="passline-worker",
            inbox_prefix=inbox_prefix("worker"),
            on_closed=lambda: give_up("the broker has closed the connection for good"),
        ) as client,
        open_database(settings.sql_url, statement_seconds=settings.statement_seconds) as engine,
        background(Projector(client, Log(client), Projection(engine)).run(), on_death=give_up),
    ):
        on_ready()
        raise ProcessUnfit(await unfit)
