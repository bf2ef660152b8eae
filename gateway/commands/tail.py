"""`passline tail`."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import click
import msgspec

from gateway.commands.context import connection, data_dir_option, read_settings
from gateway.errors import GatewayError
from gateway.opening import first_at_or_after, parse_since
from streams.cursor import Cursor, InvalidCursor, Reset, verdict
from streams.entry import judge
from streams.events import OrderEvent
from streams.frames import Broadcast, Encoder, Frames
from streams.subjects import any_owner_filter
from streams.topics import FEEDS, Feed, InvalidTopic, Topic, TopicKind, order_feed

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.settings import Settings
    from streams.log import Log, LogState


class CursorReset(GatewayError):
    """The log can't be read on from a cursor."""

    def __init__(self, text: str, reason: Reset, detail: str) -> None:
        super().__init__(f"the cursor {text!r} can't be resumed: reset ({reason}), {detail}")
        self.reason = reason


class NoSuchOrder(GatewayError):
    """The log has no event of an order."""


class TopicType(click.ParamType[Topic]):
    name = "topic"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Topic:
        try:
            return Topic.parse(str(value))
        except InvalidTopic as error:
            self.fail(str(error), param, ctx)


class SinceType(click.ParamType[float]):
    name = "time"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Unix seconds."""
        try:
            return parse_since(str(value), time.time())
        except ValueError:
            self.fail(f"{value!r} is neither a span such as 15m nor a time such as 2026-11-20T10:00:00Z", param, ctx)


@click.command
@click.argument("topic", type=TopicType())
@click.option("--from", "cursor", metavar="CURSOR", help="Go on after this position, as in an event's id.")
@click.option("--since", type=SinceType(), metavar="SPAN|TIME", help="Begin at a log time: 15m, 2h, or RFC 3339.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, with the id.")
@data_dir_option
def tail(topic: Topic, cursor: str | None, since: float | None, as_json: bool, data_dir: Path | None) -> None:
    """Show what TOPIC's streams show, as it comes: restaurants/ID, orders/ID and so on. Ctrl-C ends it.

    Read from the log itself, through the same table of events and views.

    \b
    Example:
      passline tail restaurants/pizzeria-roma --since 15m
      passline tail orders/o-1 --from k3f9a2c8-1042 --json
    """
    if cursor is not None and since is not None:
        raise click.UsageError("--from and --since are two places to begin at: give one")
    settings = read_settings(data_dir=data_dir)
    try:
        asyncio.run(_tail(settings, topic, cursor, since, JsonLines() if as_json else PlainLines()))
    except KeyboardInterrupt:
        pass  # what a person does to end it


async def _tail(settings: Settings, topic: Topic, cursor: str | None, since: float | None, encoder: Encoder) -> None:
    async with connection(settings, "gateway") as broker:
        feed = await feed_of(broker.log, topic)
        state = await broker.log.state()
        frames = Frames(state.epoch, encoder)
        reader = broker.reader(state.epoch, await _begin(broker.log, state, cursor, since), filters=(feed.filter,))
        async with aclosing(reader.batches()) as batches:
            async for batch in batches:
                for entry in batch.entries:
                    broadcast = Broadcast.of(entry)
                    if feed.lane in broadcast.lanes and (shown := frames.of(broadcast, (feed.key,))):
                        click.echo(shown)


async def feed_of(log: Log, topic: Topic) -> Feed:
    """What shows a topic; of an order, as its customer. Raises NoSuchOrder."""
    if topic.kind is not TopicKind.ORDER:
        return FEEDS[topic.kind](topic.id)
    position = 0
    while (stored := await log.next_match(position, any_owner_filter(topic.id))) is not None:
        event = judge(stored.sequence, stored.time, stored.subject, stored.data).event
        if isinstance(event, OrderEvent):
            return order_feed(topic.id, event.restaurant_id, event.customer_key)
        position = stored.sequence
    raise NoSuchOrder(f"the log has no event of the order {topic.id}")


async def _begin(log: Log, state: LogState, cursor: str | None, since: float | None) -> int:
    """The position that is read on from."""
    if cursor is not None:
        return _resumed(cursor, state)
    if since is not None:
        sequence, first = await first_at_or_after(log, since, state.first, state.last)
        if sequence == first > 1:
            click.echo(f"the log begins only at {Cursor(state.epoch, first)}", err=True)
        return sequence - 1
    return state.last


def _resumed(text: str, state: LogState) -> int:
    try:
        cursor = Cursor.parse(text)
    except InvalidCursor as error:
        raise CursorReset(text, Reset.INVALID, str(error)) from error
    found = verdict(cursor, epoch=state.epoch, first=state.first, last=state.last)
    match found.reason:
        case Reset.EPOCH:
            raise CursorReset(text, found.reason, f"the log's epoch is {state.epoch}")
        case Reset.EXPIRED:
            raise CursorReset(text, found.reason, f"the log begins at {Cursor(state.epoch, state.first)}")
        case Reset.AHEAD:
            raise CursorReset(text, found.reason, f"the log ends at {Cursor(state.epoch, state.last)}")
    return cursor.sequence


class JsonLines:
    """An `Encoder` of one JSON object a line: the stream's fields `id` and `event`, and the data as it is."""

    def event(self, name: str, data: bytes, cursor: str | None) -> bytes:
        return msgspec.json.encode({"id": cursor, "event": name, "data": msgspec.Raw(data)})

    def heartbeat(self, cursor: str) -> bytes:
        return msgspec.json.encode({"id": cursor})

    def expiring(self, seconds: float) -> bytes:
        return msgspec.json.encode({"event": "stream.expiring", "data": {"seconds": seconds}})

    def closing(self, reason: str) -> bytes:
        return msgspec.json.encode({"event": "stream.closing", "data": {"reason": reason}})


class PlainLines(JsonLines):
    """An `Encoder` of one line for a person: when, where in the log, what, which order, its status if it says one."""

    def event(self, name: str, data: bytes, cursor: str | None) -> bytes:
        said: dict[str, Any] = msgspec.json.decode(data)
        fields = (said.get(each) for each in ("orderId", "orderNumber", "status"))
        line = "  ".join((said.get("occurredOnUtc", "-"), f"{cursor:16}", f"{name:28}", *(f for f in fields if f)))
        return line.encode()
