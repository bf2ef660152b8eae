"""What an order's events do to its rows in `alarms_due`: what is awaited of it from then on.

An order that is placed waits to be accepted (and to be seen at all), one that is accepted to be ready, one that is
ready to be delivered. A row goes when the order moves on. What was promised (`estimatedDeliveryTime`) counts instead of
the time since the last step, and moves with each new promise. From when on an alarm rings is reckoned later
(`streams.due`): these rows are a function of the log alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from sqlalchemy import Table, delete, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from streams.applying.rows import Row, chunks
from streams.database import execute
from streams.entry import Entry
from streams.events import (
    Alarm,
    OrderAccepted,
    OrderCreated,
    OrderDelayed,
    OrderEvent,
    OrderPaymentSucceeded,
    OrderPlaced,
    OrderPreparing,
    OrderReadyForDelivery,
    OrderUnattended,
)
from streams.matrix import MATRIX

UNATTENDED = "unattended"
"""The alarm of an order that nobody could see; the others are those of `streams.events.Alarm`."""

_WAITING = (None, MATRIX[OrderPlaced].status, MATRIX[OrderCreated].status)
_IN_KITCHEN = (MATRIX[OrderAccepted].status, MATRIX[OrderPreparing].status)
_READY = MATRIX[OrderReadyForDelivery].status


class Due(NamedTuple):
    """One row: awaited `since` a log time (Unix seconds), or `promised` for one (microseconds), which goes before.

    `sequence` is of the event that made it so; `raised` says whether the alarm has rung since then.
    """

    since: float | None
    promised: int | None
    sequence: int
    raised: bool = False

    @property
    def base(self) -> tuple[str, float | None]:
        """What the time of the alarm is reckoned from."""
        return ("since", self.since) if self.promised is None else ("promised", self.promised)


def alarm_of(event: OrderEvent) -> str | None:
    """Which alarm the event is, None if it is none."""
    match event:
        case OrderDelayed():
            return event.alarm.value
        case OrderUnattended():
            return UNATTENDED
    return None


def awaited(before: Mapping[str, Due], order: Row, entry: Entry, event: OrderEvent) -> dict[str, Due]:
    """What is awaited of an order after the event, by alarm. `order` is its row in `orders` with the event in it."""
    found = {}
    for alarm, (since, promised) in _bases(before, order, entry.time, event).items():
        due, known = Due(since, promised, entry.sequence), before.get(alarm)
        if known is not None and known.base == due.base:
            due = known._replace(since=since)  # the alarm that has rung for it does not ring again
        found[alarm] = due
    rung = alarm_of(event)
    # One that stands before what made the row is of an earlier row: it was read before, and is read again.
    if rung in found and entry.sequence > found[rung].sequence:
        found[rung] = found[rung]._replace(raised=True)
    return found


def _bases(
    before: Mapping[str, Due], order: Row, time: float, event: OrderEvent
) -> dict[str, tuple[float | None, int | None]]:
    """By alarm, since when it is awaited and what is promised."""
    stage, promised = order["stage"], order["estimated_delivery_time"]
    found: dict[str, tuple[float | None, int | None]] = {}

    def since(alarm: str, *, begins: bool) -> float | None:
        return time if begins or alarm not in before or before[alarm].since is None else before[alarm].since

    if stage in _WAITING:
        is_placed = isinstance(event, OrderPlaced)
        is_asked = is_placed or isinstance(event, OrderPaymentSucceeded)
        if not order["payment_failed"] and (is_asked or Alarm.ACCEPT in before):
            found[Alarm.ACCEPT] = (since(Alarm.ACCEPT, begins=is_asked), None)
        if is_placed or UNATTENDED in before:
            found[UNATTENDED] = (since(UNATTENDED, begins=is_placed), None)
    elif stage in _IN_KITCHEN:
        found[Alarm.READY] = (since(Alarm.READY, begins=isinstance(event, OrderAccepted)), promised)
        if promised is not None:
            found[Alarm.DELIVER] = (None, promised)
    elif stage == _READY:
        found[Alarm.DELIVER] = (since(Alarm.DELIVER, begins=isinstance(event, OrderReadyForDelivery)), promised)
    return found


class DueRows:
    """The rows of some orders, loaded, changed by events in the log's order, and stored.

    `alarms` are the events that were alarms, in the order in which they came.
    """

    def __init__(self, table: Table) -> None:
        self._table = table
        self._loaded: dict[str, dict[str, Due]] = {}
        self._now: dict[str, dict[str, Due]] = {}
        self._restaurants: dict[str, str] = {}
        self.alarms: list[tuple[Entry, OrderEvent]] = []

    async def load(self, connection: AsyncConnection, order_ids: Iterable[str]) -> None:
        """Take what is stored of these orders."""
        table = self._table.c
        columns = (table.order_id, table.alarm, table.since, table.promised, table.sequence, table.raised)
        for some in chunks(order_ids):
            for row in await execute(connection, select(*columns).where(table.order_id.in_(some))):
                due = Due(row.since, row.promised, row.sequence, row.raised)
                self._loaded.setdefault(row.order_id, {})[row.alarm] = due

    def fold(self, order: Row, entry: Entry, event: OrderEvent) -> None:
        """Take an event that its order has not seen before; `order` is its row with the event in it."""
        order_id = event.order_id
        before = self._now[order_id] if order_id in self._now else self._loaded.get(order_id, {})
        self._now[order_id] = awaited(before, order, entry, event)
        self._restaurants[order_id] = order["restaurant_id"]
        if alarm_of(event) is not None:
            self.alarms.append((entry, event))

    async def store(self, connection: AsyncConnection) -> None:
        """Write what has changed: all rows of an order anew, since they are few and come and go together."""
        changed = [order_id for order_id, now in self._now.items() if now != self._loaded.get(order_id, {})]
        for some in chunks(order_id for order_id in changed if order_id in self._loaded):
            await execute(connection, delete(self._table).where(self._table.c.order_id.in_(some)))
        if rows := [row for order_id in changed for row in self._rows(order_id)]:
            await execute(connection, insert(self._table), rows)

    def _rows(self, order_id: str) -> list[Row]:
        order = {"order_id": order_id, "restaurant_id": self._restaurants[order_id]}
        return [{**order, "alarm": str(alarm), **due._asdict()} for alarm, due in self._now[order_id].items()]
