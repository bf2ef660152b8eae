"""An application's outbox on both databases, and the relay on a real broker."""

from __future__ import annotations

import ast
import asyncio
import random
import subprocess
import sys
import threading
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import MetaData, create_engine, select, text, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from streams.backlog import (
    Backlog,
    Counts,
    LeaseLost,
    OutboxMissing,
    Settled,
    discard,
    open_outbox,
    retry,
    unpublished,
)
from streams.broker import connect
from streams.credentials import inbox_prefix
from streams.database import execute, parse_url, reading
from streams.events import MalformedEvent, OrderAccepted, OrderPlaced, OrderPreparing, StaffAssigned, encode
from streams.events import Role as StaffRole
from streams.log import Log
from streams.outbox import DEFAULT_NAME, Outbox, lane_of
from streams.provision import provision
from streams.publisher import Publisher, Status
from streams.relay import NothingPublished, Relay, RelayActive
from tests.support.nats import SETTINGS, api, client, eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from nats.aio.client import Client

    from streams.backlog import BrokerUser
    from streams.embedded import EmbeddedNats
    from streams.events import Event
    from streams.log import Stored
    from streams.publisher import Result

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
WINDOW_SECONDS = 0.1
"""The shortest window that JetStream takes; what was published is beyond it after a moment."""

outbox = Outbox(MetaData())


def placed(order_id: str, event_id: str, **fields: Any) -> OrderPlaced:
    return OrderPlaced(**_fields(order_id, event_id, fields))


def accepted(order_id: str, event_id: str, **fields: Any) -> OrderAccepted:
    return OrderAccepted(**_fields(order_id, event_id, fields))


def preparing(order_id: str, event_id: str, **fields: Any) -> OrderPreparing:
    return OrderPreparing(**_fields(order_id, event_id, fields))


def _fields(order_id: str, event_id: str, fields: dict[str, Any]) -> dict[str, Any]:
    fixed = {"order_id": order_id, "event_id": event_id, "occurred_on_utc": NOW}
    return {**fixed, "restaurant_id": "r1", "customer_id": "c1", **fields}


def assigned(event_id: str) -> StaffAssigned:
    return StaffAssigned(
        event_id=event_id, occurred_on_utc=NOW, restaurant_id="r1", subject="auth0|5f", role=StaffRole.STAFF
    )


# -- The application's side --------------------------------------------------------------------------------------------


class Shop(NamedTuple):
    """An application's database with the tables of its outbox: as the application opens it, and as a relay does."""

    application: AsyncEngine
    engine: AsyncEngine


@pytest.fixture
async def shop(empty_database: str) -> AsyncIterator[Shop]:
    application = create_async_engine(parse_url(empty_database))
    async with application.begin() as connection:
        await connection.run_sync(outbox.table.metadata.create_all)
    async with open_outbox(empty_database, DEFAULT_NAME, statement_seconds=5) as (engine, _):
        yield Shop(application, engine)
    await application.dispose()


async def add(shop: Shop, *events: Event) -> None:
    async with AsyncSession(shop.application) as session, session.begin():
        for event in events:
            outbox.add(session, event)


async def rows(shop: Shop) -> list[Any]:
    async with shop.application.connect() as connection:
        return list((await connection.execute(select(outbox.table).order_by(outbox.table.c.id))).all())


async def test_events_are_committed_with_the_transaction_or_not_at_all(shop: Shop) -> None:
    event = placed("o1", "a", customer_name="Žofie \U0001f355")
    await add(shop, event, accepted("o1", "b"), assigned("c"))
    async with AsyncSession(shop.application) as session:
        outbox.add(session, preparing("o1", "never"))
        await session.flush()
        await session.rollback()
    found = await rows(shop)
    assert [(row.event_id, row.type, row.lane) for row in found] == [
        ("a", "OrderPlaced", "orders.o1"),
        ("b", "OrderAccepted", "orders.o1"),
        ("c", "StaffAssigned", "access.r1"),
    ]
    assert found[0].body == encode(event).decode()
    assert [(row.attempts, row.parked, row.published_at) for row in found] == [(0, False, None)] * 3


def test_synchronous_session_adds_in_the_same_way(tmp_path: Any) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'shop.db'}")
    outbox.table.metadata.create_all(engine)
    with Session(engine) as session, session.begin():
        outbox.add(session, placed("o1", "a"))
        with session.begin_nested() as inner:
            outbox.add(session, accepted("o1", "never"))
            inner.rollback()
        outbox.add(session, accepted("o1", "b"))
    with Session(engine) as session:
        assert list(session.scalars(select(outbox.table.c.event_id).order_by(outbox.table.c.id))) == ["a", "b"]
    engine.dispose()


async def test_many_events_of_one_flush_keep_their_order(shop: Shop) -> None:
    await add(shop, *(placed(f"o{number % 7}", f"e{number}") for number in range(2500)))
    assert [row.event_id for row in await rows(shop)] == [f"e{number}" for number in range(2500)]


async def test_event_that_is_added_twice_fails_its_transaction(shop: Shop) -> None:
    await add(shop, placed("o1", "a"))
    with pytest.raises(IntegrityError):
        await add(shop, placed("o1", "a"))


def test_struct_that_is_no_event_is_refused_when_it_is_added() -> None:
    with Session() as session:
        for wrong in (placed("o.>", "a"), placed("o1", ""), placed("o1", "a", occurred_on_utc=datetime(2026, 11, 20))):  # noqa: DTZ001
            with pytest.raises(MalformedEvent):
                outbox.add(session, wrong)
        assert not session.new


def test_application_imports_neither_the_broker_nor_the_gateway() -> None:
    asked = "import sys, streams.outbox; print(sorted({name.partition('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    loaded = set(ast.literal_eval(done.stdout))
    assert loaded.isdisjoint({"nats", "alembic", "asyncpg", "aiosqlite", "gateway", "auth", "litestar", "structlog"})


def test_order_is_one_lane_whoever_is_said_to_own_it() -> None:
    assert lane_of(placed("o1", "a")) == lane_of(accepted("o1", "b", restaurant_id="r2")) == "orders.o1"
    assert lane_of(placed("o2", "a")) == "orders.o2"
    assert lane_of(assigned("a")) == "access.r1"


async def test_migrations_of_the_application_find_the_tables_as_they_are(shop: Shop) -> None:
    async with shop.application.connect() as connection:
        differences = await connection.run_sync(
            lambda sync: compare_metadata(
                MigrationContext.configure(sync, opts={"compare_server_default": True}), outbox.table.metadata
            )
        )
    assert differences == []


async def test_outbox_may_have_another_name_and_a_schema(postgres: Any) -> None:
    url = await postgres.create("outbox-in-a-schema")
    other = Outbox(MetaData(), "events_out", "shop")
    application = create_async_engine(parse_url(url))
    async with application.begin() as connection:
        await connection.execute(text("CREATE SCHEMA shop"))
        await connection.run_sync(other.table.metadata.create_all)
    async with AsyncSession(application) as session, session.begin():
        other.add(session, placed("o1", "a"))
    await application.dispose()
    async with open_outbox(url, "shop.events_out", statement_seconds=5) as (engine, found):
        assert [row.event_id for row in await Backlog(engine, found, "publisher").next(10)] == ["a"]
    with pytest.raises(OutboxMissing, match="no outbox events_out"):
        async with open_outbox(url, "events_out", statement_seconds=5):
            pass
    await postgres.drop("outbox-in-a-schema")


# -- What waits, and who may take it -----------------------------------------------------------------------------------


@pytest.fixture
def backlog(shop: Shop) -> Backlog:
    return Backlog(shop.engine, outbox, "publisher")


@pytest.mark.parametrize("database_kind", ["postgresql"])  # SQLite has one writer at a time
async def test_late_commit_of_an_early_id_is_not_passed_over(shop: Shop, backlog: Backlog) -> None:
    async with AsyncSession(shop.application) as early, early.begin():
        outbox.add(early, placed("o1", "a"))
        await early.flush()
        await add(shop, placed("o2", "b"))
        (second,) = await backlog.next(10)
        await backlog.settle(Settled({second.id: 7}, {}, {}, []))
    assert [row.event_id for row in await backlog.next(10)] == ["a"]


async def test_lease_has_one_holder_until_it_ends_or_lets_go(shop: Shop) -> None:
    first, second = Backlog(shop.engine, outbox, "publisher"), Backlog(shop.engine, outbox, "publisher")
    other = Backlog(shop.engine, outbox, "access")
    both = await asyncio.gather(first.lease.hold(), second.lease.hold())
    assert sorted(both) == [False, True]
    holder, waiter = (first, second) if both[0] else (second, first)
    assert await holder.lease.hold()
    assert not await waiter.lease.hold()
    assert await other.lease.hold()
    await holder.lease.release()
    assert await waiter.lease.hold()
    await expire_leases(shop)
    assert await holder.lease.hold()
    await waiter.lease.release()  # which is not its own any more
    assert not await waiter.lease.hold()


async def expire_leases(shop: Shop) -> None:
    async with shop.application.begin() as connection:
        await connection.execute(update(outbox.leases).values(expires_at=1.0))


async def test_nothing_is_claimed_under_a_lease_that_is_lost(shop: Shop) -> None:
    paused, active = Backlog(shop.engine, outbox, "publisher"), Backlog(shop.engine, outbox, "publisher")
    await add(shop, placed("o1", "a"))
    assert await paused.lease.hold()
    (row,) = await paused.next(10)
    await expire_leases(shop)
    assert await active.lease.hold()
    with pytest.raises(LeaseLost):
        await paused.claim([row.id])
    assert [found.attempts for found in await rows(shop)] == [0]
    assert await active.claim([row.id])
    assert [found.attempts for found in await rows(shop)] == [1]


async def test_nothing_is_claimed_that_is_settled_meanwhile(shop: Shop, backlog: Backlog) -> None:
    await add(shop, placed("o1", "a"), placed("o2", "b"))
    assert await backlog.lease.hold()
    first, second = await backlog.next(10)
    await backlog.settle(Settled({first.id: 1}, {}, {}, []))
    assert not await backlog.claim([first.id, second.id])
    assert [found.attempts for found in await rows(shop)] == [0, 0]


async def test_published_is_published_whatever_is_marked_later(shop: Shop, backlog: Backlog) -> None:
    await add(shop, placed("o1", "a"))
    (row,) = await backlog.next(10)
    await backlog.settle(Settled({row.id: 5}, {}, {}, []))
    await backlog.settle(Settled({}, {row.id: "refused"}, {}, []))
    await backlog.settle(Settled({}, {}, {row.id: "no answer"}, [row.id]))
    (found,) = await rows(shop)
    assert (found.sequence, found.parked, found.problem, found.attempts) == (5, False, None, 0)


# -- The relay ---------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def relaying(
    server: EmbeddedNats, shop: Shop, user: BrokerUser = "publisher", *, keep_seconds: float = 3600
) -> AsyncIterator[Relay]:
    async with client(server, user) as nc:
        yield relay_over(nc, shop, user, keep_seconds=keep_seconds)


def relay_over(nc: Client, shop: Shop, user: BrokerUser = "publisher", *, keep_seconds: float = 3600) -> Relay:
    log = Log(nc)
    return Relay(
        Backlog(shop.engine, outbox, user), log, lambda known: Publisher(nc, log, known), keep_seconds=keep_seconds
    )


async def until_published(relay: Relay, count: int) -> None:
    await eventually(lambda: relay.published >= count, within=15)


@asynccontextmanager
async def running(relay: Relay) -> AsyncIterator[None]:
    task = asyncio.create_task(relay.run())
    try:
        yield
        relay.stop()
        await asyncio.wait_for(task, 10)
    finally:
        task.cancel()


async def drain(server: EmbeddedNats, shop: Shop, user: BrokerUser = "publisher") -> int:
    async with relaying(server, shop, user) as relay:
        await relay.drain()
        return relay.published


async def log_of(server: EmbeddedNats) -> list[Stored]:
    async with client(server, "gateway") as nc:
        log, found = Log(nc), list[Any]()
        while (entry := await log.next_match(found[-1].sequence if found else 0, ">")) is not None:
            found.append(entry)
        return found


async def ids_in(server: EmbeddedNats) -> list[str]:
    return [entry.headers["Nats-Msg-Id"] for entry in await log_of(server)]


async def forget_message_ids(server: EmbeddedNats) -> None:
    """Make the deduplication window a moment, and wait until it is over for what is in the log."""
    async with client(server, "admin") as admin:
        config = (await api(admin, "STREAM.INFO.EVENTS"))["config"]
        await api(admin, "STREAM.UPDATE.EVENTS", {**config, "duplicate_window": int(WINDOW_SECONDS * 1e9)})
    async with client(server, "publisher") as nc:
        log = Log(nc)

        async def is_forgotten() -> bool:
            answer = await nc.request("workflows.w.Probe", b"{}", headers={"Nats-Msg-Id": "probe"})
            return b"duplicate" not in answer.data

        assert await is_forgotten()
        await eventually(is_forgotten)
        assert await log.get(1) is not None


async def test_events_are_published_as_they_are_and_marked_with_their_place(
    shop: Shop, log_server: EmbeddedNats
) -> None:
    events = [placed("o1", "a", customer_id="auth0|5f"), accepted("o1", "b", customer_id="auth0|5f"), placed("o2", "c")]
    await add(shop, *events)
    assert await drain(log_server, shop) == 3
    entries = await log_of(log_server)
    assert [(entry.subject, entry.data) for entry in entries] == [(each.log_subject(), encode(each)) for each in events]
    found = await rows(shop)
    assert [(row.sequence, row.attempts, row.problem) for row in found] == [(1, 1, None), (2, 1, None), (3, 1, None)]
    assert all(row.published_at >= row.created_at for row in found)
    assert await drain(log_server, shop) == 0


@pytest.mark.parametrize("seed", range(2))
async def test_order_of_each_order_is_kept_while_applications_add(
    shop: Shop, log_server: EmbeddedNats, seed: int
) -> None:
    chance = random.Random(seed)
    orders = [f"o{number}" for number in range(40)]
    added: dict[str, list[str]] = {order: [] for order in orders}

    async def application(name: str, of: Sequence[str]) -> None:
        """It owns its orders, and so serializes what happens to them."""
        for number in range(30):
            chosen = chance.sample(list(of), chance.randint(1, 5))
            events = [placed(order, f"{name}-{number}-{order}") for order in chosen]
            await add(shop, *events)
            for event in events:
                added[event.order_id].append(event.event_id)

    async with relaying(log_server, shop) as relay, running(relay):
        await asyncio.gather(*(application(f"app{n}", orders[n::4]) for n in range(4)))
        total = sum(map(len, added.values()))
        await until_published(relay, total)
    entries = await log_of(log_server)
    in_log: dict[str, list[str]] = {order: [] for order in orders}
    for entry in entries:
        in_log[entry.subject.split(".")[3]].append(entry.headers["Nats-Msg-Id"])
    assert in_log == added


async def test_order_of_transactions_that_lock_the_order_is_the_order_in_the_log(
    shop: Shop, log_server: EmbeddedNats
) -> None:
    """Many at once for one order; who changes the order's row first is first."""
    async with shop.application.begin() as connection:
        await connection.execute(text("CREATE TABLE counter (value INTEGER)"))
        await connection.execute(text("INSERT INTO counter VALUES (0)"))

    async def change(times: int) -> None:
        for _ in range(times):
            async with AsyncSession(shop.application) as session, session.begin():
                locked = await session.execute(text("UPDATE counter SET value = value + 1 RETURNING value"))
                outbox.add(session, accepted("o1", f"e{locked.scalar_one()}"))

    async with relaying(log_server, shop) as relay, running(relay):
        await asyncio.gather(*(change(15) for _ in range(4)))
        await until_published(relay, 60)
    assert await ids_in(log_server) == [f"e{number}" for number in range(1, 61)]


async def test_published_events_are_kept_for_a_time_and_their_ids_not_given_again(
    shop: Shop, log_server: EmbeddedNats
) -> None:
    await add(shop, placed("o1", "a"), accepted("o2", "b", restaurant_id="r2"))
    await drain(log_server, shop)
    assert len(await rows(shop)) == 2
    async with relaying(log_server, shop, keep_seconds=0) as relay:
        await relay.drain()
    assert await rows(shop) == []
    await add(shop, accepted("o1", "c"))
    (row,) = await rows(shop)
    assert row.id == 3


async def test_relay_commits_to_the_disk_whatever_the_database_does_otherwise(shop: Shop) -> None:
    asked = "PRAGMA synchronous" if shop.engine.dialect.name == "sqlite" else "SHOW synchronous_commit"
    async with reading(shop.engine) as connection:
        assert str((await execute(connection, text(asked))).scalar_one()) in ("2", "on")


async def test_draining_relay_gives_way_to_one_that_lives(
    shop: Shop, log_server: EmbeddedNats, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streams.relay.LEASE_SECONDS", 0)  # or it would wait for as long as a dead one's lease lasts
    await add(shop, placed("o1", "a"))
    async with relaying(log_server, shop) as active, relaying(log_server, shop) as late, running(active):
        await eventually(lambda: active.published == 1)
        with pytest.raises(RelayActive):
            await late.drain()


async def test_events_of_staff_are_relayed_by_the_user_that_may(shop: Shop, log_server: EmbeddedNats) -> None:
    await add(shop, assigned("a"), placed("o1", "b"))
    assert await drain(log_server, shop) == 1
    assert await ids_in(log_server) == ["b"]
    assert await drain(log_server, shop, "access") == 1
    assert await ids_in(log_server) == ["b", "a"]


class Died(Exception):
    """The relay's process is no more."""


class DyingPublisher(Publisher):
    """Publishes, and then the process dies before anybody hears of it."""

    async def publish(self, events: Sequence[Event], *, only_over: int | None = None) -> list[Result]:
        await super().publish(events, only_over=only_over)
        raise Died


async def die_after_publishing(server: EmbeddedNats, shop: Shop) -> None:
    async with client(server, "publisher") as nc:
        log = Log(nc)
        relay = Relay(
            Backlog(shop.engine, outbox, "publisher"),
            log,
            lambda known: DyingPublisher(nc, log, known),
            keep_seconds=3600,
        )
        with pytest.raises(Died):
            await relay.drain()


async def test_event_whose_relay_died_is_in_the_log_once_after_the_window_too(
    shop: Shop, log_server: EmbeddedNats
) -> None:
    await add(shop, placed("o1", "a"), accepted("o1", "b"), placed("o2", "c"))
    await die_after_publishing(log_server, shop)
    await forget_message_ids(log_server)
    stored = await ids_in(log_server)
    assert [row.published_at for row in await rows(shop)] == [None] * 3
    await add(shop, preparing("o1", "d"))
    assert await drain(log_server, shop) == 4
    assert await ids_in(log_server) == [*stored, "d"]
    assert [row.sequence for row in await rows(shop)][:3] == [1, 2, 3]


async def test_event_that_was_never_sent_is_published_after_its_relay_died(
    shop: Shop, log_server: EmbeddedNats
) -> None:
    """The claim is committed, and nothing of it reached the broker: of one order a part, of another one nothing."""
    await add(shop, placed("o1", "a"), accepted("o1", "b"), placed("o2", "c"))
    backlog = Backlog(shop.engine, outbox, "publisher")
    assert await backlog.lease.hold()
    assert await backlog.claim([row.id for row in await backlog.next(10)])
    await backlog.lease.release()
    async with client(log_server, "publisher") as nc:
        event = placed("o1", "a")
        await nc.request(event.log_subject(), encode(event), headers={"Nats-Msg-Id": "a"})
    await forget_message_ids(log_server)
    assert await drain(log_server, shop) == 3
    assert [each for each in await ids_in(log_server) if each != "probe"] == ["a", "b", "c"]


class PausedPublisher(Publisher):
    """Stands still, with its whole process, when it is about to publish."""

    def __init__(self, nc: Client, log: Log, known: Any, paused: threading.Event, goes_on: threading.Event) -> None:
        super().__init__(nc, log, known)
        self.paused, self.goes_on = paused, goes_on

    async def publish(self, events: Sequence[Event], *, only_over: int | None = None) -> list[Result]:
        self.paused.set()
        assert self.goes_on.wait(20)
        return await super().publish(events, only_over=only_over)


class Way:
    """Connections to a broker that can be cut."""

    def __init__(self) -> None:
        self.port = 0
        self._writers: list[asyncio.StreamWriter] = []

    @asynccontextmanager
    async def to(self, server: EmbeddedNats) -> AsyncIterator[Way]:
        address = server.address

        async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self._writers.append(writer)
            try:
                while data := await reader.read(65536):
                    writer.write(data)
            except OSError:
                pass
            writer.close()

        async def on_connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            onward = await asyncio.open_connection(address.host, address.port)
            await asyncio.gather(carry(reader, onward[1]), carry(onward[0], writer))

        listening = await asyncio.start_server(on_connection, "127.0.0.1", 0)
        self.port = listening.sockets[0].getsockname()[1]
        async with listening:
            yield self
            self.cut()

    def cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()


async def test_relay_that_wakes_after_another_took_over_sends_nothing(
    shop: Shop, empty_database: str, log_server: EmbeddedNats
) -> None:
    """It has claimed and not sent. When it wakes, the broker has forgotten what the other one sent, and has ended the
    connection, which answered no ping.
    """
    await add(shop, placed("o1", "a"), accepted("o1", "b"), placed("o2", "c"))
    paused, goes_on = threading.Event(), threading.Event()

    async def one_that_is_paused(url: str) -> None:
        async with (
            connect(url, name="paused", inbox_prefix=inbox_prefix("publisher"), on_closed=lambda: None) as nc,
            open_outbox(empty_database, DEFAULT_NAME, statement_seconds=5) as (engine, _),
        ):
            log = Log(nc)

            def make(known: Any) -> Publisher:
                return PausedPublisher(nc, log, known, paused, goes_on)

            with pytest.raises(NothingPublished):
                await Relay(Backlog(engine, outbox, "publisher"), log, make, keep_seconds=3600).drain()
            await eventually(lambda: nc.is_connected)  # whatever it held back would have been sent

    async with Way().to(log_server) as way:
        address = log_server.address
        url = log_server.url("publisher").replace(f":{address.port}", f":{way.port}")
        thread = asyncio.create_task(asyncio.to_thread(asyncio.run, one_that_is_paused(url)))
        assert await asyncio.to_thread(paused.wait, 10)
        await expire_leases(shop)
        assert await drain(log_server, shop) == 3
        await forget_message_ids(log_server)
        stored = await ids_in(log_server)
        way.cut()
        goes_on.set()
        await thread
    assert await ids_in(log_server) == stored
    assert [row.sequence for row in await rows(shop)] == [1, 2, 3]


async def test_nothing_is_sent_when_the_connection_is_a_later_one(log_server: EmbeddedNats) -> None:
    async with client(log_server, "publisher") as nc:
        publisher = Publisher(nc, Log(nc), nobody_known)
        results = await publisher.publish([placed("o1", "a"), placed("o2", "b")], only_over=publisher.connection - 1)
    assert [result.status for result in results] == [Status.NOT_ATTEMPTED] * 2
    assert await ids_in(log_server) == []


async def nobody_known(_: str) -> None:
    return None


async def test_repeated_event_is_told_from_others_under_its_subject(shop: Shop, log_server: EmbeddedNats) -> None:
    """Beyond the window one that has the same id and says something else is a conflict, as within it."""
    await add(shop, placed("o1", "a"), accepted("o1", "b"), accepted("o1", "c"))
    await die_after_publishing(log_server, shop)
    await forget_message_ids(log_server)
    async with shop.application.begin() as connection:
        table = outbox.table
        other = encode(accepted("o1", "b", reason="other")).decode()
        await connection.execute(update(table).where(table.c.event_id == "b").values(body=other))
    assert await drain(log_server, shop) == 2
    assert [(row.event_id, row.parked, row.sequence) for row in await rows(shop)] == [
        ("a", False, 1),
        ("b", True, None),
        ("c", False, 3),
    ]


async def test_refused_event_holds_up_its_order_and_no_other(shop: Shop, log_server: EmbeddedNats) -> None:
    await add(shop, placed("o1", "a"), placed("o2", "b"))
    await drain(log_server, shop)
    await add(shop, accepted("o1", "foreign", restaurant_id="r2"), preparing("o1", "behind"), accepted("o2", "c"))
    await drain(log_server, shop)
    assert await ids_in(log_server) == ["a", "b", "c"]
    backlog = Backlog(shop.engine, outbox, "publisher")
    assert await backlog.counts() == Counts(1, 1, 0)
    foreign, behind = await unpublished(shop.engine, outbox, parked_only=False, limit=10)
    assert (foreign.event_id, foreign.parked) == ("foreign", True)
    assert foreign.problem == "the order belongs to another restaurant or customer"
    assert (behind.event_id, behind.parked, behind.attempts) == ("behind", False, 0)  # it was never sent
    assert await unpublished(shop.engine, outbox, parked_only=True, limit=10) == [foreign]

    assert await retry(shop.engine, outbox, [foreign.id, behind.id]) == [foreign.id]
    await drain(log_server, shop)
    assert await backlog.counts() == Counts(1, 1, 0)
    assert await discard(shop.engine, outbox, [foreign.id, behind.id]) == [foreign.id]
    await drain(log_server, shop)
    assert await ids_in(log_server) == ["a", "b", "c", "behind"]


async def test_event_of_a_newer_application_is_parked_and_retried(shop: Shop, log_server: EmbeddedNats) -> None:
    await add(shop, placed("o1", "a"), accepted("o1", "b"))
    table = outbox.table
    async with shop.application.begin() as connection:
        body = (await connection.execute(select(table.c.body).where(table.c.event_id == "a"))).scalar_one()
        newer = update(table).where(table.c.event_id == "a").values(body=body.replace("OrderPlaced", "OrderDreamt"))
        await connection.execute(newer)
    assert await drain(log_server, shop) == 0
    (parked,) = await unpublished(shop.engine, outbox, parked_only=True, limit=10)
    assert parked.problem is not None
    assert parked.problem.startswith("unknown event type 'OrderDreamt'")
    async with shop.application.begin() as connection:
        await connection.execute(update(table).where(table.c.event_id == "a").values(body=body))
    assert await retry(shop.engine, outbox, []) == [parked.id]
    assert await drain(log_server, shop) == 2
    assert await ids_in(log_server) == ["a", "b"]


async def test_broker_that_is_away_is_waited_for(shop: Shop, start_nats: Any, log_server: EmbeddedNats) -> None:
    """Without the stream nothing takes the events; then it is there."""
    empty = await start_nats("empty")
    await add(shop, placed("o1", "a"), accepted("o1", "b"))
    async with relaying(empty, shop) as relay:
        with pytest.raises(NothingPublished):
            await relay.drain()
    async with relaying(empty, shop) as relay, running(relay):
        await eventually(lambda: relay.halted is not None, within=15)
        async with client(empty, "admin") as admin:
            await provision(admin, SETTINGS)
        await until_published(relay, 2)
    assert await ids_in(empty) == ["a", "b"]


@pytest.mark.parametrize("database_kind", ["postgresql"])
async def test_database_that_is_away_is_waited_for(shop: Shop, log_server: EmbeddedNats) -> None:
    """Its connections end in the middle of everything, again and again."""
    async with relaying(log_server, shop) as relay, running(relay):
        for number in range(30):
            await add(shop, placed(f"o{number % 3}", f"e{number}"))
            async with shop.application.begin() as connection:
                ours = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'passline'"
                await connection.execute(text(ours))
            if number % 10 == 0:
                await until_published(relay, number + 1)
        await until_published(relay, 30)
    assert sorted(await ids_in(log_server)) == sorted(f"e{number}" for number in range(30))
    assert [row.attempts > 0 for row in await rows(shop)] == [True] * 30


async def test_second_relay_takes_over_when_the_first_one_ends(shop: Shop, log_server: EmbeddedNats) -> None:
    async with relaying(log_server, shop) as first, relaying(log_server, shop) as second:
        first_runs = asyncio.create_task(first.run())
        await add(shop, placed("o1", "a"))
        await eventually(lambda: first.published == 1)
        async with running(second):
            await add(shop, accepted("o1", "b"))
            await eventually(lambda: first.published == 2)
            first.stop()
            await first_runs
            await add(shop, preparing("o1", "c"))
            await eventually(lambda: second.published == 1)
    assert await ids_in(log_server) == ["a", "b", "c"]
