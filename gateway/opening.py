"""Where a stream begins: what position the client asked for, and the verdict on it."""

from __future__ import annotations

import datetime as dt
import re
from typing import TYPE_CHECKING, Annotated, TypeAlias

import msgspec

from streams.cursor import FRESH, RESUMED, Cursor, InvalidCursor, Reset, Verdict, verdict
from streams.errors import StreamsError

if TYPE_CHECKING:
    from streams.hub import Hub
    from streams.log import Log

_SPAN = re.compile(r"([0-9]{1,9})([smhd])")
_Time: TypeAlias = Annotated[dt.datetime, msgspec.Meta(tz=True)]
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
INVALID = Verdict("reset", Reset.INVALID)


class PositionUnknown(StreamsError):
    """What became of the client's position can't be told now: it should come back soon."""


class Asked(msgspec.Struct, frozen=True):
    """What a client gave for a position: the text of a cursor, or a time; neither, if it is new."""

    cursor: str | None = None
    since: str | None = None

    @classmethod
    def of(cls, header: str | None, last_event_id: str | None, since: str | None) -> Asked:
        """The header, if not empty, before the query's cursor, before its time: a browser's reconnect keeps its URL."""
        for cursor in (header, last_event_id):
            if cursor:
                return cls(cursor=cursor)
        return cls(since=since) if since else cls()


class Begin(msgspec.Struct, frozen=True):
    """The verdict, and the position that the events begin after; None where that is for a snapshot or the head to say.

    `after` is for a client that gets no snapshot: of what it missed, all that there still is.
    """

    verdict: Verdict
    after: int | None = None


async def begin(asked: Asked, hub: Hub, log: Log, *, lost_upto: int, now: float) -> Begin:
    """Where a stream begins for a client that asked so. `now` is in Unix seconds.

    Asks the broker only where the client was away for longer than the window remembers, or is ahead of this process.

    Raises:
        PositionUnknown: the broker could not be asked, or this process is in another log than the broker.
    """
    if asked.cursor is not None:
        try:
            cursor = Cursor.parse(asked.cursor)
        except InvalidCursor:
            return Begin(INVALID)
        return await _at(cursor, hub, log, lost_upto)
    if asked.since is not None:
        try:
            time = parse_since(asked.since, now)
        except ValueError:
            return Begin(INVALID)
        return await _since(time, hub, log, lost_upto)
    return Begin(FRESH)


def parse_since(text: str, now: float) -> float:
    """A log time in Unix seconds: RFC 3339 with an offset, or a span before now such as `90s`, `15m`, `2h`, `1d`.

    Raises:
        ValueError: it is neither.
    """
    span = _SPAN.fullmatch(text)
    if span is not None:
        return now - int(span[1]) * _SECONDS[span[2]]
    try:
        # An unescaped + in a query is a space; the one between date and time may be a space.
        return msgspec.convert(text[:11] + text[11:].replace(" ", "+"), _Time).timestamp()
    except msgspec.ValidationError as error:
        raise ValueError("neither a time with an offset nor a span") from error


async def _at(cursor: Cursor, hub: Hub, log: Log, lost_upto: int) -> Begin:
    if cursor.epoch != hub.frames.epoch:
        return Begin(Verdict("reset", Reset.EPOCH))
    if hub.window.covers(cursor.sequence) and cursor.sequence <= hub.head:
        return Begin(RESUMED, cursor.sequence)
    first, last = await _ends(hub, log, lost_upto)
    found = verdict(cursor, epoch=cursor.epoch, first=first, last=last)
    if found.reason is Reset.EXPIRED:
        return Begin(found, first - 1)
    return Begin(found, None if found.reason else cursor.sequence)


async def _since(time: float, hub: Hub, log: Log, lost_upto: int) -> Begin:
    sequence = hub.window.first_at_or_after(time)
    if sequence is not None:
        return Begin(RESUMED, sequence - 1)
    first, last = await _ends(hub, log, lost_upto)
    try:
        sequence, first = await first_at_or_after(log, time, first, min(last, hub.head))
    except StreamsError as error:
        raise PositionUnknown(str(error)) from error
    if sequence == first and first > 1:
        return Begin(Verdict("reset", Reset.EXPIRED), first - 1)
    return Begin(RESUMED, sequence - 1)


async def _ends(hub: Hub, log: Log, lost_upto: int) -> tuple[int, int]:
    """The first sequence that can be had and the leader's last one."""
    try:
        state = await log.state()
    except StreamsError as error:
        raise PositionUnknown(str(error)) from error
    if state.epoch != hub.frames.epoch:
        raise PositionUnknown("the log is another one than this process has read")
    return max(state.first, lost_upto + 1), state.last


async def first_at_or_after(log: Log, time: float, first: int, last: int) -> tuple[int, int]:
    """The first sequence from `first` on whose log time is `time` or later, `last + 1` if none is, and the new `first`.

    Retention goes on meanwhile: what it took can't be asked for its time any more, and there is less to begin from.
    """
    low, high = first, last + 1
    while low < high:
        middle = (low + high) // 2
        stored = await log.get(middle)
        if stored is None:
            low = first = middle + 1
        elif stored.time < time:
            low = middle + 1
        else:
            high = middle
    return low, first
