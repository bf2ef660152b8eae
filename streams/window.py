"""The recent past in memory: what came last, in the log's order, and what of it is for whom. Pure.

Every entry that the tail has read is appended, so the window covers every position from `floor` on without a hole.
It is bounded by a number of entries and by bytes; what falls out at the front is read from the log instead.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Iterator, Sequence
from heapq import merge
from operator import attrgetter

from streams.entry import Entry
from streams.frames import Broadcast, Frames

_sequence = attrgetter("sequence")

DEFAULT_MAX_ENTRIES = 100_000
DEFAULT_MAX_BYTES = 64 * 1024 * 1024


class _Lane:
    """The broadcasts of one routing key, oldest first; the front moves on without shifting the rest each time."""

    __slots__ = ("broadcasts", "start")

    def __init__(self) -> None:
        self.broadcasts: list[Broadcast] = []
        self.start = 0

    def drop_first(self) -> bool:
        """Forget the oldest one; whether none is left."""
        self.start += 1
        if self.start == len(self.broadcasts):
            return True
        if self.start > 32 and self.start * 2 > len(self.broadcasts):
            del self.broadcasts[: self.start]
            self.start = 0
        return False

    def after(self, sequence: int) -> int:
        """The index of the first one past `sequence`."""
        return bisect_right(self.broadcasts, sequence, lo=self.start, key=_sequence)


class Window:
    """Covers every position p with `floor <= p <= head`: it can say all that followed p.

    `frames` renders; a broadcast's size counts what was rendered for it.
    """

    def __init__(
        self,
        frames: Frames,
        floor: int,
        *,
        max_entries: int = DEFAULT_MAX_ENTRIES,
        max_bytes: int = DEFAULT_MAX_BYTES,
    ) -> None:
        self.frames = frames
        self.floor = floor
        self.head = floor
        self.max_entries = max_entries
        self.max_bytes = max_bytes
        self._broadcasts: deque[Broadcast] = deque()
        self._lanes: dict[str, _Lane] = {}

    def __len__(self) -> int:
        return len(self._broadcasts)

    @property
    def size(self) -> int:
        """Bytes held, as far as they are counted: bodies, frames and a flat cost an entry."""
        return self.frames.held_bytes

    def append(self, entry: Entry) -> Broadcast:
        """Take the next entry of the log; forget the oldest ones where the window is full."""
        if entry.sequence != self.head + 1:
            raise ValueError(f"the window is at {self.head}, and the next entry is {entry.sequence}")
        broadcast = self.frames.take(entry)
        self.head = entry.sequence
        self._broadcasts.append(broadcast)
        for notification in broadcast.notifications:
            lane = self._lanes.get(notification.key)
            if lane is None:
                lane = self._lanes[notification.key] = _Lane()
            lane.broadcasts.append(broadcast)
        while len(self._broadcasts) > self.max_entries or self.frames.held_bytes > self.max_bytes:
            self._forget_oldest()
        return broadcast

    def covers(self, sequence: int) -> bool:
        """Whether the window can say all that followed `sequence`, if anything did."""
        return sequence >= self.floor

    def after(self, keys: Sequence[str], sequence: int, limit: int) -> Sequence[Broadcast]:
        """The first `limit` broadcasts for any of `keys` past `sequence`, in the log's order, each once."""
        if len(keys) == 1:
            return list(self._lane_after(keys[0], sequence, limit))
        found: list[Broadcast] = []
        lanes = (self._lane_after(key, sequence, limit) for key in keys)
        for broadcast in merge(*lanes, key=_sequence):
            if found and found[-1] is broadcast:
                continue
            if len(found) == limit:
                break
            found.append(broadcast)
        return found

    def first_at_or_after(self, time: float) -> int | None:
        """The sequence of the first entry whose log time is `time` (Unix seconds) or later, if the window knows it.

        None where the answer may lie before the window, or after its end.
        """
        if not self._broadcasts or self._broadcasts[0].time >= time:
            return None
        index = bisect_left(self._broadcasts, time, key=attrgetter("time"))
        return self._broadcasts[index].sequence if index < len(self._broadcasts) else None

    def _lane_after(self, key: str, sequence: int, limit: int) -> Iterator[Broadcast]:
        lane = self._lanes.get(key)
        if lane is None:
            return iter(())
        begin = lane.after(sequence)
        return iter(lane.broadcasts[begin : begin + limit])

    def _forget_oldest(self) -> None:
        oldest = self._broadcasts.popleft()
        self.floor = oldest.sequence
        for notification in oldest.notifications:
            if self._lanes[notification.key].drop_first():
                del self._lanes[notification.key]
        self.frames.release(oldest)
