"""`passline export`."""

from __future__ import annotations

import asyncio
import signal
import sys
from contextlib import AsyncExitStack, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import click

from gateway.commands.context import connection, data_dir_option, progress_bar, read_settings
from gateway.commands.tail import SinceType, TopicType, feed_of
from gateway.cursor_file import CursorFile, Place
from gateway.export_output import HttpReceiver, StandardOutput
from gateway.export_records import CloudEvents, NdJson, Selection
from gateway.exporting import BATCH_RECORDS, Exporter
from gateway.opening import first_at_or_after
from streams.cursor import Cursor, InvalidCursor
from streams.topics import Audience

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from gateway.commands.context import Broker
    from gateway.export_output import Output
    from gateway.export_records import Form
    from gateway.exporting import Progress
    from gateway.settings import Settings
    from streams.topics import Topic


class _CursorType(click.ParamType[Cursor]):
    name = "cursor"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Cursor:
        try:
            return Cursor.parse(str(value))
        except InvalidCursor as error:
            self.fail(str(error), param, ctx)


class _Address(click.ParamType[str]):
    name = "address"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> str:
        parts = urlsplit(str(value))
        if parts.scheme not in ("http", "https") or not parts.hostname:
            self.fail("an address begins with https:// or http://", param, ctx)
        return str(value)


@click.command
@click.option("--topic", "topics", type=TopicType(), multiple=True, help="What this topic's stream shows; repeatable.")
@click.option(
    "--audience",
    "audiences",
    type=click.Choice([each.value for each in Audience]),
    multiple=True,
    help="What all topics of this audience show; repeatable.",
)
@click.option("--all", "everything", is_flag=True, help="What every audience is shown: an event once for each.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["ndjson", "cloudevents"]),
    default="ndjson",
    show_default=True,
    help="How a record is written.",
)
@click.option("--source", default="/passline", show_default=True, help="What the source of CloudEvents begins with.")
@click.option("--to", "address", type=_Address(), metavar="URL", help="Post batches there, instead of standard output.")
@click.option(
    "--batch", type=click.IntRange(1, 10_000), default=BATCH_RECORDS, show_default=True, help="Records of one batch."
)
@click.option(
    "--cursor-file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Where the position is kept from run to run. What is in it goes before --from and --since.",
)
@click.option("--from", "cursor", type=_CursorType(), metavar="CURSOR", help="Begin after this position.")
@click.option(
    "--since", type=SinceType(), metavar="SPAN|TIME", help="Begin at a time of the log: 15m, 2h, or RFC 3339."
)
@click.option("--until-head", is_flag=True, help="End where the log ends now.")
@click.option(
    "--on-reset",
    type=click.Choice(["stop", "continue"]),
    default="stop",
    show_default=True,
    help="Where the log has lost the position: end with an error, or note a gap and go on.",
)
@data_dir_option
def export(
    topics: tuple[Topic, ...],
    audiences: tuple[str, ...],
    everything: bool,
    form: str,
    source: str,
    address: str | None,
    batch: int,
    cursor_file: Path | None,
    cursor: Cursor | None,
    since: float | None,
    until_head: bool,
    on_reset: str,
    data_dir: Path | None,
) -> None:
    """Follow the log through the views of chosen topics or audiences, for analytics: NDJSON or CloudEvents.

    Each record comes at least once and in the log's order. After a crash some come again: by `eventId` and `topic`, or
    a CloudEvent's `source` and `id`, a receiver removes doubles. Without a position it begins with the oldest entry of
    the log. SIGTERM or Ctrl-C ends it after what is under way; a second one ends at once.

    \b
    Example:
      passline export --audience restaurants --cursor-file export.cursor >> orders.ndjson
      passline export --topic finance/pizzeria-roma --format cloudevents --to https://lake.example/in \\
        --cursor-file finance.cursor
    """
    if everything == bool(topics or audiences):
        raise click.UsageError("what is to be exported? Give --topic or --audience, or --all")
    if cursor is not None and since is not None:
        raise click.UsageError("--from and --since are two places to begin at: give one")
    settings = read_settings("warning", data_dir=data_dir)
    chosen = frozenset(Audience) if everything else frozenset(Audience(each) for each in audiences)
    _Run(
        settings,
        topics=topics,
        audiences=chosen,
        form=CloudEvents(source) if form == "cloudevents" else NdJson(),
        address=address,
        options={"goes_on": on_reset == "continue", "batch_records": batch},
        until_head=until_head,
    ).run(CursorFile(cursor_file) if cursor_file else None, cursor, since)


class _Run:
    """What the options say, on its way to an `Exporter`."""

    def __init__(
        self,
        settings: Settings,
        *,
        topics: tuple[Topic, ...],
        audiences: frozenset[Audience],
        form: Form,
        address: str | None,
        options: dict[str, Any],
        until_head: bool,
    ) -> None:
        self._settings = settings
        self._topics = topics
        self._audiences = audiences
        self._form = form
        self._address = address
        self._options = options
        self._until_head = until_head

    def run(self, file: CursorFile | None, cursor: Cursor | None, since: float | None) -> None:
        held: AbstractContextManager[None] = file.held() if file else nullcontext()
        with held:
            place = file.load() if file else None
            if place is None and cursor is not None:
                place = Place(cursor)
            asyncio.run(self._export(place, since, file))

    async def _export(self, place: Place | None, since: float | None, file: CursorFile | None) -> None:
        stopping = _stopped_by_signals()
        async with AsyncExitStack() as stack:
            broker = await stack.enter_async_context(connection(self._settings, "gateway"))
            output = await self._output(stack, stopping)
            place = place or await _begin(broker, since)
            progress = stack.enter_context(progress_bar(shown=not sys.stdout.isatty()))
            task = progress.add_task("entries", total=None)

            def show(done: Progress) -> None:
                progress.update(task, completed=done.read, total=done.read + done.pending)

            exporter = Exporter(
                broker.log,
                broker.reader,
                await self._selection(broker),
                output,
                file.save if file else lambda _: None,
                stopping=stopping,
                progress=show,
                **self._options,
            )
            await exporter.run(place, until_head=self._until_head)

    async def _output(self, stack: AsyncExitStack, stopping: asyncio.Event) -> Output:
        if self._address is None:
            return StandardOutput(self._form, sys.stdout.fileno())
        authorization = self._settings.export_authorization
        return await stack.enter_async_context(
            HttpReceiver(self._form, self._address, stopping, authorization=authorization)
        )

    async def _selection(self, broker: Broker) -> Selection:
        feeds = tuple([await feed_of(broker.log, topic) for topic in self._topics])
        return Selection(self._audiences, feeds, self._settings.show_platform_fee)


async def _begin(broker: Broker, since: float | None) -> Place:
    state = await broker.log.state()
    if since is None:
        return Place(Cursor(state.epoch, state.first - 1))
    sequence, _ = await first_at_or_after(broker.log, since, state.first, state.last)
    return Place(Cursor(state.epoch, sequence - 1))


def _stopped_by_signals() -> asyncio.Event:
    """Set by the first signal; the second one ends the process as signals do."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        stopping.set()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    return stopping
