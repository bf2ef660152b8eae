"""Alarms: what is late by the tables, and what of it stands in the log, once."""

from __future__ import annotations

import asyncio
import datetime as dt
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, select

from streams.alarms import Alarms
from streams.database import open_database, reading, writing
from streams.due import AlarmTimes, Limits, delayed_orders, unattended_orders
from streams.events import (
    Alarm,
    OrderAccepted,
    OrderCancelled,
    OrderDelayed,
    OrderEtaUpdated,
    OrderPaymentFailed,
    OrderPaymentSucceeded,
    OrderPlaced,
    OrderReadyForDelivery,
    OrderUnattended,
)
from streams.log import Log
from streams.projection import Projection
from streams.projector import Projector
from streams.provision import provision
from streams.rebuild import rebuild
from streams.tables import LIVE, metadata
from tests.streams.alarm_model import NOON, OrderModel, TimedLog, minutes, stories
from tests.streams.histories import EPOCH
from tests.support.logs import SMALL, append_order, append_orders, replace_by_new_log
from tests.support.nats import SETTINGS, api, client, eventually, publish

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Sequence

    from sqlalchemy.ext.asyncio import AsyncEngine

    from streams.embedded import EmbeddedNats
    from streams.entry import Entry

TIMES = AlarmTimes(
    Limits(accept=300, ready=1200, deliver=900, deliver_margin=300, unattended=60),
    {
        "r2": Limits(accept=60, ready=0, deliver=60, deliver_margin=0, unattended=0),
        "r3": Limits(accept=0, ready=300, deliver=0, unattended=600),
    },
)


async def ignore(entry: Entry, reason: str) -> None: ...


async def apply(engine: AsyncEngine, log: TimedLog) -> None:
    """What is not applied yet."""
    projection = Projection(engine)
    found = await projection.position()
    after = log.first - 1 if found is None else found.sequence
    if entries := log.after(after):
        await projection.apply(EPOCH, after, entries, log.head, ignore)


async def late(engine: AsyncEngine, now: float, times: AlarmTimes = TIMES) -> dict[tuple[str, str], float]:
    """When each alarm of each order was due."""
    async with reading(engine) as connection:
        found = await delayed_orders(connection, times, now) + await unattended_orders(connection, times, now)
    return {(each.order_id, each.alarm): each.due_at.timestamp() for each in found}


# -- What is late ----------------------------------------------------------------------------------------------------


async def rows(engine: AsyncEngine) -> list[tuple[object, ...]]:
    async with reading(engine) as connection:
        found = await connection.execute(select(LIVE.alarms_due).order_by(*LIVE.alarms_due.primary_key))
        return [tuple(row) for row in found]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(story=stories, forgotten=st.integers(0, 30), restaurants=st.permutations(("r1", "r2", "r3")))
async def test_what_is_late_is_what_a_plain_model_says_after_every_step(
    engine: AsyncEngine, story: list[Any], forgotten: int, restaurants: list[str]
) -> None:
    async with writing(engine) as connection:
        for table in metadata.tables.values():
            await connection.execute(delete(table))
    owner = dict(zip(("o1", "o2", "o3"), restaurants, strict=True))
    log, model = TimedLog(), {order: OrderModel(restaurant) for order, restaurant in owner.items()}

    def happens(kind: Any, order_id: str, **fields: Any) -> None:
        entry = log.order(kind, order_id, restaurant_id=owner[order_id], **fields)
        model[order_id].apply(entry.event, log.now)  # type: ignore[arg-type]  # what was just made

    async def ring() -> dict[tuple[str, str], float]:
        found = await late(engine, log.now)
        assert found == {
            (order_id, alarm): pytest.approx(due)
            for order_id, each in model.items()
            for alarm, due in each.late(TIMES, log.now).items()
        }
        for order_id, alarm in found:
            said: dict[str, Any] = {} if alarm == "unattended" else {"alarm": Alarm(alarm), "due_at": minutes(0)}
            said["event_id"] = f"alarm-{log.last}"
            happens(OrderUnattended if alarm == "unattended" else OrderDelayed, order_id, **said)
        return found

    for step in [*story, 200]:
        if isinstance(step, int):
            log.now += 60 * step
            await apply(engine, log)
            if await ring():
                await apply(engine, log)
                assert await ring() == {}
        else:
            happens(**step)
    before = await rows(engine)

    async def read(after: int) -> AsyncIterator[Sequence[Entry]]:
        yield log.after(after)

    await rebuild(engine, epoch=EPOCH, first=1 + min(forgotten, log.last), read=read, progress=lambda _: None)
    assert await rows(engine) == before


async def test_rebuild_of_an_order_that_is_older_than_the_log_knows_what_is_awaited_of_it(engine: AsyncEngine) -> None:
    ready: dict[str, Any] = {"alarm": Alarm.READY, "due_at": minutes(0)}
    story: list[tuple[Any, dict[str, Any]]] = [
        (OrderPlaced, {}),
        (OrderUnattended, {}),
        (OrderPaymentSucceeded, {}),
        (OrderAccepted, {}),
        (OrderDelayed, ready),
        (OrderEtaUpdated, {"estimated_delivery_time": minutes(10)}),
        (OrderDelayed, ready),
        (OrderEtaUpdated, {"estimated_delivery_time": minutes(20)}),
        (OrderEtaUpdated, {"estimated_delivery_time": None}),
        (OrderReadyForDelivery, {"estimated_delivery_time": minutes(30)}),
        (OrderDelayed, {"alarm": Alarm.DELIVER, "due_at": minutes(35)}),
    ]
    log = TimedLog()
    for kind, said in story:
        log.now += 60
        log.order(kind, **said)
        await apply(engine, log)
        before = await rows(engine)

        async def read(after: int) -> AsyncIterator[Sequence[Entry]]:
            yield log.after(after)

        for first in range(max(1, log.last - 3), log.last + 1):
            await rebuild(engine, epoch=EPOCH, first=first, read=read, progress=lambda _: None)
            assert await rows(engine) == before


async def test_change_of_the_times_takes_effect_at_once(engine: AsyncEngine) -> None:
    log = TimedLog()
    log.order(OrderPlaced)
    await apply(engine, log)
    for accept, found in ((300, {}), (100, {("o1", "accept"): NOON + 100}), (0, {})):
        assert await late(engine, NOON + 200, AlarmTimes(Limits(accept=accept))) == found


async def test_promise_that_is_moved_moves_the_alarms_and_one_taken_back_leaves_the_usual_time(
    engine: AsyncEngine,
) -> None:
    log = TimedLog()
    log.order(OrderPlaced, estimated_delivery_time=minutes(10))
    log.order(OrderAccepted)
    await apply(engine, log)
    assert await late(engine, NOON + 3600) == {("o1", "ready"): NOON + 600, ("o1", "deliver"): NOON + 900}
    log.order(OrderEtaUpdated, estimated_delivery_time=minutes(40))
    await apply(engine, log)
    assert await late(engine, NOON + 2399) == {}
    assert await late(engine, NOON + 2400) == {("o1", "ready"): NOON + 2400}
    log.order(OrderEtaUpdated, estimated_delivery_time=None)
    await apply(engine, log)
    assert await late(engine, NOON + 7200) == {("o1", "ready"): NOON + 1200}


async def test_alarm_rings_again_for_a_new_promise_and_not_for_the_same_one_said_again(engine: AsyncEngine) -> None:
    log = TimedLog()
    log.order(OrderPlaced, estimated_delivery_time=minutes(10))
    log.order(OrderAccepted)
    log.now += 3600
    for alarm in (Alarm.READY, Alarm.DELIVER):
        log.order(OrderDelayed, alarm=alarm, due_at=minutes(10))
    log.order(OrderEtaUpdated, estimated_delivery_time=minutes(10))
    log.order(OrderReadyForDelivery, estimated_delivery_time=minutes(10))
    await apply(engine, log)
    assert await late(engine, NOON + 9999) == {}
    log.order(OrderEtaUpdated, estimated_delivery_time=minutes(20))
    await apply(engine, log)
    assert await late(engine, NOON + 9999) == {("o1", "deliver"): NOON + 1500}


async def test_order_that_is_not_paid_is_not_waited_for(engine: AsyncEngine) -> None:
    log = TimedLog()
    log.order(OrderPlaced)
    log.order(OrderPaymentFailed)
    await apply(engine, log)
    assert await late(engine, NOON + 3600) == {}
    log.now += 600
    log.order(OrderPaymentSucceeded)
    await apply(engine, log)
    assert await late(engine, NOON + 899) == {("o1", "unattended"): NOON + 60}
    assert await late(engine, NOON + 900) == {("o1", "unattended"): NOON + 60, ("o1", "accept"): NOON + 900}
    log.order(OrderCancelled)
    await apply(engine, log)
    assert await late(engine, NOON + 3600) == {}


# -- What stands in the log ------------------------------------------------------------------------------------------

ACCEPT = AlarmTimes(Limits(accept=300))
UNATTENDED = AlarmTimes(Limits(unattended=60))


class Raising:
    """A worker's alarms on a real broker, an hour from now; its projection applies while `applying` lasts."""

    def __init__(self, nc: Any, engine: AsyncEngine, times: AlarmTimes, seen: dict[str, float | None]) -> None:
        self.seen = seen
        self.asked: list[set[str]] = []
        self.alarms = Alarms(
            nc,
            Log(nc),
            engine,
            times,
            ask_attendance=self._ask,
            clock=lambda: dt.datetime.now(dt.UTC).timestamp() + 3600,
        )
        self._nc = nc
        self._engine = engine

    async def _ask(self, restaurant_ids: Collection[str]) -> dict[str, float | None]:
        self.asked.append(set(restaurant_ids))
        return {each: self.seen.get(each) for each in restaurant_ids}

    @asynccontextmanager
    async def applying(self) -> AsyncIterator[None]:
        """All that the log has by now is applied at first."""
        task = asyncio.create_task(Projector(self._nc, Log(self._nc), Projection(self._engine)).run())
        try:
            await self.caught_up()
            yield
            await self.caught_up()
        finally:
            task.cancel()
            await asyncio.wait({task})

    async def caught_up(self) -> None:
        head = (await Log(self._nc).state()).last

        async def is_there() -> bool:
            position = await Projection(self._engine).position()
            return position is not None and position.sequence >= head

        await eventually(is_there, within=15)


@asynccontextmanager
async def raising(
    server: EmbeddedNats, engine: AsyncEngine, times: AlarmTimes = ACCEPT, **seen: float | None
) -> AsyncIterator[Raising]:
    async with client(server, "worker") as nc:
        yield Raising(nc, engine, times, seen)


async def alarms_in(server: EmbeddedNats) -> list[dict[str, Any]]:
    """All alarms that stand in the log, in its order."""
    async with client(server, "gateway") as nc:
        log, found = Log(nc), []
        last = (await log.state()).last
        position = 0
        while position < last and (stored := await log.next_match(position, "orders.>")) is not None:
            position = stored.sequence
            if stored.subject.rpartition(".")[2] in ("OrderDelayed", "OrderUnattended"):
                found.append(msgspec.json.decode(stored.data))
    return found


@pytest.fixture
async def nc(log_server: EmbeddedNats) -> AsyncIterator[Any]:
    """Who publishes the orders."""
    async with client(log_server, "gateway") as connected:
        yield connected


async def test_late_order_gets_one_alarm_with_ids_only(log_server: EmbeddedNats, engine: AsyncEngine, nc: Any) -> None:
    placed = await append_order(nc, "e1", kind="OrderPlaced", customerName="Ada Lovelace", customer="ada")
    time = (await Log(nc).get(placed)).time  # type: ignore[union-attr]  # it was just stored
    async with raising(log_server, engine) as worker, worker.applying():
        assert await worker.alarms.raise_due() == 1
        await worker.caught_up()
        assert await worker.alarms.raise_due() == 0
    async with raising(log_server, engine) as restarted, restarted.applying():
        assert await restarted.alarms.raise_due() == 0
    [alarm] = await alarms_in(log_server)
    due_at = dt.datetime.fromisoformat(alarm.pop("dueAt"))
    assert due_at.timestamp() == pytest.approx(time + 300, abs=0.001)
    assert alarm.pop("eventId").startswith("alarm-")
    assert alarm.pop("occurredOnUtc")
    assert alarm == {
        "type": "OrderDelayed",
        "schemaVersion": 1,
        "alarm": "accept",
        "orderId": "o1",
        "restaurantId": "r1",
        "customerId": "ada",
    }


async def test_alarm_loses_against_what_came_first(log_server: EmbeddedNats, engine: AsyncEngine, nc: Any) -> None:
    for order in ("o1", "o2"):
        await append_order(nc, f"placed-{order}", kind="OrderPlaced", order=order)
    async with raising(log_server, engine) as worker:
        async with worker.applying():
            judged = await worker.alarms.judge()
            await append_order(nc, "delivered", kind="OrderDelivered", order="o1")
        assert {each.order_id for each in judged.late} == {"o1", "o2"}
        assert await worker.alarms.publish(judged, judged.late) == 1
    assert [each["orderId"] for each in await alarms_in(log_server)] == ["o2"]


async def test_projection_that_is_behind_raises_nothing_before_it_has_caught_up(
    log_server: EmbeddedNats, engine: AsyncEngine, nc: Any
) -> None:
    await append_order(nc, "e1", kind="OrderPlaced")
    async with raising(log_server, engine) as worker:
        async with worker.applying():
            pass
        await append_order(nc, "e2", kind="OrderDelivered")
        judging = asyncio.create_task(worker.alarms.judge())
        async with worker.applying():
            assert (await judging).late == []
    assert await alarms_in(log_server) == []


async def test_crash_between_publishing_and_reading_back_leaves_one_alarm(
    log_server: EmbeddedNats, engine: AsyncEngine, nc: Any
) -> None:
    await append_order(nc, "e1", kind="OrderPlaced")
    async with raising(log_server, engine) as worker:
        async with worker.applying():
            judged = await worker.alarms.judge()
        assert await worker.alarms.publish(judged, judged.late) == 1
    async with raising(log_server, engine) as restarted:
        assert await restarted.alarms.publish(judged, judged.late) == 0  # within the window for duplicates
    await close_window(log_server)
    async with raising(log_server, engine) as restarted:
        assert await restarted.alarms.publish(judged, judged.late) == 0  # and after it
        async with restarted.applying():
            assert await restarted.alarms.raise_due() == 0
    assert len(await alarms_in(log_server)) == 1


async def close_window(server: EmbeddedNats) -> None:
    """From now on the broker takes every id for a new one."""
    async with client(server, "admin") as admin:
        config = (await api(admin, "STREAM.INFO.EVENTS"))["config"]
        answer = await api(admin, "STREAM.UPDATE.EVENTS", config | {"duplicate_window": 100_000_000})
        assert "error" not in answer
    async with client(server, "gateway") as nc:
        headers = {"Nats-Msg-Id": "marker"}
        await publish(nc, "orders.r9.c9.o9.OrderAccepted", b"{}", headers)

        async def is_closed() -> bool:
            return not (await publish(nc, "orders.r9.c9.o9.OrderAccepted", b"{}", headers)).get("duplicate")

        await eventually(is_closed)


async def test_two_workers_raise_each_alarm_once(log_server: EmbeddedNats, database: str, nc: Any) -> None:
    for number in range(40):
        await append_order(nc, f"e{number}", kind="OrderPlaced", order=f"o{number}")
    async with AsyncExitStack() as stack:
        workers = []
        for _ in range(2):
            engine = await stack.enter_async_context(open_database(database))
            worker = await stack.enter_async_context(raising(log_server, engine))
            await stack.enter_async_context(worker.applying())
            workers.append(worker)
        judged = [await worker.alarms.judge() for worker in workers]
        raised = await asyncio.gather(
            *(worker.alarms.publish(each, each.late) for worker, each in zip(workers, judged, strict=True))
        )
        assert sum(raised) == 40
        for worker in workers:
            await worker.caught_up()
            assert await worker.alarms.raise_due() == 0
    assert sorted(each["orderId"] for each in await alarms_in(log_server)) == sorted(f"o{n}" for n in range(40))


async def test_entries_that_changed_nothing_keep_no_order_from_its_alarm(
    log_server: EmbeddedNats, engine: AsyncEngine, nc: Any
) -> None:
    await append_order(nc, "e1", kind="OrderPlaced")
    await publish(nc, "orders.r1.c1.o1.OrderAccepted", b"not an event")
    await publish(nc, "orders.r1.c1.o1.FromTheFuture", b'{"type":"FromTheFuture"}')
    async with raising(log_server, engine) as worker, worker.applying():
        assert await worker.alarms.raise_due() == 1
    assert len(await alarms_in(log_server)) == 1


async def test_order_that_has_left_the_log_gets_its_alarm(nats_server: EmbeddedNats, engine: AsyncEngine) -> None:
    async with client(nats_server, "admin") as admin:
        await provision(admin, SMALL)
    async with client(nats_server, "gateway") as nc, raising(nats_server, engine) as worker, worker.applying():
        await append_order(nc, "old", kind="OrderPlaced", order="old")
        while (await Log(nc).state()).first == 1:
            await append_orders(nc, 200, prefix=f"e{(await Log(nc).state()).last}-", order="other")
            await worker.caught_up()
        assert await worker.alarms.raise_due() == 1
        assert [each["orderId"] for each in await alarms_in(nats_server)] == ["old"]


async def test_after_a_new_epoch_what_was_late_before_is_late_and_is_raised_once(
    log_server: EmbeddedNats, engine: AsyncEngine, nc: Any
) -> None:
    """The log was restored to a moment before the order, which only the tables have."""
    await append_order(nc, "e1", kind="OrderPlaced", order="lost")
    async with raising(log_server, engine) as worker:
        async with worker.applying():
            pass
        await replace_by_new_log(log_server, SETTINGS)
        await eventually(lambda: nc.is_connected)
        state = await Log(nc).state()
        await Projection(engine).set_position(state.epoch, state.last, 0.0)
        async with worker.applying():
            assert await worker.alarms.raise_due() == 1
            await worker.caught_up()
            assert await worker.alarms.raise_due() == 0
    assert [each["orderId"] for each in await alarms_in(log_server)] == ["lost"]


async def test_alarms_are_raised_while_workers_run_and_die(log_server: EmbeddedNats, database: str, nc: Any) -> None:
    orders = {f"o{number}" for number in range(12)}

    async def alarmed() -> set[str]:
        return {each["orderId"] for each in await alarms_in(log_server)}

    async def work() -> None:
        async with (
            open_database(database) as engine,
            raising(log_server, engine) as worker,
            asyncio.TaskGroup() as group,
        ):
            group.create_task(Projector(worker._nc, Log(worker._nc), Projection(engine)).run())
            group.create_task(worker.alarms.run())

    workers = [asyncio.create_task(work()) for _ in range(2)]
    for number, order in enumerate(sorted(orders)):
        await append_order(nc, f"placed-{order}", kind="OrderPlaced", order=order)
        if number % 4 == 3:
            workers[0].cancel()
            await asyncio.wait({workers.pop(0)})
            workers.append(asyncio.create_task(work()))
    try:
        await eventually(lambda: _equals(alarmed, orders), within=15)
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.wait(workers)
    assert len(await alarms_in(log_server)) == len(orders)


async def _equals(found: Callable[[], Any], wanted: object) -> bool:
    return bool(await found() == wanted)


# -- Orders that nobody sees -----------------------------------------------------------------------------------------


async def test_order_that_nobody_could_see_gets_one_alarm(
    log_server: EmbeddedNats, engine: AsyncEngine, nc: Any
) -> None:
    now = dt.datetime.now(dt.UTC).timestamp()
    for number, restaurant in enumerate(("r1", "r2", "r3", "r4")):
        await append_order(nc, f"e{number}", kind="OrderPlaced", order=f"o{number}", restaurant=restaurant)
    await append_order(nc, "moved-on", order="o3", restaurant="r4")
    seen = {"r1": None, "r2": now - 60, "r3": now + 3600}
    async with raising(log_server, engine, UNATTENDED, **seen) as worker, worker.applying():
        assert await worker.alarms.raise_due() == 2
        await worker.caught_up()
        assert await worker.alarms.raise_due() == 0
    assert worker.asked == [{"r1", "r2", "r3"}]
    found = await alarms_in(log_server)
    assert {(each["type"], each["orderId"]) for each in found} == {("OrderUnattended", "o0"), ("OrderUnattended", "o1")}


async def test_order_that_was_seen_is_not_asked_for_again_even_when_nobody_remembers(
    log_server: EmbeddedNats, engine: AsyncEngine, nc: Any
) -> None:
    now = dt.datetime.now(dt.UTC).timestamp()
    await append_order(nc, "e1", kind="OrderPlaced")
    async with raising(log_server, engine, UNATTENDED, r1=now + 60) as worker, worker.applying():
        assert await worker.alarms.raise_due() == 0
    async with raising(log_server, engine, UNATTENDED) as restarted, restarted.applying():
        assert await restarted.alarms.raise_due() == 0
        assert restarted.asked == []
        await append_order(nc, "e2", kind="OrderPlaced", order="o2")
        await restarted.caught_up()
        assert await restarted.alarms.raise_due() == 1
    assert [each["orderId"] for each in await alarms_in(log_server)] == ["o2"]


async def test_two_workers_may_learn_at_the_same_time_that_orders_were_seen(
    log_server: EmbeddedNats, database: str, nc: Any
) -> None:
    now = dt.datetime.now(dt.UTC).timestamp()
    async with AsyncExitStack() as stack:
        workers = []
        for _ in range(2):
            engine = await stack.enter_async_context(open_database(database))
            worker = await stack.enter_async_context(raising(log_server, engine, UNATTENDED, r1=now + 60))
            await stack.enter_async_context(worker.applying())
            workers.append(worker)
        for number in range(10):
            await append_order(nc, f"e{number}", kind="OrderPlaced", order=f"o{number}")
            for worker in workers:
                await worker.caught_up()
            assert await asyncio.gather(*(worker.alarms.raise_due() for worker in workers)) == [0, 0]
    assert await alarms_in(log_server) == []
