"""Follows the log and hands what is chosen of it to an output, at least once and in the log's order.

The whole log is read, whatever is chosen: only so is it proved that nothing is missing in between, and the position of
an export that has little to say does not fall behind what the log keeps.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING, NamedTuple

import structlog

from gateway.cursor_file import Place
from gateway.errors import GatewayError
from gateway.export_records import gap
from streams.cursor import Cursor, Reset
from streams.reader import EpochChanged, HoleInLog, PlaceLost, PositionAhead, PositionExpired, check_place

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from gateway.export_output import Output
    from gateway.export_records import Record, Selection
    from streams.log import Log
    from streams.reader import Batch, Reader

BATCH_RECORDS = 500
BATCH_BYTES = 1024 * 1024
"""A batch is cut past this many bytes of data; all records of one entry of the log are in one."""

IDLE_SAVE_SECONDS = 5.0
"""How often the position is saved while there is nothing to export."""

_log = structlog.get_logger()


class ExportReset(GatewayError):
    """The log can't be followed on. `reason` is as in a stream's `reset`, or `foreign`, or `hole`."""

    def __init__(self, after: Cursor, reason: str, detail: str) -> None:
        super().__init__(
            f"the cursor '{after}' can't be resumed: reset ({reason}), {detail}; "
            "--on-reset continue notes the gap and goes on with the oldest entry that there is"
        )
        self.after, self.reason = after, reason


class Progress(NamedTuple):
    """How far an export is: entries of the log that were read, how many more there are, and records sent."""

    read: int
    pending: int
    sent: int


class _Chunk:
    """Records on their way into one batch, up to `place`."""

    def __init__(self, place: Place) -> None:
        self.records: list[Record] = []
        self.size = 0
        self.place = place

    def add(self, records: list[Record], place: Place) -> None:
        self.records += records
        self.size += sum(len(record.data) for record in records)
        self.place = place


class Exporter:
    """One export. `read` makes a reader of the log of an epoch, a position and its time; `save` keeps a position.

    Once `stopping` is set, what is under way is finished, and the export ends. `goes_on` says that a position which is
    lost is not the end: a gap is noted, and the oldest entry comes next.
    """

    def __init__(
        self,
        log: Log,
        read: Callable[..., Reader],
        selection: Selection,
        output: Output,
        save: Callable[[Place], None],
        *,
        stopping: asyncio.Event,
        goes_on: bool = False,
        batch_records: int = BATCH_RECORDS,
        progress: Callable[[Progress], None] | None = None,
    ) -> None:
        self._log = log
        self._read = read
        self._selection = selection
        self._output = output
        self._save = save
        self._goes_on = goes_on
        self._batch_records = batch_records
        self._progress = progress
        self._saved_at = 0.0
        self._begun_at = 0
        self._stopping = stopping
        self.sent = 0

    async def run(self, place: Place, *, until_head: bool = False) -> None:
        """Go on after `place`: without end, or up to where the log ends now.

        Raises:
            ExportReset: the log can't be followed on, and the export does not go on.
            GatewayError, OSError: what the output and the saving raise. Nothing counts as exported that was not saved.
        """
        while not self._stopping.is_set():
            self._begun_at = place.cursor.sequence
            try:
                await self._follow(place, until_head=until_head)
                return
            except PlaceLost as lost:
                place = await self._after(lost, place)

    async def _follow(self, place: Place, *, until_head: bool) -> None:
        epoch, position = place.cursor.epoch, place.cursor.sequence
        head = (await check_place(self._log, epoch, position, place.time)).last if until_head else None
        reader = self._read(epoch, position, time=place.time)
        async with aclosing(reader.batches()) as batches:
            while head is None or reader.position < head:
                batch = await self._next(batches)
                if batch is None or not await self._take(batch, reader.epoch):
                    return

    async def _next(self, batches: AsyncGenerator[Batch, None]) -> Batch | None:
        """None where the export is stopped first."""
        upcoming = asyncio.ensure_future(anext(batches))
        stopping = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait({upcoming, stopping}, return_when=asyncio.FIRST_COMPLETED)
            return None if self._stopping.is_set() else await upcoming
        finally:
            stopping.cancel()
            upcoming.cancel()
            await asyncio.wait({upcoming})

    async def _take(self, batch: Batch, epoch: str) -> bool:
        """Whether all of it is exported."""
        if not batch.entries:
            return True
        chunk: _Chunk | None = None
        for entry in batch.entries:
            place = Place(Cursor(epoch, entry.sequence), entry.time)
            chunk = chunk or _Chunk(place)
            chunk.add(self._selection.records(entry, epoch), place)
            if len(chunk.records) >= self._batch_records or chunk.size >= BATCH_BYTES:
                if not await self._send(chunk):
                    return False
                chunk = None
        if chunk is not None and not await self._send(chunk):
            return False
        if self._progress is not None:
            read = batch.entries[-1].sequence - self._begun_at
            self._progress(Progress(read, batch.pending, self.sent))
        return True

    async def _send(self, chunk: _Chunk) -> bool:
        now = asyncio.get_running_loop().time()
        if chunk.records:
            if not await self._output.send(chunk.records, str(chunk.place.cursor)):
                return False
            self.sent += len(chunk.records)
        elif now - self._saved_at < IDLE_SAVE_SECONDS:
            return True
        self._save(chunk.place)
        self._saved_at = now
        return True

    async def _after(self, lost: PlaceLost, began: Place) -> Place:
        """Where it goes on after a position was lost; the gap is noted. Raises ExportReset."""
        state = await self._log.state()
        oldest = Cursor(state.epoch, state.first - 1)
        after, reason, upto = began.cursor, "foreign", oldest
        match lost:
            case EpochChanged():
                reason = Reset.EPOCH
            case PositionExpired():
                reason, after = Reset.EXPIRED, Cursor(after.epoch, lost.position)
            case PositionAhead():
                reason, after = Reset.AHEAD, Cursor(after.epoch, lost.position)
            case HoleInLog():
                reason, after, upto = "hole", Cursor(after.epoch, lost.position), Cursor(after.epoch, lost.found - 1)
        if not self._goes_on:
            raise ExportReset(after, reason, str(lost)) from lost
        _log.warning("export.gap", reason=reason, after=str(after), upto=str(upto))
        place = Place(upto)
        if await self._output.send([gap(reason, after, upto)], str(upto)):
            self.sent += 1
            self._save(place)
        return place
