"""Parts for tests of the pure core: entries of a log, and a connection that keeps what it was given."""

from __future__ import annotations

import json
from collections.abc import Callable

from gateway.sse import SseEncoder
from streams.entry import Entry, judge
from streams.frames import Frames
from streams.hub import Hub
from streams.limits import Limits
from streams.subscriber import Grant, Subscriber
from streams.topics import Feed
from streams.window import Window


class Recorder:
    """A connection that takes everything. `full_after` bytes it asks the subscriber to pause.

    Its client has nothing to read, or, while bytes are `waiting` for it, has `read` so many.
    """

    def __init__(self) -> None:
        self.received = b""
        self.finished = False
        self.aborted = False
        self.waiting = False
        self.read = 0
        self.full_after: int | None = None
        self.subscriber: Subscriber | None = None
        self.on_write: Callable[[bytes], object] = bool

    def write(self, data: bytes) -> None:
        self.received += data
        self.on_write(data)
        if self.full_after is not None and len(self.received) > self.full_after and self.subscriber:
            self.subscriber.pause()

    def finish(self, data: bytes) -> None:
        self.received += data
        self.finished = True

    def abort(self) -> None:
        self.aborted = True

    def progress(self) -> int | None:
        return self.read if self.waiting else None

    def taken(self) -> bytes:
        """What came since the last call."""
        taken, self.received = self.received, b""
        return taken


class Clock:
    """A clock that moves when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def order_entry(
    sequence: int, *, restaurant: str = "r1", customer: str = "c1", order: str = "o1", target: str = "Both"
) -> Entry:
    """An entry that says that an order was accepted; its event id is its sequence."""
    body = json.dumps(
        {
            "type": "OrderAccepted",
            "eventId": str(sequence),
            "occurredOnUtc": "2026-11-20T10:00:00Z",
            "orderId": order,
            "restaurantId": restaurant,
            "customerId": customer,
            "target": target,
        }
    ).encode()
    return judge(sequence, float(sequence), f"orders.{restaurant}.{customer}.{order}.OrderAccepted", body)


def accepted_block(
    sequence: int, topic: str, *, restaurant: str = "r1", order: str = "o1", marked: bool = True
) -> bytes:
    """The bytes that a subscriber of `topic` is sent for an `order_entry`."""
    data = (
        f'{{"eventId":"{sequence}","occurredOnUtc":"2026-11-20T10:00:00Z","topic":"{topic}","schemaVersion":1,'
        f'"orderId":"{order}","status":"Accepted","restaurantId":"{restaurant}",'
        f'"lastUpdateTimestamp":"2026-11-20T10:00:00Z"}}'
    )
    id_line = f"id: e-{sequence}\n" if marked else ""
    return f"event: ReceiveOrderStatusChanged\ndata: {data}\n{id_line}\n".encode()


class Delivery:
    """A hub at position 0 of the log `e`, its clock, and those who need a replay."""

    def __init__(self, *, max_entries: int = 1000, fan_out_pause: int = 1000, limits: Limits | None = None) -> None:
        self.clock = Clock()
        self.behind: list[Subscriber] = []
        window = Window(Frames("e", SseEncoder()), 0, max_entries=max_entries)
        self.hub = Hub(
            window, self.behind.append, clock=self.clock, limits=limits or Limits(), fan_out_pause=fan_out_pause
        )

    def dispatch(self, *entries: Entry) -> None:
        """The tail reads them, and the fan-out runs to its end."""
        for _ in self.hub.dispatch(entries):
            pass

    def subscribe(
        self,
        *feeds: Feed,
        at: int | None = None,
        revocable_by: tuple[str, ...] = (),
        expires_at: float | None = None,
        subject: str = "",
        address: str = "",
    ) -> tuple[Subscriber, Recorder]:
        """A client of `feeds` from position `at` on, by default from now on, with nothing for an opening."""
        connection = Recorder()
        subscriber = Subscriber(
            connection,
            feeds,
            self.hub.head if at is None else at,
            Grant("e", self.hub.head, revocable_by, expires_at, subject),
            address,
        )
        connection.subscriber = subscriber
        self.hub.subscribe(subscriber, b"")
        return subscriber, connection
