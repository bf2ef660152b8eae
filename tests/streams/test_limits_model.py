"""The caps, against a recount: streams that open, end, and end one another in the middle of a fan-out.

The model is the list of all streams that were ever taken. Whatever happens, the hub's counts are what counting those
that are open gives, and it refuses exactly whom that count refuses.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from streams.limits import Limits, OverLimit
from streams.subscriber import End, Grant, Subscriber
from streams.topics import Feed, restaurant_feed
from tests.support.delivery import Delivery, Recorder, order_entry

FEEDS = tuple(restaurant_feed(f"r{number}") for number in range(3))
SUBJECTS = ("", "ann", "bob", "cid")
ADDRESSES = ("", "192.0.2.1", "192.0.2.2")
CAPS = st.sampled_from([0, 1, 2, 3, 5])


class Caps(RuleBasedStateMachine):
    @initialize(
        limits=st.builds(
            Limits, per_subject_topic=CAPS, per_subject=CAPS, per_address=CAPS, per_topic=CAPS, per_process=CAPS
        )
    )
    def begin(self, limits: Limits) -> None:
        self.limits = limits
        self.delivery = Delivery(fan_out_pause=1, limits=limits)
        self.hub = self.delivery.hub
        self.taken: list[tuple[Subscriber, Recorder]] = []
        self.refused: Counter[str] = Counter()
        self.fan_out: Iterator[None] = iter(())

    def open_now(self) -> list[Subscriber]:
        return [subscriber for subscriber, _ in self.taken if not subscriber.closed]

    def over(self, subject: str, address: str, keys: tuple[str, ...]) -> set[str]:
        """Every cap that one more such stream would be over."""
        there = self.open_now()
        counts: dict[str, int] = {
            "per_process": len(there),
            "per_address": sum(each.address == address for each in there) if address else 0,
            "per_subject": sum(each.grant.subject == subject for each in there) if subject else 0,
            "per_topic": max(sum(key in each.keys for each in there) for key in keys),
            "per_subject_topic": max(
                sum(key in each.keys and each.grant.subject == subject for each in there) if subject else 0
                for key in keys
            ),
        }
        caps: dict[str, Any] = {name: getattr(self.limits, name) for name in counts}
        return {name for name, count in counts.items() if 0 < caps[name] <= count}

    @rule(
        feeds=st.lists(st.sampled_from(FEEDS), min_size=1, max_size=3),
        subject=st.sampled_from(SUBJECTS),
        address=st.sampled_from(ADDRESSES),
        leaves_at_once=st.sampled_from([False] * 5 + [True]),
    )
    def connect(self, feeds: list[Feed], subject: str, address: str, leaves_at_once: bool) -> None:
        connection = Recorder()
        keys = tuple(feed.key for feed in feeds)
        grant = Grant("e", self.hub.head, ("fact",), self.delivery.clock.now + 60, subject)
        subscriber = Subscriber(connection, feeds, self.hub.head, grant, address)
        if leaves_at_once:
            connection.on_write = lambda _: subscriber.close(End.GONE)
        over = self.over(subject, address, keys)
        refused_by: str | None = None
        try:
            self.hub.subscribe(subscriber, b"opening")
        except OverLimit as error:
            refused_by = error.limit
        if refused_by is None:
            assert not over
            self.taken.append((subscriber, connection))
        else:
            assert refused_by in over
            assert connection.received == b""
            self.refused[refused_by] += 1

    @rule(number=st.integers(0, 50), other=st.integers(0, 50))
    def will_end_another_when_written_to(self, number: int, other: int) -> None:
        """The other may be itself, or one that the fan-out has yet to come to, or has passed."""
        if self.taken:
            _, connection = self.taken[number % len(self.taken)]
            ending, _ = self.taken[other % len(self.taken)]
            connection.on_write = lambda _: ending.close(End.GONE)

    @rule(number=st.integers(0, 50), end=st.sampled_from([End.GONE, End.STALLED, End.DRAIN]))
    def leave(self, number: int, end: End) -> None:
        """Those that have left already, too."""
        if self.taken:
            subscriber, _ = self.taken[number % len(self.taken)]
            subscriber.close(end)

    @rule(entries=st.integers(1, 3), steps=st.integers(0, 3), number=st.integers(0, 2))
    def tail_reads(self, entries: int, steps: int, number: int) -> None:
        """A fan-out begins, and may be interrupted."""
        self.finish_fan_out()
        head = self.hub.head
        batch = [order_entry(head + 1 + index, restaurant=f"r{number}") for index in range(entries)]
        self.fan_out = self.hub.dispatch(batch)
        for _ in range(steps):
            next(self.fan_out, None)

    @rule()
    def finish_fan_out(self) -> None:
        for _ in self.fan_out:
            pass

    @rule()
    def revoke(self) -> None:
        self.finish_fan_out()
        self.hub.revoke("fact", self.hub.head + 1)
        self.tail_reads(1, 0, 0)
        self.finish_fan_out()

    @rule(seconds=st.sampled_from([1.0, 16.0, 61.0]))
    def time_passes(self, seconds: float) -> None:
        self.delivery.clock.now += seconds
        self.hub.tick()

    @rule()
    def lose_place(self) -> None:
        self.finish_fan_out()
        self.hub.restart(self.hub.window)

    @invariant()
    def counts_are_what_a_recount_says(self) -> None:
        there = self.open_now()
        topics = Counter(key for each in there for key in set(each.keys))
        subjects = Counter(each.grant.subject for each in there if each.grant.subject)
        addresses = Counter(each.address for each in there if each.address)
        assert len(self.hub) == len(there)
        assert {feed.key: self.hub._by_lane.count(feed.key) for feed in FEEDS} == {
            feed.key: topics[feed.key] for feed in FEEDS
        }
        assert [self.hub._by_subject.count(subject) for subject in SUBJECTS] == [subjects[each] for each in SUBJECTS]
        assert [self.hub._by_address.count(address) for address in ADDRESSES] == [addresses[each] for each in ADDRESSES]
        for subject in subjects:
            assert set(self.hub._by_subject.at(subject)) == {each for each in there if each.grant.subject == subject}
        kept = (len(self.hub._by_lane), len(self.hub._by_subject), len(self.hub._by_address), len(self.hub._by_grant))
        assert kept == (len(topics), len(subjects), len(addresses), min(len(there), 1))

    @invariant()
    def refusals_and_ends_are_counted(self) -> None:
        assert {kind: count for kind, count in self.hub.refused.items() if count} == dict(self.refused)
        assert sum(self.hub.ended.values()) + len(self.hub) == len(self.taken)


TestCaps = Caps.TestCase
TestCaps.settings = settings(max_examples=300, stateful_step_count=40, deadline=None)
