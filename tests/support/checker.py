"""Judges a run by what its publishers and clients wrote down, and by nothing else. Pure.

The promise: every acknowledged event reaches every client that may see it, once and in the log's order, from where the
client began, through all its reconnects, or the client was told what it missed. In detail, for each client:

- ids increase, over each connection and over resumes; a heartbeat's id may repeat the last;
- each acknowledged event for its topics that lies where it has been came exactly once, at its own position; one of
  unknown outcome at most once, at one position for everybody, and if anybody got it, then all who passed it did;
- nothing outside of its grants and of what the connection asked for, no state from before or after them, nothing that
  was not published or that was refused, nothing on another's topic;
- an opening fits what was asked, and only a reset, or the snapshot that follows one, excuses a hole.

A block that was cut is no block, and the blocks of an entry that was cut before its id don't count: the client gets
them again. A publisher's retry is one more attempt with the same event id. The log is taken to give an id one position
in an epoch, which holds inside the deduplication window; for two, let both be recorded as acknowledged.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, defaultdict
from typing import TYPE_CHECKING

import msgspec

from tests.support.findings import Broken, Report
from tests.support.journey import Journey
from tests.support.records import Grant, Position

if TYPE_CHECKING:
    from tests.support.journey import Delivery, Interval, Opening
    from tests.support.records import ClientLog, History, Published


def check(history: History) -> Report:
    """All that is wrong with a run. Linear in its records, but for sorting the events."""
    report = Report(clients=len(history.clients))
    log = _Log(report)
    for attempt in history.published:
        log.publish(attempt)
    report.events = len(log.events)
    passages = [_Passage(client, log, report) for client in history.clients]
    for passage in passages:
        passage.judge_deliveries()
    log.settle()
    for passage in passages:
        passage.judge_holes()
    return report


class _Event(msgspec.Struct):
    """All that is known of an event: `acknowledged` positions, else the position at which somebody `seen` it."""

    id: str
    topics: set[str]
    acknowledged: set[Position] = msgspec.field(default_factory=set)
    seen: Position | None = None
    may_be_stored: bool = False

    @property
    def places(self) -> set[Position]:
        return self.acknowledged or ({self.seen} if self.seen else set())


class _Log:
    """The log, as far as publishers and clients know it."""

    def __init__(self, report: Report) -> None:
        self.events: dict[str, _Event] = {}
        self._report = report
        self._at: dict[Position, str] = {}
        self._sequences: defaultdict[tuple[str, str], list[tuple[int, str]]] = defaultdict(list)

    def publish(self, attempt: Published) -> None:
        event = self.events.get(attempt.event_id)
        if event is None:
            event = self.events[attempt.event_id] = _Event(attempt.event_id, set())
        event.topics.update(attempt.topics)
        event.may_be_stored |= attempt.outcome != "failed"
        if attempt.cursor is None:
            return
        position = Position.parse(attempt.cursor)
        if position is None:
            self._report.add(Broken.CLASH, "log", f"{event.id} was acknowledged at {attempt.cursor!r}, no position")
            return
        event.acknowledged.add(position)
        self.place(event, position)

    def place(self, event: _Event, position: Position) -> None:
        """Note that the event stands there; it is a finding if another does."""
        other = self._at.setdefault(position, event.id)
        if other != event.id:
            self._report.add(Broken.CLASH, "log", f"{other} and {event.id} both stand at {position}")

    def settle(self) -> None:
        """Everything is known: sort it for `between`."""
        for event in self.events.values():
            for position in event.places:
                for topic in event.topics:
                    self._sequences[topic, position.epoch].append((position.sequence, event.id))
        for sequences in self._sequences.values():
            sequences.sort()

    def between(self, topic: str, epoch: str, start: int, end: int) -> list[tuple[int, str]]:
        """Sequence and id of what stands on the topic after `start`, up to and including `end`."""
        sequences = self._sequences.get((topic, epoch), [])
        first = bisect_right(sequences, start, key=_sequence)
        return sequences[first : bisect_right(sequences, end, lo=first, key=_sequence)]


def _sequence(entry: tuple[int, str]) -> int:
    return entry[0]


class _Bounds:
    """A client's grants for one topic, in the log's order."""

    def __init__(self, grants: list[Grant]) -> None:
        self._grants = [(_bound(grant.after), _bound(grant.upto)) for grant in grants]

    def holds(self, position: Position | None, opening: Opening, *, is_state: bool = False) -> bool:
        """Whether a connection may show what stands there, or the state there; of a block without a position, whether
        it may show anything.
        """
        grants = self._at(opening.head)
        least = 0 if is_state else 1
        return (
            bool(grants)
            if position is None
            else any(
                (after is None or (after.epoch == position.epoch and after.sequence + least <= position.sequence))
                and (upto is None or (upto.epoch == position.epoch and position.sequence <= upto.sequence))
                for after, upto in grants
            )
        )

    def _at(self, head: Position | None) -> list[tuple[Position | None, Position | None]]:
        """The grant that began last when the head of the log was there; all of them where nobody knows."""
        if head is None:
            return self._grants
        begun = [
            (after, upto)
            for after, upto in self._grants
            if after is None or (after.epoch == head.epoch and after.sequence <= head.sequence)
        ]
        return begun[-1:]

    @property
    def ends(self) -> bool:
        """Whether it was taken back, so that the client can't be expected to get anywhere any more."""
        return all(upto is not None for _, upto in self._grants)


def _bound(text: str | None) -> Position | None:
    if text is None:
        return None
    position = Position.parse(text)
    if position is None:
        raise ValueError(f"a grant's bound {text!r} is no position")
    return position


class _Passage:
    """One client against the log."""

    def __init__(self, client: ClientLog, log: _Log, report: Report) -> None:
        self._client = client
        self._log = log
        self._report = report
        self._got: Counter[tuple[str, str, Position]] = Counter()
        grants = defaultdict(list)
        for grant in client.grants:
            grants[grant.topic].append(grant)
        self._bounds = {topic: _Bounds(each) for topic, each in grants.items()}
        self._journey = Journey(client, report)
        self._journey.follow()

    def judge_deliveries(self) -> None:
        """Each block by itself: whether the client may see it, and whether it is what stands there."""
        for delivery in self._journey.deliveries:
            bounds = self._bounds.get(delivery.topic or "")
            opening = delivery.opening
            if (
                bounds is None
                or not opening.has(str(delivery.topic))
                or not bounds.holds(delivery.position, opening, is_state=delivery.is_state)
            ):
                self._add(Broken.FORBIDDEN, delivery, f"on {delivery.topic}")
            if delivery.event_id is not None:
                self._judge_event(delivery, delivery.event_id, str(delivery.topic))
            elif delivery.position is not None and not delivery.is_state:
                self._add(Broken.INVENTED, delivery, "without an event id")

    def _judge_event(self, delivery: Delivery, event_id: str, topic: str) -> None:
        event = self._log.events.get(event_id)
        if event is None:
            self._add(Broken.INVENTED, delivery, "")
            return
        if topic not in event.topics:
            self._add(Broken.TOPIC, delivery, f"on {topic}")
        if not event.may_be_stored:
            self._add(Broken.DENIED, delivery, "")
        position = delivery.position
        if position is None:
            if event.places and all((event_id, topic, place) in self._got for place in event.places):
                self._add(Broken.TWICE, delivery, f"on {topic}, after its entry was complete")
            return
        if not event.places:
            event.seen = position
            self._log.place(event, position)
        if position not in event.places:
            self._add(Broken.PLACE, delivery, f"stands at {', '.join(map(str, event.places))}")
        self._report.delivered += 1
        self._got[event_id, topic, position] += 1
        if self._got[event_id, topic, position] == 2:
            self._add(Broken.TWICE, delivery, f"on {topic}")

    def judge_holes(self) -> None:
        """What the client passed, or should have reached, and did not get."""
        intervals, owed_until = self._journey.intervals, self._owed_until()
        for topic, bounds in self._bounds.items():
            for interval in intervals:
                if not interval.opening.has(topic):
                    continue
                end = interval.end
                if interval is intervals[-1] and owed_until is not None and not bounds.ends:
                    end = max(end, owed_until)
                self._judge_interval(topic, bounds, interval, end)

    def _owed_until(self) -> int | None:
        """The sequence that the run waited for this client to reach, in the epoch in which it was last."""
        if self._client.until is None:
            return None
        until, reached = _bound(self._client.until), self._journey.position
        assert until is not None
        if reached is not None and reached.epoch == until.epoch:
            return until.sequence
        if not all(bounds.ends for bounds in self._bounds.values()):
            what = f"should have reached {until}, but was at {reached}"
            self._report.add(Broken.BEHIND, self._client.client, what)
        return None

    def _judge_interval(self, topic: str, bounds: _Bounds, interval: Interval, end: int) -> None:
        for sequence, event_id in self._log.between(topic, interval.epoch, interval.start, end):
            position = Position(interval.epoch, sequence)
            if not bounds.holds(position, interval.opening):
                continue
            self._report.owed += 1
            if (event_id, topic, position) not in self._got:
                broken = Broken.MISSING if self._log.events[event_id].acknowledged else Broken.UNEVEN
                self._report.add(broken, self._client.client, f"{event_id} at {position} on {topic}")

    def _add(self, broken: Broken, delivery: Delivery, what: str) -> None:
        place = f"{delivery.event_id or 'a block'} at {delivery.position or 'no position'}"
        self._report.add(broken, delivery.where, f"{place} {what}".rstrip())
