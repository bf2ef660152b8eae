"""The recent past in memory: what came last, in the log's order, and what of it is for whom. Pure.

Every entry that the tail has read is appended, so the window covers every position from `floor` on without a hole.
It is bounded by a number of entries and by bytes; what falls out at the front is read from the log instead.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from operator import attrgetter

from streams.entry import Entry
from streams.frames import ENTRY_COST, Broadcast, Frames

DEFAULT_MAX_ENTRIES = 100_000
DEFAULT_MAX_BYTES = 64 * 1024 * 1024

SEGMENT_ENTRIES = 1024
"""Memory is given back by so many entries at once: to look each one up again, long after it was made, costs as much as
to take it in. A segment also ends at a sixty-fourth of the window's bytes."""

_sequence = attrgetter("sequence")
_time = attrgetter("time")
_first = attrgetter("first")


class _Segment:
    """Broadcasts from the sequence `first` on, all of them and by lane.

    A lane that has one only has it by itself; most orders do.
    """

    __slots__ = ("broadcasts", "bytes_left", "first", "lanes")

    def __init__(self, first: int, max_bytes: int) -> None:
        self.first = first
        self.bytes_left = max_bytes
        self.broadcasts: list[Broadcast] = []
        self.lanes: dict[str, Broadcast | list[Broadcast]] = {}

    def add(self, broadcast: Broadcast) -> None:
        self.bytes_left -= ENTRY_COST + len(broadcast.body)
        self.broadcasts.append(broadcast)
        lanes = self.lanes
        for name in broadcast.lanes:
            present = lanes.get(name)
            if present is None:
                lanes[name] = broadcast
            elif isinstance(present, list):
                present.append(broadcast)
            else:
                lanes[name] = [present, broadcast]

    def after(self, lanes: Sequence[str], sequence: int) -> list[Broadcast]:
        """Those on any of `lanes` past `sequence`, in order, each once."""
        if len(lanes) == 1:
            return self._lane_after(lanes[0], sequence)
        found = {each.sequence: each for name in lanes for each in self._lane_after(name, sequence)}
        return [found[each] for each in sorted(found)]

    def _lane_after(self, name: str, sequence: int) -> list[Broadcast]:
        lane = self.lanes.get(name)
        if lane is None:
            return []
        if isinstance(lane, list):
            return lane[bisect_right(lane, sequence, key=_sequence) :]
        return [lane] if lane.sequence > sequence else []


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
        segment_entries: int = SEGMENT_ENTRIES,
    ) -> None:
        self.frames = frames
        self.floor = floor
        self.head = floor
        self.max_entries = max_entries
        self.max_bytes = max_bytes
        self._segment_entries = segment_entries
        self._segments: list[_Segment] = []  # they follow one another; the first one may begin at or below the floor

    def __len__(self) -> int:
        return self.head - self.floor

    @property
    def size(self) -> int:
        """Bytes held, as far as they are counted: bodies, frames and a flat cost an entry."""
        return self.frames.held_bytes

    def append(self, entry: Entry) -> Broadcast:
        """`extend` by one."""
        return self.extend((entry,))[0]

    def extend(self, entries: Iterable[Entry]) -> list[Broadcast]:
        """Take the next entries of the log; forget the oldest ones where the window is full.

        Raises:
            ValueError: an entry does not follow the one before. Those before it are taken.
        """
        frames, max_entries, max_bytes = self.frames, self.max_entries, self.max_bytes
        most, segment = self._segment_entries, self._segments[-1] if self._segments else None
        taken: list[Broadcast] = []
        for entry in entries:
            sequence = entry.sequence
            if sequence != self.head + 1:
                raise ValueError(f"the window is at {self.head}, and the next entry is {sequence}")
            if segment is None or segment.bytes_left <= 0 or len(segment.broadcasts) >= most:
                segment = _Segment(sequence, max_bytes // 64)
                self._segments.append(segment)
            broadcast = frames.take(entry)
            segment.add(broadcast)
            taken.append(broadcast)
            self.head = sequence
            while sequence - self.floor > max_entries or frames.held_bytes > max_bytes:
                self._forget_oldest()
                if not self._segments:
                    segment = None
        return taken

    def covers(self, sequence: int) -> bool:
        """Whether the window can say all that followed `sequence`, if anything did."""
        return sequence >= self.floor

    def after(self, lanes: Sequence[str], sequence: int, limit: int) -> Sequence[Broadcast]:
        """The first `limit` broadcasts on any of `lanes` past `sequence`, in the log's order, each once."""
        found: list[Broadcast] = []
        sequence = max(sequence, self.floor)
        if sequence < self.head:
            for index in range(bisect_right(self._segments, sequence + 1, key=_first) - 1, len(self._segments)):
                found += self._segments[index].after(lanes, sequence)
                if len(found) >= limit:
                    return found[:limit]
        return found

    def first_at_or_after(self, time: float) -> int | None:
        """The sequence of the first entry whose log time is `time` (Unix seconds) or later, if the window knows it.

        None where the answer may lie before the window, or after its end.
        """
        if not len(self) or self._at(self.floor + 1).time >= time:
            return None
        sequences = range(self.floor + 1, self.head + 1)
        index = bisect_left(sequences, time, key=lambda sequence: self._at(sequence).time)
        return sequences[index] if index < len(sequences) else None

    def _at(self, sequence: int) -> Broadcast:
        segment = self._segments[bisect_right(self._segments, sequence, key=_first) - 1]
        return segment.broadcasts[sequence - segment.first]

    def _forget_oldest(self) -> None:
        segment = self._segments[0]
        self.floor += 1
        index = self.floor - segment.first
        self.frames.release(segment.broadcasts[index])
        if index == len(segment.broadcasts) - 1:
            del self._segments[0]
