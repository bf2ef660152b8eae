"""What is late when, in plain Python and with none of the code that decides it; and histories to try both on."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st
from msgspec import UNSET

from streams.entry import Entry, judge
from streams.events import (
    OrderAccepted,
    OrderCancelled,
    OrderCreated,
    OrderDelayed,
    OrderDelivered,
    OrderEtaUpdated,
    OrderEvent,
    OrderPaymentFailed,
    OrderPaymentSucceeded,
    OrderPlaced,
    OrderPreparing,
    OrderReadyForDelivery,
    OrderRejected,
    OrderUnattended,
)
from tests.streams.histories import History

if TYPE_CHECKING:
    from streams.due import AlarmTimes

NOON = 1_800_000_000.0
"""When a history begins, by the log's clock in Unix seconds."""

STEPS = (
    OrderPlaced,
    OrderCreated,
    OrderPaymentSucceeded,
    OrderPaymentFailed,
    OrderAccepted,
    OrderPreparing,
    OrderReadyForDelivery,
    OrderEtaUpdated,
    OrderDelivered,
    OrderRejected,
    OrderCancelled,
)


class TimedLog(History):
    """A log whose clock a test sets."""

    def __init__(self, first: int = 1) -> None:
        super().__init__(first)
        self.now = NOON

    @property
    def head(self) -> tuple[int, float]:
        return self.last, self.entries[-1].time if self.entries else 0.0

    def raw(self, subject: str, body: bytes) -> Entry:
        entry = judge(self.last + 1, self.now, subject, body)
        self.entries.append(entry)
        return entry


class OrderModel:
    """One order. `asked`, `placed`, `accepted` and `ready` are log times, `eta` what was promised."""

    def __init__(self, restaurant_id: str) -> None:
        self.restaurant_id = restaurant_id
        self.seen: set[str] = set()
        self.step = "placed"
        self.unpaid = False
        self.eta: float | None = None
        self.asked: float | None = None
        self.placed: float | None = None
        self.cooking: float | None = None
        self.ready: float | None = None
        self.rung: dict[str, tuple[str, float]] = {}

    def apply(self, event: OrderEvent, now: float) -> None:
        if event.event_id in self.seen:
            return
        self.seen.add(event.event_id)
        if (eta := event.estimated_delivery_time) is not UNSET:
            self.eta = None if eta is None else eta.timestamp()
        match event:
            case OrderPlaced():
                self._go("placed")
                self.placed = now
                self.asked = None if self.unpaid else now
            case OrderPaymentSucceeded():
                self.unpaid = False
                self.asked = now if self.step == "placed" else self.asked
            case OrderPaymentFailed():
                self.unpaid = True
                self.asked = None
            case OrderAccepted():
                self._go("cooking")
                self.cooking = now
            case OrderPreparing():
                self._go("cooking")
                self.cooking = now if self.cooking is None else self.cooking
            case OrderReadyForDelivery():
                self._go("ready")
                self.ready = now
            case OrderDelivered() | OrderRejected() | OrderCancelled():
                self._go("over")
        # What has rung stays so only as long as the same is awaited.
        self.rung = {alarm: base for alarm, base in self.rung.items() if self.awaited().get(alarm) == base}
        if isinstance(event, OrderDelayed | OrderUnattended):
            alarm = str(event.alarm) if isinstance(event, OrderDelayed) else "unattended"
            if alarm in self.awaited():
                self.rung[alarm] = self.awaited()[alarm]

    def _go(self, step: str) -> None:
        if step != self.step:
            self.asked = self.placed = self.cooking = self.ready = None
        self.step = step

    def awaited(self) -> dict[str, tuple[str, float]]:
        """By alarm, what it is reckoned from."""
        promised = None if self.eta is None else ("promised", self.eta)
        found: dict[str, tuple[str, float]] = {}
        if self.step == "placed" and self.asked is not None:
            found["accept"] = ("since", self.asked)
        if self.step == "placed" and self.placed is not None:
            found["unattended"] = ("since", self.placed)
        if self.step == "cooking" and self.cooking is not None:
            found["ready"] = promised or ("since", self.cooking)
            if promised is not None:
                found["deliver"] = promised
        if self.step == "ready" and self.ready is not None:
            found["deliver"] = promised or ("since", self.ready)
        return found

    def late(self, times: AlarmTimes, now: float) -> dict[str, float]:
        """When each alarm was due that should ring now."""
        limits = times.of(self.restaurant_id)
        within = {
            ("accept", "since"): (limits.accept, limits.accept),
            ("ready", "since"): (limits.ready, limits.ready),
            ("ready", "promised"): (limits.ready, 0),
            ("deliver", "since"): (limits.deliver, limits.deliver),
            ("deliver", "promised"): (limits.deliver, limits.deliver_margin),
            ("unattended", "since"): (0 if self.unpaid else limits.unattended, limits.unattended),
        }
        found = {}
        for alarm, (kind, base) in self.awaited().items():
            is_on, seconds = within[alarm, kind]
            if is_on and alarm not in self.rung and base + seconds <= now:
                found[alarm] = base + seconds
        return found


def minutes(number: float) -> dt.datetime:
    """So many minutes after the beginning of a history."""
    return dt.datetime.fromtimestamp(NOON, dt.UTC) + dt.timedelta(minutes=number)


_etas: st.SearchStrategy[Any] = st.just(UNSET) | st.none() | st.integers(-5, 60).map(minutes)
_events = st.fixed_dictionaries(
    {
        "kind": st.sampled_from(STEPS),
        "order_id": st.sampled_from(("o1", "o2", "o3")),
        "event_id": st.integers(1, 40).map("e-{}".format),
        "estimated_delivery_time": _etas,
    }
)
_time_passes = st.integers(0, 20)

stories = st.lists(st.one_of(_events, _events, _events, _time_passes), max_size=25)
"""Events as keywords of `History.order`, and between them minutes that pass."""
