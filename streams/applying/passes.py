"""What is said of guests' passes, in rows."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Table, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from streams.applying.rows import chunks, replace
from streams.database import execute
from streams.entry import Entry
from streams.events import PassEvent
from streams.passes import UNKNOWN_PASS, GuestPass, PassKey


async def apply_passes(connection: AsyncConnection, table: Table, events: Sequence[tuple[Entry, PassEvent]]) -> None:
    """A row keeps the sequence of its first event: a rebuild takes over whole what the log tells only in part."""
    wanted = {(event.order_id, event.pass_id) for _, event in events}
    known: dict[PassKey, tuple[GuestPass, int]] = {}
    for some in chunks(wanted):
        statement = select(table).where(tuple_(table.c.order_id, table.c.pass_id).in_(some))
        for row in (await execute(connection, statement)).mappings():
            found = GuestPass(row["expires_at"], row["is_revoked"])
            known[row["order_id"], row["pass_id"]] = (found, row["sequence"])
    for entry, event in events:
        key = (event.order_id, event.pass_id)
        before, sequence = known.get(key, (UNKNOWN_PASS, entry.sequence))
        known[key] = (before.after(event), sequence)
    rows = [
        {
            "order_id": order_id,
            "pass_id": pass_id,
            "expires_at": state.expires_at,
            "is_revoked": state.is_revoked,
            "sequence": sequence,
        }
        for (order_id, pass_id), (state, sequence) in known.items()
    ]
    await replace(connection, table, rows)
