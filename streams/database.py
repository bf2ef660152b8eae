"""The SQL database: SQLite in a file, or PostgreSQL. Opening it, its limits, its transactions.

Whatever goes wrong in a driver leaves this module as one of its own errors, and no statement waits for longer than its
limit: a database that does not answer costs a caller seconds, never a hang.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, TypeAlias

import aiosqlite
import sqlalchemy.exc as sa_errors
import structlog
from sqlalchemy import URL, Connection, CursorResult, Executable, event, make_url, text
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

from streams.errors import StreamsError

STATEMENT_SECONDS = 2.0
"""The longest that one statement may take, waiting for a lock included."""

IDLE_SECONDS = 30.0
"""After that PostgreSQL ends a transaction whose owner has stopped talking, and with it the locks that it holds."""

_MARGIN_SECONDS = 0.5  # so that the database's own limit speaks first: it says what it was waiting for
_LOCK_SHARE = 0.75  # a lock's limit is below the statement's, or PostgreSQL would not say that it was a lock
_PROGRESS_STEPS = 20_000  # SQLite's virtual machine instructions between two looks at the clock: about a millisecond
_POSTGRES_PARAMETERS = {"host", "port", "ssl", "sslmode"}
_UNDEFINED = {"42P01", "42703"}  # no such table, no such column: not migrated yet
_BUSY = {"55P03", "40001", "40P01"}  # lock not available, serialization failure, deadlock
_SQLITE_STATE = (sqlite3.OperationalError, sqlite3.DatabaseError)  # the latter by itself: a damaged file
_OURS = ("22", "23", "42")  # SQLSTATE classes that are a mistake in a statement, not a state of the database

Parameters: TypeAlias = Mapping[str, Any] | Sequence[Mapping[str, Any]]

_log = structlog.get_logger()


class InvalidDatabaseUrl(StreamsError, ValueError):
    """An address of no database that can be used. The message never repeats it: it may hold a password."""

    def __init__(self, detail: str) -> None:
        super().__init__(
            f"{detail}; a database is sqlite:///<file> (four slashes for an absolute path)"
            " or postgresql://<user>:<password>@<host>/<name>"
        )


class DatabaseUnavailable(StreamsError):
    """The database does not answer, or not in time. `reason` is what the driver said."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the database is not available: {reason}")
        self.reason = reason


class DatabaseBusy(DatabaseUnavailable):
    """Somebody else holds what the statement needs: a lock did not come in time, or another transaction won."""


@asynccontextmanager
async def open_database(url: str, *, statement_seconds: float = STATEMENT_SECONDS) -> AsyncIterator[AsyncEngine]:
    """A pool of connections to the database at `url`. Connects when first used, so that a process starts without it.

    Raises:
        InvalidDatabaseUrl: `url` is not one that can be used.
    """
    engine = _engine(parse_url(url), statement_seconds)
    try:
        yield engine
    finally:
        async with _tidying(statement_seconds):
            await engine.dispose()


def parse_url(text: str) -> URL:
    """The address with its asynchronous driver.

    Raises:
        InvalidDatabaseUrl: another kind of database, no database named, or parameters that are not known here.
    """
    try:
        url = make_url(text)
    except (sa_errors.ArgumentError, ValueError):
        raise InvalidDatabaseUrl("not a URL") from None  # the cause would quote it
    match url.drivername:
        case "sqlite" | "sqlite+aiosqlite":
            if not url.database or url.database == ":memory:":
                raise InvalidDatabaseUrl("several processes share the database, so SQLite needs a file")
            if url.query:
                raise InvalidDatabaseUrl("a SQLite address takes no parameters")
            return url.set(drivername="sqlite+aiosqlite")
        case "postgresql" | "postgres" | "postgresql+asyncpg":
            if not url.database:
                raise InvalidDatabaseUrl("the address names no database")
            if not _POSTGRES_PARAMETERS.issuperset(url.query):
                raise InvalidDatabaseUrl(f"its parameters may be {', '.join(sorted(_POSTGRES_PARAMETERS))}")
            query = {"ssl" if name == "sslmode" else name: value for name, value in url.query.items()}
            return url.set(drivername="postgresql+asyncpg", query=query)
        case other:
            raise InvalidDatabaseUrl(f"no support for {other!r}")


def _engine(url: URL, statement_seconds: float) -> AsyncEngine:
    common: dict[str, Any] = {
        "hide_parameters": True,  # they hold names of customers
        "pool_timeout": statement_seconds,
        "execution_options": {"statement_seconds": statement_seconds},
    }
    if url.get_backend_name() == "sqlite":
        # Each connection is a thread, so none is made for a moment.
        # isolation_level=None: we begin transactions, the driver does not.
        connect: dict[str, Any] = {
            "timeout": statement_seconds,
            "isolation_level": None,
            "async_creator_fn": _connect_sqlite,
        }
        engine = create_async_engine(url, pool_size=4, max_overflow=0, connect_args=connect, **common)
        event.listen(engine.sync_engine, "connect", _prepare_sqlite)
        event.listen(engine.sync_engine, "begin", _begin_sqlite)
        event.listen(engine.sync_engine, "before_cursor_execute", _start_clock)
        event.listen(engine.sync_engine, "after_cursor_execute", _stop_clock)
        return engine
    milliseconds = int(statement_seconds * 1000)
    settings = {
        "application_name": "passline",
        "statement_timeout": str(milliseconds),
        "lock_timeout": str(int(milliseconds * _LOCK_SHARE)),
        "idle_in_transaction_session_timeout": str(int(IDLE_SECONDS * 1000)),
    }
    connect = {"timeout": statement_seconds, "server_settings": settings}
    return create_async_engine(
        url, pool_size=10, max_overflow=0, pool_pre_ping=True, pool_recycle=1800, connect_args=connect, **common
    )


# SQLite has a limit for waiting on a lock and none for working, so the clock below interrupts a statement.


async def _connect_sqlite(*arguments: Any, **options: Any) -> aiosqlite.Connection:
    connection = aiosqlite.connect(*arguments, **options)
    thread = connection._thread  # noqa: SLF001 - as SQLAlchemy does
    thread.daemon = True
    try:
        return await connection
    except BaseException:
        # Or it outlives the event loop that it answers, and says so on stderr.
        await asyncio.to_thread(thread.join, _MARGIN_SECONDS)
        raise


class _Clock:
    deadline = float("inf")

    def is_over(self) -> bool:
        return time.monotonic() > self.deadline


def _prepare_sqlite(connection: DBAPIConnection, entry: ConnectionPoolEntry) -> None:
    clock = entry.info["clock"] = _Clock()
    try:
        connection.run_async(lambda driver: driver.set_progress_handler(clock.is_over, _PROGRESS_STEPS))
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")  # readers and the one writer don't wait for each other
        # NORMAL: a power failure may take the last transactions, never a part of one. Each brings its position in the
        # log along, so what was taken is applied again; an fsync for each commit would buy nothing.
        cursor.execute("PRAGMA synchronous=NORMAL")
        cursor.close()
    except BaseException:
        connection.close()  # nobody else has it yet
        raise


def _begin_sqlite(connection: Connection) -> None:
    connection.exec_driver_sql(connection.get_execution_options()["sqlite_begin"])


def _start_clock(connection: Connection, *_: object) -> None:
    seconds = connection.get_execution_options()["statement_seconds"]
    connection.info["clock"].deadline = float("inf") if seconds is None else time.monotonic() + seconds


def _stop_clock(connection: Connection, *_: object) -> None:
    connection.info["clock"].deadline = float("inf")


@asynccontextmanager
async def reading(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """One read transaction: every statement in it sees the same state, whatever is committed meanwhile.

    Raises:
        DatabaseUnavailable
    """
    options: dict[str, Any] = {}
    if engine.dialect.name == "postgresql":
        options = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
    async with connected(engine, **options) as connection, transaction(connection):
        yield connection


@asynccontextmanager
async def writing(engine: AsyncEngine, *, limited: bool = True) -> AsyncIterator[AsyncConnection]:
    """One write transaction: committed at its orderly end, rolled back otherwise.

    On SQLite it holds the write lock from its beginning: one that began by reading could not always go on to write.
    Without `limited` a statement in it may take as long as it takes, for what moves whole tables.

    Raises:
        DatabaseBusy, DatabaseUnavailable
    """
    options = {} if limited else {"statement_seconds": None}
    async with connected(engine, **options) as connection, transaction(connection, to_write=True):
        if not limited and engine.dialect.name == "postgresql":
            await execute(connection, text("SET LOCAL statement_timeout = 0"))
        yield connection


@asynccontextmanager
async def connected(engine: AsyncEngine, **options: Any) -> AsyncIterator[AsyncConnection]:
    """A connection for one or more transactions, with SQLAlchemy's execution options.

    One of them is ours: `statement_seconds`, the limit, None for none.
    """
    limit = engine.sync_engine.get_execution_options()["statement_seconds"]
    async with _answering(limit):
        connection = await engine.connect()
    try:
        async with _answering(limit):
            await connection.execution_options(**options)
        yield connection
    finally:
        async with _tidying(limit):
            await connection.close()


@asynccontextmanager
async def transaction(connection: AsyncConnection, *, to_write: bool = False) -> AsyncIterator[None]:
    """A transaction on the connection: committed at its orderly end, rolled back otherwise.

    On SQLite one that is `to_write` has the write lock from its beginning.
    """
    async with answering(connection):
        await connection.execution_options(sqlite_begin="BEGIN IMMEDIATE" if to_write else "BEGIN")
        begun = await connection.begin()
    try:
        yield
        async with answering(connection):
            await begun.commit()
    except BaseException:
        async with _tidying(_limit(connection)):
            await begun.rollback()
        raise


async def execute(
    connection: AsyncConnection, statement: Executable, parameters: Parameters | None = None
) -> CursorResult[Any]:
    """The statement's result, within the connection's limit. With a list of parameters it runs once for each.

    Raises:
        DatabaseBusy, DatabaseUnavailable
    """
    async with answering(connection):
        return await connection.execute(statement, parameters)


def answering(connection: AsyncConnection) -> AbstractAsyncContextManager[None]:
    """Encloses what talks to the database in another way than `execute`, with the same limit and errors."""
    return _answering(_limit(connection))


def _limit(connection: AsyncConnection) -> float | None:
    assert connection.sync_connection is not None
    seconds: float | None = connection.sync_connection.get_execution_options()["statement_seconds"]
    return seconds


@asynccontextmanager
async def _answering(seconds: float | None) -> AsyncIterator[None]:
    """The boundary: bounds what it encloses and turns foreign exceptions into ours.

    A server that has stopped altogether is given as long again to close the connection.
    """
    try:
        async with asyncio.timeout(None if seconds is None else seconds + _MARGIN_SECONDS):
            yield
    except sa_errors.DBAPIError as error:
        explained = _explained(error)
        if explained is None:
            raise
        raise explained from error
    except (TimeoutError, sa_errors.TimeoutError) as error:
        raise DatabaseUnavailable("no answer in time") from error
    except (OSError, sa_errors.PendingRollbackError, sa_errors.ResourceClosedError) as error:
        raise DatabaseUnavailable(f"{type(error).__name__}: {error}") from error


@asynccontextmanager
async def _tidying(seconds: float | None) -> AsyncIterator[None]:
    """The same for what comes after: its failure takes nothing back, and must not stand in for an earlier one."""
    try:
        async with _answering(seconds):
            yield
    except DatabaseUnavailable as error:
        _log.warning("database.tidying_failed", reason=error.reason)


def _explained(error: sa_errors.DBAPIError) -> StreamsError | None:
    """What the database's refusal means, or None for a mistake in the statement itself."""
    reason = str(error.orig).partition("\n")[0]
    code = getattr(error.orig, "sqlstate", None) or ""
    if code in _BUSY or reason.startswith("database is locked"):
        return DatabaseBusy(reason)
    if (code.startswith(_OURS) and code not in _UNDEFINED) or isinstance(error, sa_errors.IntegrityError):
        return None
    if isinstance(error.orig, sqlite3.Error) and type(error.orig) not in _SQLITE_STATE:
        return None
    return DatabaseUnavailable(reason)
