"""The reader against a real broker that is killed, replaced, restored and out of space for the past."""

from __future__ import annotations

import asyncio
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from streams.log import Log
from streams.provision import bump_epoch, provision
from streams.reader import EpochChanged, PlaceLost, PositionAhead, PositionExpired, PositionForeign, Reader
from tests.support.logs import SMALL, append_order, append_orders, back_up, replace_by_new_log, restore, stop
from tests.support.nats import SETTINGS, client, eventually, publish

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from nats.aio.client import Client

    from streams.embedded import EmbeddedNats
    from streams.entry import Entry


class Following:
    """A reader that runs in a task of its own."""

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self.entries: list[Entry] = []
        self.caught_up = False
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        async with aclosing(self.reader.batches()) as batches:
            async for batch in batches:
                self.entries.extend(batch.entries)
                self.caught_up = batch.pending == 0

    def event_ids(self) -> list[str]:
        return [entry.event.event_id for entry in self.entries if entry.event]


@asynccontextmanager
async def following(
    nc: Client, after: int = 0, *, time: float | None = None, filters: tuple[str, ...] = ()
) -> AsyncIterator[Following]:
    log = Log(nc)
    reader = Reader(nc, log, (await log.state()).epoch, after, time=time, filters=filters)
    follower = Following(reader)
    try:
        yield follower
    finally:
        follower.task.cancel()
        await asyncio.wait({follower.task})


async def test_reads_the_log_in_order_and_goes_on_live(log_server: EmbeddedNats) -> None:
    async with client(log_server, "gateway") as nc:
        await append_orders(nc, 120)
        async with following(nc, 20) as reader:
            await eventually(lambda: len(reader.entries) == 100)
            last = await append_order(nc, "live")
            await eventually(lambda: reader.reader.position == last)
            assert [entry.sequence for entry in reader.entries] == list(range(21, 122))
            assert reader.event_ids()[-1] == "live"


async def test_says_that_there_is_nothing_to_read(log_server: EmbeddedNats) -> None:
    async with client(log_server, "gateway") as nc, following(nc) as reader:
        await eventually(lambda: reader.caught_up)
        assert reader.entries == []


async def test_with_filters_reads_only_those_subjects(log_server: EmbeddedNats) -> None:
    async with client(log_server, "gateway") as nc:
        await append_orders(nc, 10, restaurant="r1", order="o1")
        await append_orders(nc, 10, restaurant="r2", order="o2", prefix="f")
        await append_orders(nc, 10, restaurant="r3", order="o3", prefix="g")
        async with following(nc, filters=("orders.r1.>", "orders.r3.c1.o3.>")) as reader:
            await eventually(lambda: len(reader.entries) == 20)
            assert [entry.sequence for entry in reader.entries] == [*range(1, 11), *range(21, 31)]


async def test_broker_that_is_killed_costs_nothing_but_time(log_server: EmbeddedNats) -> None:
    async with client(log_server, "gateway") as nc:
        await append_orders(nc, 30)
        async with following(nc) as reader:
            await eventually(lambda: reader.reader.position == 30)
            for round_ in range(3):
                await stop(log_server)
                await log_server.restart()
                await eventually(lambda: nc.is_connected)
                last = await append_order(nc, f"after-{round_}")
                await eventually(lambda last=last: reader.reader.position == last, within=10)  # type: ignore[misc]
            assert [entry.sequence for entry in reader.entries] == list(range(1, 34))


async def test_what_is_no_event_is_an_entry_with_a_reason(log_server: EmbeddedNats) -> None:
    async with client(log_server, "gateway") as nc:
        await publish(nc, "orders.r1.c1.o1.OrderAccepted", b"\xff not json")
        await publish(nc, "orders.r1.c1.o1.OrderAccepted", b"{}", {"Status": "100", "Description": "Idle Heartbeat"})
        await append_order(nc, "good")
        async with following(nc) as reader:
            await eventually(lambda: len(reader.entries) == 3)
            assert [entry.event is not None for entry in reader.entries] == [False, False, True]
            assert all(entry.problem for entry in reader.entries[:2])


async def test_subject_that_is_no_text_is_an_entry_with_a_reason(log_server: EmbeddedNats) -> None:
    async with client(log_server, "gateway") as nc:
        assert nc._transport is not None
        nc._transport.write(b"PUB orders.r1.c1.\xff.OrderAccepted 2\r\n{}\r\n")
        await append_order(nc, "good")
        async with following(nc) as reader:
            await eventually(lambda: len(reader.entries) == 2)
            assert reader.entries[0].problem is not None
            assert reader.entries[0].subject == "orders.r1.c1.\ufffd.OrderAccepted"
            assert reader.event_ids() == ["good"]


async def test_retention_past_the_position_is_told(nats_server: EmbeddedNats) -> None:
    async with client(nats_server, "admin") as admin:
        await provision(admin, SMALL)
    async with client(nats_server, "gateway") as nc:
        for _ in range(8):
            await publish(nc, data=b"x" * 60_000)
        first = (await Log(nc).state()).first
        assert first > 2
        async with following(nc, first - 2) as late:
            with pytest.raises(PositionExpired) as lost:
                await late.task
        assert (lost.value.position, lost.value.first) == (first - 2, first)
        async with following(nc, first - 1) as just_in_time:
            await eventually(lambda: just_in_time.reader.position == 8)


async def test_entries_that_retention_takes_from_under_a_reader_are_told(nats_server: EmbeddedNats) -> None:
    """A reader that is held up long enough must not go on behind a hole as if nothing had happened."""
    async with client(nats_server, "admin") as admin:
        await provision(admin, SMALL)
    async with client(nats_server, "gateway") as nc, client(nats_server, "gateway") as publisher:
        await publish(publisher, data=b"x" * 60_000)
        log = Log(nc)
        batches = Reader(nc, log, (await log.state()).epoch, 0).batches()
        assert [entry.sequence for entry in (await anext(batches)).entries] == [1]
        await stop(nats_server)
        await nats_server.restart()
        await eventually(lambda: publisher.is_connected)
        for _ in range(12):
            await publish(publisher, data=b"x" * 60_000)
        with pytest.raises(PositionExpired):
            await anext(batches)


async def test_another_epoch_is_told(log_server: EmbeddedNats) -> None:
    async with client(log_server, "gateway") as nc, client(log_server, "admin") as admin:
        await append_orders(nc, 3)
        async with following(nc) as reader:
            await eventually(lambda: reader.reader.position == 3)
            await bump_epoch(admin)
            await stop(log_server)
            await log_server.restart()
            with pytest.raises(EpochChanged):
                await reader.task


async def test_log_that_was_made_anew_is_told(log_server: EmbeddedNats) -> None:
    async with client(log_server, "gateway") as nc:
        await append_orders(nc, 3)
        async with following(nc) as reader:
            await eventually(lambda: reader.reader.position == 3)
            await replace_by_new_log(log_server, SETTINGS)
            with pytest.raises(EpochChanged):
                await reader.task


async def test_log_restored_from_a_backup_is_told(log_server: EmbeddedNats, tmp_path: Path) -> None:
    async with client(log_server, "gateway") as nc:
        await append_orders(nc, 5)
        await back_up(log_server, tmp_path / "backup")
        await eventually(lambda: nc.is_connected)
        await append_orders(nc, 5, prefix="lost")
        async with following(nc) as reader:
            await eventually(lambda: reader.reader.position == 10)
            await restore(log_server, tmp_path / "backup")
            with pytest.raises(PositionAhead) as lost:
                await reader.task
        assert (lost.value.position, lost.value.last) == (10, 5)


async def test_restored_log_that_has_grown_past_the_position_is_told(log_server: EmbeddedNats, tmp_path: Path) -> None:
    async with client(log_server, "gateway") as nc:
        await append_orders(nc, 5)
        await back_up(log_server, tmp_path / "backup")
        await eventually(lambda: nc.is_connected)
        await append_orders(nc, 5, prefix="lost")
        async with following(nc) as reader:
            await eventually(lambda: reader.reader.position == 10)
            position, time = reader.reader.position, reader.reader.time
        await restore(log_server, tmp_path / "backup")
        await eventually(lambda: nc.is_connected)
        await append_orders(nc, 10, prefix="other")
        async with following(nc, position, time=time) as returned:
            with pytest.raises(PositionForeign):
                await returned.task


async def test_place_lost_is_one_error_to_catch() -> None:
    for error in (EpochChanged("a", "b"), PositionExpired(1, 5), PositionAhead(9, 3), PositionForeign(7)):
        assert isinstance(error, PlaceLost)
        assert str(error)
