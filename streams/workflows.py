"""Workflows: whose a correlation id is, and how far the order service is with it.

A workflow only goes forward, and of claims and of users that the order service names the first one holds. So the fact
needs no memory of what was applied to it: an event that is repeated changes nothing but the time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from msgspec import UNSET
from sqlalchemy import select

from streams.changes import workflow_fact
from streams.errors import TopicUnknown
from streams.events import OrderReference, WorkflowAccepted, WorkflowBound, WorkflowEvent
from streams.lives import WORKFLOW_SECONDS, is_over
from streams.matrix import status_after
from streams.tables import LIVE

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from streams.changes import Change
    from streams.snapshots import Reading

STATUSES = ("ACCEPTED", "PROCESSING", "COMPLETED")
"""In the order of a workflow's steps."""

_order_reference: msgspec.json.Decoder[str | int] = msgspec.json.Decoder(OrderReference)


class WorkflowUnknown(TopicUnknown):
    """The log as it was when the request came has no such workflow, or it is over."""

    def __init__(self, correlation_id: str) -> None:
        super().__init__(f"there is no workflow {correlation_id}")
        self.correlation_id = correlation_id


# -- The fact ----------------------------------------------------------------------------------------------------------


class Workflow(msgspec.Struct, frozen=True, gc=False):
    """What the log says of one workflow.

    Attributes:
        bound_to: the identity key of who claimed it first.
        accepted_for: whose it is by the order service: that of the first event that says so.
        status: the furthest of STATUSES that it has reached, None before the first.
        order_id: as the order service gave it.
        last_time: the log's time (Unix seconds) of the last event, whatever that was; None if there is none.
    """

    bound_to: str | None = None
    accepted_for: str | None = None
    status: str | None = None
    order_id: str | int | None = None
    last_time: float | None = None

    @property
    def user_key(self) -> str | None:
        """Whose it is, None if nobody's yet."""
        return self.accepted_for or self.bound_to


UNKNOWN = Workflow()


def after(workflow: Workflow, event: WorkflowEvent, time: float, life_seconds: float) -> tuple[Workflow, str | None]:
    """The workflow after an event that the log has from `time`, and why it is to be set aside, if it is.

    What comes for a workflow that is over begins another one.
    """
    if is_over(workflow.last_time, life_seconds, time):
        workflow = UNKNOWN
    wrong = _contradiction(workflow, event)
    changes = {} if wrong else _changes(workflow, event)
    changes["last_time"] = max(time, workflow.last_time or time)
    return msgspec.structs.replace(workflow, **changes), wrong


def _contradiction(workflow: Workflow, event: WorkflowEvent) -> str | None:
    if isinstance(event, WorkflowAccepted) and workflow.accepted_for not in (None, event.user_key):
        return "the workflow was accepted for another user"
    if isinstance(event, WorkflowBound) and workflow.bound_to not in (None, event.user_key):
        return "the workflow was bound to another user"
    return None


def _changes(workflow: Workflow, event: WorkflowEvent) -> dict[str, object]:
    changes: dict[str, object] = {}
    if isinstance(event, WorkflowBound):
        return {"bound_to": event.user_key}
    if isinstance(event, WorkflowAccepted):
        changes["accepted_for"] = event.user_key
    status = status_after(event)
    is_further = _rank(status) > _rank(workflow.status)
    if is_further:
        changes["status"] = status
    order_id = getattr(event, "order_id", UNSET)
    if order_id not in (UNSET, None) and (is_further or workflow.order_id is None):
        changes["order_id"] = order_id
    return changes


def _rank(status: str | None) -> int:
    return -1 if status is None else STATUSES.index(status)


class WorkflowFacts:
    """The `streams.facts.FactKind` of `Workflow`, by correlation id."""

    def __init__(self, life_seconds: float = WORKFLOW_SECONDS) -> None:
        self.life_seconds = life_seconds

    def name(self, key: str) -> str:
        return workflow_fact(key)

    async def read(self, sql: Reading, keys: Collection[str]) -> dict[str, Workflow]:
        """Each of them, `UNKNOWN` if there is none."""
        table = LIVE.workflows
        rows = await sql.rows(select(table).where(table.c.correlation_id.in_(keys)))
        found = {row["correlation_id"]: of_row(dict(row)) for row in rows}
        return {key: found.get(key, UNKNOWN) for key in keys}

    async def applied(self, _: Reading, __: str, ___: Collection[str]) -> frozenset[str]:
        """It does not matter."""
        return frozenset()

    def moved_on(self, state: Workflow, changes: Iterable[Change], _: Collection[str]) -> Workflow:
        for change in changes:
            state = after(state, change.event, change.time, self.life_seconds)[0]
        return state

    def is_over(self, workflow: Workflow, now: float) -> bool:
        """Whether it is gone at `now`, in Unix seconds."""
        return is_over(workflow.last_time, self.life_seconds, now)


def of_row(row: dict[str, object]) -> Workflow:
    """The workflow in a row of the projection."""
    fields = {name: row[name] for name in Workflow.__struct_fields__}
    if isinstance(order_id := row["order_id"], str):
        fields["order_id"] = _order_reference.decode(order_id)
    return Workflow(**fields)  # type: ignore[arg-type]


class WorkflowState(msgspec.Struct, frozen=True, kw_only=True, gc=False, rename="camel"):
    """A workflow as whom it belongs to may see it. `status` is null before the order service has accepted it."""

    correlation_id: str
    status: str | None
    order_id: str | int | None

    @classmethod
    def of(cls, correlation_id: str, workflow: Workflow) -> WorkflowState:
        """What is told of it."""
        return cls(correlation_id=correlation_id, status=workflow.status, order_id=workflow.order_id)


async def workflow_snapshot(sql: Reading, kind: WorkflowFacts, correlation_id: str, now: float) -> WorkflowState | None:
    """The workflow at the reading's position; None if that has not come to it. `now` is in Unix seconds."""
    workflow = (await kind.read(sql, [correlation_id]))[correlation_id]
    if workflow.last_time is None or kind.is_over(workflow, now):
        return None
    return WorkflowState.of(correlation_id, workflow)
