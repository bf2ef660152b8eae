"""The log in SQL, on both databases: what is applied, once, and what is set aside."""

from __future__ import annotations

import asyncio
import datetime as dt
from typing import TYPE_CHECKING, Any

import pytest
from msgspec import UNSET
from sqlalchemy import delete, select

from streams.database import DatabaseUnavailable, open_database, writing
from streams.events import (
    Money,
    OrderAccepted,
    OrderCancelled,
    OrderCreated,
    OrderDelivered,
    OrderPaymentFailed,
    OrderPlaced,
    OrderPreparing,
    Role,
    StaffAssigned,
    StaffRevoked,
    encode,
)
from streams.projection import Fenced, Position, Projection
from streams.snapshots import States
from streams.staff import STAFF, Standing
from streams.tables import LIVE
from streams.tables import position as position_table
from tests.streams.histories import EPOCH, NOON, PIZZA, History, Model, as_json, log_time

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.ext.asyncio import AsyncEngine

    from streams.entry import Entry


class Aside:
    """Where set-aside entries go, as (sequence, reason)."""

    def __init__(self) -> None:
        self.found: list[tuple[int, str]] = []

    async def __call__(self, entry: Entry, reason: str) -> None:
        self.found.append((entry.sequence, reason))


async def apply_all(engine: AsyncEngine, history: History, aside: Aside | None = None) -> None:
    """Whatever the projection does not have yet, in one batch."""
    projection = Projection(engine)
    found = await projection.position()
    after = history.first - 1 if found is None else found.sequence
    await projection.apply(EPOCH, after, history.after(after), history.head, aside or Aside())


async def shown(engine: AsyncEngine, order_id: str = "o1") -> dict[str, object]:
    async with States(engine).read() as state:
        found: dict[str, object] = as_json(await state.order_snapshot_for_restaurant(order_id))
        return found


# -- The fence -------------------------------------------------------------------------------------------------------


async def test_position_is_that_of_the_last_applied_entry(engine: AsyncEngine) -> None:
    history = History(first=41)
    history.order(OrderPlaced)
    history.order(OrderAccepted)
    assert await Projection(engine).position() is None
    await apply_all(engine, history)
    assert await Projection(engine).position() == Position(EPOCH, 42, log_time(42))


async def test_worker_that_is_behind_is_fenced_and_applies_nothing(engine: AsyncEngine) -> None:
    history = History()
    history.order(OrderPlaced)
    projection = Projection(engine)
    await apply_all(engine, history)
    history.order(OrderAccepted)
    with pytest.raises(Fenced):
        await projection.apply(EPOCH, 0, history.after(0), history.head, Aside())
    assert (await shown(engine))["status"] == "Placed"


async def test_worker_of_another_epoch_is_fenced(engine: AsyncEngine) -> None:
    history = History()
    history.order(OrderPlaced)
    await apply_all(engine, history)
    history.order(OrderAccepted)
    with pytest.raises(Fenced):
        await Projection(engine).apply("e2", 1, history.after(1), history.head, Aside())


async def test_of_two_workers_on_a_new_database_one_loses(database: str) -> None:
    history = History()
    history.order(OrderPlaced)
    async with open_database(database) as one, open_database(database) as other:
        projections = [Projection(one), Projection(other)]
        assert [await each.position() for each in projections] == [None, None]
        results = await asyncio.gather(
            *(each.apply(EPOCH, 0, history.after(0), history.head, Aside()) for each in projections),
            return_exceptions=True,
        )
    assert sorted(map(repr, map(type, results))) == sorted([repr(type(None)), repr(Fenced)])


async def test_database_emptied_under_a_worker_is_not_taken_for_a_new_one(engine: AsyncEngine) -> None:
    history = History()
    history.order(OrderPlaced)
    projection = Projection(engine)
    assert await projection.position() is None
    await projection.apply(EPOCH, 0, history.after(0), history.head, Aside())
    async with writing(engine) as connection:
        await connection.execute(delete(position_table))
    history.order(OrderAccepted)
    with pytest.raises(Fenced):
        await projection.apply(EPOCH, 1, history.after(1), history.head, Aside())


async def test_workers_that_race_apply_each_entry_exactly_once(database: str) -> None:
    history = History()
    for number in range(120):
        history.order(OrderPlaced if number < 20 else OrderPreparing, f"o{number % 20}")
        history.raw("orders.r1.c1.o1.OrderPlaced", b"{}")
    applied: list[tuple[int, int]] = []

    async def work(batch: int) -> None:
        async with open_database(database) as engine:
            projection = Projection(engine)
            while True:
                found = await projection.position()
                after = 0 if found is None else found.sequence
                entries = history.after(after, batch)
                if not entries:
                    return
                upto = (entries[-1].sequence, entries[-1].time)
                try:
                    await projection.apply(EPOCH, after, entries, upto, Aside())
                except Fenced:
                    continue
                applied.append((after, upto[0]))

    await asyncio.gather(*(work(batch) for batch in (3, 7, 10)))
    applied.sort()
    assert [start for start, _ in applied] == [0, *(end for _, end in applied[:-1])]
    assert applied[-1][1] == history.last
    async with open_database(database) as engine:
        assert await snapshot(engine, "r1") == Model(history.entries).open_orders("r1")


async def snapshot(engine: AsyncEngine, restaurant_id: str) -> object:
    async with States(engine).read() as state:
        return as_json(await state.restaurant_snapshot(restaurant_id))


async def test_worker_that_finds_the_position_locked_is_fenced(database: str) -> None:
    history = History()
    history.order(OrderPlaced)
    async with open_database(database) as engine, open_database(database, statement_seconds=0.3) as other:
        await apply_all(engine, history)
        history.raw("orders.r1.c1.o1.OrderPlaced", b"{}")
        locked, done = asyncio.Event(), asyncio.Event()

        async def hold(entry: Entry, reason: str) -> None:
            locked.set()
            await done.wait()

        holder = asyncio.create_task(Projection(engine).apply(EPOCH, 1, history.after(1), history.head, hold))
        await locked.wait()
        with pytest.raises(Fenced):
            await Projection(other).apply(EPOCH, 1, history.after(1), history.head, Aside())
        done.set()
        await holder
        assert await Projection(other).position() == Position(EPOCH, 2, log_time(2))


async def test_entries_that_do_not_belong_behind_the_position_are_refused(engine: AsyncEngine) -> None:
    history = History()
    history.order(OrderPlaced)
    for after, upto in ((1, (1, 0.0)), (0, (0, 0.0)), (3, (2, 0.0))):
        with pytest.raises(ValueError, match="expected"):
            await Projection(engine).apply(EPOCH, after, history.entries, upto, Aside())


# -- What is set aside -----------------------------------------------------------------------------------------------


async def test_malformed_entries_and_foreign_subjects_are_set_aside_with_their_reason(engine: AsyncEngine) -> None:
    history, aside = History(), Aside()
    history.raw("orders.r1.c1.o1.OrderPlaced", b"not JSON")
    placed = history.order(OrderPlaced).event
    assert placed is not None
    history.raw("orders.r2.c1.o1.OrderPlaced", encode(placed))
    await apply_all(engine, history, aside)
    assert [sequence for sequence, _ in aside.found] == [1, 3]
    assert [reason for _, reason in aside.found] == [str(entry.problem) for entry in history.entries if entry.problem]


async def test_event_that_contradicts_its_order_is_set_aside_and_not_applied(engine: AsyncEngine) -> None:
    history, aside = History(), Aside()
    history.order(OrderPlaced)
    history.order(OrderAccepted, restaurant_id="r2")
    await apply_all(engine, history, aside)
    history.order(OrderCancelled, customer_id="c2")  # in another batch than the order's first event
    history.order(OrderCancelled, customer_id="c2", restaurant_id="r2")
    await apply_all(engine, history, aside)
    assert aside.found == [
        (2, "the order's first event names another restaurant"),
        (3, "the order's first event names another customer"),
        (4, "the order's first event names another restaurant and another customer"),
    ]
    assert (await shown(engine))["status"] == "Placed"


async def test_what_is_set_aside_comes_in_the_order_of_the_log(engine: AsyncEngine) -> None:
    history, aside = History(), Aside()
    history.order(OrderPlaced)
    for _ in range(3):
        history.order(OrderAccepted, customer_id="c2")
        history.raw("orders.r1.c1.o1.OrderPlaced", b"")
    await apply_all(engine, history, aside)
    assert [sequence for sequence, _ in aside.found] == [2, 3, 4, 5, 6, 7]


async def test_unknown_type_is_skipped_and_not_set_aside(engine: AsyncEngine) -> None:
    history, aside = History(), Aside()
    history.order(OrderPlaced)
    history.raw("orders.r1.c1.o1.OrderTeleported", b'{"type":"OrderTeleported","orderId":"o1"}')
    history.order(OrderAccepted)
    await apply_all(engine, history, aside)
    assert aside.found == []
    assert (await shown(engine))["status"] == "Accepted"


async def test_crash_between_setting_aside_and_commit_loses_nothing(database: str) -> None:
    history = History()
    history.order(OrderPlaced)
    bad = history.raw("orders.r1.c1.o1.OrderPlaced", b"{}")
    history.order(OrderAccepted)
    told: list[int] = []

    class Crash(BaseException): ...

    async def crash(entry: Entry, reason: str) -> None:
        told.append(entry.sequence)
        raise Crash

    async with open_database(database) as engine:
        projection = Projection(engine)
        await projection.position()
        with pytest.raises(Crash):
            await projection.apply(EPOCH, 0, history.after(0), history.head, crash)
    aside = Aside()
    async with open_database(database) as engine:
        assert await Projection(engine).position() is None
        await apply_all(engine, history, aside)
        assert (await shown(engine))["status"] == "Accepted"
    assert told == [bad.sequence] == [sequence for sequence, _ in aside.found]


async def test_worker_cancelled_while_it_sets_aside_leaves_no_lock(engine: AsyncEngine) -> None:
    history = History()
    history.raw("orders.r1.c1.o1.OrderPlaced", b"{}")
    reached = asyncio.Event()

    async def wait_for_ever(entry: Entry, reason: str) -> None:
        reached.set()
        await asyncio.Event().wait()

    projection = Projection(engine)
    await projection.position()
    task = asyncio.create_task(projection.apply(EPOCH, 0, history.after(0), history.head, wait_for_ever))
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await apply_all(engine, history)
    assert await Projection(engine).position() == Position(EPOCH, 1, log_time(1))


# -- What an event does ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batches", [1, 2])
async def test_left_out_fields_stay_and_null_clears_them(engine: AsyncEngine, batches: int) -> None:
    history = History()
    eta = NOON + dt.timedelta(minutes=30)
    fields: dict[str, Any] = {
        "order_number": "A-7",
        "items": [PIZZA],
        "total": Money("19.00", "EUR"),
        "estimated_delivery_time": eta,
    }
    history.order(OrderPlaced, **fields)
    if batches == 2:
        await apply_all(engine, history)
    history.order(OrderAccepted, order_number=UNSET, total=None, estimated_delivery_time=None)
    await apply_all(engine, history)
    found = await shown(engine)
    assert (found["orderNumber"], found["items"]) == ("A-7", as_json([PIZZA]))
    assert (found["total"], found["estimatedDeliveryTime"]) == (None, None)


@pytest.mark.parametrize("batches", [1, 2])
async def test_event_id_that_comes_again_in_the_log_changes_nothing(engine: AsyncEngine, batches: int) -> None:
    history = History()
    history.order(OrderPlaced, event_id="placed")
    history.order(OrderAccepted, event_id="accepted")
    if batches == 2:
        await apply_all(engine, history)
    history.order(OrderPlaced, event_id="placed")  # published again, after the broker's window for duplicates
    await apply_all(engine, history)
    found = await shown(engine)
    assert (found["status"], found["lastUpdateTimestamp"]) == (
        "Accepted",
        as_json(history.entries[1].event)["occurredOnUtc"],
    )


async def test_same_event_id_counts_for_each_order(engine: AsyncEngine) -> None:
    history = History()
    history.order(OrderPlaced, "o1", event_id="twice")
    history.order(OrderPlaced, "o2", event_id="twice")
    await apply_all(engine, history)
    assert (await shown(engine, "o2"))["status"] == "Placed"


@pytest.mark.parametrize("batches", [1, 2])
async def test_late_repetition_of_an_assignment_gives_no_role_back(engine: AsyncEngine, batches: int) -> None:
    history = History()
    history.staff(StaffAssigned, role=Role.STAFF, event_id="hired")
    revoked = history.staff(StaffRevoked, event_id="fired")
    if batches == 2:
        await apply_all(engine, history)
    history.staff(StaffAssigned, role=Role.STAFF, event_id="hired")
    await apply_all(engine, history)
    async with States(engine).read() as state:
        standing = (await STAFF.read(state, [("r1", "s1")]))["r1", "s1"]
    assert standing.roles == frozenset()
    assert (standing.revoked_at, standing.revoked_sequence) == (revoked.time, revoked.sequence)


async def test_revocation_of_one_role_leaves_the_others(engine: AsyncEngine) -> None:
    history = History()
    for role in Role:
        history.staff(StaffAssigned, role=role)
    history.staff(StaffRevoked, role=Role.FINANCE)
    await apply_all(engine, history)
    async with States(engine).read() as state:
        assert (await STAFF.read(state, [("r1", "s1")]))["r1", "s1"].roles == {Role.OWNER, Role.STAFF}
        assert (await STAFF.read(state, [("r2", "s1")]))["r2", "s1"].roles == frozenset()
        assert (await STAFF.read(state, [("r2", "s1")]))["r2", "s1"].revoked_at is None


async def test_revocation_without_a_role_ends_all_of_them_and_a_later_assignment_counts(engine: AsyncEngine) -> None:
    history = History()
    for role in Role:
        history.staff(StaffAssigned, role=role)
    await apply_all(engine, history)
    history.staff(StaffRevoked, role=None)
    last = history.staff(StaffRevoked)
    history.staff(StaffAssigned, role=Role.OWNER)
    await apply_all(engine, history)
    async with States(engine).read() as state:
        standing = (await STAFF.read(state, [("r1", "s1")]))["r1", "s1"]
    assert standing == Standing(frozenset({Role.OWNER}), last.time, last.sequence)


async def test_times_come_back_to_the_microsecond_in_utc_and_odd_ones_stop_nobody(engine: AsyncEngine) -> None:
    history = History()
    zone = dt.timezone(dt.timedelta(hours=14))
    history.order(OrderPlaced, occurred_on_utc=dt.datetime(2026, 11, 21, 2, 0, 0, 1, tzinfo=zone))
    history.order(OrderPlaced, "o2", occurred_on_utc=dt.datetime(1, 1, 1, tzinfo=zone))
    history.order(
        OrderPlaced, "o3", occurred_on_utc=dt.datetime(9999, 12, 31, 23, 59, tzinfo=dt.timezone(-zone.utcoffset(None)))
    )
    await apply_all(engine, history)
    assert (await shown(engine))["placedAt"] == "2026-11-20T12:00:00.000001Z"
    assert (await shown(engine, "o2"))["placedAt"] == "0001-01-01T00:00:00Z"
    assert (await shown(engine, "o3"))["placedAt"] == "9999-12-31T23:59:59.999999Z"


async def test_row_holds_what_only_the_gateway_may_know(engine: AsyncEngine) -> None:
    history = History()
    history.order(OrderCreated, customer_id="auth0|5f", customer_name="Ada Lovelace", platform_fee=Money("1.00", "EUR"))
    history.order(OrderDelivered, customer_id="auth0|5f")
    await apply_all(engine, history)
    async with writing(engine) as connection:
        row = (await connection.execute(select(LIVE.orders))).mappings().one()
    assert (row["customer_id"], row["customer_name"]) == ("auth0|5f", "Ada Lovelace")
    assert row["platform_fee"] == '{"amount":"1.00","currency":"EUR"}'
    assert (row["first_sequence"], row["last_sequence"], row["is_open"]) == (1, 2, False)


async def test_large_batch_is_one_transaction(engine: AsyncEngine) -> None:
    history = History()
    for number in range(3000):
        history.order(OrderPlaced, f"o{number % 2500}")
    for number in range(100):
        history.staff(StaffAssigned, f"s{number}", role=Role.STAFF)
    await apply_all(engine, history)
    assert len(await snapshot_list(engine)) == 2500


async def snapshot_list(engine: AsyncEngine) -> Sequence[object]:
    async with States(engine).read() as state:
        return await state.restaurant_snapshot("r1")


# -- The operator ----------------------------------------------------------------------------------------------------


async def test_set_position_fences_the_worker_and_makes_older_what_was_there(engine: AsyncEngine) -> None:
    history = History()
    history.order(OrderPlaced, "old-1")
    history.order(OrderPlaced, "old-2")
    await apply_all(engine, history)
    await Projection(engine).set_position("e2", 0, 0.0)
    assert await Projection(engine).position() == Position("e2", 0, 0.0)
    again = History()
    again.order(OrderPlaced, "new-1")
    with pytest.raises(Fenced):
        await Projection(engine).apply(EPOCH, 2, [], (3, 0.0), Aside())
    await Projection(engine).apply("e2", 0, again.after(0), again.head, Aside())
    async with States(engine).read() as state:
        orders = [order.order_id for order in await state.restaurant_snapshot("r1")]
    assert orders == ["old-1", "old-2", "new-1"]


async def test_set_position_begins_a_new_database(engine: AsyncEngine) -> None:
    await Projection(engine).set_position(EPOCH, 7, 7.5)
    assert await Projection(engine).position() == Position(EPOCH, 7, 7.5)


async def test_payment_failure_after_the_end_does_not_open_the_order_again(engine: AsyncEngine) -> None:
    history = History()
    history.order(OrderPlaced)
    history.order(OrderCancelled)
    history.order(OrderPaymentFailed)
    await apply_all(engine, history)
    assert await snapshot_list(engine) == []
    assert (await shown(engine))["status"] == "PaymentFailed"


async def test_without_tables_the_error_says_so(empty_database: str) -> None:
    async with open_database(empty_database) as engine:
        with pytest.raises(DatabaseUnavailable, match="position"):
            await Projection(engine).position()
