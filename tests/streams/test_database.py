"""Addresses, limits and transactions of the SQL database."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from streams.database import (
    STATEMENT_SECONDS,
    DatabaseBusy,
    DatabaseUnavailable,
    InvalidDatabaseUrl,
    connected,
    execute,
    open_database,
    parse_url,
    reading,
    transaction,
    writing,
)

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    from tests.support.databases import Postgres

ROW = "INSERT INTO position (id, epoch, sequence, time) VALUES (1, 'e1', 1, 1.5)"
ENDLESS = {
    "sqlite": "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n",
    "postgresql": "SELECT pg_sleep(60)",
}


# -- Addresses -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("sqlite:///some/file.db", "sqlite+aiosqlite:///some/file.db"),
        ("sqlite:////var/lib/file.db", "sqlite+aiosqlite:////var/lib/file.db"),
        ("sqlite+aiosqlite:///file.db", "sqlite+aiosqlite:///file.db"),
        ("postgresql://u:p@h/d", "postgresql+asyncpg://u:p@h/d"),
        ("postgres://h:5433/d", "postgresql+asyncpg://h:5433/d"),
        ("postgresql+asyncpg:///d?host=/run/pg", "postgresql+asyncpg:///d?host=%2Frun%2Fpg"),
        ("postgresql://h/d?sslmode=require", "postgresql+asyncpg://h/d?ssl=require"),
    ],
)
def test_address_gets_its_asynchronous_driver(given: str, used: str) -> None:
    assert parse_url(given).render_as_string(hide_password=False) == used


@pytest.mark.parametrize(
    "given",
    [
        "",
        "secret",
        "mysql://u:secret@h/d",
        "postgresql+psycopg://u:secret@h/d",
        "postgresql://u:secret@h:port/d",
        "postgresql://u:secret@h",
        "postgresql://u:secret@h/d?options=secret",
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite:///file:secret?mode=memory&uri=true",
    ],
)
def test_other_addresses_are_refused_without_telling_a_password(given: str) -> None:
    with pytest.raises(InvalidDatabaseUrl) as caught:
        parse_url(given)
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None


# -- Failures --------------------------------------------------------------------------------------------------------


async def test_server_that_is_not_there_is_unavailable() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        async with open_database(f"postgresql://u:secret@127.0.0.1:{closed.getsockname()[1]}/d") as engine:
            with pytest.raises(DatabaseUnavailable) as caught:
                async with reading(engine):
                    pass
    assert "secret" not in str(caught.value)


async def test_server_that_accepts_and_says_nothing_is_unavailable_within_its_limit() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql://u:secret@127.0.0.1:{silent.getsockname()[1]}/d"
        async with open_database(url, statement_seconds=0.3) as engine:
            started = time.monotonic()
            with pytest.raises(DatabaseUnavailable):
                async with reading(engine):
                    pass
            assert time.monotonic() - started < 2


async def test_file_that_cannot_be_opened_is_unavailable(tmp_path: Path) -> None:
    async with open_database(f"sqlite:///{tmp_path}/missing/file.db") as engine:
        with pytest.raises(DatabaseUnavailable, match="unable to open"):
            async with reading(engine):
                pass


async def test_file_that_is_no_database_is_not_written_to(tmp_path: Path) -> None:
    path = tmp_path / "letter.txt"
    path.write_text("Dear Ada,\n" * 200)
    async with open_database(f"sqlite:///{path}") as engine:
        with pytest.raises(DatabaseUnavailable, match="not a database"):
            async with reading(engine):
                pass
    assert path.read_text() == "Dear Ada,\n" * 200


async def test_parameters_are_not_in_the_message_of_an_error(engine: AsyncEngine) -> None:
    statement = text("INSERT INTO position (id, epoch, sequence, time) VALUES (2, :name, 1, 1)")
    with pytest.raises(IntegrityError) as caught:
        async with writing(engine) as connection:
            await execute(connection, statement, {"name": "Ada Lovelace"})
    assert "[SQL parameters hidden" in str(caught.value)


# -- Limits ----------------------------------------------------------------------------------------------------------


def test_a_statement_may_take_two_seconds() -> None:
    assert STATEMENT_SECONDS == 2.0


async def test_statement_that_works_too_long_is_ended_and_the_connection_goes_on(database: str) -> None:
    async with open_database(database, statement_seconds=0.3) as engine:
        started = time.monotonic()
        with pytest.raises(DatabaseUnavailable):
            async with reading(engine) as connection:
                await execute(connection, text(ENDLESS[engine.dialect.name]))
        assert 0.25 < time.monotonic() - started < 1.5
        async with reading(engine) as connection:
            assert (await execute(connection, text("SELECT 1"))).scalar() == 1


async def test_statement_that_waits_for_a_lock_too_long_is_busy(database: str) -> None:
    async with open_database(database) as holder, open_database(database, statement_seconds=0.4) as waiter:
        async with writing(holder) as connection:
            await execute(connection, text(ROW))
            started = time.monotonic()
            with pytest.raises(DatabaseBusy):
                async with writing(waiter) as second:
                    await execute(second, text(ROW))
            assert 0.25 < time.monotonic() - started < 1.5
        async with reading(waiter) as third:
            assert (await execute(third, text("SELECT sequence FROM position"))).scalar() == 1


async def test_locked_database_costs_two_seconds_and_no_more(database: str) -> None:
    async with open_database(database) as holder, open_database(database) as waiter, writing(holder) as connection:
        await execute(connection, text(ROW))
        started = time.monotonic()
        with pytest.raises(DatabaseBusy):
            async with writing(waiter) as second:
                await execute(second, text(ROW))
        assert 1.0 < time.monotonic() - started < 3.0


SLOW = {
    "sqlite": ENDLESS["sqlite"].replace("FROM n)", "FROM n LIMIT 2000000)"),
    "postgresql": "SELECT pg_sleep(0.3)",
}


async def test_unlimited_transaction_may_take_longer(database: str) -> None:
    async with open_database(database, statement_seconds=0.1) as engine:
        async with writing(engine, limited=False) as connection:
            await execute(connection, text(SLOW[engine.dialect.name]))
        with pytest.raises(DatabaseUnavailable):
            async with writing(engine) as connection:
                await execute(connection, text(SLOW[engine.dialect.name]))


async def test_server_that_stops_in_a_transaction_is_given_up(postgres: Postgres) -> None:
    async def stop_and_ask(engine: AsyncEngine) -> None:
        async with reading(engine) as connection:
            backend = (await execute(connection, text("SELECT pg_backend_pid()"))).scalar_one()
            os.kill(backend, signal.SIGSTOP)
            try:
                await execute(connection, text("SELECT 1"))
            finally:
                os.kill(backend, signal.SIGCONT)

    url = await postgres.create("stopped")
    async with open_database(url, statement_seconds=0.3) as engine:
        started = time.monotonic()
        with pytest.raises(DatabaseUnavailable, match="no answer in time"):
            await stop_and_ask(engine)
        assert time.monotonic() - started < 5
        async with reading(engine) as connection:
            assert (await execute(connection, text("SELECT 1"))).scalar() == 1
    await postgres.drop("stopped")


async def test_idle_connection_that_died_is_replaced(postgres: Postgres) -> None:
    url = await postgres.create("died")
    async with open_database(url) as engine:
        async with reading(engine) as connection:
            backend = (await execute(connection, text("SELECT pg_backend_pid()"))).scalar_one()
        await postgres.run(f"SELECT pg_terminate_backend({backend}, 5000)")
        async with reading(engine) as connection:
            assert (await execute(connection, text("SELECT 1"))).scalar() == 1
    await postgres.drop("died")


async def test_connection_that_dies_in_a_transaction_is_unavailable(postgres: Postgres) -> None:
    async def die_and_ask(engine: AsyncEngine) -> None:
        async with reading(engine) as connection:
            backend = (await execute(connection, text("SELECT pg_backend_pid()"))).scalar_one()
            await postgres.run(f"SELECT pg_terminate_backend({backend}, 5000)")
            await execute(connection, text("SELECT 1"))

    url = await postgres.create("dies")
    async with open_database(url) as engine:
        with pytest.raises(DatabaseUnavailable):
            await die_and_ask(engine)
    await postgres.drop("dies")


async def test_more_callers_than_connections_are_refused_in_time(database: str) -> None:
    done = asyncio.Event()

    async with open_database(database, statement_seconds=0.3) as engine:

        async def occupy(taken: asyncio.Semaphore) -> None:
            async with reading(engine):
                taken.release()
                await done.wait()

        taken = asyncio.Semaphore(0)
        holders = [asyncio.create_task(occupy(taken)) for _ in range(20)]
        finished, _ = await asyncio.wait(holders, timeout=5, return_when=asyncio.FIRST_EXCEPTION)
        assert any(isinstance(holder.exception(), DatabaseUnavailable) for holder in finished)
        done.set()
        await asyncio.gather(*holders, return_exceptions=True)
        async with reading(engine) as connection:
            assert (await execute(connection, text("SELECT 1"))).scalar() == 1


# -- Transactions ----------------------------------------------------------------------------------------------------


async def test_reading_sees_one_state_whatever_is_committed_meanwhile(database: str) -> None:
    async with open_database(database) as engine, reading(engine) as connection:
        assert (await execute(connection, text("SELECT count(*) FROM position"))).scalar() == 0
        async with writing(engine) as other:
            await execute(other, text(ROW))
        assert (await execute(connection, text("SELECT count(*) FROM position"))).scalar() == 0


async def test_postgresql_reading_cannot_write(postgres: Postgres) -> None:
    url = await postgres.create("readonly")
    async with open_database(url) as engine:
        with pytest.raises(DatabaseUnavailable, match="read-only"):
            async with reading(engine) as connection:
                await execute(connection, text("CREATE TABLE t (i integer)"))
        async with writing(engine) as connection:
            await execute(connection, text("CREATE TABLE t (i integer)"))
    await postgres.drop("readonly")


async def test_writing_that_fails_leaves_nothing(engine: AsyncEngine) -> None:
    async def fail() -> None:
        async with writing(engine) as connection:
            await execute(connection, text(ROW))
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        await fail()
    async with reading(engine) as connection:
        assert (await execute(connection, text("SELECT count(*) FROM position"))).scalar() == 0


async def test_connection_serves_several_transactions(engine: AsyncEngine) -> None:
    async def insert(connection: AsyncConnection, times: int) -> None:
        async with transaction(connection, to_write=True):
            for _ in range(times):
                await execute(connection, text(ROW))

    async with connected(engine) as connection:
        with pytest.raises(IntegrityError):
            await insert(connection, 2)
        await insert(connection, 1)
        async with transaction(connection):
            assert (await execute(connection, text("SELECT count(*) FROM position"))).scalar() == 1


async def test_sqlite_keeps_a_write_ahead_log_without_an_fsync_for_each_commit(tmp_path: Path) -> None:
    async with open_database(f"sqlite:///{tmp_path}/new.db") as engine, reading(engine) as connection:
        assert (await execute(connection, text("PRAGMA journal_mode"))).scalar() == "wal"
        assert (await execute(connection, text("PRAGMA synchronous"))).scalar() == 1


async def test_sqlite_writing_has_the_lock_before_it_reads(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/new.db"
    async with open_database(url) as one, open_database(url, statement_seconds=0.1) as other, writing(one):
        with pytest.raises(DatabaseBusy):
            async with writing(other):
                pass
        async with reading(other) as connection:
            assert (await execute(connection, text("SELECT 1"))).scalar() == 1
