"""Signals: what is worth nothing a moment later, and so not worth the log. Somebody types; a courier is here.

A signal goes over core NATS to every gateway process and from there to the live streams of its order, at most once. It
has no position: no cursor moves by it, nothing repeats it, and whoever is behind, paused or away never gets it.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections import deque
from collections.abc import Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeAlias

import msgspec
import nats.errors
import structlog
from msgspec import UNSET, Meta, UnsetType

from streams.broker import heeding_cancellation
from streams.errors import BrokerUnavailable
from streams.intake import RawMessage, tap, untap
from streams.topics import Audience, guest_feed, order_feed, order_lane

if TYPE_CHECKING:
    from nats.aio.client import Client

    from streams.hub import Hub
    from streams.snapshots import OrderOwner

RECEIVE_SIGNAL: Final = "ReceiveSignal"
"""The name of the SSE event."""

MAX_WAITING: Final = 256
"""Signals of watched orders that wait for their turn in a process. Past it the oldest is dropped."""

_PREFIX: Final = "passline.signals"
_json = msgspec.json.Encoder()
_log = structlog.get_logger()


class Sender(StrEnum):
    """On whose side somebody is who signals."""

    CUSTOMER = "customer"
    RESTAURANT = "restaurant"
    COURIER = "courier"


Word: TypeAlias = Annotated[
    str, Meta(pattern=r"^[a-z][a-z0-9_-]{0,31}$", description="Who it is on their side, in a word: `chef`, `support`.")
]


class Typing(msgspec.Struct, frozen=True, kw_only=True, tag="typing"):
    """Somebody is writing."""

    role: Word | UnsetType = UNSET


class Viewing(msgspec.Struct, frozen=True, kw_only=True, tag="viewing"):
    """Somebody looks at the order."""

    role: Word | UnsetType = UNSET


class CourierPosition(msgspec.Struct, frozen=True, kw_only=True, tag="courier_position"):
    """Where the order is on its way: degrees by WGS 84; `heading` in degrees from north, `accuracy` in metres."""

    lat: Annotated[float, Meta(ge=-90, le=90)]
    lon: Annotated[float, Meta(ge=-180, le=180)]
    heading: Annotated[float, Meta(ge=0, lt=360)] | UnsetType = UNSET
    accuracy: Annotated[float, Meta(ge=0, le=100_000)] | UnsetType = UNSET


Signal: TypeAlias = Typing | Viewing | CourierPosition

AUDIENCES: Final[Mapping[str, frozenset[Audience]]] = {
    "typing": frozenset({Audience.ORDER}),
    "viewing": frozenset({Audience.ORDER}),
    "courier_position": frozenset({Audience.ORDER, Audience.GUEST}),
}
"""Who is shown a signal, by its type. A tracking link is for seeing where the courier is, and for nothing of a person.

Only the topic `orders/<id>` has signals. A type that is not here is a later version's, and shown to nobody.
"""


class Signals:
    """The signals of one gateway process: those that it sends, and those that it hands to its streams."""

    def __init__(self, client: Client, hub: Hub) -> None:
        self._client = client
        self._hub = hub
        self._arrived: deque[tuple[str, frozenset[str], bytes]] = deque(maxlen=MAX_WAITING)
        self._wake = asyncio.Event()

    async def send(self, order_id: str, owner: OrderOwner, sender: Sender, signal: Signal) -> dt.datetime:
        """Tell every process. Returns when that was: it is all that is known, since nobody acknowledges a signal.

        Raises:
            BrokerUnavailable: it was not sent. nats-py would keep it while the connection is down.
        """
        told, now = msgspec.to_builtins(signal), dt.datetime.now(dt.UTC)
        subject = f"{_PREFIX}.{told['type']}.{owner.restaurant_id}.{owner.customer_key}.{order_id}"
        if not self._client.is_connected:
            raise BrokerUnavailable(_PREFIX, 0, "not connected")
        try:
            await heeding_cancellation(self._client.publish(subject, _view(order_id, sender, now, told)))
        except (OSError, nats.errors.Error) as error:
            raise BrokerUnavailable(_PREFIX, 0, str(error) or type(error).__name__) from error
        return now

    async def run(self) -> None:
        """Hand to the streams what comes, until cancelled."""
        subscription = await heeding_cancellation(self._client.subscribe(f"{_PREFIX}.>"))
        tap(self._client, subscription, self._take)
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                while self._arrived:
                    await self._deliver(*self._arrived.popleft())
        finally:
            untap(self._client, subscription)
            if not self._client.is_closed:
                await subscription.unsubscribe()

    def _take(self, message: RawMessage) -> None:
        """For every signal in the cluster: most are of an order that nobody watches here."""
        subject, _, _, body = message
        tokens = subject.decode("ascii", "replace").split(".")
        if len(tokens) != 6:
            return
        kind, restaurant_id, customer_key, order_id = tokens[2:]
        lane = order_lane(order_id, restaurant_id, customer_key)
        audiences = AUDIENCES.get(kind)
        if audiences is None or not self._hub.is_watched(lane):
            return
        feeds = {Audience.ORDER: order_feed, Audience.GUEST: guest_feed}
        keys = frozenset(feeds[each](order_id, restaurant_id, customer_key).key for each in audiences)
        self._arrived.append((lane, keys, body))
        self._wake.set()

    async def _deliver(self, lane: str, keys: frozenset[str], data: bytes) -> None:
        block = self._hub.frames.encoder.event(RECEIVE_SIGNAL, data, None)
        for _ in self._hub.signal(lane, keys, block):
            await asyncio.sleep(0)
        await asyncio.sleep(0)


def _view(order_id: str, sender: Sender, now: dt.datetime, told: dict[str, Any]) -> bytes:
    kind = told.pop("type")
    common = {"topic": f"orders/{order_id}", "orderId": order_id, "type": kind, "from": sender, "at": now}
    return _json.encode(common | told)
