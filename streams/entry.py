"""One entry of the log, judged by itself: what every reader of the log is handed."""

from __future__ import annotations

import msgspec

from streams.errors import StreamsError
from streams.events import AnyEvent, EventError, decode


class SubjectMismatch(EventError):
    """A body that stands under a subject which is not its own."""

    def __init__(self, found: str, wanted: str) -> None:
        super().__init__(f"stands under {found!r}, belongs under {wanted!r}")


class Entry(msgspec.Struct, frozen=True, gc=False):
    """What stands at `sequence` of the log.

    `event` is the event, or None where the body is not one that this version can use; then `problem` says why.
    `time` is the log's own time in Unix seconds, `size` the body's length in bytes.
    """

    sequence: int
    time: float
    subject: str
    size: int
    event: AnyEvent | None
    problem: StreamsError | None = None


def judge(sequence: int, time: float, subject: str, body: bytes) -> Entry:
    """Decode one message of the log. Never raises: what is wrong with it is in the entry."""
    try:
        event = decode(body)
        wanted = event.log_subject()
        if wanted != subject:
            raise SubjectMismatch(subject, wanted)
    except EventError as problem:
        return Entry(sequence, time, subject, len(body), None, problem)
    return Entry(sequence, time, subject, len(body), event)
