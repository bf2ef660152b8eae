"""One entry of the log, judged by itself: what every reader of the log is handed."""

from __future__ import annotations

import msgspec

from streams.errors import StreamsError
from streams.events import AnyEvent, Event, EventError, OrderEvent, decode
from streams.matrix import LANES, lanes_of
from streams.outline import KINDS, outline
from streams.subjects import order_subject


class SubjectMismatch(EventError):
    """A body that stands under a subject which is not its own."""

    def __init__(self, found: str, wanted: str) -> None:
        super().__init__(f"stands under {found!r}, belongs under {wanted!r}")


class Entry(msgspec.Struct, frozen=True, gc=False):
    """What stands at `sequence` of the log.

    `kind` is the event's class, or None where the body is not an event that this version can use; then `problem` says
    why. `order_id` is of order events only, `lanes` are what the hub routes by. `time` is the log's own time in
    Unix seconds.
    """

    sequence: int
    time: float
    subject: str
    body: bytes
    kind: type[Event] | None
    order_id: str | None = None
    lanes: tuple[str, ...] = ()
    problem: StreamsError | None = None

    @property
    def event(self) -> AnyEvent | None:
        """The event, made of the body each time anew: most entries are only routed. None where there is none."""
        return None if self.kind is None else decode(self.body)

    def order_owner(self) -> tuple[str, str]:
        """Whose an order's event says that the order is: restaurant id and customer key."""
        _, restaurant_id, customer_key, _, _ = self.subject.split(".")
        return restaurant_id, customer_key


_KINDS = {outlined: (kind, kind.type_name(), LANES[kind]) for outlined, kind in KINDS.items()}


def judge(sequence: int, time: float, subject: str, body: bytes) -> Entry:
    """Judge one message of the log. Never raises: what is wrong with it is in the entry."""
    order = outline(body)
    if order is not None:
        kind, name, lanes = _KINDS[type(order)]
        order_id, restaurant_id, customer_key = order.order_id, order.restaurant_id, order.customer_key
        if subject == order_subject(restaurant_id, customer_key, order_id, name):
            told = lanes[order.target](order_id, restaurant_id, customer_key)
            return Entry(sequence, time, subject, body, kind, order_id, told)
    return _judge_decoded(sequence, time, subject, body)


def _judge_decoded(sequence: int, time: float, subject: str, body: bytes) -> Entry:
    try:
        event = decode(body)
        wanted = event.log_subject()
        if wanted != subject:
            raise SubjectMismatch(subject, wanted)
    except EventError as problem:
        return Entry(sequence, time, subject, body, None, problem=problem)
    order_id = event.order_id if isinstance(event, OrderEvent) else None
    return Entry(sequence, time, subject, body, type(event), order_id, lanes_of(event))
