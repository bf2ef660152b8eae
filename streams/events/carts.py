"""What happens in a cart that several people fill together."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType

from streams.events.fields import Event, Id, Identity, Money, Text, UtcTime, check_identity
from streams.subjects import cart_subject, identity_key


class CartItem(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """One line of a cart."""

    item_id: Id
    name: Text
    quantity: Annotated[int, Meta(ge=1, le=1_000_000)]
    unit_price: Money | UnsetType | None = UNSET


class TeamCartEvent(Event, frozen=True, kw_only=True, gc=False):
    """Something that happened in a cart. `memberId` is whom it is about: who joined, left, added or paid."""

    team_cart_id: Id
    member_id: Identity | UnsetType | None = UNSET
    member_name: Text | UnsetType | None = UNSET
    item: CartItem | UnsetType | None = UNSET
    item_id: Id | UnsetType | None = UNSET
    total: Money | UnsetType | None = UNSET
    amount: Money | UnsetType | None = UNSET
    expires_at: UtcTime | UnsetType | None = UNSET
    reason: Text | UnsetType | None = UNSET

    def __post_init__(self) -> None:
        if self.member_id:
            check_identity("memberId", self.member_id)

    @property
    def member_key(self) -> str | None:
        """The member as grants name them, None where the event names none."""
        return identity_key(self.member_id) if self.member_id else None

    def log_subject(self) -> str:
        return cart_subject(self.team_cart_id, self.type_name())


class TeamCartMemberEvent(TeamCartEvent, frozen=True, kw_only=True, gc=False):
    """Something that decides who is a member."""

    member_id: Identity


class TeamCartCreated(TeamCartMemberEvent, frozen=True, kw_only=True, gc=False, tag="TeamCartCreated"):
    """Makes its member the host."""


class TeamCartMemberJoined(TeamCartMemberEvent, frozen=True, kw_only=True, gc=False, tag="TeamCartMemberJoined"): ...


class TeamCartMemberLeft(TeamCartMemberEvent, frozen=True, kw_only=True, gc=False, tag="TeamCartMemberLeft"): ...


class TeamCartMemberRemoved(TeamCartMemberLeft, frozen=True, kw_only=True, gc=False, tag="TeamCartMemberRemoved"):
    """The same as leaving, by the host's decision."""


class TeamCartItemAdded(TeamCartEvent, frozen=True, kw_only=True, gc=False, tag="TeamCartItemAdded"): ...


class TeamCartItemUpdated(TeamCartEvent, frozen=True, kw_only=True, gc=False, tag="TeamCartItemUpdated"): ...


class TeamCartItemRemoved(TeamCartEvent, frozen=True, kw_only=True, gc=False, tag="TeamCartItemRemoved"): ...


class TeamCartQuoteUpdated(TeamCartEvent, frozen=True, kw_only=True, gc=False, tag="TeamCartQuoteUpdated"): ...


class TeamCartLockedForPayment(TeamCartEvent, frozen=True, kw_only=True, gc=False, tag="TeamCartLockedForPayment"): ...


class TeamCartPaymentAuthorized(
    TeamCartEvent, frozen=True, kw_only=True, gc=False, tag="TeamCartPaymentAuthorized"
): ...


class TeamCartPaymentFailed(TeamCartEvent, frozen=True, kw_only=True, gc=False, tag="TeamCartPaymentFailed"): ...


class TeamCartConverted(TeamCartEvent, frozen=True, kw_only=True, gc=False, tag="TeamCartConverted"):
    """The cart has become an order."""

    order_id: Id
    restaurant_id: Id


class TeamCartExpired(TeamCartEvent, frozen=True, kw_only=True, gc=False, tag="TeamCartExpired"): ...
