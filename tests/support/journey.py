"""One client's way through the log, by its own record: which positions it covered, and what it got at which. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.support.findings import Broken
from tests.support.records import OUTSIDE_THE_LOG, Position

if TYPE_CHECKING:
    from tests.support.findings import Report
    from tests.support.records import ClientLog, Connection, Opened, Received

_RESET_REASONS = {"epoch", "expired", "ahead", "invalid"}


@dataclass(frozen=True, slots=True)
class Opening:
    """What a connection is for: its `topics`, None for all of the client's, and where the log's `head` was then."""

    topics: frozenset[str] | None = None
    head: Position | None = None

    def has(self, topic: str) -> bool:
        """Whether it is for a topic."""
        return self.topics is None or topic in self.topics


@dataclass(slots=True)
class Interval:
    """Positions after `start`, up to and including `end`, which a connection has passed without telling of a hole."""

    epoch: str
    start: int
    end: int
    opening: Opening


@dataclass(frozen=True, slots=True)
class Delivery:
    """A block that a client counts as its own. `position` is None for one whose entry was cut before its id."""

    position: Position | None
    event_id: str | None
    topic: str | None
    where: str
    opening: Opening
    is_state: bool = False


@dataclass
class Journey:
    """Follows the connections of one client and notes in `report` what is wrong with them by themselves."""

    log: ClientLog
    report: Report
    intervals: list[Interval] = field(default_factory=list)
    deliveries: list[Delivery] = field(default_factory=list)
    # Where the client stands: what it would ask from, and the interval that it is in (None: no position yet).
    _cursor: str | None = None
    _at: Interval | None = None
    # The connection that is followed:
    _where: str = ""
    _verdict: str = ""
    _opening: Opening = field(default_factory=Opening)
    _entry: list[Received] = field(default_factory=list)
    _states: list[Received] = field(default_factory=list)
    _got_events: bool = False

    def follow(self) -> None:
        """From the first connection to the last."""
        previous = 0
        for connection in self.log.connections:
            self._where = f"{self.log.client}, connection {connection.number}"
            if connection.number <= previous:
                self._add(Broken.CLIENT, f"comes after connection {previous}")
            self._check_asked(connection, first=previous == 0)
            previous = connection.number
            if connection.opened is None:
                if any(block.id or block.event_id for block in connection.blocks):
                    self._add(Broken.VERDICT, "got blocks without an opening")
                continue
            self._opening = Opening(
                None if connection.topics is None else frozenset(connection.topics),
                Position.parse(connection.opened.head or ""),
            )
            self._begin(connection, connection.opened)
            self._entry, self._states, self._got_events = [], [], False
            for block in connection.blocks:
                self._take(block)
            # Cut before its id, so the client has not moved past this entry and gets it again.
            self.report.halves += len(self._entry)
            self._deliver(None, self._entry)
            self._deliver(None, self._states, is_state=True)

    @property
    def position(self) -> Position | None:
        """The last place that it was told, None if it never got one."""
        return Position(self._at.epoch, self._at.end) if self._at else None

    # -- openings ------------------------------------------------------------------------------------------------------

    def _check_asked(self, connection: Connection, *, first: bool) -> None:
        if first:
            self._cursor = connection.asked
        elif connection.asked != self._cursor:
            self._add(Broken.CLIENT, f"asked from {connection.asked}, though its last id was {self._cursor}")

    def _begin(self, connection: Connection, opened: Opened) -> None:
        asked, verdict = connection.asked, opened.verdict
        self._verdict = verdict
        if verdict == "fresh":
            if asked is not None or connection.since:
                self._add(Broken.VERDICT, f"asked from {asked or 'a time'} and was taken for new")
            self._restart(opened.id)
        elif verdict == "resumed":
            self.report.resumed += 1
            self._resume(connection, opened)
        elif verdict == "reset":
            self.report.resets[str(opened.reason)] += 1
            self._check_reset(connection, opened)
            self._restart(opened.id)
        else:
            self._add(Broken.VERDICT, f"got an unknown verdict {verdict!r}")

    def _resume(self, connection: Connection, opened: Opened) -> None:
        if connection.asked is None:
            if not connection.since:
                self._add(Broken.VERDICT, "asked from nowhere and was resumed")
            self._restart(opened.id)
            return
        told = {opened.id, opened.from_ if opened.from_ is not None else opened.id}
        if told == {opened.id} and self._is_first_grant_after(connection.asked, opened.id):
            self._restart(opened.id)
            return
        if told != {connection.asked}:
            self._add(Broken.VERDICT, f"asked from {connection.asked} and was resumed from {opened.id}/{opened.from_}")
        self._restart(connection.asked)

    def _is_first_grant_after(self, asked: str, told: str | None) -> bool:
        """Whether the client could not see anything between the two, since its grants begin at the later one."""
        begin, end = Position.parse(asked), Position.parse(told or "")
        is_later = begin is not None and end is not None and begin.epoch == end.epoch and begin.sequence < end.sequence
        begins = {grant.after for grant in self.log.grants if self._opening.has(grant.topic)}
        return is_later and told in begins and None not in begins

    def _check_reset(self, connection: Connection, opened: Opened) -> None:
        asked = Position.parse(connection.asked or "")
        told = Position.parse(opened.id or "")
        if connection.asked is None and not connection.since:
            self._add(Broken.VERDICT, "asked from nowhere and was reset")
        if opened.reason not in _RESET_REASONS:
            self._add(Broken.VERDICT, f"was reset for {opened.reason!r}")
        if opened.reason == "epoch" and asked and told and asked.epoch == told.epoch:
            self._add(Broken.VERDICT, f"was reset for another epoch, but {asked} and {told} are of one")
        if opened.lost and asked and opened.lost.from_ != str(Position(asked.epoch, asked.sequence + 1)):
            self._add(
                Broken.VERDICT, f"asked from {asked} and was told to have lost what begins at {opened.lost.from_}"
            )

    def _restart(self, told: str | None) -> None:
        """The client begins anew at a position, or at the snapshot that is to follow."""
        self._at = None
        if told is None:
            return
        self._cursor = told
        position = Position.parse(told)
        if position is None:
            self._add(Broken.ORDER, f"got the id {told!r}, which is no position")
            return
        self._at = Interval(position.epoch, position.sequence, position.sequence, self._opening)
        self.intervals.append(self._at)

    # -- blocks --------------------------------------------------------------------------------------------------------

    def _take(self, block: Received) -> None:
        if block.event is None:
            if block.id is not None:
                self._heartbeat(block.id)
        elif block.event in OUTSIDE_THE_LOG:
            if block.id is not None:
                self._add(Broken.ENTRY, f"{block.event} carried the id {block.id}")
                self._move(block.id)
        elif block.event == "snapshot":
            self._snapshot(block)
        else:
            self._event(block)

    def _heartbeat(self, told: str) -> None:
        self._drop_unfinished("a heartbeat")
        if self._at is None:
            self._add(Broken.ORDER, f"got the heartbeat {told} before it had a position")
        elif self._is_before(told, self._at.end):
            self._add(Broken.ORDER, f"got the heartbeat {told} at {self.position}")
        self._move(told)

    def _snapshot(self, block: Received) -> None:
        self._drop_unfinished("a snapshot")
        self._states.append(block)
        if self._verdict == "resumed" or self._got_events:
            self._add(Broken.VERDICT, f"got a snapshot at {block.id} in the middle of what it knew")
        if block.id is not None:
            self._restart(block.id)
            self._deliver(Position.parse(block.id), self._states, is_state=True)
            self._states = []

    def _event(self, block: Received) -> None:
        self._got_events = True
        if self._entry and self._entry[0].event_id != block.event_id:
            self._drop_unfinished(f"{block.event_id}")
        self._entry.append(block)
        if block.id is None:
            return
        if self._at is None:
            self._add(Broken.ORDER, f"got the event {block.id} before it had a position")
        elif self._is_before(block.id, self._at.end + 1):
            self._add(Broken.ORDER, f"got {block.id} at {self.position}")
        self._deliver(Position.parse(block.id), self._entry)
        self._entry = []
        self._move(block.id)

    def _deliver(self, position: Position | None, blocks: list[Received], *, is_state: bool = False) -> None:
        self.deliveries += [
            Delivery(position, each.event_id, each.topic, self._where, self._opening, is_state) for each in blocks
        ]

    def _drop_unfinished(self, by: str) -> None:
        for block in self._entry:
            self._add(Broken.ENTRY, f"{block.event_id} was followed by {by} and never got its id")
        self._deliver(None, self._entry)
        self._entry = []

    def _is_before(self, told: str, least: int) -> bool:
        position = Position.parse(told)
        assert self._at is not None
        return position is None or position.epoch != self._at.epoch or position.sequence < least

    def _move(self, told: str) -> None:
        """The client's last event id is now `told`, whatever it says."""
        self._cursor = told
        position = Position.parse(told)
        if position and self._at and position.epoch == self._at.epoch:
            self._at.end = max(self._at.end, position.sequence)

    def _add(self, broken: Broken, what: str) -> None:
        self.report.add(broken, self._where, what)
