"""The schema: which one the database has, and the way up to this version's."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncEngine

from streams.database import answering, execute, open_database, reading, writing
from streams.errors import StreamsError

MIGRATION_SECONDS = 60.0
"""The longest that one statement of a migration may take, waiting for another process's migration included."""

_LOCK = 0x7061_7373_6C69_6E65  # "passline": the number of PostgreSQL's advisory lock


class WrongSchema(StreamsError):
    """The tables are not those of this version.

    `found` and `wanted` are revisions, which sort; `found` is None for a database without tables.
    """

    def __init__(self, found: str | None, wanted: str) -> None:
        if found is None or found < wanted:
            advice = "run `passline projection migrate`"
        else:
            advice = "a newer version migrated it: upgrade this one, or restore a backup"
        super().__init__(f"the database has schema {found or 'none'}, this version needs {wanted}: {advice}")
        self.found = found
        self.wanted = wanted


async def migrate(url: str) -> str:
    """Take the tables to this version's schema, all of the way or not at all; returns its revision.

    Two processes may do it at once: the second one waits and finds nothing left to do.

    Raises:
        InvalidDatabaseUrl, DatabaseBusy, DatabaseUnavailable
        WrongSchema: a newer version has migrated this database.
    """
    async with open_database(url, statement_seconds=MIGRATION_SECONDS) as engine, writing(engine) as connection:
        if engine.dialect.name == "postgresql":  # SQLite's write lock is held already
            await execute(connection, text("SELECT pg_advisory_xact_lock(:number)"), {"number": _LOCK})
        async with answering(connection):
            await connection.run_sync(_upgrade)
    return head()


async def check_schema(engine: AsyncEngine) -> None:
    """Raises WrongSchema if the tables are not those of this version, DatabaseUnavailable if that can't be known."""
    async with reading(engine) as connection, answering(connection):
        found = await connection.run_sync(_revision)
    if found != head():
        raise WrongSchema(found, head())


def head() -> str:
    """The revision that this version needs."""
    revision = ScriptDirectory.from_config(_config()).get_current_head()
    assert revision is not None
    return revision


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))  # % is configparser's
    return config


def _revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def _upgrade(connection: Connection) -> None:
    config = _config()
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        # The one thing that Alembic can't do here: it does not have the version that the database is at.
        raise WrongSchema(_revision(connection), head()) from error
