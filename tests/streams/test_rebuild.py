"""Making the projection anew: the same as applying the log, beside a worker that goes on."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, inspect, select, update

from streams.database import open_database, reading, writing
from streams.events import OrderAccepted, OrderPlaced, OrderPreparing, Role, StaffAssigned, StaffRevoked
from streams.projection import Fenced, Position, Projection
from streams.rebuild import WrongEpoch, rebuild
from streams.snapshots import States
from streams.staff import STAFF
from streams.tables import LIVE, metadata
from tests.streams.histories import EPOCH, History, cut, histories, log_time

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from sqlalchemy.ext.asyncio import AsyncEngine

    from streams.entry import Entry


class Log:
    """What a broker holds of a history: all from `first` on. Counts how often it was read."""

    def __init__(self, history: History, first: int, batch: int = 5) -> None:
        self.history = history
        self.first = first
        self.batch = batch
        self.reads: list[int] = []

    async def read(self, after: int) -> AsyncIterator[Sequence[Entry]]:
        assert after >= self.first - 1
        self.reads.append(after)
        while entries := self.history.after(after, self.batch):
            yield entries
            after = entries[-1].sequence


async def ignore(entry: Entry, reason: str) -> None: ...


async def apply(engine: AsyncEngine, history: History, sizes: Sequence[int] = (1000,), part: int | None = None) -> None:
    """What is not applied yet, or that part of it, in batches of these sizes."""
    projection = Projection(engine)
    found = await projection.position()
    after = history.first - 1 if found is None else found.sequence
    for entries in cut(history.after(after, part), sizes):
        await projection.apply(EPOCH, after, entries, (entries[-1].sequence, entries[-1].time), ignore)
        after = entries[-1].sequence


async def rebuilt(engine: AsyncEngine, log: Log) -> Position:
    return await rebuild(engine, epoch=EPOCH, first=log.first, read=log.read, progress=lambda _: None)


async def rows(engine: AsyncEngine) -> dict[str, list[tuple[object, ...]]]:
    """Everything in the tables."""
    found = {}
    async with reading(engine) as connection:
        for table in LIVE:
            result = await connection.execute(select(table).order_by(*table.primary_key))
            found[table.name] = [tuple(row) for row in result]
    return found


def ten_entries() -> History:
    history = History()
    history.order(OrderPlaced, "o1")
    history.staff(StaffAssigned, "s1", role=Role.STAFF)
    history.staff(StaffAssigned, "s2", role=Role.OWNER)
    history.staff(StaffRevoked, "s2")
    history.order(OrderPlaced, "o2")
    history.order(OrderAccepted, "o1")
    history.staff(StaffRevoked, "s1")
    history.order(OrderPlaced, "o3")
    history.staff(StaffAssigned, "s3", role=Role.FINANCE)
    history.order(OrderPreparing, "o2")
    return history


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(history=histories(), forgotten=st.integers(0, 30), batch=st.integers(1, 40))
async def test_rebuilding_changes_nothing_that_is_right(
    engine: AsyncEngine, history: History, forgotten: int, batch: int
) -> None:
    async with writing(engine) as connection:
        for table in metadata.tables.values():
            await connection.execute(delete(table))
    await apply(engine, history, (7,))
    before = await rows(engine)
    first = history.first + min(forgotten, len(history.entries))
    await rebuilt(engine, Log(history, first, batch))
    assert await rows(engine) == before


async def test_new_database_is_filled_from_the_log(engine: AsyncEngine) -> None:
    history = ten_entries()
    told: list[int] = []
    log = Log(history, first=1, batch=4)
    position = await rebuild(engine, epoch=EPOCH, first=1, read=log.read, progress=told.append)
    assert position == await Projection(engine).position() == Position(EPOCH, 10, log_time(10))
    assert told == [4, 8, 10]
    async with States(engine).read() as state:
        assert [order.order_id for order in await state.restaurant_snapshot("r1")] == ["o1", "o2", "o3"]


async def test_wrong_rows_are_put_right_and_what_is_older_than_the_log_stays(engine: AsyncEngine) -> None:
    history = ten_entries()
    await apply(engine, history)
    right = await rows(engine)
    async with writing(engine) as connection:
        await connection.execute(update(LIVE.orders).where(LIVE.orders.c.order_id == "o1").values(status="Nonsense"))
        await connection.execute(delete(LIVE.orders).where(LIVE.orders.c.order_id == "o3"))
        await connection.execute(delete(LIVE.staff_roles))
        await connection.execute(delete(LIVE.staff_revocations).where(LIVE.staff_revocations.c.subject_key == "s1"))
    await rebuilt(engine, Log(history, first=6))
    assert await rows(engine) == right


async def test_emptied_log_keeps_everything(engine: AsyncEngine) -> None:
    history = ten_entries()
    await apply(engine, history)
    before = await rows(engine)
    assert await rebuilt(engine, Log(history, first=11)) == Position(EPOCH, 10, log_time(10))
    assert await rows(engine) == before


async def test_gap_between_the_tables_and_the_log_is_jumped(engine: AsyncEngine) -> None:
    history = ten_entries()
    await apply(engine, history, part=3)
    await rebuilt(engine, Log(history, first=8))
    async with States(engine).read() as state:
        assert [order.order_id for order in await state.restaurant_snapshot("r1")] == ["o1", "o3", "o2"]
        assert state.position == Position(EPOCH, 10, log_time(10))


async def test_late_repetition_of_what_the_log_forgot_changes_nothing(engine: AsyncEngine) -> None:
    history = History()
    history.order(OrderPlaced, event_id="placed")
    history.order(OrderAccepted)
    history.order(OrderPlaced, event_id="placed")
    await apply(engine, history)
    before = await rows(engine)
    await rebuilt(engine, Log(history, first=2))
    await rebuilt(engine, Log(history, first=3))
    assert await rows(engine) == before
    async with States(engine).read() as state:
        [order] = await state.restaurant_snapshot("r1")
    assert order.status == "Accepted"


async def test_rebuild_beside_a_worker_that_goes_on_applying(database: str) -> None:
    history = History()
    for number in range(300):
        history.order((OrderPlaced, OrderAccepted, OrderPreparing)[number % 3], f"o{number % 50}")

    async def work(engine: AsyncEngine) -> None:
        projection = Projection(engine)
        while (found := await projection.position()) is None or found.sequence < history.last:
            after = 0 if found is None else found.sequence
            entries = history.after(after, 3)
            try:
                await projection.apply(EPOCH, after, entries, (entries[-1].sequence, entries[-1].time), ignore)
            except Fenced:
                continue

    log = Log(history, first=1, batch=20)
    async with open_database(database) as one, open_database(database) as other:
        await apply(one, history, part=10)
        worker = asyncio.create_task(work(one))
        position = await rebuilt(other, log)
        await worker
        assert position.epoch == EPOCH
        after_both = await rows(one)
        assert await Projection(one).position() == Position(EPOCH, history.last, log_time(history.last))
        async with writing(one) as connection:
            for table in metadata.tables.values():
                await connection.execute(delete(table))
        await apply(one, history)
        assert await rows(one) == after_both


async def test_rebuild_reads_on_when_the_worker_is_further(engine: AsyncEngine) -> None:
    history = ten_entries()
    await apply(engine, history)
    log = Log(history, first=1)

    async def read(after: int) -> AsyncIterator[Sequence[Entry]]:
        log.reads.append(after)
        if len(log.reads) == 1:
            yield history.after(0, 6)  # the head as this reader sees it; the worker was faster
        else:
            yield history.after(after)

    before = await rows(engine)
    position = await rebuild(engine, epoch=EPOCH, first=1, read=read, progress=lambda _: None)
    assert log.reads == [0, 6]
    assert position.sequence == 10
    assert await rows(engine) == before


async def test_rebuild_waits_for_a_position_that_is_being_moved(database: str) -> None:
    history = ten_entries()
    async with open_database(database) as one, open_database(database, statement_seconds=0.2) as other:
        await apply(one, history)
        history.raw("orders.r1.c1.o1.OrderPlaced", b"{}")
        locked, done = asyncio.Event(), asyncio.Event()

        async def hold(entry: Entry, reason: str) -> None:
            locked.set()
            await done.wait()

        holder = asyncio.create_task(Projection(one).apply(EPOCH, 10, history.after(10), history.head, hold))
        await locked.wait()
        log = Log(history, first=1)

        async def read(after: int) -> AsyncIterator[Sequence[Entry]]:
            async for entries in log.read(after):
                yield entries
            if len(log.reads) == 2:
                done.set()
                await holder

        position = await rebuild(other, epoch=EPOCH, first=1, read=read, progress=lambda _: None)
    assert position.sequence == 11
    assert len(log.reads) == 2


async def test_worker_at_an_older_position_is_fenced_by_the_swap(engine: AsyncEngine) -> None:
    history = ten_entries()
    await apply(engine, history, part=4)
    worker = Projection(engine)
    await rebuilt(engine, Log(history, first=1))
    with pytest.raises(Fenced):
        await worker.apply(EPOCH, 4, history.after(4, 2), (6, log_time(6)), ignore)
    found = await worker.position()
    assert found is not None
    assert found.sequence == 10
    history.order(OrderAccepted, "o3")
    await worker.apply(EPOCH, 10, history.after(10), history.head, ignore)


async def test_another_epoch_is_refused_and_nothing_changed(engine: AsyncEngine) -> None:
    history = ten_entries()
    await apply(engine, history)
    before = await rows(engine)
    log = Log(history, first=1)
    with pytest.raises(WrongEpoch, match="passline epoch bump"):
        await rebuild(engine, epoch="e2", first=1, read=log.read, progress=lambda _: None)
    assert await rows(engine) == before


async def test_epoch_that_changes_meanwhile_is_refused(engine: AsyncEngine) -> None:
    history = ten_entries()
    await apply(engine, history)

    async def read(after: int) -> AsyncIterator[Sequence[Entry]]:
        yield history.after(after)
        await Projection(engine).set_position("e2", 3, 3.0)

    with pytest.raises(WrongEpoch):
        await rebuild(engine, epoch=EPOCH, first=1, read=read, progress=lambda _: None)
    assert await Projection(engine).position() == Position("e2", 3, 3.0)


async def test_after_a_new_epoch_the_orders_of_the_former_log_survive_a_rebuild(engine: AsyncEngine) -> None:
    await apply(engine, ten_entries())
    await Projection(engine).set_position("e2", 0, 0.0)
    again = History()
    again.order(OrderAccepted, "o3")
    again.order(OrderPlaced, "o4")
    await Projection(engine).apply("e2", 0, again.after(0), again.head, ignore)
    before = await rows(engine)
    await rebuild(engine, epoch="e2", first=1, read=Log(again, first=1).read, progress=lambda _: None)
    assert await rows(engine) == before
    async with States(engine).read() as state:
        assert [order.order_id for order in await state.restaurant_snapshot("r1")] == ["o1", "o2", "o3", "o4"]


async def test_after_a_restored_backup_a_rebuild_tells_what_the_log_tells_and_keeps_lost_orders(
    engine: AsyncEngine,
) -> None:
    history = ten_entries()
    await apply(engine, history)  # up to 10; the backup ends at 7
    await Projection(engine).set_position("e2", 7, log_time(7))
    del history.entries[7:]
    history.order(OrderAccepted, "o2")
    await Projection(engine).apply("e2", 7, history.after(7), history.head, ignore)
    await rebuild(engine, epoch="e2", first=1, read=Log(history, first=1).read, progress=lambda _: None)
    async with States(engine).read() as state:
        assert state.position == Position("e2", 8, log_time(8))
        orders = {order.order_id: order for order in await state.restaurant_snapshot("r1")}
        assert (await STAFF.read(state, [("r1", "s3")]))["r1", "s3"].roles == {Role.FINANCE}
    assert {order_id: order.status for order_id, order in orders.items()} == {
        "o1": "Accepted",
        "o2": "Accepted",
        "o3": "Placed",  # its first event is not in the log any more, and it was acknowledged
    }
    assert orders["o2"].preparing_at is None  # so was this step, but the log has the order without it


async def test_rebuild_that_fails_leaves_everything_as_it_was_and_can_be_run_again(engine: AsyncEngine) -> None:
    history = ten_entries()
    await apply(engine, history)
    before = await rows(engine)

    async def read(after: int) -> AsyncIterator[Sequence[Entry]]:
        yield history.after(after, 5)
        raise RuntimeError("the broker is gone")

    with pytest.raises(RuntimeError, match="the broker is gone"):
        await rebuild(engine, epoch=EPOCH, first=1, read=read, progress=lambda _: None)
    assert await rows(engine) == before
    for _ in range(2):
        await rebuilt(engine, Log(history, first=1))
    assert await rows(engine) == before
    async with reading(engine) as connection:
        names = await connection.run_sync(lambda sync: set(inspect(sync).get_table_names()))
    assert names == {*metadata.tables, "alembic_version"}
