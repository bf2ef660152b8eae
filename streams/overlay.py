"""What this process knows of the facts beside SQL: what the tail saw since the projection's position, and what was read
before and is still true. Pure, but for who waits for an order.
"""

from __future__ import annotations

import asyncio
from itertools import takewhile
from typing import TYPE_CHECKING

import msgspec

from streams.events import Role, StaffAssigned, StaffEvent, StaffRevoked
from streams.snapshots import OrderOwner, Standing

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from streams.entry import Entry

MAX_REMEMBERED = 65_536
"""Standings that are kept after they were read; who asks for one that was forgotten reads it again."""


class StaffChange(msgspec.Struct, frozen=True, gc=False):
    """One step of somebody's standing in a restaurant, with its place in the log."""

    sequence: int
    time: float
    event: StaffAssigned | StaffRevoked


def staff_fact(restaurant_id: str, subject_key: str) -> str:
    """The name of the fact that somebody belongs to a restaurant, by which a revocation finds its streams."""
    return f"staff:{restaurant_id}:{subject_key}"


class Overlay:
    """What the tail saw past `floor` and up to `head` that decides who may see what.

    Beside that, standings that were read from SQL: each is forgotten when the tail reads of a change to it, so what is
    remembered is true at `head`.
    """

    def __init__(self, floor: int) -> None:
        self._waiting: dict[str, list[asyncio.Future[OrderOwner]]] = {}
        self.reset(floor)

    def reset(self, floor: int) -> None:
        """Begin anew: the tail goes on from another place."""
        self.floor = self.head = floor
        # By first appearance, so the oldest stand at the front:
        self._owners: dict[str, tuple[int, OrderOwner]] = {}
        self._staff: dict[str, list[StaffChange]] = {}
        self._standings: dict[str, Standing] = {}

    def apply(self, entry: Entry) -> str | None:
        """Take the next entry. Returns the name of the fact that it takes back, if it does."""
        self.head = entry.sequence
        order_id = entry.order_id
        if order_id is not None:
            if order_id not in self._owners:
                owner = OrderOwner(*entry.order_owner())
                self._owners[order_id] = (entry.sequence, owner)
                for waiting in self._waiting.pop(order_id, ()):
                    if not waiting.done():
                        waiting.set_result(owner)
        elif isinstance(event := entry.event, StaffEvent):
            fact = staff_fact(event.restaurant_id, event.subject_key)
            self._standings.pop(fact, None)
            if isinstance(event, StaffAssigned | StaffRevoked):
                self._staff.setdefault(fact, []).append(StaffChange(entry.sequence, entry.time, event))
            return fact if isinstance(event, StaffRevoked) else None
        return None

    def prune(self, position: int, *, window_floor: int | None = None) -> None:
        """The projection has come to `position`: what stands up to there is no longer needed here.

        Owners of orders are kept as long as the window has their events, for those who come back to recent orders.
        """
        if position > self.floor:
            self.floor = min(position, self.head)
            kept = (
                (fact, [each for each in changes if each.sequence > self.floor])
                for fact, changes in self._staff.items()
            )
            self._staff = {fact: changes for fact, changes in kept if changes}
        recent = self.floor if window_floor is None else min(self.floor, window_floor)
        for order in list(takewhile(lambda order: self._owners[order][0] <= recent, self._owners)):
            del self._owners[order]

    def owner(self, order_id: str) -> OrderOwner | None:
        """Whose the order is by the first event that is remembered of it.

        That may be a later event, which contradicts the first: it is enough to allow who is named, whose own the
        stream is then, and not enough to refuse anybody.
        """
        known = self._owners.get(order_id)
        return known[1] if known else None

    def changes(self, fact: str, position: int) -> list[StaffChange]:
        """What changed in somebody's standing past `position`, in order."""
        return [change for change in self._staff.get(fact, ()) if change.sequence > position]

    def standing(self, fact: str) -> Standing | None:
        """What is remembered of somebody's standing, true at `head`; None where it must be read."""
        return self._standings.get(fact)

    def remember(self, fact: str, standing: Standing) -> None:
        """Keep what was read; it must be true at `head` at least."""
        if len(self._standings) >= MAX_REMEMBERED:
            del self._standings[next(iter(self._standings))]
        self._standings[fact] = standing

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
