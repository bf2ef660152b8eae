"""Events of every type, as little of each as a publisher has to send."""

from __future__ import annotations

from typing import Any

from streams.events import EVENT_TYPES, AccessEvent, OrderEvent, TeamCartEvent

_ORDER = {"restaurantId": "r1", "orderId": "o1", "customerId": "c1"}
_COMMAND = {"commandId": "k1", "command": "accept", "target": "Restaurant"}
_STAFF = {"restaurantId": "r1", "subject": "s1"}
_PASS = {"orderId": "o1", "passId": "p1"}
_DEVICE = {"restaurantId": "r1", "deviceId": "d1"}
_CART = {"teamCartId": "t1"}
_MONEY = {"amount": "25.00", "currency": "USD"}
_BOOKING = {"restaurantAccountId": "a1", "restaurantId": "r1", "amount": _MONEY, "newBalance": _MONEY}
_LATER = "2026-11-21T10:00:00Z"
_DIGEST = "0123456789abcdef" * 4

_REQUIRED: dict[str, dict[str, Any]] = {
    "OrderDelayed": _ORDER | {"alarm": "accept", "dueAt": _LATER},
    "CommandRejected": _ORDER | _COMMAND,
    "CommandExpired": _ORDER | _COMMAND,
    **{
        f"TeamCart{name}": _CART | {"memberId": "m1"}
        for name in ("Created", "MemberJoined", "MemberLeft", "MemberRemoved")
    },
    "TeamCartConverted": _CART | {"orderId": "o1", "restaurantId": "r1"},
    "WorkflowBound": {"correlationId": "w1", "userId": "u1"},
    "WorkflowAccepted": {"correlationId": "w1", "userId": "u1"},
    "WorkflowProcessing": {"correlationId": "w1"},
    "OrderProcessed": {"correlationId": "w1", "orderId": "o1"},
    "RevenueRecorded": _BOOKING,
    "PlatformFeeRecorded": _BOOKING,
    "CouponUsed": {"couponId": "k1", "previousUsageCount": 1, "newUsageCount": 2, "usedAt": _LATER},
    "StaffAssigned": _STAFF | {"role": "staff"},
    "StaffRevoked": _STAFF,
    "TokenRevoked": {"jti": "j1"},
    "PassIssued": _PASS | {"expiresAt": _LATER},
    "PassRevoked": _PASS,
    "PairingOpened": {"restaurantId": "r1", "pairingId": "q1", "codeHash": _DIGEST, "expiresAt": _LATER},
    "DeviceRegistered": _DEVICE | {"name": "Kitchen", "keyHash": _DIGEST},
    "DeviceRevoked": _DEVICE,
}

TYPES = sorted(EVENT_TYPES)
ORDER_EVENTS = [name for name in TYPES if issubclass(EVENT_TYPES[name], OrderEvent)]
CART_EVENTS = [name for name in TYPES if issubclass(EVENT_TYPES[name], TeamCartEvent)]
ACCESS_EVENTS = [name for name in TYPES if issubclass(EVENT_TYPES[name], AccessEvent)]


def sample(name: str = "OrderPlaced", /, **changed: Any) -> dict[str, Any]:
    """The body of an event with the required fields alone, and what is `changed`."""
    body: dict[str, Any] = {"type": name, "eventId": "e1", "occurredOnUtc": "2026-11-20T10:00:00Z"}
    if name in _REQUIRED:
        body |= _REQUIRED[name]
    else:
        body |= _ORDER if name in ORDER_EVENTS else _CART
    if name == "TokenRevoked" and "subject" in changed:
        del body["jti"]  # it names one of them
    return body | changed
