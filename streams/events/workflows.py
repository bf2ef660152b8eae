"""How far the order service is with a request, by the correlation id that its sender chose."""

from __future__ import annotations

import hashlib
from typing import Annotated

from msgspec import UNSET, Meta, UnsetType
from msgspec.structs import force_setattr

from streams.events.fields import Event, EventId, Id, Identity, UtcTime, check_identity
from streams.subjects import identity_key, workflow_subject

OrderReference = Id | Annotated[int, Meta(ge=0, le=2**63 - 1)]
"""An order's id as the order service gives it, kept as it came."""


class WorkflowEvent(Event, frozen=True, kw_only=True, gc=False):
    """One step of a workflow."""

    correlation_id: Id

    def log_subject(self) -> str:
        return workflow_subject(self.correlation_id, self.type_name())


class WorkflowUserEvent(WorkflowEvent, frozen=True, kw_only=True, gc=False):
    """A step that says whose the workflow is."""

    user_id: Identity

    def __post_init__(self) -> None:
        check_identity("userId", self.user_id)

    @property
    def user_key(self) -> str:
        """The user as grants name them."""
        return identity_key(self.user_id)


class WorkflowBound(WorkflowUserEvent, frozen=True, kw_only=True, gc=False, tag="WorkflowBound"):
    """A fact: the user has claimed the correlation id. The first one holds, until the order service says otherwise."""


class WorkflowAccepted(WorkflowUserEvent, frozen=True, kw_only=True, gc=False, tag="WorkflowAccepted"):
    """The order service has taken the request, and says whose it is: that holds, whoever claimed it."""

    order_id: OrderReference | UnsetType | None = UNSET


class WorkflowProcessing(WorkflowEvent, frozen=True, kw_only=True, gc=False, tag="WorkflowProcessing"):
    order_id: OrderReference | UnsetType | None = UNSET


class OrderProcessed(WorkflowEvent, frozen=True, kw_only=True, gc=False, tag="OrderProcessed"):
    """The last step, as its service sends it: `correlationId`, `orderId` and `occurredAtUtc`, without an `eventId`.

    The id is derived, so that the same message sent again is the same event; what is published says `occurredOnUtc`, as
    all events do.
    """

    event_id: EventId = ""
    occurred_on_utc: UtcTime | UnsetType = UNSET  # type: ignore[assignment]  # it has one once it is made
    occurred_at_utc: UtcTime | UnsetType = UNSET
    order_id: OrderReference

    def __post_init__(self) -> None:
        if self.occurred_on_utc is UNSET:
            if self.occurred_at_utc is UNSET:
                raise ValueError("`occurredAtUtc` or `occurredOnUtc` is required")
            force_setattr(self, "occurred_on_utc", self.occurred_at_utc)
        force_setattr(self, "occurred_at_utc", UNSET)
        if not self.event_id:
            force_setattr(self, "event_id", processed_event_id(self.correlation_id, self.order_id))


def processed_event_id(correlation_id: str, order_id: str | int) -> str:
    """The `eventId` of an OrderProcessed that has none: `OrderProcessed-` and 160 bits of SHA-256 in hexadecimal of
    `<correlation id>/<order id>`.
    """
    return "OrderProcessed-" + hashlib.sha256(f"{correlation_id}/{order_id}".encode()).hexdigest()[:40]
