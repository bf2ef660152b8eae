"""The worker's loop on a real log and a real database: what it sets aside, what it waits for, who is active."""

from __future__ import annotations

import asyncio
import base64
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from streams.database import execute, reading
from streams.log import Log
from streams.projection import Projection
from streams.projector import Projector
from streams.tables import LIVE
from tests.support.logs import append_order, append_orders, append_staff, replace_by_new_log, stop
from tests.support.nats import SETTINGS, api, client, eventually, publish

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sqlalchemy.ext.asyncio import AsyncEngine

    from streams.embedded import EmbeddedNats


@asynccontextmanager
async def projecting(server: EmbeddedNats, engine: AsyncEngine) -> AsyncIterator[Projector]:
    async with client(server, "worker") as nc:
        projector = Projector(nc, Log(nc), Projection(engine))
        task = asyncio.create_task(projector.run())
        try:
            yield projector
        finally:
            task.cancel()
            await asyncio.wait({task})


async def applied(engine: AsyncEngine, upto: int) -> None:
    async def is_there() -> bool:
        position = await Projection(engine).position()
        return position is not None and position.sequence >= upto

    await eventually(is_there, within=15)


async def orders(engine: AsyncEngine) -> dict[str, str]:
    async with reading(engine) as connection:
        rows = await execute(connection, select(LIVE.orders.c.order_id, LIVE.orders.c.status))
        return {row.order_id: row.status for row in rows}


async def dead_letters(server: EmbeddedNats) -> list[dict[str, Any]]:
    """All of DEAD, its messages' ids beside them."""
    async with client(server, "admin") as admin:
        count = (await api(admin, "STREAM.INFO.DEAD"))["state"]["messages"]
        messages = [
            (await api(admin, "STREAM.MSG.GET.DEAD", {"seq": sequence}))["message"] for sequence in range(1, count + 1)
        ]
    return [
        {
            "id": base64.b64decode(each["hdrs"]).decode().split("Nats-Msg-Id:")[1].split("\r\n")[0].strip(),
            **json.loads(base64.b64decode(each["data"])),
        }
        for each in messages
    ]


async def test_what_can_not_be_applied_is_set_aside_once_with_its_reason(
    log_server: EmbeddedNats, engine: AsyncEngine
) -> None:
    async with client(log_server, "gateway") as nc:
        epoch = (await Log(nc).state()).epoch
        await append_order(nc, "good", kind="OrderPlaced")
        await publish(nc, "orders.r1.c1.o1.OrderAccepted", b"\xff\xfe")
        await publish(nc, "orders.r1.c1.o1.OrderAccepted", b'{"type":"OrderAccepted"}')
        await append_order(nc, "thief", customer="c2")
        await publish(nc, "orders.r1.c1.o1.FromTheFuture", b'{"type":"FromTheFuture"}')
        await append_order(nc, "last")
    for _ in range(2):  # the second one finds nothing left to do
        async with projecting(log_server, engine):
            await applied(engine, 6)
    letters = await dead_letters(log_server)
    assert [(each["id"], each["cursor"], each["subject"]) for each in letters] == [
        (f"{epoch}-{sequence}", f"{epoch}-{sequence}", subject)
        for sequence, subject in (
            (2, "orders.r1.c1.o1.OrderAccepted"),
            (3, "orders.r1.c1.o1.OrderAccepted"),
            (4, "orders.r1.c2.o1.OrderAccepted"),
        )
    ]
    assert base64.b64decode(letters[0]["bodyBase64"]) == b"\xff\xfe"
    assert letters[1]["body"] == '{"type":"OrderAccepted"}'
    assert "eventId" in letters[1]["reason"]
    assert "customer" in letters[2]["reason"]
    assert await orders(engine) == {"o1": "Accepted"}


async def test_of_several_projectors_one_is_active_and_nothing_is_applied_twice(
    log_server: EmbeddedNats, engine: AsyncEngine
) -> None:
    async with (
        client(log_server, "gateway") as nc,
        projecting(log_server, engine),
        projecting(log_server, engine),
        projecting(log_server, engine),
    ):
        await append_orders(nc, 300)
        await append_staff(nc, "s", "StaffAssigned", restaurant="r1", subject="ann", role="staff")
        await applied(engine, 301)
    async with reading(engine) as connection:
        row = (await execute(connection, select(LIVE.orders.c.first_sequence, LIVE.orders.c.last_sequence))).one()
    assert tuple(row) == (1, 300)


async def test_broker_that_is_killed_is_waited_for(log_server: EmbeddedNats, engine: AsyncEngine) -> None:
    async with client(log_server, "gateway") as nc, projecting(log_server, engine):
        await append_orders(nc, 10)
        await applied(engine, 10)
        await stop(log_server)
        await log_server.restart()
        await eventually(lambda: nc.is_connected)
        await append_orders(nc, 10, prefix="f")
        await applied(engine, 20)


async def test_log_of_another_history_halts_it_with_what_to_do(log_server: EmbeddedNats, engine: AsyncEngine) -> None:
    async with client(log_server, "gateway") as nc, projecting(log_server, engine) as projector:
        await append_orders(nc, 5)
        await applied(engine, 5)
        await replace_by_new_log(log_server, SETTINGS)
        await eventually(lambda: projector.halted is not None and "epoch bump" in projector.halted, within=10)
        await eventually(lambda: nc.is_connected)
        await append_orders(nc, 7, prefix="g")
        position = await Projection(engine).position()
        assert position is not None
        assert position.sequence == 5
