"""Many clients come back at once: neither the database nor JetStream is asked for each of them."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, contextmanager
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import Engine
from sqlalchemy.event import listen, remove

from tests.gateway.test_streams import applied, opened
from tests.support.logs import append_order, append_staff
from tests.support.nats import eventually
from tests.support.sse_client import open_stream

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.gateway import Passline, RunningGateway
    from tests.support.sse_client import StreamRequest

CLIENTS = 60


@pytest.fixture
def database_kind() -> str:
    return "sqlite"


@contextmanager
def counted_reads() -> Iterator[list[str]]:
    """The statements by which state is read; the worker's are not among them, as nothing is published meanwhile."""
    statements: list[str] = []

    def note(*arguments: object) -> None:
        statements.append(str(arguments[2]))

    listen(Engine, "before_cursor_execute", note)
    try:
        yield statements
    finally:
        remove(Engine, "before_cursor_execute", note)


def messages_to_the_broker(gateway: RunningGateway) -> int:
    """How many the process has sent so far, requests to JetStream among them."""
    return gateway.gateway.log._client.stats["out_msgs"]


def clients(gateway: RunningGateway, cursor: str) -> list[StreamRequest]:
    """Each somebody else: staff of many restaurants by the log, owners by their tokens, customers of an order each."""
    staff = [
        gateway.stream(f"restaurants/r{number}", gateway.token(f"staff-{number}"), last_event_id=cursor)
        for number in range(CLIENTS // 3)
    ]
    owners = [gateway.kitchen(f"r{number}", last_event_id=cursor) for number in range(CLIENTS // 3)]
    customers = [gateway.customer(f"o{number}", f"c{number}", last_event_id=cursor) for number in range(CLIENTS // 3)]
    return [*staff, *owners, *customers]


async def storm(requests: list[StreamRequest]) -> set[str]:
    """Open all at once, and close them. Returns the verdicts."""
    async with AsyncExitStack() as stack:
        streams = await asyncio.gather(*(stack.enter_async_context(open_stream(request)) for request in requests))
        return {(await opened(stream))["verdict"] for stream in streams}


async def test_storm_of_returning_clients_asks_nobody_for_each_of_them(passline: Passline) -> None:
    for number in range(CLIENTS // 3):
        await append_staff(
            passline.nc, f"s{number}", "StaffAssigned", restaurant=f"r{number}", subject=f"staff-{number}", role="staff"
        )
        last = await append_order(
            passline.nc, f"e{number}", restaurant=f"r{number}", customer=f"c{number}", order=f"o{number}"
        )
    gateway = await passline.gateway()
    await applied(gateway, last)
    await eventually(lambda: gateway.gateway.hub.head >= last)
    requests = clients(gateway, gateway.gateway.hub.frames.cursor(last))

    with counted_reads() as statements:
        # Nobody has been here before, as after a restart. Those who come at once are read of together.
        assert await storm(requests) == {"resumed"}
        assert len(statements) < CLIENTS / 2
        statements.clear()
        before = messages_to_the_broker(gateway)
        assert await storm(requests) == {"resumed"}
        # What the process asks for by itself, once in some seconds.
        assert len(statements) <= 6
        assert messages_to_the_broker(gateway) - before <= 6
