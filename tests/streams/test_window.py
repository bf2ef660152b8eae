"""The window against a plain list of what was appended."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.sse import SseEncoder
from streams.entry import Entry, judge
from streams.frames import Broadcast, Frames
from streams.topics import customer_feed, order_feed, restaurant_feed
from streams.window import Window
from tests.support.delivery import order_entry

KEYS = (
    restaurant_feed("r1").key,
    restaurant_feed("r2").key,
    order_feed("o1", "r1", "c1").key,
    order_feed("o2", "r1", "c1").key,
    order_feed("o1", "r2", "c1").key,
    customer_feed("c1").key,
)
SOME_KEYS = st.lists(st.sampled_from(KEYS), min_size=1, max_size=4).map(tuple)


@dataclass
class Appended:
    """An entry to append: its parts, how long after the last one it came, and whether somebody has it rendered."""

    restaurant: str
    order: str
    target: str
    usable: bool
    seconds: float
    rendered: bool

    def entry(self, sequence: int, time: float) -> Entry:
        if not self.usable:
            return judge(sequence, time, "orders.r1.c1.o1.OrderAccepted", b"{}")
        entry = order_entry(sequence, restaurant=self.restaurant, order=self.order, target=self.target)
        return msgspec.structs.replace(entry, time=time)

    def keys(self) -> set[str]:
        """Whom it is for, by the test's own reading."""
        found = set()
        if self.usable and self.target != "Customer":
            found.add(f"restaurants/{self.restaurant}")
        if self.usable and self.target != "Restaurant":
            found |= {f"orders/{self.order}@{self.restaurant}.c1", "customers/c1"}
        return found


APPENDED = st.builds(
    Appended,
    st.sampled_from(["r1", "r1", "r2"]),
    st.sampled_from(["o1", "o2"]),
    st.sampled_from(["Both", "Restaurant", "Customer"]),
    st.sampled_from([True, True, True, False]),
    st.sampled_from([0.0, 0.5, 2.0]),
    st.booleans(),
)
HISTORIES = st.lists(APPENDED, max_size=40)


SEGMENTS = st.sampled_from([1, 3, 1024])


def new_window(
    floor: int = 0, *, max_entries: int = 1000, max_bytes: int = 1 << 30, segment_entries: int = 1024
) -> Window:
    return Window(
        Frames("e", SseEncoder()),
        floor,
        max_entries=max_entries,
        max_bytes=max_bytes,
        segment_entries=segment_entries,
    )


def fill(window: Window, history: list[Appended]) -> dict[int, tuple[float, Appended]]:
    """Append it all; what stands where, with its time."""
    log: dict[int, tuple[float, Appended]] = {}
    time = 100.0
    for each in history:
        time += each.seconds
        sequence = window.head + 1
        log[sequence] = time, each
        broadcast = window.append(each.entry(sequence, time))
        if each.rendered:
            for key in broadcast.lanes:
                window.frames.of(broadcast, (key,))
    return log


@given(HISTORIES, st.integers(0, 1_000_000), st.integers(1, 50), st.sampled_from([1, 3_000, 20_000, 1 << 30]), SEGMENTS)
def test_window_holds_the_longest_recent_past_within_its_bounds(
    history: list[Appended], floor: int, max_entries: int, max_bytes: int, segment_entries: int
) -> None:
    window = new_window(floor, max_entries=max_entries, max_bytes=max_bytes, segment_entries=segment_entries)
    sizes: list[int] = []  # of all that is held
    for each in history:
        broadcast = window.append(each.entry(window.head + 1, 0.0))
        sizes.append(broadcast.size)
        while len(sizes) > max_entries or sum(sizes) > max_bytes:
            del sizes[0]
        if each.rendered and sizes:
            for key in broadcast.lanes:
                window.frames.of(broadcast, (key,))
            sizes[-1] = broadcast.size
        assert (len(window), window.size) == (len(sizes), sum(sizes))
    assert window.head == floor + len(history)
    assert window.floor == window.head - len(window)
    assert [window.covers(floor + at) for at in range(len(history) + 1)] == [
        floor + at >= window.floor for at in range(len(history) + 1)
    ]


@given(HISTORIES, st.integers(1, 50), SOME_KEYS, st.integers(1, 5), SEGMENTS)
def test_what_followed_a_position_for_some_keys_is_in_the_logs_order_and_each_once(
    history: list[Appended], max_entries: int, keys: tuple[str, ...], limit: int, segment_entries: int
) -> None:
    window = new_window(max_entries=max_entries, segment_entries=segment_entries)
    log = fill(window, history)
    held = range(window.floor + 1, window.head + 1)
    for position in range(window.floor - 2, window.head + 2):
        wanted = [sequence for sequence in held if sequence > position and log[sequence][1].keys() & set(keys)]
        assert [each.sequence for each in window.after(keys, position, limit)] == wanted[:limit]
        assert [each.sequence for each in window.after(keys, position, 100)] == wanted


@given(HISTORIES, st.integers(1, 50), SEGMENTS)
def test_first_entry_at_or_after_a_time_is_told_where_the_window_can_know(
    history: list[Appended], max_entries: int, segment_entries: int
) -> None:
    window = new_window(max_entries=max_entries, segment_entries=segment_entries)
    log = fill(window, history)
    held = [(sequence, log[sequence][0]) for sequence in range(window.floor + 1, window.head + 1)]
    for time in {at + shift for at, _ in log.values() for shift in (-0.25, 0.0, 0.25)} | {0.0}:
        later = [sequence for sequence, at in held if at >= time]
        earlier = [sequence for sequence, at in held if at < time]
        assert window.first_at_or_after(time) == (later[0] if earlier and later else None)


@given(HISTORIES, st.integers(0, 50), st.sampled_from([1, 3_000, 1 << 30]), SEGMENTS)
def test_entries_taken_together_are_as_if_they_had_come_one_by_one(
    history: list[Appended], max_entries: int, max_bytes: int, segment_entries: int
) -> None:
    one_by_one, together = (
        new_window(max_entries=max_entries, max_bytes=max_bytes, segment_entries=segment_entries) for _ in range(2)
    )
    entries = [each.entry(sequence, 0.0) for sequence, each in enumerate(history, start=1)]
    taken = [one_by_one.append(entry).sequence for entry in entries]
    assert [each.sequence for each in together.extend(entries)] == taken
    for window in (one_by_one, together):
        window.append(order_entry(window.head + 1))
    assert (together.floor, together.head, together.size) == (one_by_one.floor, one_by_one.head, one_by_one.size)
    assert [each.sequence for each in kept(together)] == [each.sequence for each in kept(one_by_one)]
    assert [each.sequence for each in together.after(KEYS, 0, 100)] == [
        each.sequence for each in one_by_one.after(KEYS, 0, 100)
    ]


def test_window_that_moves_on_keeps_its_order_and_hardly_more_than_it_covers() -> None:
    window = new_window(max_entries=20, segment_entries=8)
    for sequence in range(1, 500):
        window.append(order_entry(sequence))
        recent = list(range(max(sequence - 20, 0) + 1, sequence + 1))
        for key in (KEYS[0], KEYS[2]):
            assert [each.sequence for each in window.after((key,), window.floor, 100)] == recent
        assert len(kept(window)) < 20 + 8


@pytest.mark.parametrize("size", [100, 50_000])
def test_what_is_forgotten_and_still_in_memory_is_a_small_part_of_the_windows_bytes(size: int) -> None:
    window = new_window(max_entries=1_000_000, max_bytes=4_000_000)
    body = b"{}".ljust(size)
    while window.head < 10 or window.floor < 2 * len(window):
        window.append(judge(window.head + 1, 0.0, "orders.r1.c1.o1.OrderAccepted", body))
    assert window.size <= 4_000_000
    assert sum(broadcast.size for broadcast in kept(window)) <= 4_000_000 + 4_000_000 // 64 + 2 * size


def kept(window: Window) -> list[Broadcast]:
    """All that is in memory."""
    return [broadcast for segment in window._segments for broadcast in segment.broadcasts]


@given(HISTORIES)
def test_window_that_has_forgotten_everything_counts_no_bytes(history: list[Appended]) -> None:
    window = new_window()
    fill(window, history)
    window.max_entries = 0
    window.append(order_entry(window.head + 1))
    assert (len(window), window.size, window.floor) == (0, 0, window.head)
    assert not window._segments


@pytest.mark.parametrize("wrong", [-1, 0, 5, 6, 8, 100])
def test_entry_that_does_not_follow_is_refused_and_changes_nothing(wrong: int) -> None:
    window = new_window(5)
    window.append(order_entry(6))
    before = (window.floor, window.head, len(window), window.size)
    with pytest.raises(ValueError, match=f"the window is at 6, and the next entry is {wrong}"):
        window.append(order_entry(wrong))
    assert (window.floor, window.head, len(window), window.size) == before


def test_frame_made_of_an_entry_that_was_forgotten_is_not_counted() -> None:
    window = new_window(max_entries=1)
    forgotten = window.append(order_entry(1))
    window.append(order_entry(2))
    size = window.size
    assert window.frames.of(forgotten, (KEYS[0],))
    assert window.size == size


def test_entry_has_no_frame_for_a_key_that_it_is_not_for() -> None:
    window = new_window()
    broadcast = window.append(order_entry(1))
    with pytest.raises(ValueError, match="entry 1 has nothing for restaurants/r2"):
        window.frames.of(broadcast, (KEYS[1],))


def test_new_window_covers_where_it_begins_and_knows_nothing() -> None:
    window = new_window(41)
    assert (window.floor, window.head, len(window), window.size) == (41, 41, 0, 0)
    assert (window.covers(40), window.covers(41), window.covers(42)) == (False, True, True)
    assert window.after(KEYS, 41, 10) == []
    assert window.first_at_or_after(0.0) is None
