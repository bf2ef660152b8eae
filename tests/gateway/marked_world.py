"""Two towns in which every field of every event is a marker of its own, who lives there, and what each may see."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from streams.events import (
    EVENT_TYPES,
    CouponUsed,
    DeviceEvent,
    Event,
    FinanceEvent,
    OrderEvent,
    PassEvent,
    StaffEvent,
    TeamCartEvent,
    WorkflowEvent,
)
from streams.matrix import MATRIX
from streams.subjects import identity_key
from streams.topics import Audience
from tests.support.allow_lists import ALLOWED
from tests.support.markers import Markers
from tests.support.samples import sample

if TYPE_CHECKING:
    from collections.abc import Iterator

SIDES = ("left", "right")
ENDED = {"OrderDelivered", "OrderRejected", "OrderCancelled"}
"""They happen to another order, so that one stays open."""

STATE = {"occurredOnUtc", "orderNumber", "estimatedDeliveryTime", "actualDeliveryTime"}
"""What the state of an order has of each of its events, whoever is told of that."""


TOPICS = (
    ("restaurants/{restaurant_id}", "partners/{restaurant_id}", "finance/{restaurant_id}"),
    ("orders/{order_id}", "customers/{customer_key}"),
    ("carts/{cart_id}",),
    ("workflows/{correlation_id}",),
    ("coupons/{coupon_id}", "marketing"),
)
"""What somebody may have on one stream, by the names of the API's parameters."""

PARAMETERS = {
    "restaurant_id": "restaurantId",
    "order_id": "orderId",
    "customer_key": "customerKey",
    "cart_id": "teamCartId",
    "correlation_id": "correlationId",
    "coupon_id": "couponId",
}
"""What stands in `shared` for each."""


class Person(NamedTuple):
    """Who asks, on which side, and by which header."""

    role: str
    side: str
    headers: dict[str, str]

    def __str__(self) -> str:
        return f"{self.role} {self.side}".strip()


class Mark(NamedTuple):
    """Where a marker stands: on which side, in which event (none: several share it), and in which of its fields."""

    side: str
    event: str
    field: str


def shared(side: str) -> dict[str, str]:
    """What the events of a side have in common, and who its people are."""
    fields = ("restaurantId", "orderId", "doneId", "othersId", "teamCartId", "correlationId", "couponId", "deviceName")
    ids = {field: f"{side}-mark-{field}" for field in fields}
    people = ("customer", "neighbour", "member", "mate", "user", "owner", "staff", "finance", "former", "leaver")
    identities = {f"{each}Identity": f"auth0|{side}-mark-{each}" for each in people}
    keys = {f"{each}Key": identity_key(f"auth0|{side}-mark-{each}") for each in people}
    return ids | identities | keys


def marked_events(side: str) -> Iterator[tuple[str, dict[str, Any], Markers]]:
    """An event of every type, in an order that makes sense."""
    of = shared(side)
    for number, (name, kind) in enumerate(EVENT_TYPES.items(), 1):
        markers = Markers(f"{side}-", 5000 * SIDES.index(side) + 100 * number)
        yield name, markers.body(name, **_common(name, kind, of)), markers


def those_beside(side: str) -> list[dict[str, Any]]:
    """Another order in the restaurant and another member in the cart, whom the others know nothing of."""
    of = shared(side)
    return [
        sample(
            "OrderPlaced",
            eventId=f"{side}-other-order",
            restaurantId=of["restaurantId"],
            customerId=of["neighbourIdentity"],
            orderId=of["othersId"],
        ),
        sample(
            "TeamCartMemberJoined",
            eventId=f"{side}-other-member",
            teamCartId=of["teamCartId"],
            memberId=of["mateIdentity"],
        ),
    ]


def _common(name: str, kind: type[Event], of: dict[str, str]) -> dict[str, Any]:
    if issubclass(kind, OrderEvent):
        order = of["doneId" if name in ENDED else "orderId"]
        return {"restaurantId": of["restaurantId"], "customerId": of["customerIdentity"], "orderId": order}
    if issubclass(kind, TeamCartEvent):
        who = of["leaverIdentity" if name in ("TeamCartMemberLeft", "TeamCartMemberRemoved") else "memberIdentity"]
        converted = {"orderId": of["orderId"], "restaurantId": of["restaurantId"]} if name.endswith("Converted") else {}
        return {"teamCartId": of["teamCartId"], "memberId": who, **converted}
    if issubclass(kind, WorkflowEvent):
        user = {"userId": of["userIdentity"]} if name in ("WorkflowBound", "WorkflowAccepted") else {}
        return {"correlationId": of["correlationId"], **user}
    if issubclass(kind, StaffEvent):
        return {"restaurantId": of["restaurantId"], "subject": of["formerIdentity"]}
    if issubclass(kind, PassEvent):
        return {"orderId": of["orderId"]}
    if issubclass(kind, DeviceEvent | FinanceEvent):
        return {"restaurantId": of["restaurantId"]}
    return {"couponId": of["couponId"]} if kind is CouponUsed else {}


# -- What each may see, written out by hand ----------------------------------------------------------------------------

ROLES: dict[str, set[str]] = {
    "owner": {"restaurants", "partners", "finance"},
    "staff": {"restaurants", "partners"},
    "finance": {"finance"},
    "device": {"partners"},
    "customer": {"orders", "customers"},
    "guest": {"guests"},
    "neighbour": set(),
    "member": {"carts"},
    "mate": {"carts"},
    "user": {"workflows"},
    "marketing": {"coupons", "marketing"},
    "courier": set(),
    "commander": set(),
    "issuer": set(),
    "publisher": set(),
    "stranger": set(),
    "nobody": set(),
}
"""Of which audiences somebody is."""

EVERYWHERE = {"marketing", "courier", "commander", "issuer", "publisher", "stranger", "nobody"}
"""Those who belong to no side."""

_ORDERS = {"restaurantId", "orderId", "doneId", "othersId"}
_CONNECTED = {"ownerKey", "staffKey", "deviceName"}
SHARED: dict[str, set[str]] = {
    "owner": {*_ORDERS, "ownerIdentity", *_CONNECTED},
    "staff": {*_ORDERS, "staffIdentity", *_CONNECTED},
    "finance": {"restaurantId", "financeIdentity", "financeKey"},
    "device": _ORDERS,
    "customer": {"restaurantId", "orderId", "doneId", "customerIdentity", "customerKey"},
    "neighbour": {"restaurantId", "othersId", "neighbourIdentity", "neighbourKey"},
    "guest": {"restaurantId", "orderId"},
    "member": {"teamCartId", "orderId", "restaurantId", "memberIdentity", "memberKey"},
    "mate": {"teamCartId", "orderId", "restaurantId", "mateIdentity", "mateKey"},
    "user": {"correlationId", "userIdentity", "userKey"},
    "marketing": {"couponId"},
}
"""Ids, and who they are: `POST /session` tells everybody that of themselves."""

LOGGED = {*_ORDERS, "teamCartId", "correlationId", "couponId", "passId", "deviceId"}
"""What topics, passes and devices are called is logged, and people by their keys; nothing else."""


def may_see(role: str, mark: Mark) -> bool:
    """Whether somebody of the mark's side may be sent it, asked or not."""
    if not mark.event:
        return mark.field in SHARED.get(role, set())
    if role == "owner" and mark.event == "DeviceRegistered":
        return mark.field in ("deviceId", "name")
    return any(mark.field in _fields(audience, mark.event) for audience in ROLES[role])


def is_told(role: str, mark: Mark) -> bool:
    """Whether they must have been sent it by the time they have asked for all."""
    kind = EVENT_TYPES[mark.event]
    audiences = [each for each in ROLES[role] if kind in MATRIX and Audience(each) in MATRIX[kind].told]
    if mark.event == "TeamCartCreated":
        return False  # it is how the first member has come, and what they see begins behind it
    fields = {field for each in audiences for field in ALLOWED[each](mark.event).values()}
    return may_see(role, mark) and mark.field in fields


def may_be_logged(mark: Mark) -> bool:
    return mark.field in LOGGED or mark.field.endswith("Key")


_KINDS: dict[str, type[Event]] = {
    "carts": TeamCartEvent,
    "workflows": WorkflowEvent,
    "finance": FinanceEvent,
    "coupons": CouponUsed,
    "marketing": CouponUsed,
}


def _fields(audience: str, name: str) -> set[str]:
    kind, told = EVENT_TYPES[name], set(ALLOWED[audience](name).values())
    if issubclass(kind, OrderEvent):
        return _fields_of_order(audience, name, told)
    told_of = _KINDS.get(audience)
    is_told = told_of is not None and issubclass(kind, told_of) and name != "WorkflowBound"
    return told if is_told else set()


def _fields_of_order(audience: str, name: str, told: set[str]) -> set[str]:
    if audience in ("restaurants", "partners"):
        return told | STATE | {"items", "total"}
    if audience in ("orders", "customers"):
        return told | STATE | {"total"}
    if audience == "guests" and name not in ENDED:  # it is a pass for the other order
        return STATE if name.startswith("Command") else told | STATE
    return set()
