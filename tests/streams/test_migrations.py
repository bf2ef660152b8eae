"""The way to this version's schema, from nothing, on both databases."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import inspect, text

from streams.database import open_database, reading, writing
from streams.migrations import WrongSchema, check_schema, head, migrate
from streams.projection import Projection
from streams.tables import metadata

if TYPE_CHECKING:
    from sqlalchemy import Connection


async def test_migrating_makes_every_table_and_again_changes_nothing(empty_database: str) -> None:
    assert await migrate(empty_database) == head()
    assert await migrate(empty_database) == head()
    async with open_database(empty_database) as engine:
        await check_schema(engine)
        async with reading(engine) as connection:
            names = await connection.run_sync(lambda sync: set(inspect(sync).get_table_names()))
    assert names == {*metadata.tables, "alembic_version"}


async def test_tables_in_code_and_in_the_migrations_are_the_same(database: str) -> None:
    def differences(connection: Connection) -> list[object]:
        return list(compare_metadata(MigrationContext.configure(connection, opts={"compare_type": True}), metadata))

    async with open_database(database) as engine, reading(engine) as connection:
        assert await connection.run_sync(differences) == []


async def test_index_serves_the_open_orders_of_a_restaurant(database: str) -> None:
    query = (
        "SELECT order_id FROM orders WHERE restaurant_id = 'r1' AND is_open = true ORDER BY first_sequence, order_id"
    )
    async with open_database(database) as engine, reading(engine) as connection:
        explain = "EXPLAIN QUERY PLAN" if engine.dialect.name == "sqlite" else "EXPLAIN"
        if engine.dialect.name == "postgresql":
            await connection.execute(text("SET LOCAL enable_seqscan = off"))
        plan = str((await connection.execute(text(f"{explain} {query}"))).all())
    assert "ix_orders_restaurant_id_is_open_first_sequence_order_id" in plan
    assert "Sort" not in plan
    assert "TEMP B-TREE" not in plan


async def test_two_processes_may_migrate_at_once(empty_database: str) -> None:
    program = "import asyncio, sys; from streams.migrations import migrate; print(asyncio.run(migrate(sys.argv[1])))"
    processes = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-W", "error", "-c", program, empty_database),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        for _ in range(3)
    ]
    results = await asyncio.gather(*(process.communicate() for process in processes))
    assert [(out, err) for out, err in results] == [(f"{head()}\n".encode(), b"")] * 3
    async with open_database(empty_database) as engine:
        await check_schema(engine)


async def test_database_without_tables_is_told_what_to_run(empty_database: str) -> None:
    async with open_database(empty_database) as engine:
        with pytest.raises(WrongSchema, match=r"run `passline projection migrate`") as caught:
            await check_schema(engine)
    assert (caught.value.found, caught.value.wanted) == (None, head())


async def test_database_of_a_newer_version_is_refused_and_left_alone(database: str) -> None:
    async with open_database(database) as engine:
        async with writing(engine) as connection:
            await connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        for refused in (check_schema(engine), migrate(database)):
            with pytest.raises(WrongSchema, match="a newer version migrated it") as caught:
                await refused
            assert caught.value.found == "9999"
        assert await Projection(engine).position() is None


async def test_migration_that_fails_leaves_nothing_behind(empty_database: str) -> None:
    async with open_database(empty_database) as engine, writing(engine) as connection:
        await connection.execute(text("CREATE TABLE staff_events (other integer)"))
    with pytest.raises(Exception, match="staff_events"):
        await migrate(empty_database)
    async with open_database(empty_database) as engine, reading(engine) as connection:
        assert await connection.run_sync(lambda sync: inspect(sync).get_table_names()) == ["staff_events"]
