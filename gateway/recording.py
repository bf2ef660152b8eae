"""Facts that the gateway itself publishes: an answer that says so is given when the log has them."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING
from uuid import uuid4

from gateway.errors import GatewayError
from streams.errors import BrokerUnavailable
from streams.publisher import PUBLISH_SECONDS, ProblemKind, Status

if TYPE_CHECKING:
    from streams.events import Event
    from streams.publisher import Publisher


class RecordedOtherwise(GatewayError):
    """The log has another event with this id, and always will."""

    def __init__(self, event_id: str) -> None:
        super().__init__(f"the log has another event with the id {event_id}")
        self.event_id = event_id


async def record(publisher: Publisher, event: Event) -> None:
    """Put `event` into the log.

    Raises:
        RecordedOtherwise
        BrokerUnavailable: it may be there or not; the same can be asked for again.
    """
    [result] = await publisher.publish([event])
    if result.status in (Status.STORED, Status.DUPLICATE):
        return
    if result.kind is ProblemKind.CONFLICT:
        raise RecordedOtherwise(event.event_id)
    raise BrokerUnavailable("to keep a fact", PUBLISH_SECONDS, result.problem or "no reason given")


def new_event_id() -> str:
    """For an event of which there is no second one."""
    return str(uuid4())


def now_utc() -> dt.datetime:
    """As `occurredOnUtc`."""
    return dt.datetime.now(dt.UTC)
