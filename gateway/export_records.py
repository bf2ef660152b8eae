"""What of the log is exported, and in which form: records, made by the views of chosen audiences. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import msgspec
import structlog
from msgspec import UNSET

from streams.cursor import Cursor
from streams.frames import GAP
from streams.matrix import MATRIX, Notification, notification, notifications
from streams.topics import Audience, Feed, audience_of

if TYPE_CHECKING:
    from streams.entry import Entry
    from streams.events import AnyEvent

_json = msgspec.json.Encoder()
_log = structlog.get_logger()


class Record(msgspec.Struct, frozen=True):
    """One event as one audience is shown it, as on a stream: the SSE event's name and its data, which is JSON.

    `cursor` is the position of the log's entry. A gap has no audience and no topic.
    """

    cursor: str
    name: str
    data: bytes
    event_id: str
    audience: Audience | None = None
    topic: str = ""
    time: str | None = None


class Selection(msgspec.Struct, frozen=True):
    """Everything that some audiences are shown, and what single topics are shown. `shows_fee` is as for streams."""

    audiences: frozenset[Audience] = frozenset()
    feeds: tuple[Feed, ...] = ()
    shows_fee: bool = False

    def records(self, entry: Entry, epoch: str) -> list[Record]:
        """What an entry of the log called `epoch` comes to, empty for most."""
        if entry.kind is None or not self._concerns(entry):
            return []
        event = entry.event
        assert event is not None
        told: dict[str, Notification] = {}
        if self.audiences:
            told = {each.key: each for each in notifications(event) if audience_of(each.key) in self.audiences}
        for feed in self.feeds:
            if feed.lane in entry.lanes and (found := notification(event, feed.key)) is not None:
                told.setdefault(feed.key, found)
        cursor = str(Cursor(epoch, entry.sequence))
        return [self._record(cursor, event, each) for each in told.values()]

    def _concerns(self, entry: Entry) -> bool:
        assert entry.kind is not None
        if not self.audiences.isdisjoint(MATRIX[entry.kind].told):
            return bool(entry.lanes)
        return any(feed.lane in entry.lanes for feed in self.feeds)

    def _record(self, cursor: str, event: AnyEvent, told: Notification) -> Record:
        try:
            name, data = told.name, _json.encode(told.render(event, shows_fee=self.shows_fee))
        except Exception:
            # As on a stream: one faulty view must harm no other.
            _log.exception("view_failed", event_id=event.event_id, topic=told.topic, type=event.type_name())
            name, data = GAP, _json.encode({"eventId": event.event_id, "topic": told.topic})
        time = event.occurred_on_utc
        said_at = None if time is UNSET else time.isoformat()
        return Record(cursor, name, data, event.event_id, audience_of(told.key), told.topic, said_at)


def gap(reason: str, after: Cursor, upto: Cursor) -> Record:
    """What stands for a part of the log that could not be exported: what came after one position up to another."""
    data = _json.encode({"reason": reason, "lost": {"from": str(after), "to": str(upto)}})
    return Record(str(upto), GAP, data, f"gap.{after}.{upto}")


# -- Forms -------------------------------------------------------------------------------------------------------------


class Form(Protocol):
    """How records are written."""

    media_type: str
    """Of what `batch` makes."""

    beginning: bytes
    """How every line begins."""

    def line(self, record: Record) -> bytes:
        """JSON on one line."""
        ...

    def batch(self, records: Sequence[Record]) -> bytes:
        """Several, as one body."""
        ...


class NdJson:
    """A stream's `id`, `event` and `data`, and the audience. By it, `eventId` and `topic` doubles are known."""

    media_type = "application/x-ndjson"
    beginning = b'{"id":"'

    def line(self, record: Record) -> bytes:
        said = {"id": record.cursor, "event": record.name, "audience": record.audience}
        return _json.encode(said | {"data": msgspec.Raw(record.data)}) + b"\n"

    def batch(self, records: Sequence[Record]) -> bytes:
        return b"".join(map(self.line, records))


class CloudEvents:
    """CloudEvents 1.0 in JSON: structured mode, and batched in a body.

    The source is `<source>/<audience>/<the topic's id>`, so that with the id, which is the `eventId`, it is unique.
    """

    media_type = "application/cloudevents-batch+json"
    beginning = b'{"specversion":"1.0","type":"passline.'

    def __init__(self, source: str) -> None:
        self._source = source.rstrip("/")

    def line(self, record: Record) -> bytes:
        return self._encoded(record) + b"\n"

    def batch(self, records: Sequence[Record]) -> bytes:
        return b"[" + b",".join(map(self._encoded, records)) + b"]"

    def _encoded(self, record: Record) -> bytes:
        attributes: dict[str, Any] = {
            "specversion": "1.0",
            "type": f"passline.{record.name}",
            "source": "/".join((self._source, *filter(None, (record.audience, record.topic.partition("/")[2])))) or "/",
            "id": record.event_id,
            "datacontenttype": "application/json",
            "passlinecursor": record.cursor,
            "data": msgspec.Raw(record.data),
        }
        if record.time is not None:
            attributes["time"] = record.time
        return _json.encode(attributes)
