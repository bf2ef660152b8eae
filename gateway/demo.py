"""The demo's town at work: what happens there goes into the log, as the services of a real one would put it there, and
what people there want goes to the order service.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections import deque
from contextlib import aclosing
from typing import TYPE_CHECKING

import structlog

from gateway.town import Wanted
from streams.commands import Capacity, OrderCommand, SentBy
from streams.cursor import Cursor
from streams.errors import StreamsError
from streams.events import NotificationTarget, OrderEvent, OrderPlaced
from streams.publisher import ProblemKind
from streams.reader import PlaceLost
from streams.subjects import identity_key, restaurant_filter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.commands.context import Broker
    from gateway.town import Town
    from streams.events import AnyEvent
    from streams.publisher import Owner

TICK_SECONDS = 0.1

MAX_STEP_SECONDS = 1.0
"""Where the broker was away for longer, or the machine asleep, the town stood still."""

COMMAND_SECONDS = 60

_MINUTE = 60.0
_RETRY_SECONDS = 0.5
_SENT_AT_ONCE = 64

_log = structlog.get_logger()


class TownAtWork:
    """Publishes what happens in a town, sends what is wanted there, and tells the town what the log says of it. The
    broker's user is `gateway`.

    `first_stored` is set when the first order is in the log.
    """

    def __init__(self, town: Town, broker: Broker) -> None:
        self.first_stored = asyncio.Event()
        self._town = town
        self._broker = broker
        self._publisher = broker.publisher(self._owner)
        self._commands = broker.commands()
        self._events: list[AnyEvent] = []  # that wait to be published
        self._wanted: list[Wanted] = []  # that waits to be sent
        self._heard = Cursor("", 0)
        self._listening = asyncio.Event()
        self._placed: deque[float] = deque()

    @property
    def orders_last_minute(self) -> int:
        """How many orders were placed in the last minute."""
        since = asyncio.get_running_loop().time() - _MINUTE
        while self._placed and self._placed[0] < since:
            self._placed.popleft()
        return len(self._placed)

    async def run(self) -> None:
        """Until cancelled. While the broker is away nothing happens in the town."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._listen())
            group.create_task(self._live())

    async def _live(self) -> None:
        clock = asyncio.get_running_loop().time
        await self._listening.wait()
        self._events = self._town.staff(_now())
        last = clock()
        while True:
            await self._publish()
            await self._send()
            await asyncio.sleep(TICK_SECONDS)
            now = clock()
            if not self._events and not self._wanted:
                happened = list(self._town.advance(min(now - last, MAX_STEP_SECONDS), _now()))
                self._wanted = [each for each in happened if isinstance(each, Wanted)]
                self._events = [each for each in happened if not isinstance(each, Wanted)]
            last = now

    async def _listen(self) -> None:
        """Hear what becomes of the orders, from now on."""
        filters = [restaurant_filter(each.id) for each in self._town.restaurants]
        while True:
            try:
                state = await self._broker.log.state()
                self._heard = Cursor(state.epoch, state.last)
                reader = self._broker.reader(state.epoch, state.last, filters=filters)
                self._listening.set()
                async with aclosing(reader.batches()) as batches:
                    async for batch in batches:
                        for entry in batch.entries:
                            self._heard = Cursor(state.epoch, entry.sequence)
                            if isinstance(event := entry.event, OrderEvent):
                                self._town.heard(event)
            except PlaceLost as lost:
                _log.warning("town.place_lost", reason=str(lost))
            except StreamsError as error:
                _log.warning("town.hears_nothing", reason=str(error))
                await asyncio.sleep(_RETRY_SECONDS)

    async def _publish(self) -> None:
        """What is waiting, in its order; what could not be published for want of the broker waits on."""
        if not self._events:
            return
        results = await self._publisher.publish(self._events)
        waiting = []
        for event, result in zip(self._events, results, strict=True):
            if result.kind is ProblemKind.UNAVAILABLE:
                waiting.append(event)
            elif result.problem is not None:
                _log.error("town.event_refused", event_id=event.event_id, reason=result.problem)
            elif isinstance(event, OrderPlaced):
                self._placed.append(asyncio.get_running_loop().time())
                self.first_stored.set()
        self._events = waiting

    async def _send(self) -> None:
        """What is wanted; what could not be sent waits on."""
        while batch := self._wanted[:_SENT_AT_ONCE]:
            failed = await self._sent(batch)
            self._wanted = failed + self._wanted[_SENT_AT_ONCE:]
            if failed:
                return

    async def _sent(self, batch: Sequence[Wanted]) -> list[Wanted]:
        async def send(wanted: Wanted) -> bool:
            try:
                await self._commands.send(command_of(wanted, self._heard, _now()), caller_key=wanted.identity)
            except StreamsError as error:
                _log.warning("town.command_not_sent", reason=str(error))
                return False
            return True

        sent = await asyncio.gather(*(send(each) for each in batch))
        return [wanted for wanted, is_sent in zip(batch, sent, strict=True) if not is_sent]

    async def _owner(self, order_id: str) -> Owner | None:
        """The town alone places its orders, so none of them needs an arbiter."""
        for event in self._events:
            if isinstance(event, OrderEvent) and event.order_id == order_id:
                return event
        return None


def command_of(wanted: Wanted, heard: Cursor, now: dt.datetime) -> OrderCommand:
    """What a gateway would have made of the request of somebody in the town."""
    is_customer = wanted.capacity is Capacity.CUSTOMER
    return OrderCommand(
        command_id=wanted.command_id,
        command=wanted.command,
        order_id=wanted.order.id,
        restaurant_id=wanted.order.restaurant.id,
        customer_key=identity_key(wanted.order.customer.identity),
        sent_by=SentBy(wanted.identity, wanted.capacity),
        target=NotificationTarget.CUSTOMER if is_customer else NotificationTarget.RESTAURANT,
        sent_at=now,
        expires_at=now + dt.timedelta(seconds=COMMAND_SECONDS),
        cursor=str(heard),
        reason=wanted.reason,
    )


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)
