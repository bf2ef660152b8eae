"""What a restaurant earns and pays, and coupons that are used."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from msgspec import UNSET, Meta, UnsetType

from streams.events.fields import Event, Id, Money, UtcTime
from streams.subjects import coupon_subject, finance_subject

Count: TypeAlias = Annotated[int, Meta(ge=0, le=2**53 - 1)]


class FinanceEvent(Event, frozen=True, kw_only=True, gc=False):
    """A booking on a restaurant's account. Amount and balance are in one currency."""

    restaurant_account_id: Id
    restaurant_id: Id
    order_id: Id | UnsetType | None = UNSET
    amount: Money
    new_balance: Money

    def __post_init__(self) -> None:
        if self.amount.currency != self.new_balance.currency:
            raise ValueError("newBalance: its currency is another than the amount's")

    def log_subject(self) -> str:
        return finance_subject(self.restaurant_id, self.type_name())


class RevenueRecorded(FinanceEvent, frozen=True, kw_only=True, gc=False, tag="RevenueRecorded"): ...


class PlatformFeeRecorded(FinanceEvent, frozen=True, kw_only=True, gc=False, tag="PlatformFeeRecorded"): ...


class CouponUsed(Event, frozen=True, kw_only=True, gc=False, tag="CouponUsed"):
    """A coupon was used once more."""

    coupon_id: Id
    previous_usage_count: Count
    new_usage_count: Count
    used_at: UtcTime

    def log_subject(self) -> str:
        return coupon_subject(self.coupon_id, self.type_name())
