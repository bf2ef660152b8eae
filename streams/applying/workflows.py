"""What workflow events do to workflows."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from sqlalchemy import Table, delete, select
from sqlalchemy.ext.asyncio import AsyncConnection

from streams.applying.rows import Refused, Row, chunks, put
from streams.database import execute
from streams.entry import Entry
from streams.events import WorkflowEvent
from streams.lives import is_over
from streams.workflows import UNKNOWN, Workflow, after, of_row


async def apply_workflows(
    connection: AsyncConnection, table: Table, events: Sequence[tuple[Entry, WorkflowEvent]], life_seconds: float
) -> list[Refused]:
    """Returns those that contradict their workflow. Those that are over at the last event's time are forgotten.

    What comes for a workflow that is over begins another one, whether it was forgotten already or not.
    """
    first: dict[str, int] = {}
    workflows: dict[str, Workflow] = {}
    stored: set[str] = set()
    for some in chunks({event.correlation_id for _, event in events}):
        found = await execute(connection, select(table).where(table.c.correlation_id.in_(some)))
        for row in found.mappings():
            correlation_id = row["correlation_id"]
            stored.add(correlation_id)
            first[correlation_id], workflows[correlation_id] = row["first_sequence"], of_row(dict(row))
    refused: list[Refused] = []
    for entry, event in events:
        correlation_id = event.correlation_id
        before = workflows.get(correlation_id, UNKNOWN)
        if before.last_time is None or is_over(before.last_time, life_seconds, entry.time):
            first[correlation_id] = entry.sequence
        workflows[correlation_id], wrong = after(before, event, entry.time, life_seconds)
        if wrong:
            refused.append((entry, wrong))
    rows = [_row(key, workflow, first[key]) for key, workflow in workflows.items()]
    await put(connection, table, rows, stored)
    await execute(connection, delete(table).where(table.c.last_time <= events[-1][0].time - life_seconds))
    return refused


def _row(correlation_id: str, workflow: Workflow, first_sequence: int) -> Row:
    row = msgspec.structs.asdict(workflow)
    if workflow.order_id is not None:
        row["order_id"] = msgspec.json.encode(workflow.order_id).decode()
    return {**row, "correlation_id": correlation_id, "first_sequence": first_sequence}
