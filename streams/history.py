"""The events of single orders: read from the log, and appended to it by who has decided something by them.

An order's state is what its events make of it. Who decides by the events up to a sequence appends with that sequence:
where another entry of the order came first, the broker refuses, and the decision is taken again. So any number of
processes may decide, and none by what is no longer so.
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
    from nats.aio.client import Client

    from streams.log import Log


class OrderKey(NamedTuple):
    """An order as the log's subjects name it."""

    restaurant_id: str
    customer_key: str
    order_id: str


class Past(NamedTuple):
    """Events of an order, in their order, and the sequence of its last entry in the log, or the one asked from."""

    events: list[OrderEvent]
    last: int


class OrderHistory:
    """Reads and appends over `client`, whose user must be one that may publish orders' events and read the log.

    Each call raises BrokerUnavailable, JetStreamRefused, StreamMissing.
    """

    def __init__(self, client: Client, log: Log) -> None:
        self._client = client
        self._log = log

    async def read(self, order: OrderKey, after: int = 0) -> Past:
        """The order's events beyond a sequence, up to the log's end. What is no event is passed over."""
        subjects = order_filter(*order)
        events: list[OrderEvent] = []
        while (stored := await self._log.next_match(after, subjects)) is not None:
            after = stored.sequence
            event = judge(stored.sequence, stored.time, stored.subject, stored.data).event
            if isinstance(event, OrderEvent):
                events.append(event)
        return Past(events, after)

    async def append(self, event: OrderEvent, after: int) -> bool:
        """Publish an event that was decided by those up to the sequence `after`.

        False: the order has moved on, or the log has an event with this id; what it has must be read.
        """
        subjects = order_filter(event.restaurant_id, event.customer_key, event.order_id)
        try:
            answer = await store(
                self._client,
                EVENTS,
                event.log_subject(),
                encode(event),
                message_id=event.event_id,
                after=(subjects, after),
            )
        except JetStreamRefused as refusal:
            if refusal.err_code == WRONG_LAST_SEQUENCE:
                return False
            raise
        return not answer.duplicate
