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
        """Have `owner` come out of `due` no later than a slot before `deadline`, and at once if that has passed.

        It may come out up to one slot early: who takes it looks at its own clock and schedules it again.
        """
        self._slots.setdefault(max(_slot(deadline), self._next), []).append(owner)

    def due(self, now: float) -> Iterator[T]:
        """The owners whose slots have come, each once. They may schedule again while this runs."""
        upto = _slot(now)
        while self._next <= upto:
            if not self._slots:
                self._next = upto
            owners = self._slots.pop(self._next, ())
            if self._next == upto:
                yield from owners
                return
            self._next += 1
            yield from owners


def _slot(time: float) -> int:
    return int(time * _SLOTS_PER_SECOND)
