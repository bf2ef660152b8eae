"""The projection's tables, in types that SQLite and PostgreSQL keep alike.

A time that an event says is an integer of microseconds since 1970 in UTC: both databases give back exactly what was
stored, and it sorts. The log's own time is a double of Unix seconds, as the broker's client gives it. A list of items
or an amount of money is the JSON text of its struct.
"""

from __future__ import annotations

import datetime as dt
from typing import NamedTuple

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Double,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
)

REACHED = (
    "placed_at",
    "paid_at",
    "payment_failed_at",
    "accepted_at",
    "preparing_at",
    "ready_at",
    "delivered_at",
    "rejected_at",
    "cancelled_at",
)
"""When an order last reached each step, by what the event says (`occurredOnUtc`)."""

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MICROSECOND = dt.timedelta(microseconds=1)
_EARLIEST = (dt.datetime.min.replace(tzinfo=dt.UTC) - _EPOCH) // _MICROSECOND
_LATEST = (dt.datetime.max.replace(tzinfo=dt.UTC) - _EPOCH) // _MICROSECOND


def to_microseconds(time: dt.datetime) -> int:
    """An aware time as the tables hold it.

    RFC 3339 allows times whose UTC form lies outside the years 1 to 9999, such as the first hour of year 1 east of
    Greenwich; they become the earliest or latest time that can be given back.
    """
    return min(max((time - _EPOCH) // _MICROSECOND, _EARLIEST), _LATEST)


def from_microseconds(microseconds: int) -> dt.datetime:
    """The aware UTC time that `to_microseconds` stored."""
    return _EPOCH + microseconds * _MICROSECOND


metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    }
)

position = Table(
    "position",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("epoch", String(32), nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("time", Double, nullable=False),
    CheckConstraint("id = 1", name="single_row"),
)
"""How far the log is applied: one row, the fence of everything that writes to the other tables."""


class Projected(NamedTuple):
    """The tables that are a function of the log; a rebuild fills a set of its own."""

    orders: Table
    staff_roles: Table
    staff_revocations: Table
    staff_events: Table
    token_revocations: Table
    guest_passes: Table
    pairings: Table
    devices: Table
    alarms_due: Table
    workflows: Table
    team_carts: Table


def _orders(name: str, target: MetaData, prefixes: list[str]) -> Table:
    return Table(
        name,
        target,
        Column("order_id", String(64), primary_key=True),
        Column("restaurant_id", String(64), nullable=False),
        Column("customer_id", Text, nullable=False),
        Column("customer_key", String(64), nullable=False),
        Column("order_number", Text),
        Column("customer_name", Text),
        # The status after the order's latest event, as clients are told it.
        Column("status", String(32)),
        # The same without payments: how far the kitchen and the courier are. A refund that fails after the delivery
        # makes the status PaymentFailed, and the order is no less delivered.
        Column("stage", String(32)),
        Column("payment_failed", Boolean, nullable=False),
        Column("is_open", Boolean, nullable=False),
        Column("items", Text),
        Column("total", Text),
        Column("platform_fee", Text),
        Column("estimated_delivery_time", BigInteger),
        Column("actual_delivery_time", BigInteger),
        *(Column(each, BigInteger) for each in REACHED),
        # When it was first delivered, by the log's own time: guests' passes end by that.
        Column("delivered_log_time", Double),
        Column("last_update", BigInteger, nullable=False),
        Column("first_sequence", BigInteger, nullable=False),
        Column("last_sequence", BigInteger, nullable=False),
        # Which events are in this row: 16 bytes each, see `streams.applying`.
        Column("applied", LargeBinary, nullable=False),
        prefixes=prefixes,
    )


def _staff_roles(name: str, target: MetaData, prefixes: list[str]) -> Table:
    return Table(
        name,
        target,
        Column("restaurant_id", String(64), primary_key=True),
        Column("subject_key", String(64), primary_key=True),
        Column("role", String(32), primary_key=True),
        Column("sequence", BigInteger, nullable=False),
        prefixes=prefixes,
    )


def _staff_revocations(name: str, target: MetaData, prefixes: list[str]) -> Table:
    return Table(
        name,
        target,
        Column("restaurant_id", String(64), primary_key=True),
        Column("subject_key", String(64), primary_key=True),
        Column("revoked_at", Double, nullable=False),
        Column("sequence", BigInteger, nullable=False),
        prefixes=prefixes,
    )


def _staff_events(name: str, target: MetaData, prefixes: list[str]) -> Table:
    """Which staff events were applied, so that a late repetition of an assignment gives no role back."""
    return Table(
        name,
        target,
        Column("event_id", String(128), primary_key=True),
        Column("restaurant_id", String(64), primary_key=True),
        Column("subject_key", String(64), primary_key=True),
        Column("sequence", BigInteger, nullable=False),
        prefixes=prefixes,
    )


def _alarms_due(name: str, target: MetaData, prefixes: list[str]) -> Table:
    """What is awaited of an order: the alarms that ring for it if nothing more happens. See `streams.applying.alarms`.

    A row has what the time is reckoned from rather than the time, so that a change of the settings takes effect at
    once.
    """
    return Table(
        name,
        target,
        Column("order_id", String(64), primary_key=True),
        Column("alarm", String(16), primary_key=True),
        Column("restaurant_id", String(64), nullable=False),
        # The log's time from which on it is awaited, None while only a promise counts.
        Column("since", Double),
        # What the order was promised for (`estimatedDeliveryTime`), where the alarm goes by that.
        Column("promised", BigInteger),
        # The event by which it became what it is.
        Column("sequence", BigInteger, nullable=False),
        # The alarm has been read back from the log: not again, unless the order is promised for another time.
        Column("raised", Boolean, nullable=False),
        prefixes=prefixes,
    )


def _guest_passes(name: str, target: MetaData, prefixes: list[str]) -> Table:
    """`sequence` is where the first event of a pass stands, as in the two tables below."""
    return Table(
        name,
        target,
        Column("order_id", String(64), primary_key=True),
        Column("pass_id", String(64), primary_key=True),
        Column("expires_at", BigInteger),
        Column("is_revoked", Boolean, nullable=False),
        Column("sequence", BigInteger, nullable=False),
        prefixes=prefixes,
    )


def _pairings(name: str, target: MetaData, prefixes: list[str]) -> Table:
    return Table(
        name,
        target,
        Column("code_hash", String(64), primary_key=True),
        Column("restaurant_id", String(64), nullable=False),
        Column("pairing_id", String(64), nullable=False),
        Column("expires_at", BigInteger, nullable=False),
        Column("sequence", BigInteger, nullable=False),
        prefixes=prefixes,
    )


def _devices(name: str, target: MetaData, prefixes: list[str]) -> Table:
    """`keys` is the JSON of `streams.devices.KnownKey`s: hashes."""
    return Table(
        name,
        target,
        Column("restaurant_id", String(64), primary_key=True),
        Column("device_id", String(64), primary_key=True),
        Column("name", Text, nullable=False),
        Column("registered_at", Double),
        Column("keys", Text, nullable=False),
        Column("is_revoked", Boolean, nullable=False),
        Column("sequence", BigInteger, nullable=False),
        prefixes=prefixes,
    )


def _workflows(name: str, target: MetaData, prefixes: list[str]) -> Table:
    return Table(
        name,
        target,
        Column("correlation_id", String(64), primary_key=True),
        Column("bound_to", String(64)),
        Column("accepted_for", String(64)),
        Column("status", String(16)),
        # JSON: a string or an integer, as the order service gave it.
        Column("order_id", Text),
        Column("first_sequence", BigInteger, nullable=False),
        # The log's time of the last event, from which on its life counts.
        Column("last_time", Double, nullable=False),
        prefixes=prefixes,
    )


def _team_carts(name: str, target: MetaData, prefixes: list[str]) -> Table:
    return Table(
        name,
        target,
        Column("team_cart_id", String(64), primary_key=True),
        Column("status", String(32), nullable=False),
        Column("host_key", String(64)),
        # JSON: see `streams.carts`.
        Column("members", Text, nullable=False),
        Column("items", Text, nullable=False),
        Column("total", Text),
        Column("expires_at", BigInteger),
        Column("order_id", String(64)),
        Column("restaurant_id", String(64)),
        Column("first_sequence", BigInteger, nullable=False),
        Column("last_sequence", BigInteger, nullable=False),
        Column("last_time", Double, nullable=False),
        # Which events are in this row, see `streams.repetition`.
        Column("applied", LargeBinary, nullable=False),
        prefixes=prefixes,
    )


def _token_revocations(name: str, target: MetaData, prefixes: list[str]) -> Table:
    """Single tokens by their `jti`, and people whose tokens were revoked until then by their key."""
    return Table(
        name,
        target,
        Column("name", String(256), primary_key=True),
        Column("is_subject", Boolean, primary_key=True),
        Column("revoked_at", Double, nullable=False),
        Column("sequence", BigInteger, nullable=False),
        prefixes=prefixes,
    )


def _projected(target: MetaData, prefix: str, prefixes: list[str]) -> Projected:
    return Projected(
        _orders(f"{prefix}orders", target, prefixes),
        _staff_roles(f"{prefix}staff_roles", target, prefixes),
        _staff_revocations(f"{prefix}staff_revocations", target, prefixes),
        _staff_events(f"{prefix}staff_events", target, prefixes),
        _token_revocations(f"{prefix}token_revocations", target, prefixes),
        _guest_passes(f"{prefix}guest_passes", target, prefixes),
        _pairings(f"{prefix}pairings", target, prefixes),
        _devices(f"{prefix}devices", target, prefixes),
        _alarms_due(f"{prefix}alarms_due", target, prefixes),
        _workflows(f"{prefix}workflows", target, prefixes),
        _team_carts(f"{prefix}team_carts", target, prefixes),
    )


LIVE = _projected(metadata, "", [])
Index(None, LIVE.orders.c.restaurant_id, LIVE.orders.c.is_open, LIVE.orders.c.first_sequence, LIVE.orders.c.order_id)
Index(None, LIVE.orders.c.customer_key, LIVE.orders.c.is_open, LIVE.orders.c.first_sequence)
Index(None, LIVE.alarms_due.c.alarm, LIVE.alarms_due.c.raised, LIVE.alarms_due.c.since)
Index(None, LIVE.workflows.c.last_time)
Index(None, LIVE.team_carts.c.last_time)

attended_orders = Table(
    "attended_orders",
    metadata,
    Column("order_id", String(64), primary_key=True),
    Column("sequence", BigInteger, nullable=False),
)
"""Orders that somebody could see since they were placed, by their rows in `alarms_due`. Not from the log: it was asked,
and could not be asked again after all who knew have ended."""

alarm_deliveries = Table(
    "alarm_deliveries",
    metadata,
    Column("event_id", String(128), primary_key=True),
    Column("body", Text, nullable=False),
    # The log's time of the alarm, the next attempt's in Unix seconds.
    Column("raised_at", Double, nullable=False),
    Column("due_at", Double, nullable=False, index=True),
    Column("attempts", Integer, nullable=False),
)
"""Alarms that the webhook has not taken yet. Not from the log alone: what was taken is deleted."""

shadow_metadata = MetaData()
SHADOW = _projected(shadow_metadata, "rebuilt_", ["TEMPORARY"])
"""What a rebuild fills: seen by its own connection only, and gone with it."""
