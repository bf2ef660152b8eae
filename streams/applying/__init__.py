"""What entries of the log do to the projected tables. The live projection and a rebuild share it.

For a batch there are one read and at most two writes of orders, and a few statements for each other family of events,
whatever its size.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy.ext.asyncio import AsyncConnection

from streams.applying.carts import apply_carts
from streams.applying.devices import apply_devices
from streams.applying.orders import apply_orders
from streams.applying.passes import apply_passes
from streams.applying.rows import Applied, Refused
from streams.applying.staff import apply_staff
from streams.applying.tokens import apply_tokens
from streams.applying.workflows import apply_workflows
from streams.entry import Entry
from streams.events import (
    DeviceEvent,
    OrderEvent,
    PassEvent,
    StaffEvent,
    TeamCartEvent,
    TokenRevoked,
    UnknownEventType,
    WorkflowEvent,
)
from streams.lives import Lives
from streams.tables import Projected


async def apply_entries(
    connection: AsyncConnection, tables: Projected, entries: Sequence[Entry], lives: Lives
) -> Applied:
    """Apply entries, in the log's order; returns those that were not, each with the reason, and the alarms.

    An entry of an unknown type is neither: it waits in the log for a newer version. An event whose id its order (or
    its member of staff) has seen before is a repetition and changes nothing.
    """
    refused: list[Refused] = []
    alarms: list[tuple[Entry, OrderEvent]] = []
    orders: list[tuple[Entry, OrderEvent]] = []
    staff: list[tuple[Entry, StaffEvent]] = []
    tokens: list[tuple[Entry, TokenRevoked]] = []
    passes: list[tuple[Entry, PassEvent]] = []
    devices: list[tuple[Entry, DeviceEvent]] = []
    workflows: list[tuple[Entry, WorkflowEvent]] = []
    carts: list[tuple[Entry, TeamCartEvent]] = []
    for entry in entries:
        match entry.event:
            case OrderEvent() as event:
                orders.append((entry, event))
            case StaffEvent() as event:
                staff.append((entry, event))
            case TokenRevoked() as event:
                tokens.append((entry, event))
            case PassEvent() as event:
                passes.append((entry, event))
            case DeviceEvent() as event:
                devices.append((entry, event))
            case WorkflowEvent() as event:
                workflows.append((entry, event))
            case TeamCartEvent() as event:
                carts.append((entry, event))
            case None if not isinstance(entry.problem, UnknownEventType):
                refused.append((entry, str(entry.problem)))
    if orders:
        of_orders = await apply_orders(connection, tables, orders)
        refused += of_orders.refused
        alarms += of_orders.alarms
    if staff:
        await apply_staff(connection, tables, staff)
    if tokens:
        await apply_tokens(connection, tables.token_revocations, tokens)
    if passes:
        await apply_passes(connection, tables.guest_passes, passes)
    if devices:
        await apply_devices(connection, tables, devices)
    if workflows:
        refused += await apply_workflows(connection, tables.workflows, workflows, lives.workflow_seconds)
    if carts:
        await apply_carts(connection, tables.team_carts, carts, lives.cart_seconds)
    return Applied(sorted(refused, key=lambda each: each[0].sequence), alarms)
