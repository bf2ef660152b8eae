"""Workflows: whose a correlation id is and how far the order service is with it, and how somebody claims one.

A workflow only goes forward, and of claims and of users that the order service names the first one holds. So the fact
needs no memory of what was applied to it: an event that is repeated changes nothing but the time.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, NamedTuple

import msgspec
from msgspec import UNSET
from sqlalchemy import select

from streams.broker import request
from streams.changes import workflow_fact
from streams.errors import AnswerNotUnderstood, JetStreamRefused, TopicUnknown
from streams.events import OrderReference, WorkflowAccepted, WorkflowBound, WorkflowEvent, encode
from streams.flights import Acknowledgement, is_temporary
from streams.lives import WORKFLOW_SECONDS, is_over
from streams.matrix import status_after
from streams.subjects import workflow_filter
from streams.tables import LIVE

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from nats.aio.client import Client
    from nats.aio.msg import Msg

    from streams.changes import Change
    from streams.log import Log
    from streams.snapshots import Reading

STATUSES = ("ACCEPTED", "PROCESSING", "COMPLETED")
"""In the order of a workflow's steps."""

_WRONG_LAST_SEQUENCE = 10071  # an `err_code` of JetStream
_order_reference: msgspec.json.Decoder[str | int] = msgspec.json.Decoder(OrderReference)  # type: ignore[arg-type]
_answer = msgspec.json.Decoder(Acknowledgement)


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

    async def applied(self, sql: Reading, key: str, event_ids: Collection[str]) -> frozenset[str]:
        """It does not matter."""
        return frozenset()

    def moved_on(self, state: Workflow, changes: Iterable[Change], applied: Collection[str]) -> Workflow:
        for change in changes:
            state, _ = after(state, change.event, change.time, self.life_seconds)
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


# -- The claim ---------------------------------------------------------------------------------------------------------


class Claim(NamedTuple):
    """Where a workflow's first claim stands in the log, and whether it was made just now."""

    sequence: int
    is_new: bool


async def claim(client: Client, log: Log, event: WorkflowBound) -> Claim:
    """Bind a workflow to a user, unless somebody has bound it before: the broker decides, and the first claim holds.

    Raises:
        BrokerUnavailable, StreamMissing
        JetStreamRefused: the stream takes no events.
    """
    subject = event.log_subject()
    headers = {"Nats-Msg-Id": event.event_id, "Nats-Expected-Last-Subject-Sequence": "0"}
    answer = _understood(await request(client, subject, encode(event), headers=headers, why_again=_why_again))
    if answer.error is None:
        return Claim(answer.seq, is_new=not answer.duplicate)
    if answer.error.err_code == _WRONG_LAST_SEQUENCE and (first := await log.next_match(0, subject)) is not None:
        return Claim(first.sequence, is_new=False)
    raise JetStreamRefused("a workflow's claim", answer.error.code, answer.error.err_code, answer.error.description)


def claim_id(correlation_id: str, user_key: str) -> str:
    """The `eventId` of somebody's claim: the same however often it is made, so that the broker knows it again."""
    return "WorkflowBound-" + hashlib.sha256(f"{correlation_id}/{user_key}".encode()).hexdigest()[:40]


async def first_heard_of(log: Log, correlation_id: str) -> int | None:
    """Where the workflow's first event stands in the log, None if there is none. Raises BrokerUnavailable."""
    first = await log.next_match(0, workflow_filter(correlation_id))
    return None if first is None else first.sequence


def _understood(message: Msg) -> Acknowledgement:
    try:
        return _answer.decode(message.data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise AnswerNotUnderstood("a workflow's claim", str(error)) from error


def _why_again(message: Msg) -> str | None:
    error = _understood(message).error
    return error.description if error is not None and is_temporary(error) else None
