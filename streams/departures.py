"""When the last stream on a restaurant's lane ended, remembered for a while. Pure.

An alarm about an order that nobody has seen asks for this: who looked a minute ago has seen what was there.
"""

from __future__ import annotations

from typing import Final

from streams.topics import Audience

REMEMBERED_SECONDS: Final = 3600.0
"""What ended longer ago is as if it had never been."""

REMEMBERED: Final = 20_000
"""So many restaurants at most, about 4 MB: more than a process has streams."""

_PREFIX = f"{Audience.RESTAURANT}/"


class Departures:
    """By lane, on the clock of who notes them (seconds)."""

    def __init__(self, most: int = REMEMBERED) -> None:
        self._most = most
        self._at: dict[str, float] = {}  # in the order of time

    def __len__(self) -> int:
        return len(self._at)

    def note(self, lane: str, now: float) -> None:
        """A stream on a lane has ended; there may be others. Only restaurants' lanes are remembered."""
        if not lane.startswith(_PREFIX):
            return
        self._at.pop(lane, None)
        self._at[lane] = now
        oldest = next(iter(self._at))
        if len(self._at) > self._most or self._at[oldest] < now - REMEMBERED_SECONDS:
            del self._at[oldest]

    def seconds_ago(self, lane: str, now: float) -> float | None:
        """How long ago the last stream on the lane ended, None where that is not known."""
        at = self._at.get(lane)
        if at is None or at < now - REMEMBERED_SECONDS:
            return None
        return now - at
