"""Events into the log: acknowledged, in the order in which they are given, and each once.

Two things the broker is asked to hold to. `Nats-Msg-Id` is the event's id, by which JetStream stores it once within its
window of ten minutes. And of an order that nobody has heard of, there must be no entry under any restaurant and
customer: so the broker decides whose an order is, also between gateways that don't know of one another.

Several events are on their way at once, as far as that takes nothing from their order in the log: nothing of an order
is sent before what was sent of it earlier has its answer, since a failure ends that order; and nothing at all before an
order's first event has its answer, since that one may have to be sent again.
"""

from __future__ import annotations

import asyncio
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

import msgspec
import nats.errors
import structlog

from streams.entry import judge
from streams.errors import StreamsError
from streams.events import MAX_EVENT_BYTES, OrderEvent, encode
from streams.flights import WINDOW, Acknowledgements, Flight, Flights, connection_of
from streams.subjects import any_owner_filter

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from nats.aio.client import Client

    from streams.events import AnyEvent, Event
    from streams.log import Log, Stored

PUBLISH_SECONDS = 4.0
"""The longest that a call of `Publisher.publish` takes."""

# Later nothing new is sent, so that what is on its way can still be answered for.
_SENDING_SECONDS = 3.0

# The facts come from a database, and the broker can do without.
_OWNERS_SECONDS = 1.0
_OWNERS_AT_ONCE = 4

_WRONG_LAST_SEQUENCE = 10071  # an `err_code` of JetStream

log = structlog.get_logger()


class Status(StrEnum):
    """What became of an event."""

    STORED = "stored"
    DUPLICATE = "duplicate"  # it was in the log before
    FAILED = "failed"
    NOT_ATTEMPTED = "not_attempted"  # it was not sent


class ProblemKind(StrEnum):
    """Why an event is not in the log."""

    CONFLICT = "conflict"  # it contradicts what is there, and always will
    REFUSED = "refused"  # the broker takes no such event, and never will
    UNAVAILABLE = "unavailable"  # no answer in time: it may be there, and can be sent again


class Result(msgspec.Struct, frozen=True, gc=False):
    """What became of one event, and where it stands in the log. `problem` is for the publisher to read.

    What was not attempted has the kind of the failure that it was given up for.
    """

    event_id: str
    status: Status
    sequence: int | None = None
    problem: str | None = None
    kind: ProblemKind | None = None


class Owner(Protocol):
    """Whose an order is."""

    @property
    def restaurant_id(self) -> str: ...
    @property
    def customer_key(self) -> str: ...


class Publisher:
    """Publishes over `client`, whose user must be one that may publish every kind of event and read the log.

    `known_owner` tells whose an order is, and None where it is not known: then the broker decides. It must not raise.
    """

    def __init__(self, client: Client, log: Log, known_owner: Callable[[str], Awaitable[Owner | None]]) -> None:
        self._client = client
        self._log = log
        self._known_owner = known_owner
        self._acknowledgements = Acknowledgements(client)

    @property
    def connection(self) -> int:
        """Which one it is now of all the connections that the client makes, one after the other."""
        return connection_of(self._client)

    async def publish(self, events: Sequence[Event], *, only_over: int | None = None) -> list[Result]:
        """Put the events into the log in their order, and tell of each what became of it, within PUBLISH_SECONDS.

        An event that stands in the log already is a duplicate, unless this very call may have put it there without
        hearing of it: then it is stored. One that stands there with the same id and another content is a conflict.

        After a failure no later event of the same order is sent, and after one for want of the broker none at all.
        What is said of one restaurant's staff counts as an order's. Several calls may run at once.

        With `only_over` nothing is sent over another connection than that one, not even what had no answer. The broker
        ends a connection that does not answer its pings, so a process that has slept for long sends nothing.
        """
        now = asyncio.get_running_loop().time()
        flights: Flights[_EventFlight] = Flights(
            self._client, self._acknowledgements, now + PUBLISH_SECONDS, only_over=only_over
        )
        call = _Call(self._log, flights, events)
        try:
            async with asyncio.timeout_at(now + PUBLISH_SECONDS):
                await self._acknowledgements.open()
                await call.run(await self._owners(events), now + _SENDING_SECONDS)
        except (OSError, nats.errors.Error) as error:  # TimeoutError is an OSError
            log.warning("publisher.cut_off", reason=str(error) or type(error).__name__)
        finally:
            flights.close()
        return call.results()

    async def _owners(self, events: Iterable[Event]) -> dict[str, Owner]:
        """The owners of the events' orders, as far as they are known and can be had in time."""
        owners: dict[str, Owner] = {}
        orders = {event.order_id for event in events if isinstance(event, OrderEvent)}
        unasked = iter(orders)

        async def ask() -> None:
            for order_id in unasked:
                if (owner := await self._known_owner(order_id)) is not None:
                    owners[order_id] = owner

        try:
            async with asyncio.timeout(_OWNERS_SECONDS), asyncio.TaskGroup() as group:
                for _ in range(min(_OWNERS_AT_ONCE, len(orders))):
                    group.create_task(ask())
        except TimeoutError:
            log.warning("publisher.owners_late", known=len(owners))
        return owners


class _EventFlight(Flight):
    """An event on its way. Of its `lane` it is the only one."""

    def __init__(self, index: int, event: Event, lane: str) -> None:
        super().__init__(event.log_subject(), encode(event))
        self.index = index
        self.event = event
        self.lane = lane
        self.expect(None)

    def expect(self, sequence: int | None) -> None:
        """The last entry of its order, under any owner, that the broker shall insist on; None is any, 0 is none.

        Not for nothing: the broker looks under every restaurant and customer, about 0.2 ms for 1,000 orders in the log.
        """
        self.headers = {"Nats-Msg-Id": self.event.event_id}
        if sequence is not None and isinstance(self.event, OrderEvent):
            self.headers["Nats-Expected-Last-Subject-Sequence"] = str(sequence)
            self.headers["Nats-Expected-Last-Subject-Sequence-Subject"] = any_owner_filter(self.event.order_id)


class _Call:
    """One call of `Publisher.publish`."""

    def __init__(self, log: Log, flights: Flights[_EventFlight], events: Sequence[Event]) -> None:
        self._log = log
        self._flights = flights
        self._events = events
        self._owners: dict[str, Owner] = {}
        self._results: dict[int, Result] = {}
        self._in_flight: dict[str, _EventFlight] = {}  # by lane, of each one at most
        self._failed: dict[str, ProblemKind] = {}  # by lane

    async def run(self, owners: dict[str, Owner], send_until: float) -> None:
        """Send them all, and settle what has landed. Ends early if the broker is lost or at `send_until`."""
        self._owners = owners
        clock = asyncio.get_running_loop().time
        for index, event in enumerate(self._events):
            lane = _lane(event)
            while (lane in self._in_flight or len(self._flights) >= WINDOW) and self._flights.lost is None:
                await self._land()
            if self._flights.lost is not None or clock() >= send_until:
                break
            if lane not in self._failed:
                await self._begin(_EventFlight(index, event, lane))
        await self._land_all()

    def results(self) -> list[Result]:
        """Of each event, in their order; also when `run` was cut off."""
        for flight in list(self._in_flight.values()):
            self._cut_off(flight)
        return [self._results.get(index) or self._not_attempted(event) for index, event in enumerate(self._events)]

    # -- On the way --

    async def _begin(self, flight: _EventFlight) -> None:
        if len(flight.body) > MAX_EVENT_BYTES:
            self._fail(flight, ProblemKind.REFUSED, f"an event has at most {MAX_EVENT_BYTES} bytes")
            return
        is_first = False
        if isinstance(flight.event, OrderEvent):
            owner = self._owners.get(flight.event.order_id)
            if owner is not None and not _is_owner(owner, flight.event):
                self._fail(flight, ProblemKind.CONFLICT, _OTHER_OWNER)
                return
            is_first = owner is None
        if is_first:
            flight.expect(0)
        self._in_flight[flight.lane] = flight
        await self._flights.send(flight)
        if is_first:
            await self._land_all()

    async def _land_all(self) -> None:
        while len(self._flights) and self._flights.lost is None:
            await self._land()

    async def _land(self) -> None:
        landed = await self._flights.landed()
        await asyncio.gather(*(self._settle(flight) for flight in landed if not self._settled_at_once(flight)))

    # -- What became of it --

    def _settled_at_once(self, flight: _EventFlight) -> bool:
        """The ordinary case: the broker has stored it."""
        answer = flight.acknowledgement
        if answer is None or answer.error is not None or answer.duplicate:
            return False
        self._stored(flight, answer.seq)
        return True

    async def _settle(self, flight: _EventFlight) -> None:
        answer = flight.acknowledgement
        assert answer is not None
        try:
            if answer.error is None:
                await self._compare(flight, answer.seq)
            elif answer.error.err_code == _WRONG_LAST_SEQUENCE and isinstance(flight.event, OrderEvent):
                await self._arbitrate(flight, flight.event)
            else:
                self._fail(flight, ProblemKind.REFUSED, f"the broker refuses it: {answer.error.description}")
        except StreamsError as error:  # the log could not be read
            self._flights.give_up(str(error))
            self._fail(flight, ProblemKind.UNAVAILABLE, _NO_ANSWER)

    async def _compare(self, flight: _EventFlight, sequence: int) -> None:
        """The broker has an entry with its message id: is it this event?"""
        found = await self._log.get(sequence)
        # Where retention has taken it in between, the broker's word must do.
        if found is None or _event_of(found) == flight.event:
            self._stood_there(flight, sequence)
        else:
            self._fail(flight, ProblemKind.CONFLICT, _OTHER_CONTENT)

    async def _arbitrate(self, flight: _EventFlight, event: OrderEvent) -> None:
        """It is not the order's first entry: by whose first entry is the order whose?

        What can't be used does not count, here as everywhere. It may also be the very entry that this call has made.
        """
        subject = any_owner_filter(event.order_id)
        last, first = 0, None
        while first is None and (found := await self._log.next_match(last, subject)) is not None:
            last, first = found.sequence, _event_of(found)
        if not isinstance(first, OrderEvent):
            flight.expect(last)
            await self._flights.send(flight)
            return
        self._owners[event.order_id] = first
        if first == event:
            self._stood_there(flight, last)
        elif first.event_id == event.event_id:
            self._fail(flight, ProblemKind.CONFLICT, _OTHER_CONTENT)
        elif not _is_owner(first, event):
            self._fail(flight, ProblemKind.CONFLICT, _OTHER_OWNER)
        else:
            flight.expect(None)
            await self._flights.send(flight)

    def _cut_off(self, flight: _EventFlight) -> None:
        """There is no more time for it."""
        if self._settled_at_once(flight):
            return
        if flight.is_sent:
            self._fail(flight, ProblemKind.UNAVAILABLE, _NO_ANSWER)
        else:
            self._done(flight, self._not_attempted(flight.event))

    def _stood_there(self, flight: _EventFlight, sequence: int) -> None:
        if flight.is_uncertain:
            self._stored(flight, sequence)
        else:
            self._done(flight, Result(flight.event.event_id, Status.DUPLICATE, sequence))

    def _stored(self, flight: _EventFlight, sequence: int) -> None:
        if isinstance(flight.event, OrderEvent):
            self._owners.setdefault(flight.event.order_id, flight.event)
        self._done(flight, Result(flight.event.event_id, Status.STORED, sequence))

    def _fail(self, flight: _EventFlight, kind: ProblemKind, problem: str) -> None:
        self._failed[flight.lane] = kind
        self._done(flight, Result(flight.event.event_id, Status.FAILED, problem=problem, kind=kind))

    def _done(self, flight: _EventFlight, result: Result) -> None:
        self._results[flight.index] = result
        self._in_flight.pop(flight.lane, None)

    def _not_attempted(self, event: Event) -> Result:
        kind = self._failed.get(_lane(event))
        problem = _OUT_OF_REACH if kind is None else _EARLIER_FAILED
        return Result(event.event_id, Status.NOT_ATTEMPTED, problem=problem, kind=kind or ProblemKind.UNAVAILABLE)


_OTHER_OWNER = "the order belongs to another restaurant or customer"
_OTHER_CONTENT = "the log has another event with this eventId"
_NO_ANSWER = "the broker did not answer for it in time; it may have been stored, and may be sent again as it is"
_OUT_OF_REACH = "the broker was out of reach, or there was no time left"
_EARLIER_FAILED = "an earlier event of the same order failed"


def _lane(event: Event) -> str:
    """What an event must be kept in order with: its order, or what is said of one restaurant's staff."""
    return event.order_id if isinstance(event, OrderEvent) else event.log_subject().rpartition(".")[0]


def _is_owner(owner: Owner, event: OrderEvent) -> bool:
    return (owner.restaurant_id, owner.customer_key) == (event.restaurant_id, event.customer_key)


def _event_of(found: Stored) -> AnyEvent | None:
    return judge(found.sequence, found.time, found.subject, found.data).event
