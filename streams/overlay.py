"""What this process knows of the facts beside SQL: what the tail saw since the projection's position, and what was read
before and is still true. Pure, but for who waits for an order.
"""

from __future__ import annotations

import asyncio
from itertools import takewhile
from typing import TYPE_CHECKING

from streams.changes import DECISIVE, DELIVERED, Change, Moving, delivery_told_by, fact_changed_by
from streams.events import OrderDelivered
from streams.snapshots import OrderOwner

if TYPE_CHECKING:
    from streams.entry import Entry

MAX_REMEMBERED = 65_536
"""Facts that are kept after they were read; who asks for one that was forgotten reads it again."""


class Overlay:
    """What the tail saw past `floor` and up to `head` that decides who may see what.

    Beside that, facts that were read from SQL: each is forgotten when the tail reads of a change to it, so what is
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
        self._changes: dict[str, list[Change]] = {}
        self._known: dict[str, object] = {}

    def apply(self, entry: Entry) -> None:
        """Take the next entry."""
        self.head = entry.sequence
        order_id = entry.order_id
        if order_id is not None and order_id not in self._owners:
            owner = OrderOwner(*entry.order_owner())
            self._owners[order_id] = (entry.sequence, owner)
            for waiting in self._waiting.pop(order_id, ()):
                if not waiting.done():
                    waiting.set_result(owner)
        if entry.kind in DECISIVE and (event := entry.event) is not None:
            self._change(fact_changed_by(event), Change(entry.sequence, entry.time, event))
        elif entry.kind is OrderDelivered:
            self._change(delivery_told_by(entry), Change(entry.sequence, entry.time, DELIVERED))

    def _change(self, fact: str, change: Change) -> None:
        known = self._known.get(fact)
        if known is not None:  # asked first, as to look at a protocol takes 10 µs and most facts are not known
            if isinstance(known, Moving):
                known.take(change)
            else:
                del self._known[fact]
        self._changes.setdefault(fact, []).append(change)

    def prune(self, position: int, *, window_floor: int | None = None) -> None:
        """The projection has come to `position`: what stands up to there is no longer needed here.

        Owners of orders are kept as long as the window has their events, for those who come back to recent orders.
        """
        if position > self.floor:
            self.floor = min(position, self.head)
            kept = (
                (fact, [each for each in changes if each.sequence > self.floor])
                for fact, changes in self._changes.items()
            )
            self._changes = {fact: changes for fact, changes in kept if changes}
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

    def changes(self, fact: str, position: int) -> list[Change]:
        """What changed in a fact past `position`, in order."""
        return [change for change in self._changes.get(fact, ()) if change.sequence > position]

    def known(self, fact: str) -> object | None:
        """What is remembered of a fact, true at `head`; None where it must be read."""
        return self._known.get(fact)

    def remember(self, fact: str, state: object) -> None:
        """Keep what was read; it must be true at `head` at least."""
        if len(self._known) >= MAX_REMEMBERED:
            del self._known[next(iter(self._known))]
        self._known[fact] = state

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
