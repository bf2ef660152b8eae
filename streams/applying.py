"""What entries of the log do to the projected tables. The live projection and a rebuild share it.

For a batch there are one read and at most two writes of orders, and a few statements for staff, whatever its size.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, TypeAlias

import msgspec
from msgspec import UNSET
from sqlalchemy import Table, bindparam, delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from streams.database import execute
from streams.entry import Entry
from streams.events import (
    OrderAccepted,
    OrderCancelled,
    OrderCreated,
    OrderDelivered,
    OrderEvent,
    OrderPaymentFailed,
    OrderPaymentSucceeded,
    OrderPlaced,
    OrderPreparing,
    OrderReadyForDelivery,
    OrderRejected,
    Role,
    StaffAssigned,
    StaffEvent,
    StaffRevoked,
    UnknownEventType,
)
from streams.matrix import status_after
from streams.tables import Projected, to_microseconds

Row: TypeAlias = dict[str, Any]
Refused: TypeAlias = tuple[Entry, str]
Member: TypeAlias = tuple[str, str]  # restaurant id and subject key

_REACHED: dict[type[OrderEvent], str] = {
    OrderPlaced: "placed_at",
    OrderCreated: "placed_at",
    OrderPaymentSucceeded: "paid_at",
    OrderPaymentFailed: "payment_failed_at",
    OrderAccepted: "accepted_at",
    OrderPreparing: "preparing_at",
    OrderReadyForDelivery: "ready_at",
    OrderDelivered: "delivered_at",
    OrderRejected: "rejected_at",
    OrderCancelled: "cancelled_at",
}
_PAYMENTS = (OrderPaymentSucceeded, OrderPaymentFailed)
_LAST = (OrderDelivered, OrderRejected, OrderCancelled)  # after these an order is no longer open
_FIXED = ("restaurant_id", "customer_id", "customer_key", "first_sequence")
# An event in the column `applied`: how far behind the order's first event it stands, and 64 bits of a hash of its id.
_APPLIED = struct.Struct(">q8s")
_MOST_PARAMETERS = 1024  # in one IN (…): SQLite allows 32,766 variables, PostgreSQL 32,767
_encoder = msgspec.json.Encoder()


def _json(value: object) -> str:
    return _encoder.encode(value).decode()


_SAID: dict[str, Callable[[Any], object]] = {
    "order_number": str,
    "customer_name": str,
    "items": _json,
    "total": _json,
    "platform_fee": _json,
    "estimated_delivery_time": to_microseconds,
    "actual_delivery_time": to_microseconds,
}
"""The fields that an event may leave out, under their columns' names, and how they are stored."""


async def apply_entries(connection: AsyncConnection, tables: Projected, entries: Sequence[Entry]) -> list[Refused]:
    """Apply entries, in the log's order; returns those that were not, each with the reason.

    An entry of an unknown type is neither: it waits in the log for a newer version. An event whose id its order (or
    its member of staff) has seen before is a repetition and changes nothing.
    """
    refused: list[Refused] = []
    orders: list[tuple[Entry, OrderEvent]] = []
    staff: list[tuple[Entry, StaffEvent]] = []
    for entry in entries:
        match entry.event:
            case OrderEvent() as event:
                orders.append((entry, event))
            case StaffEvent() as event:
                staff.append((entry, event))
            case None if not isinstance(entry.problem, UnknownEventType):
                refused.append((entry, str(entry.problem)))
    if orders:
        refused += await _apply_orders(connection, tables.orders, orders)
    if staff:
        await _apply_staff(connection, tables, staff)
    return sorted(refused, key=lambda each: each[0].sequence)


async def _apply_orders(
    connection: AsyncConnection, table: Table, events: Sequence[tuple[Entry, OrderEvent]]
) -> list[Refused]:
    rows = await _load_orders(connection, table, {event.order_id for _, event in events})
    stored = frozenset(rows)
    changed: dict[str, Row] = {}
    refused: list[Refused] = []
    for entry, event in events:
        row = rows.get(event.order_id)
        if row is None:
            row = rows[event.order_id] = _new_order(entry, event)
        elif reason := _contradiction(row, event):
            refused.append((entry, reason))
            continue
        if _is_new(row, entry, event):
            _fold(row, entry, event)
            changed[event.order_id] = row
    if inserted := [row for order_id, row in changed.items() if order_id not in stored]:
        await execute(connection, insert(table), inserted)
    if updated := [_update(row) for order_id, row in changed.items() if order_id in stored]:
        await execute(connection, update(table).where(table.c.order_id == bindparam("key")), updated)
    return refused


async def _load_orders(connection: AsyncConnection, table: Table, order_ids: Iterable[str]) -> dict[str, Row]:
    rows: dict[str, Row] = {}
    for some in _chunks(order_ids):
        found = await execute(connection, select(table).where(table.c.order_id.in_(some)))
        rows.update((row["order_id"], dict(row)) for row in found.mappings())
    return rows


def _chunks(values: Iterable[Any]) -> Iterator[list[Any]]:
    """The values in lists whose lengths are powers of two, by repetition: a driver prepares few statements for them."""
    iterator = iter(values)
    while some := list(islice(iterator, _MOST_PARAMETERS)):
        yield some + some[:1] * ((1 << (len(some) - 1).bit_length()) - len(some))


def _new_order(entry: Entry, event: OrderEvent) -> Row:
    row: Row = dict.fromkeys((*_REACHED.values(), *_SAID, "status", "stage"))
    row.update(
        order_id=event.order_id,
        restaurant_id=event.restaurant_id,
        customer_id=event.customer_id,
        customer_key=event.customer_key,
        payment_failed=False,
        is_open=True,
        first_sequence=entry.sequence,
        applied=b"",
    )
    return row


def _contradiction(row: Row, event: OrderEvent) -> str | None:
    wrong = [
        name
        for name, is_other in (
            ("restaurant", row["restaurant_id"] != event.restaurant_id),
            ("customer", row["customer_key"] != event.customer_key),
        )
        if is_other
    ]
    return f"the order's first event names another {' and another '.join(wrong)}" if wrong else None


def _is_new(row: Row, entry: Entry, event: OrderEvent) -> bool:
    """Whether the order has not seen the event's id; from now on it has."""
    digest = hashlib.blake2b(event.event_id.encode(), digest_size=8).digest()
    if any(seen == digest for _, seen in _APPLIED.iter_unpack(row["applied"])):
        return False
    row["applied"] += _APPLIED.pack(entry.sequence - row["first_sequence"], digest)
    return True


def seen_before(first: int, applied: bytes, first_sequence: int) -> bytes:
    """Of the events in an order's column `applied`, those that stood in the log before `first`."""
    return b"".join(_APPLIED.pack(*each) for each in _APPLIED.iter_unpack(applied) if each[0] + first_sequence < first)


def _fold(row: Row, entry: Entry, event: OrderEvent) -> None:
    row["last_sequence"] = entry.sequence
    row["last_update"] = to_microseconds(event.occurred_on_utc)
    row[_REACHED[type(event)]] = row["last_update"]
    if isinstance(event, _PAYMENTS):
        row["payment_failed"] = isinstance(event, OrderPaymentFailed)
    if status := status_after(event):
        row["status"] = status
        if not isinstance(event, _PAYMENTS):
            row["stage"] = status
            row["is_open"] = not isinstance(event, _LAST)
    for column, stored in _SAID.items():
        value = getattr(event, column)
        if value is not UNSET:
            row[column] = None if value is None else stored(value)


def _update(row: Row) -> Row:
    changes = {column: value for column, value in row.items() if column not in _FIXED}
    changes["key"] = changes.pop("order_id")
    return changes


async def _apply_staff(
    connection: AsyncConnection, tables: Projected, events: Sequence[tuple[Entry, StaffEvent]]
) -> None:
    roles: dict[tuple[Member, Role], int | None] = {}  # the sequence since which, or None: ended
    revocations: dict[Member, Entry] = {}
    for entry, event in await _new_staff_events(connection, tables.staff_events, events):
        member = (event.restaurant_id, event.subject_key)
        match event:
            case StaffAssigned():
                roles[member, event.role] = entry.sequence
            case StaffRevoked():
                roles.update({(member, role): None for role in ([event.role] if event.role else Role)})
                revocations[member] = entry
    await _replace(
        connection,
        tables.staff_roles,
        [
            {"restaurant_id": restaurant_id, "subject_key": subject_key, "role": role.value, "sequence": sequence}
            for ((restaurant_id, subject_key), role), sequence in roles.items()
        ],
    )
    await _replace(
        connection,
        tables.staff_revocations,
        [
            {
                "restaurant_id": restaurant_id,
                "subject_key": subject_key,
                "revoked_at": entry.time,
                "sequence": entry.sequence,
            }
            for (restaurant_id, subject_key), entry in revocations.items()
        ],
    )


async def _new_staff_events(
    connection: AsyncConnection, table: Table, events: Sequence[tuple[Entry, StaffEvent]]
) -> list[tuple[Entry, StaffEvent]]:
    """Those whose id was not seen for their member of staff before; from now on it was."""
    seen: set[tuple[str, str, str]] = set()
    columns = (table.c.event_id, table.c.restaurant_id, table.c.subject_key)
    for some in _chunks({event.event_id for _, event in events}):
        seen.update(tuple(row) for row in await execute(connection, select(*columns).where(columns[0].in_(some))))
    new: dict[tuple[str, str, str], tuple[Entry, StaffEvent]] = {}
    for entry, event in events:
        key = (event.event_id, event.restaurant_id, event.subject_key)
        if key not in seen:
            new.setdefault(key, (entry, event))
    rows = [
        {"event_id": event_id, "restaurant_id": restaurant_id, "subject_key": subject_key, "sequence": entry.sequence}
        for (event_id, restaurant_id, subject_key), (entry, _) in new.items()
    ]
    if rows:
        await execute(connection, insert(table), rows)
    return list(new.values())


async def _replace(connection: AsyncConnection, table: Table, rows: Sequence[Row]) -> None:
    """Put the rows in the place of those with the same key; one whose sequence is None only goes."""
    if not rows:
        return
    same = [column == bindparam(f"old_{column.name}") for column in table.primary_key]
    old = [{f"old_{column.name}": row[column.name] for column in table.primary_key} for row in rows]
    await execute(connection, delete(table).where(*same), old)
    if kept := [row for row in rows if row["sequence"] is not None]:
        await execute(connection, insert(table), kept)
