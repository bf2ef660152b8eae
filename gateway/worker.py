"""The other process: it applies the log to the database, which gateways only read, gives up what is overdue, and raises
alarms.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any

from gateway.alarm_times import alarm_times
from gateway.background import background
from gateway.errors import ProcessUnfit
from gateway.signing import read_keys
from gateway.webhook import Webhook
from streams.alarms import Alarms
from streams.broker import connect
from streams.credentials import inbox_prefix
from streams.database import open_database
from streams.deliveries import Deliveries
from streams.expiry import CommandExpiry
from streams.log import Log
from streams.presence import ask_attendance
from streams.projection import Projection
from streams.projector import Projector

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from nats.aio.client import Client
    from sqlalchemy.ext.asyncio import AsyncEngine

    from gateway.settings import Settings
    from streams.due import AlarmTimes

_ATTENDANCE_SECONDS = 1.0
"""For the gateways to say whether somebody can see a restaurant's orders."""


async def run(settings: Settings, nats_url: str, on_ready: Callable[[], None] = lambda: None) -> None:
    """The worker's whole life, until cancelled. `nats_url` is where the broker is, for the user `worker`. `on_ready` is
    called when it is connected there and applies; a database that is away is waited for after that, too.

    Raises:
        SettingsInvalid: the alarms file can't be used.
        ProcessUnfit: it can't go on; start the process anew.
        StreamsError: the broker or the database can't be reached at the start.
    """
    times = alarm_times(settings)
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
        background(
            Projector(client, Log(client), _projection(settings, engine)).run(),
            CommandExpiry(client, Log(client)).run(),
            _alarms(client, engine, times).run(),
            *_webhook(settings, engine),
            on_death=give_up,
        ),
    ):
        on_ready()
        raise ProcessUnfit(await unfit)


def _projection(settings: Settings, engine: AsyncEngine) -> Projection:
    return Projection(engine, settings.lives, delivers_alarms=settings.alert_webhook is not None)


def _alarms(client: Client, engine: AsyncEngine, times: AlarmTimes) -> Alarms:
    ask = partial(ask_attendance, client, seconds=_ATTENDANCE_SECONDS)
    return Alarms(client, Log(client), engine, times, ask_attendance=ask)


def _webhook(settings: Settings, engine: AsyncEngine) -> tuple[Coroutine[Any, Any, None], ...]:
    if settings.alert_webhook is None or settings.alert_webhook_secret is None:
        return ()
    return (Webhook(Deliveries(engine), settings.alert_webhook, read_keys(settings.alert_webhook_secret)).run(),)
