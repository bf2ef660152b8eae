"""The alarms of orders: what is late, published as an event of the order. Once, whoever else publishes.

An alarm is judged by the projection at a position that has all of the log up to a head that was asked for after the
clock was read. The broker is asked to store it only if nothing has happened to the order since, so that it loses
against a delivery that came first. Its row is marked when it is read back from the log. Until then it may be published
again, by another worker or after a crash. Then it is refused: as a duplicate, since its id is made of what it is
reckoned from; or, after the broker's window for duplicates, because the order has a newer event, which is this alarm.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import hashlib
import time
from typing import TYPE_CHECKING, TypeAlias

import msgspec
import structlog
from sqlalchemy import delete, insert, or_, select
from sqlalchemy.exc import IntegrityError

from streams.applying.alarms import UNATTENDED
from streams.database import execute, reading, writing
from streams.due import delayed_orders, unattended_orders
from streams.errors import JetStreamRefused, StreamsError
from streams.events import Alarm, OrderDelayed, OrderUnattended, encode
from streams.log import EVENTS
from streams.projection import read_position
from streams.storing import WRONG_LAST_SEQUENCE, store
from streams.subjects import order_filter
from streams.tables import LIVE, attended_orders

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence

    from nats.aio.client import Client
    from sqlalchemy.ext.asyncio import AsyncEngine

    from streams.due import AlarmTimes, Late
    from streams.flights import Acknowledgement
    from streams.log import Log, LogState

    AskAttendance: TypeAlias = Callable[[Collection[str]], Awaitable[Mapping[str, float | None]]]

POLL_SECONDS = 1.0
"""How long after it is due an alarm may be noticed."""

_CATCH_UP_SECONDS = 30.0
_FIRST_PAUSE_SECONDS = 0.02
_AT_ONCE = 16
_MOST_REMEMBERED = 10_000

_log = structlog.get_logger()


class Judgement(msgspec.Struct, frozen=True):
    """What is late by the log called `epoch` up to `position`."""

    epoch: str
    position: int
    late: Sequence[Late]

    def covers(self, head: LogState) -> bool:
        """Whether all that the log had at that moment was applied."""
        return self.epoch == head.epoch and self.position >= head.last


class Alarms:
    """Raises the alarms of `engine`'s orders. `clock` is in Unix seconds.

    `ask_attendance` tells for restaurants when somebody last could see their orders (Unix seconds), None where that is
    not known of anybody; it raises a StreamsError where nobody answers.
    """

    def __init__(
        self,
        client: Client,
        log: Log,
        engine: AsyncEngine,
        times: AlarmTimes,
        *,
        ask_attendance: AskAttendance,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._client = client
        self._log = log
        self._engine = engine
        self._times = times
        self._ask_attendance = ask_attendance
        self._clock = clock
        # By event id. What was stored and is not read back as it should be is not to be stored every ten minutes.
        self._published: set[str] = set()
        self._halted: dict[str, str] = {}

    async def run(self) -> None:
        """Raise alarms until cancelled. Whatever is away is waited for."""
        while True:
            raised = await self._unless_away("delays", self._raise_delays())
            raised += await self._unless_away("unattended", self._raise_unattended())
            if not raised:
                await asyncio.sleep(POLL_SECONDS)

    async def raise_due(self) -> int:
        """Raise all alarms that are due now; how many that were.

        Raises:
            DatabaseUnavailable, BrokerUnavailable, JetStreamRefused, and what `ask_attendance` raises.
        """
        return await self._raise_delays() + await self._raise_unattended()

    async def judge(self, *, unattended: bool = False) -> Judgement:
        """What is late now, once the projection has all that the log has by now. Waits for that, a while.

        With `unattended`, which orders nobody has answered within the grace, unless it is known that somebody could see
        them; else which are delayed. Nothing is late where the projection is too far behind.

        Raises:
            DatabaseUnavailable, BrokerUnavailable
        """
        now = self._clock()
        judgement = await self._read(now, unattended=unattended)
        if not judgement.late:
            return judgement
        head = await self._log.state()
        if not judgement.covers(head):
            await self._caught_up(head)
            judgement = await self._read(now, unattended=unattended)
        return judgement if judgement.covers(head) else msgspec.structs.replace(judgement, late=())

    async def publish(self, judgement: Judgement, late: Iterable[Late]) -> int:
        """Publish the alarms of orders to which nothing has happened since they were judged; how many were stored.

        Raises:
            BrokerUnavailable, JetStreamRefused
        """
        waiting = [each for each in late if alarm_id(judgement.epoch, each) not in self._published]
        stored = 0
        for begin in range(0, len(waiting), _AT_ONCE):
            some = waiting[begin : begin + _AT_ONCE]
            answers = await asyncio.gather(*(self._publish(judgement, each) for each in some), return_exceptions=True)
            for answer in answers:
                if isinstance(answer, BaseException):
                    raise answer
                stored += answer
        return stored

    # -- What is late --

    async def _raise_delays(self) -> int:
        judgement = await self.judge()
        return await self.publish(judgement, judgement.late)

    async def _raise_unattended(self) -> int:
        judgement = await self.judge(unattended=True)
        if not judgement.late:
            return 0
        last_seen = await self._ask_attendance({each.restaurant_id for each in judgement.late})
        attended: list[Late] = []
        unattended: list[Late] = []
        for late in judgement.late:
            seen, since = last_seen.get(late.restaurant_id), late.since or 0.0
            (unattended if seen is None or seen < since else attended).append(late)
        await self._remember(attended)
        return await self.publish(judgement, unattended)

    async def _caught_up(self, head: LogState) -> None:
        """Wait for the projection, for _CATCH_UP_SECONDS at most."""
        pause = _FIRST_PAUSE_SECONDS
        try:
            async with asyncio.timeout(_CATCH_UP_SECONDS):
                while True:
                    await asyncio.sleep(pause)
                    async with reading(self._engine) as connection:
                        position = await read_position(connection)
                    if position is None or position.epoch != head.epoch or position.sequence >= head.last:
                        return
                    pause = min(2 * pause, POLL_SECONDS / 2)
        except TimeoutError:
            _log.warning("alarms.projection_behind", head=head.last)

    async def _read(self, now: float, *, unattended: bool) -> Judgement:
        async with reading(self._engine) as connection:
            position = await read_position(connection)
            if position is None:
                return Judgement("", 0, ())
            late = unattended_orders if unattended else delayed_orders
            return Judgement(position.epoch, position.sequence, await late(connection, self._times, now))

    async def _remember(self, attended: Sequence[Late]) -> None:
        """That these need not be asked for again, and, together with that, forget those that wait no more."""
        if not attended:
            return
        waiting = select(LIVE.alarms_due.c.order_id).where(LIVE.alarms_due.c.alarm == UNATTENDED)
        rows = [{"order_id": each.order_id, "sequence": each.sequence} for each in attended]
        of_order = attended_orders.c.order_id
        again = of_order.in_([each.order_id for each in attended])
        try:
            async with writing(self._engine) as connection:
                await execute(connection, delete(attended_orders).where(or_(again, of_order.not_in(waiting))))
                await execute(connection, insert(attended_orders), rows)
        except IntegrityError:  # another worker has asked at the same time
            _log.debug("alarms.attended_elsewhere", orders=len(attended))

    # -- Into the log --

    async def _publish(self, judgement: Judgement, late: Late) -> bool:
        """Whether it was stored; not if it was there, or the order has moved on."""
        event = _event(judgement.epoch, late, self._clock())
        subjects = order_filter(late.restaurant_id, late.customer_key, late.order_id)
        # The order's last entry may be one that changed nothing (a repetition, or what could not be applied), or be
        # from before the log's first. Those are looked up only when it turns out so.
        stored = await self._store(event, subjects, max(late.last_sequence, 0))
        if stored is None:
            last = await self._log.last_match(subjects)
            if last is not None and last.sequence > judgement.position:
                return False  # judged too early: what came is read first
            stored = await self._store(event, subjects, last.sequence if last is not None else 0)
        if stored is None:
            return False
        if len(self._published) >= _MOST_REMEMBERED:
            self._published.clear()
        self._published.add(event.event_id)
        if stored.duplicate:
            return False
        _log.warning(
            "alarm.raised",
            alarm=late.alarm,
            order=late.order_id,
            restaurant=late.restaurant_id,
            due_at=late.due_at.isoformat(),
            sequence=stored.seq,
        )
        return True

    async def _store(
        self, event: OrderDelayed | OrderUnattended, subjects: str, expected: int
    ) -> Acknowledgement | None:
        """None if the order's last entry is not the one that was expected."""
        try:
            return await store(
                self._client,
                EVENTS,
                event.log_subject(),
                encode(event),
                message_id=event.event_id,
                after=(subjects, expected),
            )
        except JetStreamRefused as refusal:
            if refusal.err_code == WRONG_LAST_SEQUENCE:
                return None
            raise

    async def _unless_away(self, step: str, done: Awaitable[int]) -> int:
        """What a step has done. What keeps it from that is said once."""
        try:
            raised = await done
        except StreamsError as error:
            if self._halted.get(step) != str(error):
                _log.error("alarms.halted", step=step, reason=str(error))
                self._halted[step] = str(error)
            return 0
        if self._halted.pop(step, None) is not None:
            _log.info("alarms.go_on", step=step)
        return raised


def alarm_id(epoch: str, late: Late) -> str:
    """The id of an alarm's event: the same for the same lateness, whoever notices it."""
    named = f"{epoch}\n{late.order_id}\n{late.alarm}\n{late.sequence}"
    return f"alarm-{hashlib.blake2b(named.encode(), digest_size=16).hexdigest()}"


def _event(epoch: str, late: Late, now: float) -> OrderDelayed | OrderUnattended:
    event_id, occurred_at = alarm_id(epoch, late), dt.datetime.fromtimestamp(now, dt.UTC)
    if late.alarm == UNATTENDED:
        return OrderUnattended(
            event_id=event_id,
            occurred_on_utc=occurred_at,
            order_id=late.order_id,
            restaurant_id=late.restaurant_id,
            customer_id=late.customer_id,
        )
    return OrderDelayed(
        event_id=event_id,
        occurred_on_utc=occurred_at,
        order_id=late.order_id,
        restaurant_id=late.restaurant_id,
        customer_id=late.customer_id,
        alarm=Alarm(late.alarm),
        due_at=late.due_at,
    )
