"""Which fact an event changes, and which it takes back: the events that decide who may see what. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Protocol, runtime_checkable

import msgspec

from streams.events import (
    EVENT_TYPES,
    DeviceRegistered,
    DeviceRevoked,
    Event,
    OrderDelivered,
    PairingOpened,
    PassEvent,
    PassIssued,
    PassRevoked,
    StaffAssigned,
    StaffEvent,
    StaffRevoked,
    TeamCartEvent,
    TeamCartMemberLeft,
    TeamCartMemberRemoved,
    TokenRevoked,
    WorkflowAccepted,
    WorkflowEvent,
)
from streams.lives import Lives

if TYPE_CHECKING:
    from streams.entry import Entry

GUEST_SECONDS_AFTER_DELIVERY = 7200.0
"""So long after the order's delivery its guests see it, by the log's time."""


class Change(msgspec.Struct, frozen=True, gc=False):
    """One step of a fact, with its place in the log and the log's time (Unix seconds)."""

    sequence: int
    time: float
    event: Any


class TakenBack(msgspec.Struct, frozen=True, gc=False):
    """What an event takes back: streams that rest on `fact` end, but for those of the subject `spared`."""

    fact: str
    spared: str = ""


def staff_fact(restaurant_id: str, subject_key: str) -> str:
    """The name of the fact that somebody belongs to a restaurant, by which a revocation finds its streams."""
    return f"staff:{restaurant_id}:{subject_key}"


class Over(msgspec.Struct, frozen=True, gc=False):
    """Streams that rest on `fact` are over at the log's time `at` (Unix seconds)."""

    fact: str
    at: float


def guest_pass_fact(order_id: str, pass_id: str) -> str:
    """The name of the fact that a guest has a pass for an order."""
    return f"pass:{order_id}:{pass_id}"


def device_fact(restaurant_id: str, device_id: str) -> str:
    """The name of the fact that a restaurant has a device."""
    return f"device:{restaurant_id}:{device_id}"


def pairing_fact(code_hash: str) -> str:
    """The name of the fact that a pairing was opened, by the hash of its code."""
    return f"pairing:{code_hash}"


def delivery_fact(order_id: str, restaurant_id: str, customer_key: str) -> str:
    """The name of the fact that an order was delivered."""
    return f"delivery:{order_id}:{restaurant_id}:{customer_key}"


def workflow_fact(correlation_id: str) -> str:
    """The name of the fact whose a workflow is and how far."""
    return f"workflow:{correlation_id}"


def cart_fact(cart_id: str) -> str:
    """The name of the fact who is in a cart."""
    return f"cart:{cart_id}"


def cart_member_fact(cart_id: str, member_key: str) -> str:
    """The name of the fact that somebody is in a cart, by which their leaving finds their streams."""
    return f"cart:{cart_id}:{member_key}"


def _of_workflow(event: WorkflowEvent) -> str:
    return workflow_fact(event.correlation_id)


def _of_cart(event: TeamCartEvent) -> str:
    return cart_fact(event.team_cart_id)


def _left(event: TeamCartMemberLeft) -> TakenBack:
    assert event.member_key is not None
    return TakenBack(cart_member_fact(event.team_cart_id, event.member_key))


TOKENS_FACT = "tokens"
"""The name of the fact which tokens are revoked: there is one."""


@runtime_checkable
class Moving(Protocol):
    """What is known of a fact, where it can be kept true without being read anew."""

    def take(self, change: Change) -> None:
        """The fact has changed."""
        ...


def _of_pass(event: PassEvent) -> str:
    return guest_pass_fact(event.order_id, event.pass_id)


def _of_device(event: DeviceRegistered | DeviceRevoked) -> str:
    return device_fact(event.restaurant_id, event.device_id)


def _of_staff(event: StaffEvent) -> str:
    return staff_fact(event.restaurant_id, event.subject_key)


_CHANGED: dict[type[Event], Callable[[Any], str]] = {
    StaffAssigned: _of_staff,
    StaffRevoked: _of_staff,
    TokenRevoked: lambda _: TOKENS_FACT,
    PassIssued: _of_pass,
    PassRevoked: _of_pass,
    PairingOpened: lambda event: pairing_fact(event.code_hash),
    DeviceRegistered: _of_device,
    DeviceRevoked: _of_device,
    **dict.fromkeys((kind for kind in EVENT_TYPES.values() if issubclass(kind, WorkflowEvent)), _of_workflow),
    **dict.fromkeys((kind for kind in EVENT_TYPES.values() if issubclass(kind, TeamCartEvent)), _of_cart),
}
_TAKEN_BACK: dict[type[Event], Callable[[Any], TakenBack]] = {
    StaffRevoked: lambda event: TakenBack(_of_staff(event)),
    PassRevoked: lambda event: TakenBack(_of_pass(event)),
    DeviceRevoked: lambda event: TakenBack(_of_device(event)),
    WorkflowAccepted: lambda event: TakenBack(_of_workflow(event), spared=event.user_key),
    TeamCartMemberLeft: _left,
    TeamCartMemberRemoved: _left,
}

DECISIVE = frozenset(_CHANGED)
"""Events that change a fact."""


TAKING_BACK = frozenset({*_TAKEN_BACK, TokenRevoked})
"""Events that take back what allowed a stream."""


def fact_changed_by(event: Event) -> str:
    """The name of the fact that a decisive event changes."""
    return _CHANGED[type(event)](event)


def taken_back_by(event: Event) -> TakenBack | None:
    """What the event takes back, None if it takes nothing back."""
    takes_back = _TAKEN_BACK.get(type(event))
    return takes_back(event) if takes_back else None


class Delivered(msgspec.Struct, frozen=True, gc=False):
    """Stands in a `Change` for an `OrderDelivered`, of which only the time counts: there are many, and none is made."""

    event_id: str = ""


DELIVERED: Final = Delivered()


def delivery_told_by(entry: Entry) -> str:
    """The name of the fact that the entry of an `OrderDelivered` changes. That is not decisive, as it ends nothing now:
    no fan-out waits for it.
    """
    assert entry.order_id is not None
    return delivery_fact(entry.order_id, *entry.order_owner())


def workflow_life_fact(correlation_id: str) -> str:
    """The name of the fact that a workflow is not over."""
    return f"life:workflows:{correlation_id}"


def cart_life_fact(cart_id: str) -> str:
    """The name of the fact that a cart is not over."""
    return f"life:carts:{cart_id}"


def _workflow_life(entry: Entry, lives: Lives) -> Over:
    return Over(workflow_life_fact(_second_token(entry)), entry.time + lives.workflow_seconds)


def _cart_life(entry: Entry, lives: Lives) -> Over:
    return Over(cart_life_fact(_second_token(entry)), entry.time + lives.cart_seconds)


def _second_token(entry: Entry) -> str:
    return entry.subject.split(".", 2)[1]


_OVER: dict[type[Event], Callable[[Entry, Lives], Over]] = {
    OrderDelivered: lambda entry, _: Over(delivery_told_by(entry), entry.time + GUEST_SECONDS_AFTER_DELIVERY),
    **dict.fromkeys((kind for kind in EVENT_TYPES.values() if issubclass(kind, WorkflowEvent)), _workflow_life),
    **dict.fromkeys((kind for kind in EVENT_TYPES.values() if issubclass(kind, TeamCartEvent)), _cart_life),
}

ENDING = frozenset(_OVER)
"""Events that say until when something goes on."""


def over_after(entry: Entry, lives: Lives = Lives()) -> Over:  # noqa: B008 - frozen
    """What is over, and when, after an entry of an event in `ENDING`."""
    assert entry.kind is not None
    return _OVER[entry.kind](entry, lives)
