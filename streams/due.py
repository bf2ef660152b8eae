"""Which orders are late at a time: the rows of `alarms_due`, by the times that the settings allow."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import msgspec
from sqlalchemy import ColumnElement, and_, exists, not_, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from streams.applying.alarms import UNATTENDED
from streams.database import execute
from streams.events import Alarm
from streams.tables import LIVE, attended_orders, from_microseconds, to_microseconds

MOST_AT_ONCE = 200
"""Late orders that are read at a time, those first that became late by the oldest events."""

MAX_RESTAURANTS = 1_000
"""With times of their own: a query names each of them up to twelve times, and SQLite takes 32,766 parameters."""

_MICROSECONDS = 1_000_000


class Limits(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """How long each step of an order may take, in seconds; 0 means that there is no such alarm.

    `deliver_margin` is how long after the time that an order was promised for it counts as late.
    """

    accept: float = 0
    ready: float = 0
    deliver: float = 0
    deliver_margin: float = 0
    unattended: float = 0


class AlarmTimes(msgspec.Struct, frozen=True):
    """The limits of each restaurant: its own (of at most MAX_RESTAURANTS), or the `default`."""

    default: Limits
    restaurants: Mapping[str, Limits] = {}

    def of(self, restaurant_id: str) -> Limits:
        """Those that hold for the restaurant."""
        return self.restaurants.get(restaurant_id, self.default)


class Late(msgspec.Struct, frozen=True, gc=False):
    """An order whose alarm is due.

    `since` and `due_at` are Unix seconds; `sequence` is of the event that the time is reckoned from. `last_sequence` is
    the order's last event that changed it.
    """

    order_id: str
    restaurant_id: str
    customer_id: str
    customer_key: str
    alarm: str
    since: float | None
    due_at: dt.datetime
    sequence: int
    last_sequence: int


class _Rule(NamedTuple):
    """When an alarm is due: so many `seconds` after its base. None means never."""

    alarm: str
    promised: bool
    seconds: Callable[[Limits], float | None]


_RULES = (
    _Rule(Alarm.ACCEPT, False, lambda limits: limits.accept or None),
    _Rule(Alarm.READY, False, lambda limits: limits.ready or None),
    _Rule(Alarm.READY, True, lambda limits: 0 if limits.ready else None),
    _Rule(Alarm.DELIVER, False, lambda limits: limits.deliver or None),
    _Rule(Alarm.DELIVER, True, lambda limits: limits.deliver_margin if limits.deliver else None),
    _Rule(UNATTENDED, False, lambda limits: limits.unattended or None),
)


async def delayed_orders(connection: AsyncConnection, times: AlarmTimes, now: float) -> list[Late]:
    """Orders that should have been accepted, ready or delivered by `now` (Unix seconds), at most MOST_AT_ONCE."""
    return await _late(connection, times, now, [rule for rule in _RULES if rule.alarm != UNATTENDED])


async def unattended_orders(connection: AsyncConnection, times: AlarmTimes, now: float) -> list[Late]:
    """Orders that have waited for longer than the grace, and of which it is not known that somebody could see them."""
    attended = exists().where(
        attended_orders.c.order_id == LIVE.alarms_due.c.order_id,
        attended_orders.c.sequence == LIVE.alarms_due.c.sequence,
    )
    rules = [rule for rule in _RULES if rule.alarm == UNATTENDED]
    return await _late(connection, times, now, rules, not_(attended), not_(LIVE.orders.c.payment_failed))


async def _late(
    connection: AsyncConnection, times: AlarmTimes, now: float, rules: list[_Rule], *more: ColumnElement[bool]
) -> list[Late]:
    due, orders = LIVE.alarms_due.c, LIVE.orders.c
    conditions = [each for rule in rules for each in _conditions(rule, times, now)]
    if not conditions:
        return []
    columns = (due.order_id, due.restaurant_id, orders.customer_id, orders.customer_key, due.alarm, due.since)
    statement = (
        select(*columns, due.promised, due.sequence, orders.last_sequence)
        .join(LIVE.orders, orders.order_id == due.order_id)
        .where(not_(due.raised), or_(*conditions), *more)
        .order_by(due.sequence, due.alarm)
        .limit(MOST_AT_ONCE)
    )
    return [
        Late(
            row.order_id,
            row.restaurant_id,
            row.customer_id,
            row.customer_key,
            row.alarm,
            row.since,
            _due_at(times.of(row.restaurant_id), row.alarm, row.since, row.promised),
            row.sequence,
            row.last_sequence,
        )
        for row in await execute(connection, statement)
    ]


def _conditions(rule: _Rule, times: AlarmTimes, now: float) -> Iterator[ColumnElement[bool]]:
    """That a row is due by the rule: for those restaurants that share a time, and for all others."""
    due = LIVE.alarms_due.c
    usual = rule.seconds(times.default)
    others: dict[float | None, list[str]] = {}
    for restaurant_id, limits in times.restaurants.items():
        if (seconds := rule.seconds(limits)) != usual:
            others.setdefault(seconds, []).append(restaurant_id)

    def is_due(seconds: float) -> ColumnElement[bool]:
        if rule.promised:
            return due.promised <= int((now - seconds) * _MICROSECONDS)
        return and_(due.promised.is_(None), due.since <= now - seconds)

    if usual is not None:
        named = [restaurant_id for some in others.values() for restaurant_id in some]
        elsewhere = [due.restaurant_id.not_in(named)] if named else []
        yield and_(due.alarm == str(rule.alarm), is_due(usual), *elsewhere)
    for seconds, some in others.items():
        if seconds is not None:
            yield and_(due.alarm == str(rule.alarm), is_due(seconds), due.restaurant_id.in_(some))


def _due_at(limits: Limits, alarm: str, since: float | None, promised: int | None) -> dt.datetime:
    [seconds] = [
        rule.seconds(limits) for rule in _RULES if rule.alarm == alarm and rule.promised == (promised is not None)
    ]
    base = promised if promised is not None else int((since or 0) * _MICROSECONDS)
    # Bounds as for every time in the tables.
    return from_microseconds(to_microseconds(from_microseconds(base)) + int((seconds or 0) * _MICROSECONDS))
