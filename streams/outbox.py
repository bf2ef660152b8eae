"""Events out of an application's own SQL transaction: the tables of an outbox, and what puts an event into it.

    outbox = Outbox(Base.metadata)  # beside the application's tables, so that its migrations make these, too

    async with sessions.begin() as session:
        order = await session.get_one(Order, order_id, with_for_update=True)
        order.status = "accepted"
        outbox.add(session, OrderAccepted(...))

The event is committed together with the change that it tells of, or neither is. `passline outbox relay` then puts it
into the log; `streams.relay` says how, and what it promises.

An application needs of Passline nothing but this module and `streams.events`: no broker, no settings.
"""

from __future__ import annotations

import time
from typing import Any, Protocol

from sqlalchemy import BigInteger, Boolean, Column, Double, Index, Integer, MetaData, String, Table, Text, false
from sqlalchemy.orm import registry

from streams.events import Event, OrderEvent, decode, encode

DEFAULT_NAME = "passline_outbox"


class _Adds(Protocol):
    """What `Session`, `AsyncSession` and their scoped forms have in common. In all of them it is synchronous."""

    def add(self, instance: object) -> None: ...


class _Row:
    """One event on its way, as a session writes it at its next flush."""

    def __init__(self, **columns: object) -> None:
        for name, value in columns.items():
            setattr(self, name, value)


class Outbox:
    """The outbox called `name` among the tables of `metadata`, in `schema` or else where the metadata puts its tables.

    `table` holds the events, `leases` says which relay is active. PostgreSQL and SQLite can be relayed from. One
    object for each outbox: a second one of the same name in the same metadata is refused by SQLAlchemy.
    """

    def __init__(self, metadata: MetaData, name: str = DEFAULT_NAME, schema: str | None = None) -> None:
        self.table = _table(metadata, name, schema)
        self.leases = _leases(metadata, f"{name}_relays", schema)
        self._row: type[Any] = type("OutboxRow", (_Row,), {})
        registry(metadata=metadata).map_imperatively(self._row, self.table)

    def add(self, session: _Adds, event: Event) -> None:
        """Put `event` into the outbox with the session's transaction. Does no I/O: the next flush writes it.

        Events of one order, and others of one lane (see `lane_of`), enter the log in the order in which they were
        flushed, if the application serializes the transactions that add them: lock the order's row before the first
        `add` (`with_for_update=True`), or flush your change of it before. On SQLite, which has one writer at a time,
        begin with `BEGIN IMMEDIATE` or with a write. Transactions that run side by side have no order to keep. Nor
        have events of one order that come from two outboxes, or from an outbox and another publisher.

        The flush fails (IntegrityError) if the outbox holds an event with this id, published a while ago or not.

        Raises:
            MalformedEvent: it is not one that the log can take. A struct that is made in Python is checked here first.
        """
        body = encode(event)
        decode(body)
        session.add(
            self._row(
                lane=lane_of(event),
                event_id=event.event_id,
                type=event.type_name(),
                body=body.decode(),
                created_at=time.time(),
            )
        )


def lane_of(event: Event) -> str:
    """What an event is kept in order with: its order, or all under its subject but the last token (a cart, a workflow,
    a restaurant's money, what is said of its staff). Begins with the first token of the event's subject.
    """
    subject = event.log_subject()
    return f"orders.{event.order_id}" if isinstance(event, OrderEvent) else subject.rpartition(".")[0]


def _table(metadata: MetaData, name: str, schema: str | None) -> Table:
    """Times are Unix seconds."""
    table = Table(
        name,
        metadata,
        Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
        Column("lane", String(140), nullable=False),
        # Unique, so that what is added twice is stored once: the log knows that for as long as its window only.
        Column("event_id", String(128), nullable=False, unique=True),
        Column("type", String(64), nullable=False),
        Column("body", Text, nullable=False),
        Column("created_at", Double, nullable=False),
        # How often it was, or may have been, handed to the broker; written before that is done.
        Column("attempts", Integer, nullable=False, default=0, server_default="0"),
        # Why it is not in the log, as far as a relay has heard.
        Column("problem", Text),
        # The problem is for good: this and all that follows in its lane waits for a person.
        Column("parked", Boolean, nullable=False, default=False, server_default=false()),
        Column("published_at", Double),
        Column("sequence", BigInteger),
        schema=schema,
        # An id is never given twice, so that a mark by id never falls on another event.
        sqlite_autoincrement=True,
    )
    Index(None, table.c.published_at, table.c.id)  # what is to be published, in its order; and what is to be pruned
    return table


def _leases(metadata: MetaData, name: str, schema: str | None) -> Table:
    """Which relay is active for each of the broker's users, and until when."""
    return Table(
        name,
        metadata,
        Column("broker_user", String(32), primary_key=True),
        Column("holder", String(32)),
        Column("expires_at", Double, nullable=False),
        schema=schema,
    )
