"""From an outbox into the log: each event once, and in the order of its lane.

How that comes about, for a batch of the oldest events that wait:

1. What an earlier attempt may have left in the log is looked for there, under the event's own subject. What is found is
   not sent again.
2. The rest is claimed: one transaction renews the lease and writes the attempt down. A relay that is not the active one
   any more stops here.
3. It is published. Of each id the broker stores one within its window of ten minutes.
4. What became of it is written down. What was not even sent counts as not attempted.

A relay that dies between 2 and 4 leaves attempts without an outcome, and the next one begins with 1. Nobody reckons
whether the window still covers an attempt, since clocks differ: whoever makes a second attempt looks first.

A relay that is paused loses its lease, and another one does all this. The paused one wakes and believes that it is at
3. If the pause was short, what it sends is a duplicate within the window. If it was long, it can send nothing: the
broker has ended its connection, which answered no ping (nats.conf: after some 15 s; by nats-server's own default after
some minutes), and in step 3 nothing is sent over another connection than the one of before step 2. Nor can it turn the
order round: each of the two sends an event only when it has the broker's word for the one before it in its lane. And
what it then marks is true (see `streams.backlog`).

So an event that was committed enters the log once, and after every event that was added to its lane before it (see
`Outbox.add`). Two limits: if the log's retention passes between one attempt and the next, the first one can't be found
any more; and a person may discard an event. What the broker refuses for good is parked, and what follows in its lane is
held up. Other lanes go on.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import TYPE_CHECKING, TypeAlias

import structlog

from streams.backlog import LeaseLost
from streams.batch import Batch, event_of
from streams.database import DatabaseUnavailable
from streams.errors import StreamsError
from streams.events import OrderEvent
from streams.lease import LEASE_SECONDS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from streams.backlog import Backlog, Waiting
    from streams.events import AnyEvent
    from streams.log import Log, Stored
    from streams.publisher import Owner, Publisher, Result

    MakePublisher: TypeAlias = Callable[[Callable[[str], Awaitable[Owner | None]]], Publisher]

BATCH = 200
"""Events that are claimed at a time."""

POLL_SECONDS = 0.2
"""How long an idle relay may take to see a new event."""

_STANDBY_SECONDS = 1.0
_RETRY_SECONDS = 1.0
_RENEW_SECONDS = LEASE_SECONDS / 4
_PRUNE_SECONDS = 60.0
_OWNERS_KEPT = 10_000

_log = structlog.get_logger()


class RelayActive(StreamsError):
    """Another relay has the outbox, and keeps it."""

    def __init__(self) -> None:
        super().__init__("another relay is active on this outbox, and publishes what is in it")


class NothingPublished(StreamsError):
    """Of a batch nothing could be published. It stays in the outbox."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"nothing can be published: {reason}")


class Relay:
    """Publishes what `backlog` has, while no other relay does. What was published is deleted after `keep_seconds`.

    `log` and what `make_publisher` makes are over one connection, of the backlog's user.
    """

    def __init__(self, backlog: Backlog, log: Log, make_publisher: MakePublisher, *, keep_seconds: float) -> None:
        self._backlog = backlog
        self._log = log
        self._owners = _Owners()
        self._publisher = make_publisher(self._owners.of)
        self._keep_seconds = keep_seconds

        self._stopping = asyncio.Event()
        self._clock = asyncio.get_running_loop().time
        self._renew_at: float | None = None  # None: the lease is not held
        self._prune_at = 0.0
        self.halted: str | None = None
        """What keeps it from going on; None while nothing does."""
        self.published = 0
        """How many events it has found or put in the log."""

    def stop(self) -> None:
        """Let `run` and `drain` end after the batch that they are at: within some ten seconds."""
        self._stopping.set()

    async def run(self) -> None:
        """Relay until `stop`. Whatever is away is waited for, and so is another relay that is active."""
        try:
            while not self._stopping.is_set():
                await self._pause(await self._step())
        finally:
            await self._release()

    async def drain(self, progress: Callable[[int], None] = lambda _: None) -> None:
        """Relay what there is, and end. `progress` is told how many events were published.

        Raises:
            RelayActive: another relay does, and is alive.
            NothingPublished, BrokerUnavailable, DatabaseUnavailable
        """
        try:
            await self._outlast_others()
            while not self._stopping.is_set() and (rows := await self._backlog.next(BATCH)):
                if not await self._is_active():
                    raise RelayActive
                await self._relay(rows)
                progress(self.published)
            await self._prune()
        except LeaseLost as lost:
            raise RelayActive from lost
        finally:
            await self._release()

    # -- Whose turn it is --

    async def _step(self) -> float:
        """One batch, or a look whether there is one; returns how many seconds to wait then."""
        try:
            if not await self._is_active():
                return _STANDBY_SECONDS
            rows = await self._backlog.next(BATCH)
            if rows:
                await self._relay(rows)
            else:
                await self._prune()
        except LeaseLost:
            self._renew_at = None
            _log.warning("relay.lease_lost")
            return _STANDBY_SECONDS
        except StreamsError as error:
            self._halt(str(error))
            return _RETRY_SECONDS
        if self.halted is not None:
            self.halted = None
            _log.info("relay.goes_on")
        return 0.0 if rows else POLL_SECONDS

    async def _is_active(self) -> bool:
        """Whether this relay has the lease, for long enough to begin something."""
        now = self._clock()
        if self._renew_at is not None and now < self._renew_at:
            return True
        was_active, self._renew_at = self._renew_at is not None, None
        if await self._backlog.lease.hold():
            self._renew_at = now + _RENEW_SECONDS
        if was_active != (self._renew_at is not None):
            _log.info("relay.stands_by" if was_active else "relay.is_active")
        return self._renew_at is not None

    async def _outlast_others(self) -> None:
        """A relay that has died is outlasted, one that lives is not."""
        deadline = self._clock() + LEASE_SECONDS + _STANDBY_SECONDS
        while not await self._is_active():
            if self._clock() >= deadline or self._stopping.is_set():
                raise RelayActive
            await self._pause(_STANDBY_SECONDS)

    async def _release(self) -> None:
        if self._renew_at is not None:
            self._renew_at = None
            try:
                await self._backlog.lease.release()
            except DatabaseUnavailable as error:
                _log.warning("relay.lease_not_released", reason=str(error))

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            pass

    async def _prune(self) -> None:
        if self._clock() >= self._prune_at:
            self._prune_at = self._clock() + min(_PRUNE_SECONDS, self._keep_seconds)
            if pruned := await self._backlog.prune(self._keep_seconds):
                _log.info("relay.pruned", events=pruned)

    def _halt(self, reason: str) -> None:
        if self.halted != reason:
            _log.error("relay.halted", reason=reason)
            self.halted = reason

    # -- A batch --

    async def _relay(self, rows: Sequence[Waiting]) -> None:
        """Publish them, as far as can be now, and mark what became of each."""
        batch = Batch(rows)
        batch.apply_found(await self._look_up(batch.attempted()))
        connection = self._publisher.connection
        ready = batch.ready()
        if ready and await self._backlog.claim([each.row.id for each in ready]):
            batch.apply_results(ready, await self._publish([each.event for each in ready], connection))
        await self._backlog.settle(batch.settled)
        self._tell(batch)

    async def _publish(self, events: Sequence[AnyEvent], connection: int) -> list[Result]:
        results = await self._publisher.publish(events, only_over=connection)
        for event, result in zip(events, results, strict=True):
            if result.sequence is not None and isinstance(event, OrderEvent):
                self._owners.learn(event)
        return results

    async def _look_up(self, events: Iterable[AnyEvent]) -> dict[str, Stored]:
        """What the log has of these, by event id: all that stands under their subjects is looked at."""
        wanted: dict[str, set[str]] = {}
        for event in events:
            wanted.setdefault(event.log_subject(), set()).add(event.event_id)
        found: dict[str, Stored] = {}
        for subject, event_ids in wanted.items():
            position = 0
            while event_ids and (stored := await self._log.next_match(position, subject)) is not None:
                if not await self._is_active():
                    raise LeaseLost
                position = stored.sequence
                for event_id in event_ids & _ids_of(stored):
                    event_ids.remove(event_id)
                    found[event_id] = stored
        return found

    def _tell(self, batch: Batch) -> None:
        settled = batch.settled
        self.published += len(settled.published)
        for row, problem in batch.parked():
            _log.error("relay.event_parked", row=row.id, type=row.type, event_id=row.event_id, problem=problem)
        if batch.unavailable is not None and not settled.published:
            raise NothingPublished(batch.unavailable)


class _Owners:
    """Whose the orders are that were published last: the broker need not be asked again."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, OrderEvent] = OrderedDict()

    async def of(self, order_id: str) -> Owner | None:
        return self._known.get(order_id)

    def learn(self, event: OrderEvent) -> None:
        self._known[event.order_id] = event
        self._known.move_to_end(event.order_id)
        if len(self._known) > _OWNERS_KEPT:
            self._known.popitem(last=False)


def _ids_of(stored: Stored) -> set[str]:
    """What the entry may be known by: its message id, and the id in its body."""
    event = event_of(stored)
    ids = {stored.headers.get("Nats-Msg-Id", "")}
    return ids if event is None else {*ids, event.event_id}
