"""Caps on streams and the rate of new ones, cap by cap; `test_limits_model` has them all at once."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.hub import DecisionOutdated, Draining
from streams.limits import BURST_SECONDS, Limits, OverLimit, RateExceeded, Rates, TokenBucket
from streams.subscriber import End, Grant, Subscriber
from streams.topics import Feed, order_feed, restaurant_feed
from tests.support.delivery import Delivery, Recorder, order_entry

NONE = Limits(per_subject_topic=0, per_subject=0, per_address=0, per_topic=0, per_process=0, new_per_second=0)
R1 = restaurant_feed("r1")
R2 = restaurant_feed("r2")
O1 = order_feed("o1", "r1", "c1")


def limited_to(**caps: int) -> Delivery:
    """A hub with no other caps than these."""
    return Delivery(limits=Limits(**{name: caps.get(name, 0) for name in Limits.__struct_fields__}))


def refusal(delivery: Delivery, *feeds: Feed, subject: str = "", address: str = "") -> str:
    """The limit that a subscription is refused by; nothing is written and nothing registered."""
    before, connection = len(delivery.hub), Recorder()
    subscriber = Subscriber(
        connection,
        feeds,
        delivery.hub.head,
        Grant("e", delivery.hub.head, subject=subject),
        address,
    )
    with pytest.raises(OverLimit) as over:
        delivery.hub.subscribe(subscriber, b"opening")
    assert connection.received == b""
    assert len(delivery.hub) == before
    return over.value.limit


def test_defaults_are_those_of_the_documentation() -> None:
    assert Limits() == Limits(
        per_subject_topic=4,
        per_subject=32,
        per_address=1_000,
        per_topic=10_000,
        per_process=16_000,
        new_per_second=2_000,
    )


def test_fifth_stream_of_a_subject_on_a_topic_is_refused_and_others_are_not() -> None:
    delivery = Delivery(limits=Limits())
    first, _ = delivery.subscribe(R1, subject="ann")
    for _ in range(3):
        delivery.subscribe(R1, subject="ann")
    assert refusal(delivery, R1, subject="ann") == "per_subject_topic"
    delivery.subscribe(R1, subject="bob")
    delivery.subscribe(R2, subject="ann")
    first.close(End.GONE)
    delivery.subscribe(R1, subject="ann")
    assert refusal(delivery, R1, subject="ann") == "per_subject_topic"


def test_streams_of_a_subject_on_a_topic_are_counted_alike_from_either_side() -> None:
    """Where a subject is not capped, it may have more streams than its topic, or fewer."""
    delivery = limited_to(per_subject_topic=2)
    for number in range(50):
        delivery.subscribe(restaurant_feed(f"other-{number}"), subject="ann")
    for _ in range(2):
        delivery.subscribe(R1, subject="ann")
    assert refusal(delivery, R1, subject="ann") == "per_subject_topic"
    for number in range(100):
        delivery.subscribe(R1, subject=f"guest-{number}")
    assert refusal(delivery, R1, subject="ann") == "per_subject_topic"
    delivery.subscribe(R1, subject="guest-7")


def test_stream_of_several_topics_is_refused_for_the_one_that_is_full() -> None:
    delivery = limited_to(per_subject_topic=2)
    delivery.subscribe(R1, R2, subject="ann")
    delivery.subscribe(R1, subject="ann")
    assert refusal(delivery, R2, R1, subject="ann") == "per_subject_topic"
    delivery.subscribe(R2, O1, subject="ann")


def test_topic_that_a_stream_names_twice_counts_once() -> None:
    delivery = limited_to(per_subject_topic=2)
    delivery.subscribe(R1, subject="bob")
    delivery.subscribe(R2, subject="ann")
    delivery.subscribe(R1, R1, subject="ann")
    delivery.subscribe(R1, subject="ann")
    assert refusal(delivery, R1, subject="ann") == "per_subject_topic"


def test_streams_of_a_subject_are_capped_over_all_its_topics() -> None:
    delivery = limited_to(per_subject=2)
    delivery.subscribe(R1, subject="ann")
    second, _ = delivery.subscribe(R2, subject="ann")
    assert refusal(delivery, O1, subject="ann") == "per_subject"
    delivery.subscribe(O1, subject="bob")
    second.close(End.EXPIRED)
    delivery.subscribe(O1, subject="ann")


def test_streams_of_a_topic_are_capped_over_all_subjects() -> None:
    delivery = limited_to(per_topic=2)
    delivery.subscribe(R1, subject="ann")
    delivery.subscribe(R1, R2, subject="bob")
    assert refusal(delivery, R1, subject="cid") == "per_topic"
    assert refusal(delivery, O1, R1, subject="cid") == "per_topic"
    delivery.subscribe(R2, subject="cid")


def test_streams_of_an_address_are_capped_at_the_door_and_at_registration() -> None:
    delivery = limited_to(per_address=2)
    delivery.hub.arrive("192.0.2.1")
    for subject in ("ann", "bob"):
        delivery.subscribe(R1, subject=subject, address="192.0.2.1")
    assert refusal(delivery, R1, subject="cid", address="192.0.2.1") == "per_address"
    with pytest.raises(OverLimit) as over:
        delivery.hub.arrive("192.0.2.1")
    assert (over.value.limit, over.value.cap) == ("per_address", 2)
    delivery.hub.arrive("192.0.2.2")


def test_streams_of_a_process_are_capped_at_the_door_and_at_registration() -> None:
    delivery = limited_to(per_process=2)
    delivery.hub.arrive("")
    first, _ = delivery.subscribe(R1)
    delivery.subscribe(R2)
    assert refusal(delivery, O1) == "per_process"
    with pytest.raises(OverLimit) as over:
        delivery.hub.arrive("")
    assert (over.value.limit, str(over.value)) == ("per_process", "over max_per_process (2)")
    first.close(End.GONE)
    delivery.hub.arrive("")
    delivery.subscribe(O1)


def test_nobody_in_particular_and_no_address_count_for_nothing() -> None:
    delivery = limited_to(per_subject_topic=1, per_subject=1, per_address=1)
    for _ in range(3):
        delivery.hub.arrive("")
        delivery.subscribe(R1)


def test_zero_is_no_cap() -> None:
    delivery = Delivery(limits=NONE)
    for _ in range(50):
        delivery.hub.arrive("192.0.2.1")
        delivery.subscribe(R1, subject="ann", address="192.0.2.1")


def test_arrivals_beyond_the_rate_are_refused_until_time_has_passed() -> None:
    delivery = limited_to(new_per_second=2)
    for _ in range(2):
        delivery.hub.arrive("")
    for _ in range(2):
        with pytest.raises(OverLimit) as over:
            delivery.hub.arrive("")
        assert over.value.limit == "new_per_second"
    delivery.clock.now += 0.5
    delivery.hub.arrive("")
    with pytest.raises(OverLimit):
        delivery.hub.arrive("")


def test_an_arrival_that_is_refused_for_its_address_takes_nobodys_turn() -> None:
    delivery = limited_to(per_address=1, new_per_second=1)
    delivery.subscribe(R1, address="192.0.2.1")
    for _ in range(3):
        with pytest.raises(OverLimit):
            delivery.hub.arrive("192.0.2.1")
    delivery.hub.arrive("192.0.2.2")


def test_draining_hub_refuses_at_the_door() -> None:
    delivery = Delivery()
    delivery.hub.drain()
    with pytest.raises(Draining):
        delivery.hub.arrive("192.0.2.1")


def test_refusals_are_counted_by_what_was_in_the_way() -> None:
    delivery = limited_to(per_process=1, new_per_second=1)
    delivery.dispatch(order_entry(1))
    outdated = Subscriber(Recorder(), (R1,), 0, Grant("another log", 1))
    with pytest.raises(DecisionOutdated):
        delivery.hub.subscribe(outdated, b"")
    delivery.hub.arrive("")
    with pytest.raises(OverLimit):
        delivery.hub.arrive("")
    delivery.subscribe(R1)
    refusal(delivery, R1)
    with pytest.raises(OverLimit):
        delivery.hub.arrive("")
    delivery.hub.drain()
    with pytest.raises(Draining):
        delivery.hub.arrive("")
    assert {kind: count for kind, count in delivery.hub.refused.items() if count} == {
        "per_process": 2,
        "new_per_second": 1,
        "draining": 1,
        "outdated": 1,
    }


ARRIVALS = st.lists(st.integers(0, 3_000), min_size=1, max_size=80)  # milliseconds between each and the one before


@given(per_second=st.integers(1, 20), pauses=ARRIVALS, begin=st.sampled_from([0.0, 1_000.0, 10_000_000.0]))
def test_no_window_ever_lets_more_through_than_rate_and_burst(per_second: int, pauses: list[int], begin: float) -> None:
    bucket = TokenBucket(per_second, begin)
    taken: list[Fraction] = []
    now = Fraction(0)
    for pause in pauses:
        now += Fraction(pause, 10 * 1000)
        if bucket.take(begin + float(now)):
            taken.append(now)
    for first in range(len(taken)):
        for last in range(first, len(taken)):
            span = taken[last] - taken[first]
            assert last - first + 1 <= per_second * (span + BURST_SECONDS) + Fraction(1, 1000)


@given(per_second=st.integers(1, 20), pauses=ARRIVALS)
def test_arrivals_within_the_rate_are_never_refused(per_second: int, pauses: list[int]) -> None:
    bucket = TokenBucket(per_second, 0.0)
    now = 0.0
    for pause in pauses:
        now += 1.0 / per_second + 1e-9 + pause / 1000
        assert bucket.take(now)


def test_bucket_left_alone_lets_a_burst_through_and_no_more() -> None:
    bucket = TokenBucket(5, 0.0)
    assert [bucket.take(100.0) for _ in range(7)] == [True] * 5 + [False] * 2
    assert [bucket.take(100.2) for _ in range(2)] == [True, False]


def test_bucket_without_a_rate_lets_everything_through() -> None:
    bucket = TokenBucket(0, 0.0)
    assert all(bucket.take(0.0) for _ in range(1000))


def test_each_text_has_a_bucket_of_its_own_and_only_so_many_are_remembered() -> None:
    rates = Rates(2, most=3)
    for text in ("a", "b"):
        rates.take(text, 0)
        rates.take(text, 0)
        with pytest.raises(RateExceeded) as refused:
            rates.take(text, 0.4)
        assert (refused.value.per_second, refused.value.retry_after_seconds) == (2, 1)
    rates.take("a", 0.5)
    for text in ("c", "d"):
        rates.take(text, 0.6)
    assert len(rates) == 3
    with pytest.raises(RateExceeded):
        rates.take("a", 0.6)  # it was there later than the one that made room
    rates.take("b", 0.6)


def test_rate_of_nobody_is_limited_where_there_is_none() -> None:
    rates = Rates(0)
    for _ in range(1000):
        rates.take("a", 0)
