"""Who owns what and who belongs where, at a position: SQL as far as the projection is, and what the tail saw since.

So a revocation holds for everything after it even while the projection is behind, and an order that was placed a moment
ago has its owner at once.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import msgspec

from streams.database import DatabaseUnavailable
from streams.errors import StreamsError
from streams.events import OrderEvent, Role, StaffAssigned, StaffEvent, StaffRevoked
from streams.snapshots import NoPosition, OrderOwner, Reading, Standing, States

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Iterable

    from streams.entry import Entry
    from streams.log import Log

WAIT_FOR_ORDER_SECONDS = 5.0
"""So long the tail may take to bring an order that nobody has heard of."""

_OWNERS_CACHED = 65_536


class FactsUnavailable(StreamsError):
    """The facts can't be had now: the client should come back soon."""


class OrderUnknown(StreamsError):
    """The log as it was when the request came has no such order."""

    def __init__(self, order_id: str) -> None:
        super().__init__(f"there is no order {order_id}")
        self.order_id = order_id


class StaffChange(msgspec.Struct, frozen=True, gc=False):
    """One step of somebody's standing in a restaurant, with its place in the log."""

    sequence: int
    time: float
    event: StaffAssigned | StaffRevoked


def staff_fact(restaurant_id: str, subject_key: str) -> str:
    """The name of the fact that somebody belongs to a restaurant, by which a revocation finds its streams."""
    return f"staff:{restaurant_id}:{subject_key}"


class Overlay:
    """What the tail saw past `floor` and up to `head` that decides who may see what. Pure, but for who waits."""

    def __init__(self, floor: int) -> None:
        self._waiting: dict[str, list[asyncio.Future[OrderOwner]]] = {}
        self.reset(floor)

    def reset(self, floor: int) -> None:
        """Begin anew: the tail goes on from another place."""
        self.floor = self.head = floor
        self._owners: dict[str, tuple[int, OrderOwner]] = {}
        self._staff: dict[str, list[StaffChange]] = {}

    def apply(self, entry: Entry) -> str | None:
        """Take the next entry. Returns the name of the fact that it takes back, if it does."""
        self.head = entry.sequence
        event = entry.event
        if isinstance(event, OrderEvent):
            if event.order_id not in self._owners:
                owner = OrderOwner(event.restaurant_id, event.customer_key)
                self._owners[event.order_id] = (entry.sequence, owner)
                for waiting in self._waiting.pop(event.order_id, ()):
                    if not waiting.done():
                        waiting.set_result(owner)
        elif isinstance(event, StaffEvent):
            fact = staff_fact(event.restaurant_id, event.subject_key)
            if isinstance(event, StaffAssigned | StaffRevoked):
                self._staff.setdefault(fact, []).append(StaffChange(entry.sequence, entry.time, event))
            return fact if isinstance(event, StaffRevoked) else None
        return None

    def prune(self, position: int) -> None:
        """The projection has come to `position`: what stands up to there is no longer needed here."""
        if position <= self.floor:
            return
        self.floor = min(position, self.head)
        self._owners = {order: known for order, known in self._owners.items() if known[0] > self.floor}
        kept = (
            (fact, [each for each in changes if each.sequence > self.floor]) for fact, changes in self._staff.items()
        )
        self._staff = {fact: changes for fact, changes in kept if changes}

    def owner(self, order_id: str) -> OrderOwner | None:
        """Whose the order is by the first event past the floor."""
        known = self._owners.get(order_id)
        return known[1] if known else None

    def changes(self, fact: str, position: int) -> list[StaffChange]:
        """What changed in somebody's standing past `position`, in order."""
        return [change for change in self._staff.get(fact, ()) if change.sequence > position]

    async def wait_for_order(self, order_id: str, seconds: float) -> OrderOwner | None:
        """Its owner as soon as the tail brings it, None if that takes longer."""
        known = self.owner(order_id)
        if known is not None:
            return known
        arrival: asyncio.Future[OrderOwner] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(order_id, []).append(arrival)
        try:
            async with asyncio.timeout(seconds):
                return await arrival
        except TimeoutError:
            return None
        finally:
            waiting = self._waiting.get(order_id, [])
            if arrival in waiting:
                waiting.remove(arrival)
            if not waiting:
                self._waiting.pop(order_id, None)


def moved_on(standing: Standing, changes: Iterable[StaffChange], applied: Collection[str]) -> Standing:
    """A standing after further changes. What repeats one of them, or one of the events `applied` before, is none.

    So an assignment that its publisher sends again, long after a revocation, gives no role back.
    """
    roles, revoked_at, revoked_sequence = set(standing.roles), standing.revoked_at, standing.revoked_sequence
    seen = set(applied)
    for change in changes:
        event = change.event
        if event.event_id in seen:
            continue
        seen.add(event.event_id)
        if isinstance(event, StaffAssigned):
            roles.add(event.role)
        else:
            roles -= {event.role} if event.role else set(Role)
            revoked_at, revoked_sequence = change.time, change.sequence
    return Standing(frozenset(roles), revoked_at, revoked_sequence)


class Decision:
    """The facts for one decision: one SQL transaction at the projection's position P, and the tail's overlay past it.

    `decided_at` is max(P, T), T being the tail's position when the decision was begun. Later facts may be seen, too;
    a registration that checks what changed since `decided_at` misses none.
    """

    def __init__(self, sql: Reading, overlay: Overlay) -> None:
        self.sql = sql
        self._overlay = overlay
        self.decided_at = max(sql.position.sequence, overlay.head)

    async def order_owner(self, order_id: str) -> OrderOwner | None:
        """Whose the order is, None if nobody has heard of it. Raises FactsUnavailable."""
        owner = await self.sql.order_owner(order_id)
        if owner is None:
            self._check_floor()
            owner = self._overlay.owner(order_id)
        return owner

    async def standing(self, restaurant_id: str, subject_key: str) -> Standing:
        """What somebody is to a restaurant. Raises FactsUnavailable."""
        standing = await self.sql.standing(restaurant_id, subject_key)
        fact, position = staff_fact(restaurant_id, subject_key), self.sql.position.sequence
        applied: frozenset[str] = frozenset()
        if ids := {change.event.event_id for change in self._overlay.changes(fact, position)}:
            applied = await self.sql.applied_staff_events(restaurant_id, subject_key, ids)
        self._check_floor()
        return moved_on(standing, self._overlay.changes(fact, position), applied)

    def _check_floor(self) -> None:
        if self.sql.position.sequence < self._overlay.floor:
            raise FactsUnavailable("the projection is behind what this process remembers")


class Facts:
    """The facts as this process knows them. `epoch` is set by the tail."""

    def __init__(self, states: States, overlay: Overlay, log: Log, epoch: str) -> None:
        self._states = states
        self._log = log
        self._owners: OrderedDict[str, OrderOwner] = OrderedDict()
        self._next_floor = 0
        self.overlay = overlay
        self.epoch = epoch

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[Decision]:
        """The facts for one decision, in one transaction.

        Raises:
            FactsUnavailable: the database is away or was restored, or the projection is too far behind.
        """
        try:
            async with AsyncExitStack() as stack:
                reading = await stack.enter_async_context(self._states.read())
                if reading.position.sequence < self.overlay.floor:
                    await stack.aclose()
                    reading = await stack.enter_async_context(self._states.read())
                if reading.position.epoch != self.epoch:
                    raise FactsUnavailable("the projection is of another log")
                if reading.position.sequence < self.overlay.floor:
                    raise FactsUnavailable("the projection is behind what this process remembers")
                yield Decision(reading, self.overlay)
        except (DatabaseUnavailable, NoPosition) as error:
            raise FactsUnavailable(str(error)) from error

    async def known_owner(self, order_id: str) -> OrderOwner | None:
        """Whose the order is, without waiting for it. Raises FactsUnavailable."""
        owner = self._owners.get(order_id)
        if owner is None:
            async with self.reading() as decision:
                owner = await decision.order_owner(order_id)
            if owner is not None:
                self._remember(order_id, owner)
        return owner

    async def owner(self, order_id: str) -> OrderOwner:
        """Whose the order is; waits for the tail to bring one that nobody has heard of.

        Raises:
            OrderUnknown: this process has read all that the log held when the request came, and more, in vain.
            FactsUnavailable: that can't be told now.
        """
        owner = await self.known_owner(order_id)
        if owner is not None:
            return owner
        try:
            asked = await self._log.state()
        except StreamsError as error:
            raise FactsUnavailable(str(error)) from error
        if await self.overlay.wait_for_order(order_id, WAIT_FOR_ORDER_SECONDS) is None:
            if self.overlay.head >= asked.last and asked.epoch == self.epoch:
                raise OrderUnknown(order_id)
            raise FactsUnavailable("the order is unknown here, and this process has not read all of the log yet")
        owner = await self.known_owner(order_id)
        if owner is None:
            raise FactsUnavailable("the log has moved on to another place")
        return owner

    def restart(self, epoch: str, floor: int) -> None:
        """The tail goes on from another place, or in another log."""
        self.epoch = epoch
        self.overlay.reset(floor)
        self._owners.clear()
        self._next_floor = 0

    async def prune(self) -> None:
        """Forget what the projection has had for one whole call of this; who reads now may be at an older position.

        Raises:
            FactsUnavailable
        """
        async with self.reading() as decision:
            position = decision.sql.position.sequence
        self.overlay.prune(self._next_floor)
        self._next_floor = position

    def _remember(self, order_id: str, owner: OrderOwner) -> None:
        self._owners[order_id] = owner
        if len(self._owners) > _OWNERS_CACHED:
            self._owners.popitem(last=False)
