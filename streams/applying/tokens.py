"""What revocations of tokens do to their table."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Table, delete
from sqlalchemy.ext.asyncio import AsyncConnection

from streams.applying.rows import replace
from streams.database import execute
from streams.entry import Entry
from streams.events import TokenRevoked
from streams.tokens import REMEMBERED_SECONDS


async def apply_tokens(connection: AsyncConnection, table: Table, events: Sequence[tuple[Entry, TokenRevoked]]) -> None:
    """Revocations that no token can outlive are forgotten."""
    revoked: dict[tuple[str, bool], Entry] = {}
    for entry, event in events:
        subject_key = event.subject_key
        revoked[(str(event.jti), False) if subject_key is None else (subject_key, True)] = entry
    rows = [
        {"name": name, "is_subject": is_subject, "revoked_at": entry.time, "sequence": entry.sequence}
        for (name, is_subject), entry in revoked.items()
    ]
    await replace(connection, table, rows)
    oldest = events[-1][0].time - REMEMBERED_SECONDS
    await execute(connection, delete(table).where(table.c.revoked_at <= oldest))
