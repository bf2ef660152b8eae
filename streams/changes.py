"""Which fact an event changes, and which it takes back: the events that decide who may see what. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from streams.events import Event, StaffAssigned, StaffEvent, StaffRevoked


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


def _of_staff(event: StaffEvent) -> str:
    return staff_fact(event.restaurant_id, event.subject_key)


_CHANGED: dict[type[Event], Callable[[Any], str]] = {
    StaffAssigned: _of_staff,
    StaffRevoked: _of_staff,
}
_TAKEN_BACK: dict[type[Event], Callable[[Any], TakenBack]] = {
    StaffRevoked: lambda event: TakenBack(_of_staff(event)),
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
