"""Which fact an event changes, and which it takes back: the events that decide who may see what. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from streams.events import (
    DeviceRegistered,
    DeviceRevoked,
    Event,
    PairingOpened,
    PassEvent,
    PassIssued,
    PassRevoked,
    StaffAssigned,
    StaffEvent,
    StaffRevoked,
)


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
    """The name of the fact that an order was delivered. It is no decisive one: see `delivered_by`."""
    return f"delivery:{order_id}:{restaurant_id}:{customer_key}"


def _of_pass(event: PassEvent) -> str:
    return guest_pass_fact(event.order_id, event.pass_id)


def _of_device(event: DeviceRegistered | DeviceRevoked) -> str:
    return device_fact(event.restaurant_id, event.device_id)


def _of_staff(event: StaffEvent) -> str:
    return staff_fact(event.restaurant_id, event.subject_key)


_CHANGED: dict[type[Event], Callable[[Any], str]] = {
    StaffAssigned: _of_staff,
    StaffRevoked: _of_staff,
    PassIssued: _of_pass,
    PassRevoked: _of_pass,
    PairingOpened: lambda event: pairing_fact(event.code_hash),
    DeviceRegistered: _of_device,
    DeviceRevoked: _of_device,
}
_TAKEN_BACK: dict[type[Event], Callable[[Any], TakenBack]] = {
    StaffRevoked: lambda event: TakenBack(_of_staff(event)),
    PassRevoked: lambda event: TakenBack(_of_pass(event)),
    DeviceRevoked: lambda event: TakenBack(_of_device(event)),
}

DECISIVE = frozenset(_CHANGED)
"""Events that change a fact."""


def fact_changed_by(event: Event) -> str:
    """The name of the fact that a decisive event changes."""
    return _CHANGED[type(event)](event)


def taken_back_by(event: Event) -> TakenBack | None:
    """What the event takes back, None if it takes nothing back."""
    takes_back = _TAKEN_BACK.get(type(event))
    return takes_back(event) if takes_back else None
