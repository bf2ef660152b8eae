"""Position ↔ `Last-Event-ID`, and the verdict on a position that a client comes back with.

Pure: the state of the log is handed in.
"""

from __future__ import annotations

import re
from enum import StrEnum

import msgspec

from streams.errors import StreamsError

MAX_SEQUENCE = 2**63 - 1
_CURSOR = re.compile(r"([A-Za-z0-9]{1,32})-(0|[1-9][0-9]{0,18})")


class InvalidCursor(StreamsError, ValueError):
    """A text that is no cursor."""

    def __init__(self) -> None:
        super().__init__("a cursor is the log's epoch, '-' and a sequence number, as in 'k3f9-1042'")


class Cursor(msgspec.Struct, frozen=True, order=True):
    """A position in the whole log: everything up to and including `sequence` has been seen.

    One cursor serves any set of topics. Its text is ASCII, because clients exist that loop on anything else.
    """

    epoch: str
    sequence: int

    def __str__(self) -> str:
        return f"{self.epoch}-{self.sequence}"

    @classmethod
    def parse(cls, text: str) -> Cursor:
        """Raises InvalidCursor: `text` is not `<epoch>-<sequence>`."""
        match = _CURSOR.fullmatch(text)
        if match is None or int(match[2]) > MAX_SEQUENCE:
            raise InvalidCursor
        return cls(match[1], int(match[2]))


class Reset(StrEnum):
    """Why a client can't simply go on from where it was."""

    EPOCH = "epoch"  # the cursor belongs to another log
    EXPIRED = "expired"  # retention has passed it
    AHEAD = "ahead"  # the log ends before it: a part of the log was lost
    INVALID = "invalid"  # it does not parse


class Verdict(msgspec.Struct, frozen=True):
    """What a client is told in `stream.opened`.

    `kind` is `fresh` (it gave no position), `resumed` (all that followed the position comes, then live) or `reset`
    (with `reason`, and `lost`, the first and last sequence that it did not get, where that is known).
    """

    kind: str
    reason: Reset | None = None
    lost: tuple[int, int] | None = None


FRESH = Verdict("fresh")
RESUMED = Verdict("resumed")


def verdict(cursor: Cursor, *, epoch: str, first: int, last: int) -> Verdict:
    """The verdict on `cursor` against a log that holds the sequences `first` to `last`.

    `last` is the stream leader's, asked after the request arrived: a process's own tail may be behind the client.
    An emptied log has `first == last + 1`, which is why the test for retention is on `sequence + 1`.
    """
    if cursor.epoch != epoch:
        return Verdict("reset", Reset.EPOCH)
    if cursor.sequence > last:
        return Verdict("reset", Reset.AHEAD)
    if cursor.sequence + 1 < first:
        return Verdict("reset", Reset.EXPIRED, lost=(cursor.sequence + 1, first - 1))
    return RESUMED
