"""Carts that several people fill together: who is in one and since when, and what a member sees of it.

A cart is one row of the projection. Its members and its items stand in it as JSON; where in the log somebody joined is
kept there as the distance behind the cart's first event, as that of the events that were applied is.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec
from sqlalchemy import select

from streams.changes import cart_fact
from streams.errors import TopicUnknown
from streams.events import CartItem, Money, TeamCartCreated, TeamCartMemberJoined, TeamCartMemberLeft
from streams.lives import CART_SECONDS, is_over
from streams.repetition import is_applied
from streams.subjects import identity_key
from streams.tables import LIVE, from_microseconds
from streams.views import member_ref, short_name

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from sqlalchemy import RowMapping

    from streams.changes import Change
    from streams.snapshots import Reading


class CartUnknown(TopicUnknown):
    """The log as it was when the request came has no such cart, or it is over; or there are no carts here at all."""

    def __init__(self, cart_id: str) -> None:
        super().__init__(f"there is no cart {cart_id}")
        self.cart_id = cart_id


class Member(msgspec.Struct, frozen=True, gc=False):
    """Somebody in a cart, as its row holds them: they joined so many entries `behind` the cart's first event."""

    key: str
    name: str | None
    behind: int


class Line(msgspec.Struct, frozen=True, gc=False):
    """An item in a cart, as its row holds it. `member_key` is whose it is, None where nobody said."""

    item: CartItem
    member_key: str | None
    behind: int


members_of_row = msgspec.json.Decoder(list[Member])
lines_of_row = msgspec.json.Decoder(list[Line])
_money = msgspec.json.Decoder(Money)


# -- The fact ----------------------------------------------------------------------------------------------------------


class Cart(msgspec.Struct, frozen=True, gc=False):
    """Who is in a cart.

    Attributes:
        members: by identity key, where in the log they last joined.
        last_time: the log's time (Unix seconds) of the last event, whatever that was; None if there is none.
    """

    members: Mapping[str, int]
    last_time: float | None = None


_UNKNOWN = Cart({})


class CartFacts:
    """The `streams.facts.FactKind` of `Cart`, by cart id."""

    def __init__(self, life_seconds: float = CART_SECONDS) -> None:
        self.life_seconds = life_seconds

    def name(self, key: str) -> str:
        return cart_fact(key)

    async def read(self, sql: Reading, keys: Collection[str]) -> dict[str, Cart]:
        """Each of them; one that nobody has heard of is empty."""
        carts = LIVE.team_carts.c
        found: dict[str, Cart] = {}
        for row in await sql.rows(
            select(carts.team_cart_id, carts.members, carts.first_sequence, carts.last_time).where(
                carts.team_cart_id.in_(keys)
            )
        ):
            # Where the log was restored from a backup, the joining may be in it no more: from here on, then.
            since = {
                member.key: min(row["first_sequence"] + member.behind, sql.position.sequence)
                for member in members_of_row.decode(row["members"])
            }
            found[row["team_cart_id"]] = Cart(since, row["last_time"])
        return {key: found.get(key, _UNKNOWN) for key in keys}

    async def applied(self, sql: Reading, key: str, event_ids: Collection[str]) -> frozenset[str]:
        """Which of the events are in the cart: what repeats one of them changes nothing."""
        carts = LIVE.team_carts.c
        rows = await sql.rows(select(carts.applied).where(carts.team_cart_id == key))
        return frozenset(each for each in event_ids if rows and is_applied(rows[0]["applied"], each))

    def moved_on(self, state: Cart, changes: Iterable[Change], applied: Collection[str]) -> Cart:
        """So a joining that its publisher sends again, long after the member has left, gives nothing back."""
        members, last_time, seen = dict(state.members), state.last_time, set(applied)
        for change in changes:
            event = change.event
            if is_over(last_time, self.life_seconds, change.time):
                members, seen = {}, set()
            last_time = max(change.time, last_time or change.time)
            if event.event_id in seen:
                continue
            seen.add(event.event_id)
            if isinstance(event, TeamCartMemberLeft):
                members.pop(identity_key(event.member_id), None)
            elif isinstance(event, TeamCartCreated | TeamCartMemberJoined):
                members.setdefault(identity_key(event.member_id), change.sequence)
        return Cart(members, last_time)

    def is_over(self, cart: Cart, now: float) -> bool:
        """Whether it is gone at `now`, in Unix seconds."""
        return is_over(cart.last_time, self.life_seconds, now)


# -- The snapshot ------------------------------------------------------------------------------------------------------


class CartMember(msgspec.Struct, frozen=True, kw_only=True, gc=False, rename="camel"):
    """A member as the others see them."""

    member_ref: str
    member_name: str | None
    is_host: bool


class CartLine(msgspec.Struct, frozen=True, kw_only=True, gc=False, rename="camel"):
    """An item, and whose it is."""

    item_id: str
    name: str
    quantity: int
    unit_price: Money | None
    member_ref: str | None


class CartState(msgspec.Struct, frozen=True, kw_only=True, gc=False, rename="camel"):
    """A cart as one of its members sees it, who is `you`. Whole: null is what is not known."""

    team_cart_id: str
    status: str
    members: list[CartMember]
    items: list[CartLine]
    total: Money | None
    expires_at: dt.datetime | None
    order_id: str | None
    restaurant_id: str | None
    you: str


async def cart_snapshot(sql: Reading, cart_id: str, viewer_key: str) -> CartState | None:
    """The cart for one of its members; None if they are none at the reading's position."""
    rows = await sql.rows(select(LIVE.team_carts).where(LIVE.team_carts.c.team_cart_id == cart_id))
    members = members_of_row.decode(rows[0]["members"]) if rows else []
    if viewer_key not in [member.key for member in members]:
        return None
    return _shown(rows[0], members, viewer_key)


def _shown(row: RowMapping, members: list[Member], viewer_key: str) -> CartState:
    cart_id = row["team_cart_id"]
    total, expires_at = row["total"], row["expires_at"]
    return CartState(
        team_cart_id=cart_id,
        status=row["status"],
        members=[
            CartMember(
                member_ref=member_ref(cart_id, member.key),
                member_name=None if member.name is None else short_name(member.name),
                is_host=member.key == row["host_key"],
            )
            for member in members
        ],
        items=[_line(cart_id, line) for line in lines_of_row.decode(row["items"])],
        total=None if total is None else _money.decode(total),
        expires_at=None if expires_at is None else from_microseconds(expires_at),
        order_id=row["order_id"],
        restaurant_id=row["restaurant_id"],
        you=member_ref(cart_id, viewer_key),
    )


def _line(cart_id: str, line: Line) -> CartLine:
    item = line.item
    return CartLine(
        item_id=item.item_id,
        name=item.name,
        quantity=item.quantity,
        unit_price=item.unit_price or None,
        member_ref=None if line.member_key is None else member_ref(cart_id, line.member_key),
    )
