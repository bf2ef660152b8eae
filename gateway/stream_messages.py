"""What a stream says beside its events, as the documents describe it: how it begins, its state, and how it ends.

The structs stand for what `gateway.routes.streams`, `gateway.sse` and `streams.signals` write; none is ever made.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any, Final, Literal, TypeAlias

import msgspec
from msgspec import UNSET, UnsetType

from streams.carts import CartState
from streams.cursor import Reset
from streams.frames import GAP
from streams.signals import AUDIENCES as SIGNALLED
from streams.signals import RECEIVE_SIGNAL, Sender
from streams.snapshots import CustomerOrder, GuestOrder, RestaurantOrder
from streams.topics import Audience
from streams.workflows import WorkflowState


class Lost(msgspec.Struct, rename={"after": "from"}):
    """A range of the log that the client did not get: the first cursor, and the one that the stream begins at."""

    after: str
    to: str


class StreamOpened(msgspec.Struct, rename={"start": "from"}):
    """The first block of every stream: the verdict on the cursor that was given."""

    verdict: Literal["fresh", "resumed", "reset"]
    start: str
    head: str
    topics: list[str]
    reason: Reset | UnsetType = UNSET
    lost: Lost | UnsetType = UNSET


class StreamClosing(msgspec.Struct):
    """The last block of a stream that the server ends. Its `retry` says when to come back."""

    reason: Literal["drain", "expired", "revoked", "limit", "lagged", "ended"]


class StreamExpiring(msgspec.Struct, rename="camel"):
    """What opened the stream ends soon: present a newer token or pass of the same subject."""

    expires_at: dt.datetime


class StreamGap(msgspec.Struct, rename="camel"):
    """An event that could not be shown. Read the state again."""

    event_id: str
    topic: str


class SignalBroadcast(msgspec.Struct, rename={"order_id": "orderId", "sender": "from"}):
    """A signal: at most once, to who is connected, and never again. Which fields it has, its type says."""

    topic: str
    order_id: str
    type: Literal["typing", "viewing", "courier_position"]
    sender: Sender
    at: dt.datetime
    role: str | UnsetType = UNSET
    lat: float | UnsetType = UNSET
    lon: float | UnsetType = UNSET
    heading: float | UnsetType = UNSET
    accuracy: float | UnsetType = UNSET


class StreamMessage(msgspec.Struct, frozen=True):
    """A kind of block: the SSE event's name, the type of its data, and whether it moves the client's cursor."""

    name: str
    payload: Any
    has_id: bool


CONTROL: Final = (
    StreamMessage("stream.opened", StreamOpened, has_id=True),
    StreamMessage("stream.expiring", StreamExpiring, has_id=False),
    StreamMessage("stream.closing", StreamClosing, has_id=False),
    StreamMessage(GAP, StreamGap, has_id=True),
)
"""What every stream may say."""

SIGNAL: Final = StreamMessage(RECEIVE_SIGNAL, SignalBroadcast, has_id=False)
"""What streams of single orders may say."""

SIGNALLED_AUDIENCES: Final = frozenset(audience for audiences in SIGNALLED.values() for audience in audiences)
"""Who may be shown signals."""

State: TypeAlias = tuple[str, Any]

STATES: Final[Mapping[Audience, State]] = {
    Audience.RESTAURANT: ("orders", list[RestaurantOrder]),
    Audience.PARTNER: ("orders", list[RestaurantOrder]),
    Audience.ORDER: ("order", CustomerOrder | None),
    Audience.GUEST: ("order", GuestOrder | None),
    Audience.CUSTOMER: ("orders", list[CustomerOrder]),
    Audience.CART: ("cart", CartState | None),
    Audience.WORKFLOW: ("workflow", WorkflowState | None),
}
"""An audience's snapshot beside `topic`: the field and its type. The others begin without one."""
