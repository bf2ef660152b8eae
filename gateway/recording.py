"""Facts that the gateway itself publishes: an answer that says so is given when the log has them."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING
from uuid import uuid4

from streams.errors import BrokerUnavailable
from streams.publisher import PUBLISH_SECONDS, Status

if TYPE_CHECKING:
    from streams.events import Event
    from streams.publisher import Publisher


async def record(publisher: Publisher, event: Event) -> bool:
    """Put `event` into the log. False where another one with its id is there already, and always will be.

    Raises:
        BrokerUnavailable: it may be there or not; the same can be asked for again.
    """
    [result] = await publisher.publish([event])
    if result.status in (Status.STORED, Status.DUPLICATE):
        return True
    if result.kind == "conflict":
        return False
    raise BrokerUnavailable("to keep a fact", PUBLISH_SECONDS, result.problem or "no reason given")


def new_event_id() -> str:
    """For an event of which there is no second one."""
    return str(uuid4())


def now_utc() -> dt.datetime:
    """As `occurredOnUtc`."""
    return dt.datetime.now(dt.UTC)
