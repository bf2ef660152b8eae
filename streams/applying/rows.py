"""Rows of the projected tables, many at a time."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple, TypeAlias

from sqlalchemy import Table, bindparam, delete, insert, update
from sqlalchemy.ext.asyncio import AsyncConnection

from streams.database import execute
from streams.entry import Entry
from streams.events import OrderEvent

Row: TypeAlias = dict[str, Any]
Refused: TypeAlias = tuple[Entry, str]
"""An entry that was not applied, and why."""


class Applied(NamedTuple):
    """What came of entries, in the log's order: those that were refused, and the alarms that were new."""

    refused: list[Refused]
    alarms: list[tuple[Entry, OrderEvent]]


_MOST_PARAMETERS = 1024  # in one IN (…): SQLite allows 32,766 variables, PostgreSQL 32,767


def chunks(values: Iterable[Any]) -> Iterator[list[Any]]:
    """The values in lists whose lengths are powers of two, by repetition: a driver prepares few statements for them."""
    iterator = iter(values)
    while some := list(islice(iterator, _MOST_PARAMETERS)):
        yield some + some[:1] * ((1 << (len(some) - 1).bit_length()) - len(some))


async def put(connection: AsyncConnection, table: Table, rows: Sequence[Row], stored: Container[str]) -> None:
    """Insert the rows, or update those whose key is `stored`; the table's key is one column."""
    (column,) = table.primary_key
    if inserted := [row for row in rows if row[column.name] not in stored]:
        await execute(connection, insert(table), inserted)
    updated = [{"id": row[column.name], **row} for row in rows if row[column.name] in stored]
    for row in updated:
        del row[column.name]
    if updated:
        await execute(connection, update(table).where(column == bindparam("id")), updated)


async def replace(connection: AsyncConnection, table: Table, rows: Sequence[Row]) -> None:
    """Put the rows in the place of those with the same key; one whose sequence is None only goes."""
    if not rows:
        return
    same = [column == bindparam(f"old_{column.name}") for column in table.primary_key]
    old = [{f"old_{column.name}": row[column.name] for column in table.primary_key} for row in rows]
    await execute(connection, delete(table).where(*same), old)
    if kept := [row for row in rows if row["sequence"] is not None]:
        await execute(connection, insert(table), kept)
