"""One timer wheel per process: deadlines in slots of a tenth of a second, no timer that belongs to a connection. Pure.

An owner that is gone is not removed; it is dropped when its slot comes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")

_SLOTS_PER_SECOND = 10


class TimerWheel(Generic[T]):
    """Owners by their next deadline, in seconds of a monotonic clock."""

    def __init__(self, now: float) -> None:
        self._slots: dict[int, list[T]] = {}
        self._next = _slot(now)

    def schedule(self, owner: T, deadline: float) -> None:
        """Have `owner` come out of the first `due` at `deadline` or later, or up to a slot earlier.

        Who takes it out looks at the clock, and schedules it again where it is early.
        """
        self._slots.setdefault(max(_slot(deadline), self._next), []).append(owner)

    def due(self, now: float) -> Iterator[T]:
        """The owners whose slots have come, each once. They may schedule again while this runs, for the next call.

        Take them all: one that is left in the iterator is lost.
        """
        upto = _slot(now)
        if upto <= self._next:  # the usual case: this is called many times within a slot
            if upto == self._next:
                yield from self._slots.pop(upto, ())
            return
        self._next = upto
        passed = sorted(slot for slot in self._slots if slot <= upto)
        for owners in [self._slots.pop(slot) for slot in passed]:
            yield from owners


def _slot(time: float) -> int:
    return int(time * _SLOTS_PER_SECOND)
