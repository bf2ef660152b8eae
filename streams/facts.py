"""Who owns what and who belongs where, at a position: SQL as far as the projection is, and what the tail saw since.

So a revocation holds for everything after it even while the projection is behind, and an order that was placed a moment
ago has its owner at once.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

from streams.database import DatabaseUnavailable
from streams.errors import StreamsError, TopicUnknown
from streams.inquiry import Inquiry
from streams.overlay import Overlay
from streams.snapshots import NoPosition, OrderOwner, Reading, States

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence

    from streams.changes import Change
    from streams.log import Log

K = TypeVar("K")
S = TypeVar("S")

WAIT_FOR_ORDER_SECONDS = 5.0
"""So long the tail may take to bring an order that nobody has heard of."""

WAIT_FOR_TAIL_SECONDS = 2.0
"""So long the tail may take to come to where the log was when somebody asked."""

_POLL_SECONDS = 0.01
_OWNERS_CACHED = 65_536


class FactsUnavailable(StreamsError):
    """The facts can't be had now: the client should come back soon."""


class OrderUnknown(TopicUnknown):
    """The log as it was when the request came has no such order."""

    def __init__(self, order_id: str) -> None:
        super().__init__(f"there is no order {order_id}")
        self.order_id = order_id


class FactKind(Protocol[K, S]):
    """A kind of fact that the log's events change. `K` says which one, `S` is what is known of it, never None."""

    def name(self, key: K) -> str:
        """As `streams.changes` names it."""
        ...

    async def read(self, sql: Reading, keys: Collection[K]) -> Mapping[K, S]:
        """Each of them at the reading's position."""
        ...

    async def applied(self, sql: Reading, key: K, event_ids: Collection[str]) -> Collection[str]:
        """Which of the events had been applied at the reading's position: what repeats one of them changes nothing."""
        ...

    def moved_on(self, state: S, changes: Sequence[Change], applied: Collection[str]) -> S:
        """The fact after further changes. One that repeats another, or one of those `applied` before, is none."""
        ...


class Decision:
    """The facts for one decision: one SQL transaction at the projection's position P, and the tail's overlay past it.

    `decided_at` is max(P, T), T being the tail's position when the decision was begun. Later facts may be seen, too;
    a registration that checks what changed since `decided_at` misses none.
    """

    def __init__(self, sql: Reading, overlay: Overlay) -> None:
        self.sql = sql
        self._overlay = overlay
        self.decided_at = max(sql.position.sequence, overlay.head)

    async def order_owners(self, order_ids: Sequence[str]) -> dict[str, OrderOwner | None]:
        """Whose the orders are, None for one that nobody has heard of. Raises FactsUnavailable."""
        owners = await self.sql.order_owners(order_ids)
        if len(owners) < len(order_ids):
            self._check_floor()
        return {order_id: owners.get(order_id) or self._overlay.owner(order_id) for order_id in order_ids}

    async def state(self, kind: FactKind[K, S], key: K) -> S:
        """One fact of a kind. Raises FactsUnavailable."""
        return (await self.states(kind, [key]))[key]

    async def states(self, kind: FactKind[K, S], keys: Sequence[K]) -> dict[K, S]:
        """The same of several keys. They are remembered."""
        read = await kind.read(self.sql, keys)
        position = self.sql.position.sequence
        applied: dict[K, Collection[str]] = {}
        for key in keys:
            if ids := {each.event.event_id for each in self._overlay.changes(kind.name(key), position)}:
                applied[key] = await kind.applied(self.sql, key, ids)
        self._check_floor()
        # Nothing is awaited from here on, so what is remembered is true at the overlay's head.
        known: dict[K, S] = {}
        for key in keys:
            fact = kind.name(key)
            changes = self._overlay.changes(fact, position)
            known[key] = kind.moved_on(read[key], changes, applied.get(key, ())) if changes else read[key]
            self._overlay.remember(fact, known[key])
        return known

    def _check_floor(self) -> None:
        if self.sql.position.sequence < self._overlay.floor:
            raise FactsUnavailable("the projection is behind what this process remembers")


class Facts:
    """The facts as this process knows them. `epoch` is set by the tail.

    `reading` is for who needs a transaction, as for a snapshot. `state` and `owner` answer from memory, and read
    together what many ask for at once, so that a storm of returning clients is a handful of transactions.
    """

    def __init__(self, states: States, overlay: Overlay, log: Log, epoch: str) -> None:
        self._states = states
        self._log = log
        self._owners: OrderedDict[str, OrderOwner] = OrderedDict()
        self._next_floor = 0
        self._asked: dict[FactKind[Any, Any], Inquiry[Any, Any]] = {}
        self._owners_asked = Inquiry[str, OrderOwner | None](self._read_owners)
        self.overlay = overlay
        self.epoch = epoch

    @property
    def position(self) -> int:
        """What `state` has answered is true here, as long as nothing was awaited since."""
        return self.overlay.head

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

    async def state(self, kind: FactKind[K, S], key: K) -> S:
        """One fact of a kind, at `position`. Raises FactsUnavailable."""
        fact = kind.name(key)
        while (known := self.overlay.known(fact)) is None:
            await self._inquiry(kind).ask(key)
        return cast("S", known)

    async def settled(self, kind: FactKind[K, S], key: K, is_known: Callable[[S], bool]) -> S:
        """One fact of a kind; where it is not known, as of the log's end when this was called.

        So what was published a moment ago, by way of another process, is not taken for what never was. That costs a
        request to the broker and waits for the tail: not for what anybody may ask without limit.

        Raises:
            FactsUnavailable
        """
        state = await self.state(kind, key)
        if is_known(state):
            return state
        try:
            asked = await self._log.state()
            async with asyncio.timeout(WAIT_FOR_TAIL_SECONDS):
                while self.overlay.head < asked.last and self.epoch == asked.epoch:  # noqa: ASYNC110 - seldom, and short
                    await asyncio.sleep(_POLL_SECONDS)
        except (StreamsError, TimeoutError) as error:
            raise FactsUnavailable("this process has not read all of the log yet") from error
        if self.epoch != asked.epoch:
            raise FactsUnavailable("the log is another one than this process has read")
        return await self.state(kind, key)

    async def applied(self, sequence: int) -> None:
        """Wait until the projection has come to `sequence`. Raises FactsUnavailable if that takes too long."""
        clock = asyncio.get_running_loop().time
        deadline = clock() + WAIT_FOR_TAIL_SECONDS
        while True:
            async with self.reading() as decision:
                if decision.sql.position.sequence >= sequence:
                    return
            if clock() >= deadline:
                raise FactsUnavailable(f"the projection has not come to {sequence} yet")
            await asyncio.sleep(_POLL_SECONDS)

    def recent_owner(self, order_id: str) -> OrderOwner | None:
        """Whose a recent order is by what this process remembers: enough to allow that one, not to refuse anybody."""
        return self._owners.get(order_id) or self.overlay.owner(order_id)

    async def known_owner(self, order_id: str) -> OrderOwner | None:
        """Whose the order is, without waiting for it. Raises FactsUnavailable."""
        return self._owners.get(order_id) or await self._owners_asked.ask(order_id)

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

    async def prune(self, window_floor: int) -> None:
        """Forget what the projection has had for one whole call of this; who reads now may be at an older position.

        Raises:
            FactsUnavailable
        """
        async with self.reading() as decision:
            position = decision.sql.position.sequence
        self.overlay.prune(self._next_floor, window_floor=window_floor)
        self._next_floor = position

    def _inquiry(self, kind: FactKind[K, S]) -> Inquiry[K, S]:
        async def read(keys: Sequence[K]) -> dict[K, S]:
            async with self.reading() as decision:
                return await decision.states(kind, keys)

        return self._asked.setdefault(kind, Inquiry[K, S](read))

    async def _read_owners(self, order_ids: Sequence[str]) -> dict[str, OrderOwner | None]:
        epoch = self.epoch
        async with self.reading() as decision:
            owners = await decision.order_owners(order_ids)
        if self.epoch == epoch:
            self._owners.update((order_id, owner) for order_id, owner in owners.items() if owner is not None)
            while len(self._owners) > _OWNERS_CACHED:
                self._owners.popitem(last=False)
        return owners
