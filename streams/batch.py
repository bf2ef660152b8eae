"""Some of what waits in an outbox, on its way: what of it may be sent, and what became of each event. No I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from streams.backlog import Settled
from streams.entry import judge
from streams.events import EventError, decode
from streams.publisher import ProblemKind, Status

if TYPE_CHECKING:
    from collections.abc import Sequence

    from streams.backlog import Waiting
    from streams.events import AnyEvent
    from streams.log import Stored
    from streams.publisher import Result

_OTHER_CONTENT = "the log has another event with this eventId"


class Ready(NamedTuple):
    """An event that may be sent."""

    row: Waiting
    event: AnyEvent


class Batch:
    """Some of the oldest events, in their order, and what has become of each."""

    def __init__(self, rows: Sequence[Waiting]) -> None:
        self.settled = Settled({}, {}, {}, [])
        self.unavailable: str | None = None  # why the broker did not answer for all
        self._rows = rows
        self._events: dict[int, AnyEvent] = {}  # by row
        for row in rows:
            try:
                self._events[row.id] = decode(row.body.encode())
            except EventError as error:
                self.settled.parked[row.id] = str(error)

    def attempted(self) -> list[AnyEvent]:
        """What may stand in the log already."""
        return [self._events[row.id] for row in self._rows if row.attempts > 0 and row.id in self._events]

    def apply_found(self, found: dict[str, Stored]) -> None:
        """Settle what of `attempted` the log has; by event id."""
        for row in self._rows:
            event, stored = self._events.get(row.id), found.get(row.event_id)
            if event is None or stored is None or row.attempts == 0:
                continue
            if event_of(stored) == event:
                self.settled.published[row.id] = stored.sequence
            else:
                self.settled.parked[row.id] = _OTHER_CONTENT

    def ready(self) -> list[Ready]:
        """What is to be sent: nothing of a lane from a parked one on."""
        held_up: set[str] = set()
        ready = []
        for row in self._rows:
            if row.id in self.settled.parked:
                held_up.add(row.lane)
            elif row.lane not in held_up and row.id not in self.settled.published:
                ready.append(Ready(row, self._events[row.id]))
        return ready

    def apply_results(self, sent: Sequence[Ready], results: Sequence[Result]) -> None:
        """Settle what was sent."""
        for (row, _), result in zip(sent, results, strict=True):
            problem = result.problem or ""
            if result.kind is ProblemKind.UNAVAILABLE:
                self.unavailable = problem
            if result.sequence is not None:
                self.settled.published[row.id] = result.sequence
            elif result.status is Status.NOT_ATTEMPTED:
                self.settled.unsent.append(row.id)
            elif result.kind is ProblemKind.UNAVAILABLE:
                self.settled.unanswered[row.id] = problem
            else:
                self.settled.parked[row.id] = problem

    def parked(self) -> list[tuple[Waiting, str]]:
        """What never enters the log, and why."""
        problems = self.settled.parked
        return [(row, problems[row.id]) for row in self._rows if row.id in problems]


def event_of(stored: Stored) -> AnyEvent | None:
    """The event in an entry; None if it is none that can be used."""
    return judge(stored.sequence, stored.time, stored.subject, stored.data).event
