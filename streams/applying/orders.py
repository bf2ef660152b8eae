"""What an order's events do to its row."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec
from msgspec import UNSET
from sqlalchemy import Table, bindparam, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from streams.applying.alarms import DueRows
from streams.applying.rows import Applied, Refused, Row, chunks
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
)
from streams.matrix import status_after
from streams.repetition import is_applied, with_applied
from streams.tables import Projected, to_microseconds

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


async def apply_orders(
    connection: AsyncConnection, tables: Projected, events: Sequence[tuple[Entry, OrderEvent]]
) -> Applied:
    """Refused are those that contradict their order's first event."""
    table, due = tables.orders, DueRows(tables.alarms_due)
    order_ids = {event.order_id for _, event in events}
    rows = await _load_orders(connection, table, order_ids)
    await due.load(connection, order_ids)
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
            due.fold(row, entry, event)
            changed[event.order_id] = row
    if inserted := [row for order_id, row in changed.items() if order_id not in stored]:
        await execute(connection, insert(table), inserted)
    if updated := [_update(row) for order_id, row in changed.items() if order_id in stored]:
        await execute(connection, update(table).where(table.c.order_id == bindparam("key")), updated)
    await due.store(connection)
    return Applied(refused, due.alarms)


async def _load_orders(connection: AsyncConnection, table: Table, order_ids: Iterable[str]) -> dict[str, Row]:
    rows: dict[str, Row] = {}
    for some in chunks(order_ids):
        found = await execute(connection, select(table).where(table.c.order_id.in_(some)))
        rows.update((row["order_id"], dict(row)) for row in found.mappings())
    return rows


def _new_order(entry: Entry, event: OrderEvent) -> Row:
    row: Row = dict.fromkeys((*_REACHED.values(), *_SAID, "status", "stage"))
    row.update(
        order_id=event.order_id,
        restaurant_id=event.restaurant_id,
        customer_id=event.customer_id,
        customer_key=event.customer_key,
        payment_failed=False,
        delivered_log_time=None,
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
    if is_applied(row["applied"], event.event_id):
        return False
    row["applied"] = with_applied(row["applied"], event.event_id, entry.sequence - row["first_sequence"])
    return True


def _fold(row: Row, entry: Entry, event: OrderEvent) -> None:
    row["last_sequence"] = entry.sequence
    row["last_update"] = to_microseconds(event.occurred_on_utc)
    if isinstance(event, OrderDelivered) and row["delivered_log_time"] is None:
        row["delivered_log_time"] = entry.time
    if reached := _REACHED.get(type(event)):
        row[reached] = row["last_update"]
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
