"""Alarms on their way to the webhook: queued by the projection, and deleted when they were taken or given up.

They are queued in the transaction that reads the alarm's event back from the log, so each alarm of the log is queued
once. What was queued survives restarts. Any number of workers may deliver: who claims a delivery has it for a while,
and if nothing more is heard of it, it is due again. So a receiver may get an alarm twice, and knows it by its id.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

import msgspec
from sqlalchemy import delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from streams.applying.rows import chunks
from streams.database import execute, reading, writing
from streams.entry import Entry
from streams.events import Alarm, OrderDelayed, OrderEvent
from streams.tables import alarm_deliveries

GIVEN_UP_SECONDS = 86_400.0
"""After so long, by the log's time of the alarm, nobody is helped by it any more."""

CLAIM_SECONDS = 30.0
"""Longer than an attempt takes: then its worker has died over it, and the next attempt is due."""


class AlarmNotice(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """What a receiver is told of an alarm: ids and times, and nothing of a person."""

    type: str
    event_id: str
    occurred_on_utc: dt.datetime
    restaurant_id: str
    order_id: str
    alarm: Alarm | None = None
    due_at: dt.datetime | None = None


class Delivery(msgspec.Struct, frozen=True, gc=False):
    """One that was claimed. It is the attempt number `attempts`; `raised_at` is the log's time of the alarm."""

    event_id: str
    body: bytes
    raised_at: float
    attempts: int


def notice_of(event: OrderEvent) -> AlarmNotice:
    """What the webhook is told of an alarm's event."""
    return AlarmNotice(
        type=event.type_name(),
        event_id=event.event_id,
        occurred_on_utc=event.occurred_on_utc,
        restaurant_id=event.restaurant_id,
        order_id=event.order_id,
        alarm=event.alarm if isinstance(event, OrderDelayed) else None,
        due_at=event.due_at if isinstance(event, OrderDelayed) else None,
    )


async def queue(connection: AsyncConnection, alarms: Sequence[tuple[Entry, OrderEvent]]) -> None:
    """Queue what was read from the log, in the transaction that applies it. One that is queued already is left."""
    rows = {
        event.event_id: {
            "event_id": event.event_id,
            "body": msgspec.json.encode(notice_of(event)).decode(),
            "raised_at": entry.time,
            "due_at": entry.time,
            "attempts": 0,
        }
        for entry, event in alarms
    }
    for some in chunks(rows):
        table = alarm_deliveries.c
        for row in await execute(connection, select(table.event_id).where(table.event_id.in_(some))):
            del rows[row.event_id]
    if rows:
        await execute(connection, insert(alarm_deliveries), list(rows.values()))


class Deliveries:
    """The queue in the database behind `engine`. Each call raises DatabaseUnavailable."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def claim(self, now: float, most: int) -> list[Delivery]:
        """Of what is due at `now` (Unix seconds) at most so many, for CLAIM_SECONDS; the oldest alarms first."""
        table = alarm_deliveries.c
        due = select(table.event_id, table.body, table.raised_at, table.attempts).where(table.due_at <= now)
        async with reading(self._engine) as connection:
            rows = (await execute(connection, due.order_by(table.raised_at, table.event_id).limit(most))).all()
        claimed = []
        for row in rows:
            delivery = Delivery(row.event_id, row.body.encode(), row.raised_at, row.attempts + 1)
            if await self._move(delivery, row.attempts, now + CLAIM_SECONDS):
                claimed.append(delivery)
        return claimed

    async def again(self, delivery: Delivery, at: float) -> None:
        """It was not taken: once more at that time (Unix seconds)."""
        await self._move(delivery, delivery.attempts, at)

    async def over(self, delivery: Delivery) -> None:
        """It was taken, or is given up."""
        async with writing(self._engine) as connection:
            await execute(connection, delete(alarm_deliveries).where(alarm_deliveries.c.event_id == delivery.event_id))

    async def _move(self, delivery: Delivery, attempts: int, due_at: float) -> bool:
        """False if another worker has it now."""
        table = alarm_deliveries
        unchanged = (table.c.event_id == delivery.event_id, table.c.attempts == attempts)
        moved = update(table).where(*unchanged).values(attempts=delivery.attempts, due_at=due_at)
        async with writing(self._engine) as connection:
            return (await execute(connection, moved)).rowcount == 1
