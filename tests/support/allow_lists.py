"""Who may see what of which event, written out by hand: allow-lists for the tests that look for leaks.

Each is: field of the view -> field of the event, or the value itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

EVERY_VIEW = {
    "eventId": "eventId",
    "occurredOnUtc": "occurredOnUtc",
    "schemaVersion": "schemaVersion",
}
STATUS = EVERY_VIEW | {
    "orderId": "orderId",
    "orderNumber": "orderNumber",
    "restaurantId": "restaurantId",
    "lastUpdateTimestamp": "occurredOnUtc",
    "estimatedDeliveryTime": "estimatedDeliveryTime",
    "actualDeliveryTime": "actualDeliveryTime",
}
PAID = ("OrderPlaced", "OrderCreated", "OrderPaymentSucceeded", "OrderPaymentFailed")
OWN = {
    "OrderDelivered": {"deliveredAt": "occurredOnUtc"},
    "OrderDelayed": {"alarm": "alarm", "dueAt": "dueAt"},
    "CommandRejected": {"commandId": "commandId", "command": "command"},
    "CommandExpired": {"commandId": "commandId", "command": "command"},
}
NEW_ORDER = EVERY_VIEW | {"orderId": "orderId", "items": "items", "totalPrice": "total"}
CART = EVERY_VIEW | {each: each for each in ("teamCartId", "item", "itemId", "total", "amount", "expiresAt")}
BOOKING = EVERY_VIEW | {
    each: each for each in ("restaurantAccountId", "restaurantId", "orderId", "amount", "newBalance")
}
COUPON = EVERY_VIEW | {each: each for each in ("couponId", "previousUsageCount", "newUsageCount", "usedAt")}

ITEM = {"name", "quantity", "unitPrice"}
MONEY = {"amount", "currency"}

OF_EVERY_SNAPSHOT = {
    *("orderId", "orderNumber", "status", "restaurantId", "lastUpdateTimestamp"),
    *("estimatedDeliveryTime", "actualDeliveryTime", "deliveredAt", "placedAt", "paidAt", "paymentFailedAt"),
    *("acceptedAt", "preparingAt", "readyForDeliveryAt", "rejectedAt", "cancelledAt"),
}


def allowed_to_restaurant(name: str) -> dict[str, str]:
    return STATUS | OWN.get(name, {}) | ({"items": "items", "total": "total"} if name in PAID else {})


def allowed_to_partner(name: str) -> dict[str, str]:
    return NEW_ORDER if name in ("OrderPlaced", "OrderCreated") else allowed_to_restaurant(name)


def allowed_to_customer(name: str) -> dict[str, str]:
    return STATUS | OWN.get(name, {}) | ({"total": "total"} if name in PAID else {})


def allowed_to_guest(name: str) -> dict[str, str]:
    return STATUS | OWN.get(name, {})


def allowed_to_members(name: str) -> dict[str, str]:
    return CART | ({"orderId": "orderId", "restaurantId": "restaurantId"} if name == "TeamCartConverted" else {})


def allowed_to_user(name: str) -> dict[str, str]:
    return EVERY_VIEW | {"correlationId": "correlationId", "orderId": "orderId"}


ALLOWED: dict[str, Callable[[str], dict[str, str]]] = {
    "restaurants": allowed_to_restaurant,
    "partners": allowed_to_partner,
    "orders": allowed_to_customer,
    "guests": allowed_to_guest,
    "customers": allowed_to_customer,
    "carts": allowed_to_members,
    "workflows": allowed_to_user,
    "finance": lambda _: BOOKING,
    "coupons": lambda _: COUPON,
    "marketing": lambda _: COUPON,
}
"""By the first part of the feed's key: field of the view -> field of the event."""
