"""What readers of the projection get: one consistent state, at its position."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete

from streams.database import open_database, writing
from streams.events import (
    Money,
    OrderAccepted,
    OrderDelivered,
    OrderEvent,
    OrderPaymentFailed,
    OrderPaymentSucceeded,
    OrderPlaced,
    OrderPreparing,
    OrderReadyForDelivery,
    OrderRejected,
)
from streams.projection import Position, Projection
from streams.snapshots import MAX_PAGE, InvalidPage, NoPosition, OrderOwner, Reading, States
from streams.staff import STAFF
from streams.subjects import identity_key
from streams.tables import metadata
from tests.streams.histories import (
    EPOCH,
    ORDERS,
    PIZZA,
    RESTAURANTS,
    SUBJECTS,
    History,
    Model,
    as_json,
    cut,
    histories,
    log_time,
)

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from streams.entry import Entry


async def apply(engine: AsyncEngine, history: History, sizes: tuple[int, ...] = (1000,)) -> list[int]:
    """Everything that is not applied yet, in batches of these sizes; returns what was set aside."""
    aside: list[int] = []

    async def set_aside(entry: Entry, reason: str) -> None:
        assert reason
        aside.append(entry.sequence)

    projection = Projection(engine)
    found = await projection.position()
    after = history.first - 1 if found is None else found.sequence
    for entries in cut(history.after(after), sizes):
        upto = (entries[-1].sequence, entries[-1].time)
        await projection.apply(EPOCH, after, entries, upto, set_aside)
        after = upto[0]
    return aside


async def all_pages(method: Any, restaurant_id: str, limit: int) -> list[Any]:
    found: list[Any] = []
    after = None
    while True:
        page = await method(restaurant_id, limit, after)
        found += page.orders
        after = page.next
        if after is None:
            return found
        assert len(page.orders) == limit


async def assert_equals_model(state: Reading, model: Model) -> None:
    for restaurant_id in RESTAURANTS:
        assert as_json(await state.restaurant_snapshot(restaurant_id)) == model.open_orders(restaurant_id)
        assert as_json(await all_pages(state.new_orders, restaurant_id, 1)) == model.new_orders(restaurant_id)
        assert as_json(await all_pages(state.active_orders, restaurant_id, 2)) == model.active_orders(restaurant_id)
        for subject in SUBJECTS:
            member = (restaurant_id, identity_key(subject))
            standing = (await STAFF.read(state, [member]))[member]
            assert standing.roles == model.roles.get(member, set())
            assert (standing.revoked_at, standing.revoked_sequence) == model.revoked.get(member, (None, None))
    for order_id in ORDERS:
        owner = (await state.order_owners([order_id])).get(order_id)
        if order_id not in model.orders:
            assert owner is None
            assert await state.order_snapshot_for_customer(order_id, OrderOwner("r1", "c1")) is None
            continue
        assert owner == OrderOwner(*model.orders[order_id]["owner"])
        for_restaurant = await state.order_snapshot_for_restaurant(order_id)
        for_customer = await state.order_snapshot_for_customer(order_id, owner)
        stranger = OrderOwner(owner.restaurant_id, f"not-{owner.customer_key}")
        assert await state.order_snapshot_for_customer(order_id, stranger) is None
        assert as_json(for_restaurant) == model.order(order_id, items=True)
        assert as_json(for_customer) == model.order(order_id, items=False)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(history=histories(), sizes=st.lists(st.integers(1, 40), min_size=1, max_size=4))
async def test_state_is_that_of_the_history_however_it_is_cut(
    engine: AsyncEngine, history: History, sizes: list[int]
) -> None:
    async with writing(engine) as connection:
        for table in metadata.tables.values():
            await connection.execute(delete(table))
    aside = await apply(engine, history, tuple(sizes))
    model = Model(history.entries)
    assert aside == model.set_aside
    if not history.entries:
        return
    async with States(engine).read() as state:
        assert state.position == Position(EPOCH, *history.head)
        await assert_equals_model(state, model)


async def test_state_and_position_belong_together_while_a_writer_commits(database: str) -> None:
    history = History()
    for number in range(400):
        kind = (OrderPlaced, OrderAccepted, OrderPreparing, OrderDelivered)[number % 4]
        history.order(kind, f"o{number // 4 % 3 + 1}", event_id=f"e-{number}")
    seen: set[int] = set()
    async with open_database(database) as writer, open_database(database) as reader:
        await apply(writer, _part(history, 1))
        applying = asyncio.create_task(apply(writer, history, (1, 2, 3)))
        while not applying.done():
            async with States(reader).read() as state:
                snapshot = await state.restaurant_snapshot("r1")
                await assert_equals_model(state, Model(history.entries[: state.position.sequence]))
                assert as_json(await state.restaurant_snapshot("r1")) == as_json(snapshot)
            seen.add(state.position.sequence)
        await applying
    assert len(seen) > 3


def _part(history: History, count: int) -> History:
    part = History(history.first)
    part.entries = history.entries[:count]
    return part


async def test_before_the_first_batch_there_is_no_position(engine: AsyncEngine) -> None:
    with pytest.raises(NoPosition):
        async with States(engine).read():
            pass


async def test_position_is_the_one_that_was_applied_last(engine: AsyncEngine) -> None:
    history = History(first=7)
    history.order(OrderPlaced)
    await apply(engine, history)
    async with States(engine).read() as state:
        assert state.position == Position(EPOCH, 7, log_time(7))


async def test_views_hold_exactly_what_their_audience_may_see(engine: AsyncEngine) -> None:
    history = History()
    history.order(
        OrderPlaced,
        customer_id="auth0|5f",
        customer_name="Ada Lovelace",
        order_number="A-7",
        items=[PIZZA],
        total=Money("19.00", "EUR"),
        platform_fee=Money("1.00", "EUR"),
        reason="because",
    )
    await apply(engine, history)
    async with States(engine).read() as state:
        [listed] = await state.restaurant_snapshot("r1")
        assert listed == await state.order_snapshot_for_restaurant("o1")
        owner = OrderOwner("r1", identity_key("auth0|5f"))
        for_restaurant, for_customer = as_json(listed), as_json(await state.order_snapshot_for_customer("o1", owner))
    common = {
        "orderId": "o1",
        "orderNumber": "A-7",
        "status": "Placed",
        "restaurantId": "r1",
        "lastUpdateTimestamp": "2026-11-20T12:00:01.123456Z",
        "estimatedDeliveryTime": None,
        "actualDeliveryTime": None,
        "deliveredAt": None,
        "placedAt": "2026-11-20T12:00:01.123456Z",
        "paidAt": None,
        "paymentFailedAt": None,
        "acceptedAt": None,
        "preparingAt": None,
        "readyForDeliveryAt": None,
        "rejectedAt": None,
        "cancelledAt": None,
        "total": {"amount": "19.00", "currency": "EUR"},
    }
    pizza = {"name": "Pizza", "quantity": 2, "unitPrice": {"amount": "9.50", "currency": "EUR"}}
    assert for_customer == common
    assert for_restaurant == common | {"items": [pizza]}


async def test_new_orders_wait_for_an_answer_and_their_last_payment_did_not_fail(engine: AsyncEngine) -> None:
    history = History()
    lives: dict[str, list[type[OrderEvent]]] = {
        "placed": [OrderPlaced],
        "paid": [OrderPlaced, OrderPaymentSucceeded],
        "unpaid": [OrderPlaced, OrderPaymentFailed],
        "paid-at-last": [OrderPlaced, OrderPaymentFailed, OrderPaymentSucceeded],
        "paid-first": [OrderPaymentSucceeded],
        "accepted-then-paid": [OrderPlaced, OrderAccepted, OrderPaymentSucceeded],
        "accepted-then-unpaid": [OrderPlaced, OrderAccepted, OrderPaymentFailed],
        "rejected": [OrderPlaced, OrderRejected],
        "ready": [OrderPlaced, OrderReadyForDelivery],
        "delivered": [OrderPlaced, OrderDelivered],
    }
    for order_id, kinds in lives.items():
        for kind in kinds:
            history.order(kind, order_id)
    await apply(engine, history)
    async with States(engine).read() as state:
        new = [order.order_id for order in (await state.new_orders("r1")).orders]
        active = [order.order_id for order in (await state.active_orders("r1")).orders]
        everything = [order.order_id for order in await state.restaurant_snapshot("r1")]
    assert new == ["placed", "paid", "paid-at-last", "paid-first"]
    assert active == ["accepted-then-paid", "accepted-then-unpaid", "ready"]
    assert sorted(everything) == sorted([*new, *active, "unpaid"])


async def test_pages_go_on_where_the_last_one_ended_whatever_was_answered_meanwhile(engine: AsyncEngine) -> None:
    history = History()
    for number in range(7):
        history.order(OrderPlaced, f"o{number}")
    await apply(engine, history)
    async with States(engine).read() as state:
        first = await state.new_orders("r1", 3)
    history.order(OrderAccepted, "o1")
    history.order(OrderAccepted, "o2")
    history.order(OrderPlaced, "o7")
    await apply(engine, history)
    async with States(engine).read() as state:
        second = await state.new_orders("r1", 3, first.next)
        third = await state.new_orders("r1", 3, second.next)
    ids = [[order.order_id for order in page.orders] for page in (first, second, third)]
    assert ids == [["o0", "o1", "o2"], ["o3", "o4", "o5"], ["o6", "o7"]]
    assert third.next is None


@pytest.mark.parametrize(
    "after", ["", "junk", "1", "1.", ".o1", "1.o 1", "9" * 19 + ".o1", "9" * 20 + ".o1", "1.o1\n", "٣.o1", "1.o1.2"]
)
async def test_page_after_junk_is_refused(engine: AsyncEngine, after: str) -> None:
    await Projection(engine).set_position(EPOCH, 1, 1.0)
    async with States(engine).read() as state:
        with pytest.raises(InvalidPage):
            await state.new_orders("r1", 10, after)


@pytest.mark.parametrize("limit", [0, -1, MAX_PAGE + 1])
async def test_page_of_an_impossible_size_is_refused(engine: AsyncEngine, limit: int) -> None:
    await Projection(engine).set_position(EPOCH, 1, 1.0)
    async with States(engine).read() as state:
        with pytest.raises(InvalidPage, match="1 to 500"):
            await state.active_orders("r1", limit)
