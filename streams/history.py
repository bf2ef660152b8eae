"""The events of single orders: read from the log, and appended to it by who has decided something by them.

An order's state is what its events make of it. Who decides by events up to a sequence appends with that sequence: where
another event of the order came first, the broker refuses, and the decision is taken again. So any number of processes
may decide, and none by what is no longer so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from streams.entry import judge
from streams.errors import JetStreamRefused
from streams.events import OrderEvent, encode
from streams.log import EVENTS
from streams.storing import WRONG_LAST_SEQUENCE, store
from streams.subjects import order_filter

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from nats.aio.client import Client

    from streams.log import Log


class OrderKey(NamedTuple):
    """An order as the log's subjects name it."""

    restaurant_id: str
    customer_key: str
    order_id: str


class Recorded(NamedTuple):
    """An event and where it stands in the log."""

    sequence: int
    event: OrderEvent


class OrderHistory:
    """Reads and appends over `client`, whose user must be one that may publish orders' events and read the log.

    Each call raises BrokerUnavailable, JetStreamRefused, StreamMissing.
    """

    def __init__(self, client: Client, log: Log) -> None:
        self._client = client
        self._log = log

    async def events(self, order: OrderKey, after: int = 0) -> AsyncIterator[Recorded]:
        """The order's events beyond a sequence, up to the log's end; what is none is passed over."""
        subjects = order_filter(*order)
        while (stored := await self._log.next_match(after, subjects)) is not None:
            after = stored.sequence
            event = judge(stored.sequence, stored.time, stored.subject, stored.data).event
            if isinstance(event, OrderEvent):
                yield Recorded(after, event)

    async def append(self, event: OrderEvent, after: int) -> bool:
        """Publish an event that was decided by those up to the sequence `after`.

        False: there are further events of the order, and this one is not in the log, or was there before.
        """
        try:
            answer = await store(
                self._client,
                EVENTS,
                event.log_subject(),
                encode(event),
                message_id=event.event_id,
                after=(order_filter(event.restaurant_id, event.customer_key, event.order_id), after),
            )
        except JetStreamRefused as refusal:
            if refusal.err_code == WRONG_LAST_SEQUENCE:
                return False
            raise
        return not answer.duplicate
