"""Deadlines come out in time, once, and none is lost."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from streams.wheel import TimerWheel

SLOT = 0.1
TOLERANCE = 1e-6
DELAYS = st.floats(-5, 50) | st.sampled_from([0.0, SLOT, 2 * SLOT, 15.0, 30.0])
STEPS = st.floats(0, 2) | st.sampled_from([0.0, SLOT / 3, SLOT, 15.0, 1e6])


@given(
    st.floats(0, 1e6),
    st.lists(st.tuples(st.lists(DELAYS, max_size=4), STEPS), max_size=30),
)
def test_owner_comes_out_once_when_its_deadline_has_come_or_less_than_a_slot_before(
    start: float, actions: list[tuple[list[float], float]]
) -> None:
    """The model is the set of what is waiting: each call of `due` must take all that is late, and nothing early."""
    wheel: TimerWheel[int] = TimerWheel(start)
    waiting: dict[int, float] = {}
    now, owners = start, 0
    for delays, step in actions:
        for delay in delays:
            owners += 1
            waiting[owners] = max(now + delay, 0.0)
            wheel.schedule(owners, waiting[owners])
        now += step
        came = list(wheel.due(now))
        assert len(set(came)) == len(came)
        for owner in came:
            assert waiting.pop(owner) < now + SLOT + TOLERANCE
        assert all(deadline > now for deadline in waiting.values())
    assert sorted(wheel.due(now + 100)) == sorted(waiting)
    assert list(wheel.due(now + 200)) == []


@given(st.lists(st.tuples(DELAYS, DELAYS), max_size=20), STEPS)
def test_owner_that_is_scheduled_again_while_others_come_out_waits_for_the_next_call(
    owners: list[tuple[float, float]], step: float
) -> None:
    wheel: TimerWheel[int] = TimerWheel(1000.0)
    for owner, (delay, _) in enumerate(owners):
        wheel.schedule(owner, 1000.0 + delay)
    now = 1000.0 + step
    again: list[int] = []
    for owner in wheel.due(now):
        again.append(owner)
        wheel.schedule(owner, now + owners[owner][1])
    assert len(set(again)) == len(again)
    overdue = {owner for owner in again if owners[owner][1] <= 0}
    assert overdue <= set(wheel.due(now))


def test_owners_come_out_in_the_order_of_their_slots() -> None:
    wheel: TimerWheel[str] = TimerWheel(0.0)
    for deadline in (2.0, 0.5, 1.0):
        wheel.schedule(str(deadline), deadline)
    assert list(wheel.due(60.0)) == ["0.5", "1.0", "2.0"]


def test_owner_may_come_out_a_slot_early_and_again_in_the_same_slot() -> None:
    wheel: TimerWheel[str] = TimerWheel(10.0)
    wheel.schedule("owner", 10.09)
    for now in (10.01, 10.05, 10.05, 10.09):
        assert list(wheel.due(now)) == ["owner"]
        wheel.schedule("owner", 10.09)


def test_jump_of_the_clock_costs_as_much_as_there_are_owners() -> None:
    """Counting slots would take hours here."""
    wheel: TimerWheel[str] = TimerWheel(0.0)
    wheel.schedule("soon", 15.0)
    wheel.schedule("later", 3e12)
    assert list(wheel.due(1e12)) == ["soon"]
    wheel.schedule("soon", 1e12 + 15.0)
    assert list(wheel.due(2e12)) == ["soon"]
    assert list(wheel.due(3e12)) == ["later"]


def test_clock_that_stands_still_or_goes_back_brings_nothing_and_loses_nothing() -> None:
    wheel: TimerWheel[str] = TimerWheel(100.0)
    wheel.schedule("owner", 101.0)
    assert list(wheel.due(100.0)) == []
    assert list(wheel.due(50.0)) == []
    assert list(wheel.due(101.0)) == ["owner"]
    assert list(wheel.due(101.0)) == []
