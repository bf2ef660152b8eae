"""What is said of devices and their pairings, in rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec
from sqlalchemy import Table, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from streams.applying.rows import Row, chunks, replace
from streams.database import execute
from streams.devices import UNKNOWN_DEVICE, Device, DeviceName, device_of, opened
from streams.entry import Entry
from streams.events import DeviceEvent, DeviceRegistered, DeviceRevoked, PairingOpened
from streams.tables import Projected


async def apply_devices(
    connection: AsyncConnection, tables: Projected, events: Sequence[tuple[Entry, DeviceEvent]]
) -> None:
    """A device's row keeps the sequence of its first event: a rebuild takes over whole what the log tells in part."""
    pairings: dict[str, Row] = {}
    changes: list[tuple[Entry, DeviceRegistered | DeviceRevoked]] = []
    for entry, event in events:
        match event:
            case PairingOpened():
                fields = msgspec.structs.asdict(opened(event))
                pairings[event.code_hash] = {"code_hash": event.code_hash, **fields, "sequence": entry.sequence}
            case DeviceRegistered() | DeviceRevoked():
                changes.append((entry, event))
    await replace(connection, tables.pairings, list(pairings.values()))
    if changes:
        await _apply_changes(connection, tables.devices, changes)


async def _apply_changes(
    connection: AsyncConnection, table: Table, changes: Sequence[tuple[Entry, DeviceRegistered | DeviceRevoked]]
) -> None:
    known = await _load(connection, table, {(event.restaurant_id, event.device_id) for _, event in changes})
    for entry, event in changes:
        key = (event.restaurant_id, event.device_id)
        before, sequence = known.get(key, (UNKNOWN_DEVICE, entry.sequence))
        known[key] = (before.after(event, entry.time), sequence)
    rows = [
        {
            "restaurant_id": restaurant_id,
            "device_id": device_id,
            "name": device.name,
            "registered_at": device.registered_at,
            "keys": msgspec.json.encode(device.keys).decode(),
            "is_revoked": device.is_revoked,
            "sequence": sequence,
        }
        for (restaurant_id, device_id), (device, sequence) in known.items()
    ]
    await replace(connection, table, rows)


async def _load(
    connection: AsyncConnection, table: Table, wanted: Iterable[DeviceName]
) -> dict[DeviceName, tuple[Device, int]]:
    known: dict[DeviceName, tuple[Device, int]] = {}
    for some in chunks(wanted):
        statement = select(table).where(tuple_(table.c.restaurant_id, table.c.device_id).in_(some))
        for row in (await execute(connection, statement)).mappings():
            known[row["restaurant_id"], row["device_id"]] = (device_of(row), row["sequence"])
    return known
