"""The rules of delivery, against a model: random appends, clients that come, pause, go and come back, fan-outs that are
interrupted, retention that takes the log from under a window, a tail that loses its place.

The model is the log itself. Whatever happens, a client has seen exactly the entries for its topics between the position
it began at and the position it holds, once each and in order.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, MultipleResults, RuleBasedStateMachine, initialize, invariant, multiple, rule

from gateway.sse import SseEncoder
from streams.entry import Entry, judge
from streams.events import OrderEvent
from streams.frames import Broadcast, Frames
from streams.hub import DecisionOutdated, Hub
from streams.subscriber import End, Grant, Subscriber
from streams.topics import Feed, customer_feed, order_feed, partner_feed, restaurant_feed
from streams.window import Window

RESTAURANTS = ("r1", "r2")
ORDERS = ("o1", "o2")


@dataclass
class Client:
    """A client that remembers what it was sent: the ids in order, and (sequence, topic) of each event."""

    keys: tuple[str, ...]
    start: int
    clock: Callable[[], float]
    subscriber: Subscriber = field(init=False)
    received: bytes = b""
    capacity: int = 1 << 30
    taken: int = 0
    progressed_at: float = 0.0
    finished: bool = False
    aborted: bool = False

    def write(self, data: bytes) -> None:
        assert not self.finished
        assert not self.aborted
        self.received += data
        self.capacity -= len(data)
        if self.capacity < 0 and not self.subscriber.paused:
            self.progressed_at = self.clock()
            self.subscriber.pause()

    def progress(self) -> int | None:
        return self.taken if self.subscriber.paused else None

    def finish(self, data: bytes) -> None:
        self.write(data)
        self.finished = True

    def abort(self) -> None:
        self.aborted = True

    def blocks(self) -> Iterator[dict[str, str]]:
        for block in self.received.decode().split("\n\n"):
            if block:
                yield dict(line.split(": ", 1) for line in block.split("\n"))

    def ids(self) -> list[int]:
        return [int(block["id"].split("-")[1]) for block in self.blocks() if "id" in block]

    def events(self) -> list[tuple[int, str]]:
        found = []
        for block in self.blocks():
            if "data" in block and not block["event"].startswith("stream."):
                view = json.loads(block["data"])
                found.append((int(view["eventId"]), view["topic"]))
        return found


def feed_of(topic: str) -> Feed:
    kind, _, name = topic.partition("/")
    match kind:
        case "restaurants":
            return restaurant_feed(name)
        case "partners":
            return partner_feed(name)
        case "customers":
            return customer_feed(name)
    return order_feed(name, "r1", "c1")


TOPICS = st.frozensets(
    st.sampled_from(
        [f"restaurants/{r}" for r in RESTAURANTS] + ["partners/r1", "customers/c1"] + [f"orders/{o}" for o in ORDERS]
    ),
    min_size=1,
    max_size=4,
)


class Delivery(RuleBasedStateMachine):
    clients: Bundle[Client] = Bundle("clients")

    @initialize(max_entries=st.integers(1, 12), max_bytes=st.sampled_from([2_000, 1 << 30]))
    def begin(self, max_entries: int, max_bytes: int) -> None:
        self.now = 1000.0
        self.log: list[Entry] = []
        self.first = 1
        self.max_entries, self.max_bytes = max_entries, max_bytes
        self.waiting: dict[Subscriber, None] = {}
        self.pages: list[tuple[Subscriber, list[Broadcast], int]] = []
        self.fan_out: Iterator[None] | None = None
        self.revoked_at: dict[str, int] = {}
        self.everyone: list[Client] = []
        self.hub = Hub(self.new_window(0), self.behind, clock=lambda: self.now, fan_out_pause=1)

    def new_window(self, at: int) -> Window:
        frames = Frames("e", SseEncoder())
        return Window(frames, at, max_entries=self.max_entries, max_bytes=self.max_bytes)

    def behind(self, subscriber: Subscriber) -> None:
        self.waiting[subscriber] = None

    # -- the log ---------------------------------------------------------------------------------------------------

    @rule(
        entries=st.lists(
            st.tuples(
                st.sampled_from(["r1", "r1", "r1", "r2"]),
                st.sampled_from(["c1", "c1", "c1", "c2"]),
                st.sampled_from(["o1", "o1", "o2"]),
                st.sampled_from(["Both", "Both", "Restaurant", "Customer"]),
                st.sampled_from(["good"] * 6 + ["malformed", "misplaced"]),
            ),
            min_size=2,
            max_size=8,
        )
    )
    def append(self, entries: list[tuple[str, str, str, str, str]]) -> None:
        for restaurant, customer, order, target, quality in entries:
            sequence = len(self.log) + 1
            body = json.dumps(
                {
                    "type": "OrderAccepted",
                    "eventId": str(sequence),
                    "occurredOnUtc": "2026-11-20T10:00:00Z",
                    "orderId": order,
                    "restaurantId": restaurant,
                    "customerId": customer,
                    "target": target,
                }
            ).encode()
            subject = f"orders.{restaurant}.{customer}.{order}.OrderAccepted"
            if quality == "malformed":
                body = body[:-1]
            if quality == "misplaced":
                subject = f"orders.{restaurant}.c9.{order}.OrderAccepted"
            self.log.append(judge(sequence, float(sequence), subject, body))

    @rule(sequences=st.integers(1, 6), steps=st.integers(0, 3))
    def more_is_read(self, sequences: int, steps: int) -> None:
        """The most usual thing to happen: something for everybody, read at once."""
        self.append([("r1", "c1", "o1", "Both", "good")] * sequences)
        self.tail_reads(sequences, steps)

    @rule(batch=st.integers(1, 6), steps=st.integers(0, 3))
    def tail_reads(self, batch: int, steps: int) -> None:
        """The tail dispatches what it read, and may be interrupted in the middle of the fan-out."""
        self.finish_fan_out()
        head = self.hub.head
        if head + 1 < self.first:
            self.lose_place()
            return
        entries = self.log[head : head + batch]
        if entries:
            self.fan_out = self.hub.dispatch(entries)
            for _ in range(steps):
                if self.fan_out is not None and next(self.fan_out, self) is self:
                    self.fan_out = None

    @rule()
    def finish_fan_out(self) -> None:
        if self.fan_out is not None:
            for _ in self.fan_out:
                pass
            self.fan_out = None

    @rule(kept=st.integers(0, 30))
    def retention(self, kept: int) -> None:
        self.first = max(self.first, len(self.log) - kept)

    @rule()
    def lose_place(self) -> None:
        self.finish_fan_out()
        self.hub.restart(self.new_window(max(self.hub.head, self.first - 1)))

    @rule(topic=st.sampled_from([f"staff:{r}" for r in RESTAURANTS]))
    def revoke(self, topic: str) -> None:
        """A fact enters the log, and the tail reaches it."""
        self.append([("r9", "c9", "o9", "Both", "good")])
        while self.hub.head < len(self.log) - 1:
            if self.hub.head + 1 < self.first:
                self.lose_place()
                continue
            self.tail_reads(6, 0)
            self.finish_fan_out()
        self.finish_fan_out()
        sequence = len(self.log)
        self.revoked_at[topic] = sequence
        self.hub.revoke(topic, sequence)
        self.tail_reads(1, 0)

    # -- clients ---------------------------------------------------------------------------------------------------

    @rule(target=clients, topics=TOPICS, back=st.integers(-3, 20), decided_before=st.sampled_from([0, 0, 0, 1, 3]))
    def connect(self, topics: frozenset[str], back: int, decided_before: int) -> Client | MultipleResults[Client]:
        start = max(self.first - 1, min(self.hub.head - back, len(self.log)), 0)
        return self.open(topics, start, decided_before)

    @rule(target=clients, client=clients)
    def come_back(self, client: Client) -> Client | MultipleResults[Client]:
        """A client that was cut comes back with the last id it was sent, which may be older than what it has seen."""
        if not client.subscriber.closed:
            client.subscriber.close(End.GONE)
        last = client.ids()[-1] if client.ids() else client.start
        if last + 1 < self.first:
            return multiple()
        topics = frozenset(key.split("@")[0] for key in client.keys)
        return self.open(topics, last, 0)

    def open(self, topics: frozenset[str], start: int, decided_before: int) -> Client | MultipleResults[Client]:
        feeds = [feed_of(topic) for topic in sorted(topics)]
        client = Client(tuple(feed.key for feed in feeds), start, lambda: self.now)
        facts = tuple(f"staff:{topic.split('/')[1]}" for topic in topics if topic.startswith("restaurants/"))
        decided_at = max(self.hub.head - decided_before, 0)
        subscriber = Subscriber(client, feeds, start, Grant("e", decided_at, facts))
        client.subscriber = subscriber
        outdated = decided_at < self.hub.window.floor or any(
            self.revoked_at.get(fact, 0) > decided_at for fact in facts
        )
        try:
            self.hub.subscribe(subscriber, b"event: stream.opened\ndata: {}\nid: e-%d\n\n" % start)
        except DecisionOutdated:
            assert outdated
            return multiple()
        assert not outdated
        self.everyone.append(client)
        return client

    @rule(client=clients, capacity=st.sampled_from([0, 300, 300, 1200]))
    def stop_reading(self, client: Client, capacity: int) -> None:
        client.capacity = capacity

    @rule(client=clients)
    def read_again(self, client: Client) -> None:
        client.capacity = 1 << 30
        if client.subscriber.paused and not client.subscriber.closed:
            client.subscriber.resume()

    @rule(client=clients)
    def read_a_little(self, client: Client) -> None:
        """Not enough to be written more, but a sign of life."""
        client.taken += 1
        client.progressed_at = self.now

    @rule(client=clients)
    def leave(self, client: Client) -> None:
        client.subscriber.close(End.GONE)

    # -- replay ----------------------------------------------------------------------------------------------------

    @rule(limit=st.integers(1, 4))
    def replay_begins(self, limit: int) -> None:
        """A page is read from the log now, and arrives later."""
        if not self.waiting:
            return
        subscriber = next(iter(self.waiting))
        del self.waiting[subscriber]
        after, fence = subscriber.cursor, self.hub.head
        matching = [
            entry
            for entry in self.log[max(after, self.first - 1) : fence]
            if any(covers(each, entry.subject) for each in subscriber.filters)
        ]
        page = [Broadcast.of(entry) for entry in matching[:limit]]
        upto = page[-1].sequence if len(matching) > limit else fence
        if after + 1 < self.first:
            subscriber.close(End.LAGGED)
        else:
            self.pages.append((subscriber, page, upto))

    @rule()
    def replay_arrives(self) -> None:
        if self.pages:
            subscriber, page, upto = self.pages.pop(0)
            if not subscriber.closed:
                subscriber.accept(page, upto)

    # -- time ------------------------------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([0.05, 1.0, 14.0, 31.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        here = [client for client in self.everyone if not client.subscriber.closed]
        self.hub.tick()
        for client in here:
            if client.subscriber.closed is End.STALLED:
                assert self.now - client.progressed_at >= self.hub.stall_seconds

    # -- what must hold --------------------------------------------------------------------------------------------

    @invariant()
    def each_client_has_exactly_what_is_its_own(self) -> None:
        for client in self.everyone:
            subscriber = client.subscriber
            expected = [
                (sequence, topic)
                for sequence in range(client.start + 1, subscriber.cursor + 1)
                for topic in audience(self.log[sequence - 1] if sequence <= len(self.log) else None, client.keys)
            ]
            events = client.events()
            assert events == expected
            ids = client.ids()
            assert ids == sorted(ids)
            assert not ids or ids[-1] <= max(subscriber.position, client.start)

    @invariant()
    def nobody_is_written_beyond_the_head(self) -> None:
        for client in self.everyone:
            if client.events():
                assert client.events()[-1][0] <= self.hub.head

    @invariant()
    def a_live_client_misses_nothing_that_is_dispatched(self) -> None:
        if self.fan_out is not None:
            return
        for client in self.everyone:
            subscriber = client.subscriber
            if subscriber.live:
                expected = [
                    (sequence, topic)
                    for sequence in range(client.start + 1, self.hub.head + 1)
                    for topic in audience(self.log[sequence - 1], client.keys)
                ]
                assert client.events() == expected

    @invariant()
    def a_client_that_is_not_live_has_a_reason(self) -> None:
        wanted = set(self.waiting) | {subscriber for subscriber, _, _ in self.pages}
        for client in self.everyone:
            subscriber = client.subscriber
            assert subscriber.live or subscriber.paused or subscriber.closed or subscriber in wanted

    @invariant()
    def the_revoked_are_gone(self) -> None:
        for client in self.everyone:
            subscriber = client.subscriber
            for fact in subscriber.grant.revocable_by:
                if self.revoked_at.get(fact, 0) > subscriber.grant.decided_at:
                    assert subscriber.closed

    def teardown(self) -> None:
        """In the end everybody who still listens reads on, and has everything."""
        self.finish_fan_out()
        while self.hub.head < len(self.log):
            self.tail_reads(6, 0)
            self.finish_fan_out()
        for client in self.everyone:
            self.read_again(client)
        while self.waiting or self.pages:
            self.replay_begins(3)
            self.replay_arrives()
        self.each_client_has_exactly_what_is_its_own()
        for client in self.everyone:
            assert client.subscriber.live or client.subscriber.closed
        self.a_live_client_misses_nothing_that_is_dispatched()
        for client in self.everyone:
            client.subscriber.close(End.GONE)
        assert len(self.hub) == 0
        assert len(self.hub._by_lane) == 0
        assert len(self.hub._by_grant) == 0


def covers(filter_subject: str, subject: str) -> bool:
    wanted, found = filter_subject.split("."), subject.split(".")
    return all(want in (">", "*", part) for want, part in zip(wanted, found, strict=False))


def audience(entry: Entry | None, keys: tuple[str, ...]) -> list[str]:
    """The topics among `keys` that an entry is for, in the keys' order, by the model's own reading of the matrix."""
    if entry is None or not isinstance(entry.event, OrderEvent):
        return []
    event, target = entry.event, str(entry.event.target)
    found = []
    for key in keys:
        if key in (f"restaurants/{event.restaurant_id}", f"partners/{event.restaurant_id}") and target in (
            "Both",
            "Restaurant",
        ):
            found.append(key)
        if key == f"customers/{event.customer_id}" and target in ("Both", "Customer"):
            found.append(key)
        if key == f"orders/{event.order_id}@{event.restaurant_id}.{event.customer_id}" and target in (
            "Both",
            "Customer",
        ):
            found.append(f"orders/{event.order_id}")
    return found


TestDelivery = Delivery.TestCase
TestDelivery.settings = settings(max_examples=300, stateful_step_count=50, deadline=None)
