"""What of an outbox is not in the log: reading it and marking it, in SQL.

Every mark states a fact: that an event may be sent from now on, that it stands in the log, that the broker refuses it.
So a mark is as true if a relay makes it that has lost its lease meanwhile. Only the first one is fenced: nothing may be
sent but what was claimed under a lease that holds.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from sqlalchemy import MetaData, bindparam, delete, event, func, inspect, select, update

from streams.database import DatabaseBusy, answering, execute, open_database, reading, writing
from streams.errors import StreamsError
from streams.lease import Lease
from streams.outbox import Outbox

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Sequence

    from sqlalchemy import ColumnElement, Connection
    from sqlalchemy.engine.interfaces import DBAPIConnection
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

BrokerUser = Literal["publisher", "access"]
"""nats.conf's users that publish what happened: `access` what is said of staff and tokens, `publisher` all else."""

_PRUNED_AT_ONCE = 1000
_OPENING_SECONDS = 10.0
_POLL_SECONDS = 0.1


class OutboxMissing(StreamsError):
    """The database has no such outbox."""

    def __init__(self, table: str) -> None:
        self.table = table
        super().__init__(f"the database has no outbox {table}: make its tables with the application's migrations")


class LeaseLost(StreamsError):
    """Another relay is active. Nothing was claimed."""

    def __init__(self) -> None:
        super().__init__("another relay is active on this outbox")


class Waiting(NamedTuple):
    """An event that is to be published. `attempts` were made before: with any, it may stand in the log already."""

    id: int
    lane: str
    event_id: str
    type: str
    body: str
    attempts: int


class Unpublished(NamedTuple):
    """One for a person. `created_at` is in Unix seconds."""

    id: int
    lane: str
    event_id: str
    type: str
    created_at: float
    attempts: int
    parked: bool
    problem: str | None


class Counts(NamedTuple):
    """What is not in the log: refused for good; held up by such a one in its lane; to be published next."""

    parked: int
    held_up: int
    waiting: int


class Settled(NamedTuple):
    """What became of events, by id: where each stands, why it never will, why not yet, and what was not sent at all."""

    published: dict[int, int]
    parked: dict[int, str]
    unanswered: dict[int, str]
    unsent: list[int]


@asynccontextmanager
async def open_outbox(url: str, table: str, *, statement_seconds: float) -> AsyncIterator[tuple[AsyncEngine, Outbox]]:
    """The database at `url`, and the outbox in it called `table` or `schema.table`.

    What is committed over these connections survives a power failure, whatever the database's own setting is: an event
    that was sent and of which the database knows nothing would be sent again.

    Raises:
        InvalidDatabaseUrl, DatabaseUnavailable, OutboxMissing
    """
    schema, _, name = table.rpartition(".")
    outbox = Outbox(MetaData(), name, schema or None)

    def is_there(connection: Connection) -> bool:
        tables = (outbox.table, outbox.leases)
        return all(inspect(connection).has_table(each.name, each.schema) for each in tables)

    async with open_database(url, statement_seconds=statement_seconds) as engine:
        durable = "SET synchronous_commit TO on" if engine.dialect.name == "postgresql" else "PRAGMA synchronous=FULL"

        def make_durable(connection: DBAPIConnection, _: object) -> None:
            cursor = connection.cursor()
            cursor.execute(durable)
            cursor.close()
            connection.commit()

        event.listen(engine.sync_engine, "connect", make_durable)
        if not await _once_free(engine, is_there):
            raise OutboxMissing(table)
        yield engine, outbox


async def _once_free(engine: AsyncEngine, look: Callable[[Connection], bool]) -> bool:
    """What `look` finds. A SQLite file that was not in WAL mode is busy while the application writes to it."""
    clock = asyncio.get_running_loop().time
    deadline = clock() + _OPENING_SECONDS
    while True:
        try:
            async with reading(engine) as connection, answering(connection):
                return await connection.run_sync(look)
        except DatabaseBusy:
            if clock() >= deadline:
                raise
            await asyncio.sleep(_POLL_SECONDS)


class Backlog:
    """What of `outbox` a relay has to publish as the broker's `user`. Each call raises DatabaseUnavailable."""

    def __init__(self, engine: AsyncEngine, outbox: Outbox, user: BrokerUser) -> None:
        self.lease = Lease(engine, outbox.leases, user)
        self._engine = engine
        self._table = outbox.table
        self._open = outbox.table.c.published_at.is_(None)
        is_access = outbox.table.c.lane.startswith("access.")
        self._ours = is_access if user == "access" else ~is_access

    async def next(self, limit: int) -> list[Waiting]:
        """The oldest events to be published, in their order. None of a lane in which one is parked.

        There is no mark up to which all is published: a transaction that got an id early may be committed late.
        """
        columns = [self._table.c[name] for name in Waiting._fields]
        statement = select(*columns).where(self._open, self._ours, ~self._is_blocked).order_by(self._table.c.id)
        async with reading(self._engine) as connection:
            found = await execute(connection, statement.limit(limit))
            return [Waiting._make(row) for row in found]

    async def claim(self, ids: Collection[int]) -> bool:
        """Write down that these will now be sent. The lease holds for its time from then on.

        False, and nothing is written, if one of them is not to be sent any more.

        Raises:
            LeaseLost
        """
        table = self._table
        sending = update(table).where(table.c.id.in_(ids), self._open, ~table.c.parked)
        try:
            async with writing(self._engine) as connection:
                if not await self.lease.renew(connection):
                    raise LeaseLost
                claimed = await execute(connection, sending.values(attempts=table.c.attempts + 1))
                if claimed.rowcount != len(ids):
                    raise _Changed
        except _Changed:
            return False
        return True

    async def settle(self, settled: Settled) -> None:
        """Mark what became of them."""
        async with writing(self._engine) as connection:
            await self._mark(
                connection,
                [{"row": row, "at": sequence} for row, sequence in settled.published.items()],
                {"published_at": time.time(), "sequence": bindparam("at"), "parked": False, "problem": None},
            )
            for problems, parked in ((settled.parked, True), (settled.unanswered, False)):
                await self._mark(
                    connection,
                    [{"row": row, "why": problem} for row, problem in problems.items()],
                    {"parked": parked, "problem": bindparam("why")},
                )
            if settled.unsent:
                unsent = update(self._table).where(self._table.c.id.in_(settled.unsent), self._open)
                await execute(connection, unsent.values(attempts=self._table.c.attempts - 1))

    async def prune(self, keep_seconds: float) -> int:
        """Delete what was published longer ago than that; returns how many it were."""
        table, count, pruned = self._table, _PRUNED_AT_ONCE, 0
        old = select(table.c.id).where(table.c.published_at < time.time() - keep_seconds).limit(_PRUNED_AT_ONCE)
        while count == _PRUNED_AT_ONCE:
            async with writing(self._engine) as connection:
                count = (await execute(connection, delete(table).where(table.c.id.in_(old)))).rowcount
            pruned += count
        return pruned

    async def counts(self) -> Counts:
        """Of what is not in the log."""
        rows = select(self._table.c.parked, self._is_blocked.label("held_up")).where(self._open, self._ours).subquery()
        statement = select(rows.c.parked, rows.c.held_up, func.count().label("rows")).group_by(
            rows.c.parked, rows.c.held_up
        )
        async with reading(self._engine) as connection:
            found = (await execute(connection, statement)).all()
        counted = {(bool(row.parked), bool(row.held_up)): int(row.rows) for row in found}
        return Counts(counted.get((True, True), 0), counted.get((False, True), 0), counted.get((False, False), 0))

    @property
    def _is_blocked(self) -> ColumnElement[bool]:
        other = self._table.alias()
        return self._table.c.lane.in_(select(other.c.lane).where(other.c.published_at.is_(None), other.c.parked))

    async def _mark(self, connection: AsyncConnection, rows: list[dict[str, Any]], values: dict[str, Any]) -> None:
        if rows:
            marked = update(self._table).where(self._table.c.id == bindparam("row"), self._open)
            await execute(connection, marked.values(values), rows)


class _Changed(Exception):
    """What was read is not so any more."""


# -- What a person does ------------------------------------------------------------------------------------------------


async def unpublished(engine: AsyncEngine, outbox: Outbox, *, parked_only: bool, limit: int) -> list[Unpublished]:
    """The oldest events that are not in the log, whichever user publishes them. Raises DatabaseUnavailable."""
    table = outbox.table
    statement = select(*(table.c[name] for name in Unpublished._fields)).where(table.c.published_at.is_(None))
    if parked_only:
        statement = statement.where(table.c.parked)
    async with reading(engine) as connection:
        found = await execute(connection, statement.order_by(table.c.id).limit(limit))
        return [Unpublished._make(row) for row in found]


async def retry(engine: AsyncEngine, outbox: Outbox, ids: Sequence[int]) -> list[int]:
    """Let the parked ones of these, all of them if none is named, be published again; returns which those were.

    Raises DatabaseUnavailable.
    """
    table = outbox.table
    again = update(table).where(table.c.parked, table.c.published_at.is_(None)).values(parked=False)
    if ids:
        again = again.where(table.c.id.in_(ids))
    async with writing(engine) as connection:
        return sorted((await execute(connection, again.returning(table.c.id))).scalars())


async def discard(engine: AsyncEngine, outbox: Outbox, ids: Sequence[int]) -> list[int]:
    """Delete the parked ones of these: they never enter the log, and what follows in their lanes does. Returns which.

    Raises DatabaseUnavailable.
    """
    table = outbox.table
    gone = delete(table).where(table.c.parked, table.c.published_at.is_(None), table.c.id.in_(ids))
    async with writing(engine) as connection:
        return sorted((await execute(connection, gone.returning(table.c.id))).scalars())
