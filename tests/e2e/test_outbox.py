"""`passline outbox` beside a running Passline: relays that are killed and paused, and the documented example."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sysconfig
from collections import defaultdict
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import MetaData, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from streams.broker import connect
from streams.credentials import inbox_prefix
from streams.database import parse_url
from streams.discovery import find_running
from streams.events import OrderAccepted
from streams.log import Log
from streams.outbox import Outbox
from tests.e2e.commands import PASSLINE, passline, refused, running
from tests.support.nats import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sqlalchemy.ext.asyncio import AsyncEngine

    from tests.support.processes import PasslineProcess

outbox = Outbox(MetaData())
DOCUMENT = Path(__file__).parents[2] / "docs" / "outbox.md"
ORDERS = 20


@pytest.fixture
async def shop(empty_database: str) -> AsyncIterator[AsyncEngine]:
    """An application's database with an outbox, as the application opens it."""
    engine = create_async_engine(parse_url(empty_database))
    async with engine.begin() as connection:
        await connection.run_sync(outbox.table.metadata.create_all)
    yield engine
    await engine.dispose()


@asynccontextmanager
async def relay(database: str, at: PasslineProcess) -> AsyncIterator[asyncio.subprocess.Process]:
    """A relay, until the block is left; killed then, if it was not before."""
    arguments = ("outbox", "relay", "--outbox-database-url", database, "--data-dir", str(at.data_dir))
    async with running(PASSLINE, *arguments) as process:
        # Nobody reads what it logs before its end; it is little.
        yield process


async def add(shop: AsyncEngine, numbers: range) -> None:
    """Five events a transaction, of orders by turns."""
    for start in range(numbers.start, numbers.stop, 5):
        async with AsyncSession(shop) as session, session.begin():
            for number in range(start, start + 5):
                outbox.add(session, event(number))


def event(number: int) -> OrderAccepted:
    return OrderAccepted(
        event_id=f"e-{number}",
        occurred_on_utc=datetime(2026, 11, 20, 12, tzinfo=UTC),
        order_id=f"o-{number % ORDERS}",
        restaurant_id="pizzeria-roma",
        customer_id="ada",
    )


async def published(shop: AsyncEngine) -> int:
    async with shop.connect() as connection:
        counted = await connection.execute(select(func.count()).where(outbox.table.c.published_at.is_not(None)))
        return int(counted.scalar_one())


async def until_published(shop: AsyncEngine, count: int, within: float = 20) -> None:
    async def are() -> bool:
        return await published(shop) >= count

    await eventually(are, within=within)


async def log_by_order(at: PasslineProcess) -> dict[str, list[str]]:
    """The ids of all events in the log, in its order."""
    found: dict[str, list[str]] = defaultdict(list)
    url = find_running(at.data_dir).url("gateway")
    async with connect(url, name="test", inbox_prefix=inbox_prefix("gateway"), on_closed=lambda: None) as nc:
        log, position = Log(nc), 0
        while (entry := await log.next_match(position, "orders.>")) is not None:
            position = entry.sequence
            found[entry.subject.split(".")[3]].append(entry.headers["Nats-Msg-Id"])
    return found


def wanted(count: int) -> dict[str, list[str]]:
    return {f"o-{order}": [f"e-{number}" for number in range(order, count, ORDERS)] for order in range(ORDERS)}


async def test_events_are_in_the_log_once_through_relays_that_are_killed(
    serving: PasslineProcess, shop: AsyncEngine, empty_database: str
) -> None:
    """Two relays at a time; the one that is at work is killed in the middle of it, and then the next one."""
    count = 2000
    await add(shop, range(count))
    async with AsyncExitStack() as stack:
        at_work = await stack.enter_async_context(relay(empty_database, serving))
        for killed_at in (100, 900):
            await until_published(shop, killed_at)
            waiting = await stack.enter_async_context(relay(empty_database, serving))
            at_work.kill()
            await at_work.wait()
            async with shop.begin() as connection:  # or the test would take as long as two leases
                await connection.execute(update(outbox.leases).values(expires_at=1.0))
            at_work = waiting
        await until_published(shop, count)
    assert await log_by_order(serving) == wanted(count)


@pytest.mark.parametrize(("database_kind", "how"), [("sqlite", signal.SIGKILL), ("postgresql", signal.SIGSTOP)])
async def test_standby_takes_over_within_seconds_from_one_that_is_killed_or_hangs(
    serving: PasslineProcess, shop: AsyncEngine, empty_database: str, how: signal.Signals
) -> None:
    async with relay(empty_database, serving) as active:
        await add(shop, range(100))
        await until_published(shop, 100)
        async with relay(empty_database, serving):
            active.send_signal(how)
            await add(shop, range(100, 200))
            await until_published(shop, 200, within=14)
            if how is signal.SIGSTOP:
                active.send_signal(signal.SIGCONT)
            await add(shop, range(200, 300))
            await until_published(shop, 300)
    assert await log_by_order(serving) == wanted(300)


async def test_relay_ends_in_good_order_and_lets_go_at_once(
    serving: PasslineProcess, shop: AsyncEngine, empty_database: str
) -> None:
    await add(shop, range(20))
    async with relay(empty_database, serving) as process:
        await until_published(shop, 20)
        process.terminate()
        assert await asyncio.wait_for(process.wait(), 10) == 0
    await add(shop, range(20, 40))
    arguments = ("--outbox-database-url", empty_database)
    said = await passline("outbox", "relay", "--once", *arguments, data_dir=serving.data_dir)
    assert said == "20 published\n"
    assert await log_by_order(serving) == wanted(40)


async def test_parked_event_is_listed_and_discarded(
    serving: PasslineProcess, shop: AsyncEngine, empty_database: str
) -> None:
    at = ("--outbox-database-url", empty_database)
    await add(shop, range(20))
    async with AsyncSession(shop) as session, session.begin():
        foreign = OrderAccepted(
            event_id="foreign",
            occurred_on_utc=datetime(2026, 11, 20, 12, tzinfo=UTC),
            order_id="o-1",
            restaurant_id="trattoria",
            customer_id="ada",
        )
        outbox.add(session, foreign)
    await add(shop, range(20, 40))
    said = await refused("outbox", "relay", "--once", *at, data_dir=serving.data_dir)
    assert said == ("Error: not everything is in the log: 1 parked, 1 held up behind them; see `passline outbox list`")
    done = await listed(*at)
    parked, held_up = done
    number = parked.split()[0]
    assert re.fullmatch(
        r"21  \S+  parked  OrderAccepted  foreign  orders.o-1  the order belongs to another restaurant or customer",
        parked,
    )
    assert held_up.split()[2:] == ["attempts=0", "OrderAccepted", "e-21", "orders.o-1"]
    assert await listed("--parked", *at) == [parked]
    await run("outbox", "retry", "--all", *at)
    await refused("outbox", "relay", "--once", *at, data_dir=serving.data_dir)
    await run("outbox", "discard", number, *at)
    assert await passline("outbox", "relay", "--once", *at, data_dir=serving.data_dir) == "1 published\n"
    assert await listed(*at) == []
    assert await log_by_order(serving) == wanted(40)


async def run(*arguments: str) -> str:
    async with running(PASSLINE, *arguments) as process:
        output, errors = await process.communicate()
        assert process.returncode == 0, errors
        return output.decode()


async def listed(*arguments: str) -> list[str]:
    return (await run("outbox", "list", *arguments)).splitlines()


async def test_documented_example_runs_as_it_is(serving: PasslineProcess, tmp_path: Path) -> None:
    document = DOCUMENT.read_text()
    code, commands = (re.findall(rf"^```{kind}\n(.*?)^```$", document, re.M | re.S)[0] for kind in ("python", "sh"))
    (tmp_path / "shop.py").write_text(code)
    process = await asyncio.create_subprocess_exec(
        *("sh", "-e", "-c", commands),
        cwd=tmp_path,
        env={
            "PATH": f"{sysconfig.get_path('scripts')}:{os.environ['PATH']}",
            "PYTHONPATH": str(DOCUMENT.parents[1]),
            "PASSLINE_DATA_DIR": str(serving.data_dir),
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    assert (process.returncode, output) == (0, b"2 published\n"), errors
    shown = await listed("--outbox-database-url", f"sqlite:///{tmp_path}/shop.db")
    assert shown == []
    assert {order: len(ids) for order, ids in (await log_by_order(serving)).items()} == {"o-17": 2}
