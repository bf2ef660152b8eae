"""What the tail hands to the hub at a time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from streams.entry import Entry, judge
from streams.tail import DISPATCH_BYTES, portions


def entry_of(sequence: int, size: int) -> Entry:
    return judge(sequence, 0.0, "orders.r1.c1.o1.OrderAccepted", b" " * size)


@given(st.lists(st.integers(1, DISPATCH_BYTES + 1), max_size=60))
def test_entries_are_dispatched_in_order_and_in_portions_of_so_many_bytes(sizes: list[int]) -> None:
    entries = [entry_of(index + 1, size) for index, size in enumerate(sizes)]
    found = list(portions(entries))
    assert [entry for portion in found for entry in portion] == entries
    for portion in found:
        assert 0 < sum(len(entry.body) for entry in portion[:-1]) + 1 <= DISPATCH_BYTES
    for portion in found[:-1]:
        assert sum(len(entry.body) for entry in portion) >= DISPATCH_BYTES
