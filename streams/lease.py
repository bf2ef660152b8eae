"""Whose turn it is: a row in the database, held for a few seconds at a time by one of several processes."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING
from uuid import uuid4

from sqlalchemy import ColumnElement, Double, Table, Update, cast, extract, func, insert, literal, or_, select, update
from sqlalchemy.exc import IntegrityError

from streams.database import execute, writing

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

LEASE_SECONDS = 10.0
"""After so long without a word of its holder a lease is free."""


class Lease:
    """The lease called `name` in `table` (see `streams.outbox`), for one process.

    A holder that was paused may believe in it for longer. So what must happen under the lease is written in one
    transaction with `renew`. Each call raises DatabaseUnavailable.
    """

    def __init__(self, engine: AsyncEngine, table: Table, name: str) -> None:
        self._engine = engine
        self._table = table
        self._name = name
        self._holder = uuid4().hex

    async def hold(self) -> bool:
        """Take it, or keep it for another LEASE_SECONDS; False if another process has it."""
        try:
            async with writing(self._engine) as connection:
                return await self.renew(connection) or await self._take(connection)
        except IntegrityError:  # another process has made the first row
            return False

    async def renew(self, connection: AsyncConnection) -> bool:
        """Keep it for LEASE_SECONDS from the commit of this transaction; False if it has gone to another process."""
        return (await execute(connection, self._mine().values(expires_at=self._end))).rowcount == 1

    async def release(self) -> None:
        """Let another process have it at once."""
        async with writing(self._engine) as connection:
            await execute(connection, self._mine().values(holder=None))

    async def _take(self, connection: AsyncConnection) -> bool:
        row = self._table.c
        this = row.broker_user == self._name
        mine = {"holder": self._holder, "expires_at": self._end}
        is_free = or_(row.holder.is_(None), row.expires_at < self._now)
        # If the row is locked, its holder is at work: that is not waited for.
        free = select(row.broker_user).where(this, is_free).with_for_update(skip_locked=True)
        if (await execute(connection, free)).one_or_none() is not None:
            await execute(connection, update(self._table).where(this).values(mine))
            return True
        if (await execute(connection, select(row.broker_user).where(this))).one_or_none() is None:
            await execute(connection, insert(self._table).values(broker_user=self._name, **mine))
            return True
        return False

    def _mine(self) -> Update:
        row = self._table.c
        return update(self._table).where(row.broker_user == self._name, row.holder == self._holder)

    @property
    def _end(self) -> ColumnElement[float]:
        return self._now + LEASE_SECONDS

    @property
    def _now(self) -> ColumnElement[float]:
        """By the database's clock, which is one for all; the processes on a SQLite file are on one machine."""
        if self._engine.dialect.name == "postgresql":
            return cast(extract("epoch", func.clock_timestamp()), Double)
        return literal(time.time(), Double)
