"""What staff events do to roles and revocations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from sqlalchemy import Table, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from streams.applying.rows import chunks, replace
from streams.database import execute
from streams.entry import Entry
from streams.events import Role, StaffAssigned, StaffEvent, StaffRevoked
from streams.tables import Projected

Member: TypeAlias = tuple[str, str]  # restaurant id and subject key


async def apply_staff(
    connection: AsyncConnection, tables: Projected, events: Sequence[tuple[Entry, StaffEvent]]
) -> None:
    """An event whose id was seen for its member of staff before changes nothing."""
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
    await replace(
        connection,
        tables.staff_roles,
        [
            {"restaurant_id": restaurant_id, "subject_key": subject_key, "role": role.value, "sequence": sequence}
            for ((restaurant_id, subject_key), role), sequence in roles.items()
        ],
    )
    await replace(
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
    for some in chunks({event.event_id for _, event in events}):
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
