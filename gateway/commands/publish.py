"""`passline publish`."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from typing import IO, TYPE_CHECKING

import click
import msgspec

from gateway.commands.context import connection, data_dir_option, progress_bar, read_settings
from gateway.errors import GatewayError
from gateway.ingest import MAX_BODY_BYTES, MAX_EVENTS, UnusableBody, parse_events
from streams.events import OrderEvent
from streams.publisher import ProblemKind, Result, Status

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from gateway.settings import Settings
    from streams.events import AnyEvent
    from streams.publisher import Owner, Publisher

BATCH = 200
"""Events that are handed to the publisher at a time."""

_BLANK = b" \t\r\n"  # JSON's white space (RFC 8259, section 2)
_BOM = b"\xef\xbb\xbf"


class NoEvents(GatewayError):
    """The input can't be published, and nothing of it was."""


class NotPublished(GatewayError):
    """Some events are not in the log."""

    def __init__(self, missing: int, total: int) -> None:
        super().__init__(f"{missing} of {total} events are not in the log")
        self.missing, self.total = missing, total


@click.command
@click.argument("file", type=click.File("rb"))
@data_dir_option
def publish(file: IO[bytes], data_dir: Path | None) -> None:
    """Put the events in FILE, or on standard input for -, into the log: one JSON event, an array, or one a line.

    Nothing is published unless all of it can be read. The events enter the log in their order; after a failure, later
    events of the same order are not attempted. What the log has already is a duplicate and no failure, so the same file
    can be published again.

    \b
    Example:
      passline publish events.ndjson
      passline publish - <<'END'
      {"type":"OrderAccepted","eventId":"e-2","occurredOnUtc":"2026-11-20T10:00:00Z",
       "orderId":"o-1","restaurantId":"pizzeria-roma","customerId":"ada"}
      END
    """
    settings = read_settings(data_dir=data_dir)
    events = read_events(file.read())
    statuses = asyncio.run(_publish(settings, events))
    click.echo(f"{statuses[Status.STORED]} stored, {statuses[Status.DUPLICATE]} duplicates")
    missing = statuses[Status.FAILED] + statuses[Status.NOT_ATTEMPTED]
    if missing:
        raise NotPublished(missing, len(events))


# -- What is to be published -------------------------------------------------------------------------------------------


def read_events(body: bytes) -> list[AnyEvent]:
    """All events of an input of any length, each as ingest takes it.

    Raises:
        NoEvents: it is none of the three, or an event is wrong; which one, and where.
    """
    events: list[AnyEvent] = []
    for part, content_type in _parts(body.removeprefix(_BOM)):
        try:
            events.extend(parse_events(part, content_type))
        except UnusableBody as error:
            if error.index is None:
                raise NoEvents(error.detail) from error
            at = error.pointer.removeprefix(f"/{error.index}")
            raise NoEvents(
                f"event {len(events) + error.index + 1}: {error.detail}" + (f" (at {at})" if at else "")
            ) from error
    return events


def _parts(body: bytes) -> Iterator[tuple[bytes, str]]:
    """The input in bodies that ingest takes, with their media types."""
    if body.lstrip(_BLANK).startswith(b"["):
        try:
            elements = msgspec.json.decode(body, type=list[msgspec.Raw])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise NoEvents(str(error)) from error
        for part in _grouped(bytes(each) for each in elements):
            yield b"[" + b",".join(part) + b"]", "application/json"
    elif _is_one_value(body):
        yield body, "application/json"
    else:
        for part in _grouped(line for line in body.split(b"\n") if line.strip(_BLANK)):
            yield b"\n".join(part), "application/x-ndjson"


def _is_one_value(body: bytes) -> bool:
    try:
        msgspec.json.decode(body, type=msgspec.Raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return not body.strip(_BLANK)  # ingest says what is wrong with nothing
    return True


def _grouped(pieces: Iterable[bytes]) -> Iterator[list[bytes]]:
    """In groups of at most as many pieces and bytes as one request may have, separators included."""
    group: list[bytes] = []
    size = 2
    for piece in pieces:
        if group and (len(group) == MAX_EVENTS or size + len(piece) + 1 > MAX_BODY_BYTES):
            yield group
            group, size = [], 2
        group.append(piece)
        size += len(piece) + 1
    yield group


# -- Publishing --------------------------------------------------------------------------------------------------------


async def _publish(settings: Settings, events: list[AnyEvent]) -> Counter[Status]:
    async with connection(settings, "gateway") as broker:
        publishing = _Publishing(broker.publisher(_nobody_known), events)
        with progress_bar(shown=len(events) > BATCH) as progress:
            task = progress.add_task("events", total=len(events))
            while publishing.left:
                await publishing.publish_batch()
                progress.update(task, completed=len(events) - len(publishing.left))
    return publishing.statuses


async def _nobody_known(_: str) -> Owner | None:
    """The broker decides whose an order is."""
    return None


class _Publishing:
    """Numbered events in batches, and what the failures of one batch mean for the next."""

    def __init__(self, publisher: Publisher, events: list[AnyEvent]) -> None:
        self.left = deque(enumerate(events, 1))
        self.statuses: Counter[Status] = Counter()
        self._publisher = publisher
        self._failed_orders: set[str] = set()

    async def publish_batch(self) -> None:
        """As many of the next events as the publisher's time lasts for; if for none, all that are left have failed."""
        batch = self._next_batch()
        results = await self._publisher.publish([event for _, event in batch]) if batch else []
        for index, ((number, event), result) in enumerate(zip(batch, results, strict=True)):
            if result.kind is ProblemKind.UNAVAILABLE and index > 0:
                self.left.extendleft(reversed(batch[index:]))
                return
            self._settle(number, event, result)
            if result.kind is ProblemKind.UNAVAILABLE:
                self.statuses[Status.NOT_ATTEMPTED] += len(batch) - 1 + len(self.left)
                self.left.clear()
                return

    def _next_batch(self) -> list[tuple[int, AnyEvent]]:
        batch: list[tuple[int, AnyEvent]] = []
        while self.left and len(batch) < BATCH:
            number, event = self.left.popleft()
            if isinstance(event, OrderEvent) and event.order_id in self._failed_orders:
                self._settle(number, event, _AFTER_A_FAILURE)
            else:
                batch.append((number, event))
        return batch

    def _settle(self, number: int, event: AnyEvent, result: Result) -> None:
        self.statuses[result.status] += 1
        if result.problem is not None:
            status = result.status.replace("_", " ")
            click.echo(f"event {number} ({event.event_id}) {status}: {result.problem}", err=True)
            if isinstance(event, OrderEvent):
                self._failed_orders.add(event.order_id)


_AFTER_A_FAILURE = Result("", Status.NOT_ATTEMPTED, problem="an earlier event of the same order failed")
