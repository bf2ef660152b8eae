"""Streams that end in time by what the log says, and what of it holds for those who are being decided on meanwhile."""

from __future__ import annotations

import pytest

from streams.hub import LIMITS_REMEMBERED, DecisionOutdated
from streams.subscriber import End, Ending, Grant, Subscriber
from streams.topics import order_feed
from tests.support.delivery import Delivery, Recorder, order_entry

O1 = order_feed("o1", "r1", "c1")


def subscribe(delivery: Delivery, *endings: Ending, decided_at: int | None = None) -> tuple[Subscriber, Recorder]:
    connection = Recorder()
    grant = Grant("e", delivery.hub.head if decided_at is None else decided_at, endings=endings)
    subscriber = Subscriber(connection, [O1], delivery.hub.head, grant)
    delivery.hub.subscribe(subscriber, b"")
    return subscriber, connection


def after(delivery: Delivery, seconds: float) -> None:
    delivery.clock.now += seconds
    delivery.hub.tick()


def guest(at: float | None = None, fact: str = "delivery") -> Ending:
    return Ending(fact, at, End.EXPIRED)


def topic(at: float | None = None, fact: str = "life") -> Ending:
    return Ending(fact, at, End.ENDED)


def test_stream_ends_when_its_time_is_over_and_not_before() -> None:
    delivery = Delivery()
    now = delivery.clock.now
    expiring, connection = subscribe(delivery, guest(now + 5))
    over, _ = subscribe(delivery, topic(now + 5))
    after(delivery, 4.9)
    assert (expiring.closed, over.closed) == (None, None)
    after(delivery, 0.2)
    assert (expiring.closed, over.closed) == (End.EXPIRED, End.ENDED)
    assert b'{"reason":"expired"}' in connection.received


def test_log_gives_an_end_to_a_stream_that_has_none() -> None:
    delivery = Delivery()
    told, _ = subscribe(delivery, guest())
    other, _ = subscribe(delivery, guest(fact="delivery of another"))
    delivery.hub.limit("delivery", 1, delivery.clock.now + 3)
    after(delivery, 2.9)
    assert (told.closed, other.closed) == (None, None)
    after(delivery, 0.2)
    assert (told.closed, other.closed) == (End.EXPIRED, None)


def test_end_that_has_passed_when_it_is_told_is_an_end_at_once() -> None:
    delivery = Delivery()
    told, _ = subscribe(delivery, guest())
    delivery.hub.limit("delivery", 1, delivery.clock.now - 100)
    after(delivery, 0.2)
    assert told.closed is End.EXPIRED


def test_far_end_is_kept_through_all_looks_before_it() -> None:
    delivery = Delivery()
    told, _ = subscribe(delivery, guest())
    delivery.hub.limit("delivery", 1, delivery.clock.now + 7200)
    for _ in range(719):
        after(delivery, 10)
    assert told.closed is None
    after(delivery, 10)
    assert told.closed is End.EXPIRED


def test_what_allowed_a_stream_only_ends_sooner_and_a_topic_may_go_on_longer() -> None:
    delivery = Delivery()
    now = delivery.clock.now
    guests, _ = subscribe(delivery, guest(now + 5))
    topics, _ = subscribe(delivery, topic(now + 5))
    delivery.hub.limit("delivery", 1, now + 20)
    delivery.hub.limit("life", 2, now + 20)
    after(delivery, 6)
    assert (guests.closed, topics.closed) == (End.EXPIRED, None)
    after(delivery, 15)
    assert topics.closed is End.ENDED


def test_one_of_several_topics_that_goes_on_keeps_no_other_one() -> None:
    delivery = Delivery()
    now = delivery.clock.now
    both, _ = subscribe(delivery, topic(now + 5, "a"), topic(now + 5, "b"))
    delivery.hub.limit("a", 1, now + 50)
    after(delivery, 6)
    assert both.closed is End.ENDED


def test_end_that_was_told_after_the_decision_holds_and_one_from_before_was_decided_with() -> None:
    delivery = Delivery()
    delivery.dispatch(order_entry(1), order_entry(2), order_entry(3))
    now = delivery.clock.now
    delivery.hub.limit("delivery", 2, now + 3)
    late, _ = subscribe(delivery, guest(), decided_at=1)
    knowing, _ = subscribe(delivery, guest(now + 60), decided_at=2)
    after(delivery, 4)
    assert (late.closed, knowing.closed) == (End.EXPIRED, None)


def test_decision_from_before_all_that_is_remembered_is_taken_again() -> None:
    delivery = Delivery(max_entries=10)
    for sequence in range(1, LIMITS_REMEMBERED + 3):
        delivery.hub.limit(f"delivery {sequence}", sequence, delivery.clock.now)
    subscribe(delivery, decided_at=0)  # nothing of that concerns it
    with pytest.raises(DecisionOutdated):
        subscribe(delivery, guest(), decided_at=1)
    subscribe(delivery, guest(), decided_at=2)


def test_ended_stream_leaves_nothing_behind() -> None:
    delivery = Delivery()
    told, _ = subscribe(delivery, guest())
    told.close(End.GONE)
    assert len(delivery.hub._by_grant) == 0
    delivery.hub.limit("delivery", 1, delivery.clock.now - 1)
    after(delivery, 1)
    assert delivery.hub.ended[End.EXPIRED] == 0
