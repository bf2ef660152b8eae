"""The demo's town at work: what happens there goes into the log, as the services of a real one would put it there."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections import deque
from typing import TYPE_CHECKING

import structlog

from streams.events import OrderEvent, OrderPlaced
from streams.publisher import ProblemKind

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.town import Town
    from streams.events import AnyEvent
    from streams.publisher import Owner, Publisher

TICK_SECONDS = 0.1

MAX_STEP_SECONDS = 1.0
"""Where the broker was away for longer, or the machine asleep, the town stood still."""

_MINUTE = 60.0

_log = structlog.get_logger()


class TownAtWork:
    """Publishes what happens in a town. `make_publisher` is given what tells whose an order is: here the event itself.

    `first_stored` is set when the first order is in the log.
    """

    def __init__(
        self,
        town: Town,
        make_publisher: Callable[..., Publisher],
    ) -> None:
        self.first_stored = asyncio.Event()
        self._town = town
        self._publisher = make_publisher(self._owner)
        self._waiting: list[AnyEvent] = []
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
        clock = asyncio.get_running_loop().time
        self._waiting = self._town.staff(_now())
        last = clock()
        while True:
            await self._publish()
            await asyncio.sleep(TICK_SECONDS)
            now = clock()
            if not self._waiting:
                self._waiting = list(self._town.advance(min(now - last, MAX_STEP_SECONDS), _now()))
            last = now

    async def _publish(self) -> None:
        """What is waiting, in its order; what could not be published for want of the broker waits on."""
        if not self._waiting:
            return
        results = await self._publisher.publish(self._waiting)
        waiting = []
        for event, result in zip(self._waiting, results, strict=True):
            if result.kind is ProblemKind.UNAVAILABLE:
                waiting.append(event)
            elif result.problem is not None:
                _log.error("town.event_refused", event_id=event.event_id, reason=result.problem)
            elif isinstance(event, OrderPlaced):
                self._placed.append(asyncio.get_running_loop().time())
                self.first_stored.set()
        self._waiting = waiting

    async def _owner(self, order_id: str) -> Owner | None:
        """The town alone publishes its orders' events, so none of them needs an arbiter."""
        for event in self._waiting:
            if isinstance(event, OrderEvent) and event.order_id == order_id:
                return event
        return None


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)
