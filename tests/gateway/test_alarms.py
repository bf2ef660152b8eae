"""Alarms beside real gateways: who could see an order, and who is told that nobody did or that it is late."""

from __future__ import annotations

import json
import time
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from streams.alarms import Alarms
from streams.due import AlarmTimes, Limits
from streams.gathering import NobodyAnswered
from streams.log import Log
from streams.presence import ask_attendance
from streams.projection import Projection
from tests.support.logs import append_order
from tests.support.nats import client, eventually
from tests.support.sse_client import open_stream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sqlalchemy.ext.asyncio import AsyncEngine

    from tests.support.gateway import Passline


@asynccontextmanager
async def raising(passline: Passline, engine: AsyncEngine, limits: Limits) -> AsyncIterator[Alarms]:
    """The alarms of a worker whose clock is 100 seconds fast."""
    async with client(passline.server, "worker") as nc:
        ask = partial(ask_attendance, nc, seconds=0.5)
        yield Alarms(nc, Log(nc), engine, AlarmTimes(limits), ask_attendance=ask, clock=lambda: time.time() + 100)


async def placed(passline: Passline, engine: AsyncEngine, order: str, restaurant: str) -> None:
    """An order, also in the tables."""
    sequence = await append_order(
        passline.nc, f"placed-{order}", kind="OrderPlaced", order=order, restaurant=restaurant
    )

    async def is_applied() -> bool:
        position = await Projection(engine).position()
        return position is not None and position.sequence >= sequence

    await eventually(is_applied, within=10)


async def unattended(passline: Passline) -> set[str]:
    """The orders whose alarm stands in the log."""
    log, position, found = Log(passline.nc), 0, set()
    while (stored := await log.next_match(position, "orders.*.*.*.OrderUnattended")) is not None:
        position = stored.sequence
        found.add(json.loads(stored.data)["orderId"])
    return found


async def test_order_is_unattended_where_no_stream_was_open_since_it_was_placed(
    passline: Passline, engine: AsyncEngine
) -> None:
    gateway = await passline.gateway()
    await passline.gateway()  # another process has none of these streams
    async with raising(passline, engine, Limits(unattended=60)) as alarms, open_stream(gateway.kitchen("r2")) as stream:
        await stream.next_event("snapshot")
        async with open_stream(gateway.kitchen("r3")) as before:
            await before.next_event("snapshot")
        async with open_stream(gateway.kitchen("r4")) as while_placed:
            await while_placed.next_event("snapshot")
            await eventually(lambda: len(gateway.gateway.hub) == 2)  # that of r3 has ended
            for number in range(1, 5):
                await placed(passline, engine, f"o{number}", f"r{number}")
        assert await alarms.raise_due() == 2
        assert await alarms.raise_due() == 0
    assert await unattended(passline) == {"o1", "o3"}


async def test_while_no_gateway_answers_nobody_is_blamed(passline: Passline, engine: AsyncEngine) -> None:
    await placed(passline, engine, "o1", "r1")
    async with raising(passline, engine, Limits(unattended=60)) as alarms:
        with pytest.raises(NobodyAnswered):
            await alarms.raise_due()
        assert await unattended(passline) == set()
        await passline.gateway()
        assert await alarms.raise_due() == 1
    assert await unattended(passline) == {"o1"}


async def test_restaurant_and_customer_are_told_of_a_delay_and_the_restaurant_that_nobody_saw_it(
    passline: Passline, engine: AsyncEngine
) -> None:
    gateway = await passline.gateway()
    await placed(passline, engine, "o1", "r1")
    async with (
        raising(passline, engine, Limits(accept=90, unattended=60)) as alarms,
        open_stream(gateway.customer("o1")) as customer,
    ):
        assert await alarms.raise_due() == 2
        async with open_stream(gateway.kitchen("r1", query={"since": "1h"})) as kitchen:
            delayed: dict[str, Any] = json.loads((await kitchen.next_event("ReceiveOrderDelayed")).data or "")
            nobody: dict[str, Any] = json.loads((await kitchen.next_event("ReceiveOrderUnattended")).data or "")
        told: dict[str, Any] = json.loads((await customer.next_event("ReceiveOrderDelayed")).data or "")
        await append_order(passline.nc, "accepted")
        await customer.next_event("ReceiveOrderStatusChanged")
        assert "ReceiveOrderUnattended" not in {block.event for block in customer.blocks}
    assert (delayed["orderId"], delayed["alarm"]) == ("o1", "accept")
    assert {**told, "topic": ""} == {**delayed, "topic": ""}
    assert nobody["orderId"] == "o1"
