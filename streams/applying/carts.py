"""What a cart's events do to its row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec
from msgspec import UNSET
from sqlalchemy import Table, delete, select
from sqlalchemy.ext.asyncio import AsyncConnection

from streams.applying.rows import Row, chunks, put
from streams.carts import Line, Member, lines_of_row, members_of_row
from streams.database import execute
from streams.entry import Entry
from streams.events import (
    TeamCartConverted,
    TeamCartCreated,
    TeamCartEvent,
    TeamCartExpired,
    TeamCartItemAdded,
    TeamCartItemRemoved,
    TeamCartItemUpdated,
    TeamCartLockedForPayment,
    TeamCartMemberJoined,
    TeamCartMemberLeft,
)
from streams.lives import is_over
from streams.repetition import is_applied, with_applied
from streams.tables import to_microseconds

OPEN: Final = "Open"
_STATUS_AFTER: Final[dict[type[TeamCartEvent], str]] = {
    TeamCartCreated: OPEN,
    TeamCartLockedForPayment: "LockedForPayment",
    TeamCartConverted: "Converted",
    TeamCartExpired: "Expired",
}
_JSON = ("members", "items")


async def apply_carts(
    connection: AsyncConnection, table: Table, events: Sequence[tuple[Entry, TeamCartEvent]], life_seconds: float
) -> None:
    """An event whose id its cart has seen before changes nothing but the time. Those carts that are over at the last
    event's time are forgotten.
    """
    carts = await _load(connection, table, {event.team_cart_id for _, event in events})
    stored = frozenset(carts)
    for entry, event in events:
        cart = carts.get(event.team_cart_id)
        if cart is None or is_over(cart["last_time"], life_seconds, entry.time):
            cart = carts[event.team_cart_id] = _new_cart(entry, event)
        _fold(cart, entry, event)
    await put(connection, table, [_stored(cart) for cart in carts.values()], stored)
    await execute(connection, delete(table).where(table.c.last_time <= events[-1][0].time - life_seconds))


async def _load(connection: AsyncConnection, table: Table, cart_ids: set[str]) -> dict[str, Row]:
    """With members and lines by their keys."""
    carts: dict[str, Row] = {}
    for some in chunks(cart_ids):
        found = await execute(connection, select(table).where(table.c.team_cart_id.in_(some)))
        for row in found.mappings():
            members = {member.key: member for member in members_of_row.decode(row["members"])}
            items = {line.item.item_id: line for line in lines_of_row.decode(row["items"])}
            carts[row["team_cart_id"]] = {**row, "members": members, "items": items}
    return carts


def _stored(cart: Row) -> Row:
    """In the order of joining and of adding, whatever was applied to it twice."""
    lists = {name: sorted(cart[name].values(), key=lambda each: each.behind) for name in _JSON}
    return {**cart, **{name: _json(values) for name, values in lists.items()}}


def _new_cart(entry: Entry, event: TeamCartEvent) -> Row:
    return {
        "team_cart_id": event.team_cart_id,
        "status": OPEN,
        "host_key": None,
        "members": {},
        "items": {},
        "total": None,
        "expires_at": None,
        "order_id": None,
        "restaurant_id": None,
        "first_sequence": entry.sequence,
        "last_sequence": entry.sequence,
        "last_time": entry.time,
        "applied": b"",
    }


def _fold(cart: Row, entry: Entry, event: TeamCartEvent) -> None:
    behind = entry.sequence - cart["first_sequence"]
    cart["last_sequence"] = max(entry.sequence, cart["last_sequence"])
    cart["last_time"] = max(entry.time, cart["last_time"])
    if is_applied(cart["applied"], event.event_id):
        return
    cart["applied"] = with_applied(cart["applied"], event.event_id, behind)
    cart["status"] = _STATUS_AFTER.get(type(event), cart["status"])
    _fold_members(cart, event, behind)
    _fold_items(cart, event, behind)
    if event.total is not UNSET:
        cart["total"] = None if event.total is None else _json(event.total)
    if event.expires_at is not UNSET:
        cart["expires_at"] = None if event.expires_at is None else to_microseconds(event.expires_at)
    if isinstance(event, TeamCartConverted):
        cart["order_id"], cart["restaurant_id"] = event.order_id, event.restaurant_id


def _fold_members(cart: Row, event: TeamCartEvent, behind: int) -> None:
    """Who joins once more without having left has been a member all the time."""
    members: dict[str, Member] = cart["members"]
    key = event.member_key
    if key is None:
        return
    if isinstance(event, TeamCartMemberLeft):
        members.pop(key, None)
    elif isinstance(event, TeamCartCreated | TeamCartMemberJoined):
        present = members.get(key)
        name = event.member_name if event.member_name is not UNSET else present.name if present else None
        members[key] = Member(key, name, present.behind if present else behind)
        if isinstance(event, TeamCartCreated):
            cart["host_key"] = key


def _fold_items(cart: Row, event: TeamCartEvent, behind: int) -> None:
    items: dict[str, Line] = cart["items"]
    if isinstance(event, TeamCartItemRemoved):
        if event.item_id:
            items.pop(event.item_id, None)
    elif isinstance(event, TeamCartItemAdded | TeamCartItemUpdated) and event.item:
        present = items.get(event.item.item_id)
        key = event.member_key or (present.member_key if present else None)
        items[event.item.item_id] = Line(event.item, key, present.behind if present else behind)


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
