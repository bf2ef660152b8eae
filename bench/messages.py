"""The events that are published, and the same as frames for servers that know nothing of orders.

An event's `orderNumber` is `t` and the time of publishing, in nanoseconds of CLOCK_MONOTONIC: the sink takes the
latency from it. Views show it to restaurants and customers alike. What reaches a client is about 300 bytes in all.
"""

from __future__ import annotations

import itertools
import time

RESTAURANT = "r1"
CUSTOMER = "c1"
EVENT_NAME = "ReceiveOrderStatusChanged"
ORDERS = 100
"""Events without an order of their own are of so many, in turn."""

_OCCURRED = "2026-11-20T18:04:11Z"
_LONGEST_NAME = 500

_numbers = itertools.count(1)


class Message:
    """An event of an order, with an `eventId` of its own, made now.

    With `item_bytes` it is an order placed with so much in the names of its items, which restaurants see.

    Attributes:
        stamp_ns: when it was made.
        subject: where it stands in the log.
        body: as it is published to Passline.
        view: the JSON that Passline makes of it for the restaurant (without items), so that others deliver the same.
    """

    def __init__(
        self,
        restaurant: str = RESTAURANT,
        order: str | None = None,
        customer: str = CUSTOMER,
        *,
        item_bytes: int = 0,
    ) -> None:
        number = self._number = next(_numbers)
        order = f"o{number % ORDERS}" if order is None else order
        kind = "OrderPlaced" if item_bytes else "OrderAccepted"
        self.event_id = f"e{number:08d}"
        self.subject = f"orders.{restaurant}.{customer}.{order}.{kind}"
        self.stamp_ns = time.monotonic_ns()
        self.body = (
            f'{{"type":"{kind}","eventId":"{self.event_id}","occurredOnUtc":"{_OCCURRED}","orderId":"{order}",'
            f'"restaurantId":"{restaurant}","customerId":"{customer}","orderNumber":"t{self.stamp_ns}"'
            f"{_items(item_bytes)}}}"
        ).encode()
        self.view = (
            f'{{"eventId":"{self.event_id}","occurredOnUtc":"{_OCCURRED}","topic":"restaurants/{restaurant}",'
            f'"schemaVersion":1,"orderId":"{order}","orderNumber":"t{self.stamp_ns}","status":"Accepted",'
            f'"restaurantId":"{restaurant}","lastUpdateTimestamp":"{_OCCURRED}"}}'
        ).encode()

    def frame(self) -> bytes:
        """The view as a block of an event stream, framed as a chunk: what the yardstick sends."""
        block = f"event: {EVENT_NAME}\ndata: {self.view.decode()}\nid: k3f9x2ab-{self._number}\n\n".encode()
        return b"%x\r\n%b\r\n" % (len(block), block)


def _items(size: int) -> str:
    if not size:
        return ""
    names = [min(_LONGEST_NAME, size - at) for at in range(0, size, _LONGEST_NAME)]
    return ',"items":[' + ",".join(f'{{"name":"{"x" * length}","quantity":1}}' for length in names) + "]"
