"""Guests' passes as the log knows them, and when an order was delivered, which ends them: two kinds of facts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias

import msgspec
from sqlalchemy import select, tuple_

from streams import changes
from streams.changes import delivery_fact, guest_pass_fact
from streams.errors import StreamsError, TopicUnknown
from streams.events import PassEvent, PassIssued
from streams.tables import LIVE, to_microseconds

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from streams.changes import Change
    from streams.snapshots import OrderOwner, Reading

PassKey: TypeAlias = tuple[str, str]
"""An order's id and a pass's."""

Delivery: TypeAlias = tuple[str, str, str]
"""An order's id, its restaurant's, and its customer's key: who says that somebody else's order was delivered says
nothing.
"""


class PassUnknown(TopicUnknown):
    """The order has no such pass."""

    def __init__(self, pass_id: str) -> None:
        super().__init__(f"there is no pass {pass_id}")
        self.pass_id = pass_id


class DeliveredLongAgo(StreamsError):
    """No pass is given for an order whose guests see it no more."""

    def __init__(self, order_id: str) -> None:
        super().__init__(f"the order {order_id} was delivered more than two hours ago, and guests see it no more")
        self.order_id = order_id


class GuestPass(msgspec.Struct, frozen=True, gc=False):
    """What is known of a pass.

    `expires_at` is what its issue says, in microseconds as the tables hold them; None where the log knows of no issue.
    """

    expires_at: int | None = None
    is_revoked: bool = False

    @property
    def is_issued(self) -> bool:
        """Whether the log knows of its issue."""
        return self.expires_at is not None

    @property
    def is_good(self) -> bool:
        """Whether it was issued and not revoked; not whether its time is up."""
        return self.is_issued and not self.is_revoked

    def after(self, event: PassEvent) -> GuestPass:
        """The pass after one more event. In whatever order they come and however often, the outcome is the same."""
        if not isinstance(event, PassIssued):
            return GuestPass(self.expires_at, is_revoked=True)
        if self.expires_at is not None:
            return self
        return GuestPass(to_microseconds(event.expires_at), self.is_revoked)


UNKNOWN_PASS: Final = GuestPass()


class GuestPassFacts:
    """The `streams.facts.FactKind` of `GuestPass`."""

    def name(self, key: PassKey) -> str:
        return guest_pass_fact(*key)

    async def read(self, sql: Reading, keys: Collection[PassKey]) -> dict[PassKey, GuestPass]:
        """What is known of each; of one that nobody has heard of, nothing."""
        table = LIVE.guest_passes.c
        rows = await sql.rows(
            select(table.order_id, table.pass_id, table.expires_at, table.is_revoked).where(
                tuple_(table.order_id, table.pass_id).in_(keys)
            )
        )
        found = {(row["order_id"], row["pass_id"]): GuestPass(row["expires_at"], row["is_revoked"]) for row in rows}
        return {key: found.get(key, UNKNOWN_PASS) for key in keys}

    async def applied(self, _: Reading, __: PassKey, ___: Collection[str]) -> tuple[str, ...]:
        """A repetition changes nothing anyway."""
        return ()

    def moved_on(self, state: GuestPass, changes: Iterable[Change], _: Collection[str]) -> GuestPass:
        for change in changes:
            state = state.after(change.event)
        return state


class DeliveryFacts:
    """The `streams.facts.FactKind` of when an order was delivered: the log's time (Unix seconds) of the first
    `OrderDelivered`, 0 while there is none.
    """

    def name(self, key: Delivery) -> str:
        return delivery_fact(*key)

    async def read(self, sql: Reading, keys: Collection[Delivery]) -> dict[Delivery, float]:
        orders = LIVE.orders.c
        order_ids = {order_id for order_id, _, _ in keys}
        rows = await sql.rows(
            select(orders.order_id, orders.restaurant_id, orders.customer_key, orders.delivered_log_time).where(
                orders.order_id.in_(order_ids), orders.delivered_log_time.is_not(None)
            )
        )
        found = {
            (row["order_id"], row["restaurant_id"], row["customer_key"]): row["delivered_log_time"] for row in rows
        }
        return {key: found.get(key, 0.0) for key in keys}

    async def applied(self, _: Reading, __: Delivery, ___: Collection[str]) -> tuple[str, ...]:
        """Only the first one counts anyway."""
        return ()

    def moved_on(self, state: float, changes: Iterable[Change], _: Collection[str]) -> float:
        return state or next((change.time for change in changes), 0.0)


GUEST_PASS = GuestPassFacts()
DELIVERY = DeliveryFacts()


def guests_until(delivered_at: float) -> float | None:
    """When an order's guests see it no more, in Unix seconds; None where it was not delivered."""
    return delivered_at + changes.GUEST_SECONDS_AFTER_DELIVERY if delivered_at else None


def delivery_of(order_id: str, owner: OrderOwner) -> Delivery:
    """The delivery of an order, as facts are asked for it."""
    return order_id, owner.restaurant_id, owner.customer_key
