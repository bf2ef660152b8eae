"""Who is connected, anywhere in the cluster: asked for over core NATS when somebody wants to know, and never stored.

Every gateway process answers for its own streams (`Presence`). A process that does not answer in time can't be told
from one that has no stream of the kind, so every answer says whether it is complete.
"""

from __future__ import annotations

import asyncio
import heapq
import secrets
import time
from typing import TYPE_CHECKING, Any, Final

import msgspec
import nats.errors
import structlog

from streams.broker import heeding_cancellation
from streams.gathering import Answer, Roster, gather
from streams.topics import Audience, audience_of, customer_lane, lane_of, order_lane, restaurant_lane, topic_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from nats.aio.client import Client
    from nats.aio.msg import Msg

    from streams.hub import Hub
    from streams.subscriber import Subscriber

ALIVE_SECONDS: Final = 2.0
"""A process announces itself so often."""

MAX_RESTAURANTS: Final = 1_000
"""In one question; of more several are made. An answer stays below 100 KB."""

MAX_STREAMS: Final = 500
"""In one answer, those that are open longest: below 250 KB with the longest names, and a message has 256 at most."""

ANSWER_SECONDS: Final = 0.5
"""A process that takes longer to say who is connected there is left out."""

MAX_QUESTIONS: Final = 64
"""Asked at once by a process; further ones wait. Each is a subscription, of which a connection may have 1,000."""

_PREFIX: Final = "passline.presence"
_ALIVE: Final = f"{_PREFIX}.alive"
_ATTENDANCE: Final = f"{_PREFIX}.attendance"
_RESTAURANT: Final = f"{_PREFIX}.restaurant"
_ORDER: Final = f"{_PREFIX}.order"

_log = structlog.get_logger()
_json = msgspec.json.Encoder()


class _Announcement(msgspec.Struct, frozen=True, omit_defaults=True):
    """`word` is what the process does: it begins, is there, or ends."""

    process: str
    word: str = "here"


class _AttendanceAsked(msgspec.Struct, frozen=True):
    restaurants: list[str]


class _Attendance(Answer, frozen=True, kw_only=True):
    """Seconds since somebody had a stream open, 0 where one is; of a restaurant that is not there it is not known.

    A span and no time of day: the clocks of two machines differ.
    """

    seconds_ago: dict[str, float]


class _RestaurantAsked(msgspec.Struct, frozen=True):
    restaurant: str


class OpenStream(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody's stream of a restaurant's orders.

    Attributes:
        subject: their identity's key, or a device's.
        topics: those of the restaurant that the stream has.
        connected_since: Unix seconds.
        behind: how many entries of the log it has still to be shown or passed by, as its process has read it; 0 when
            it is live.
        paused: its client does not read as fast as it is written to.
    """

    subject: str
    topics: tuple[str, ...]
    connected_since: float
    behind: int
    paused: bool


class _Streams(Answer, frozen=True, kw_only=True):
    count: int
    streams: list[OpenStream]


class Connected(msgspec.Struct, frozen=True, kw_only=True):
    """Who watches a restaurant: `count` streams, of which the MAX_STREAMS that are open longest are told.

    `processes` answered; where not `is_complete`, one that is known did not.
    """

    count: int
    streams: list[OpenStream]
    processes: int
    is_complete: bool


class _OrderAsked(msgspec.Struct, frozen=True):
    order: str
    restaurant: str
    customer: str


class _Watchers(Answer, frozen=True, kw_only=True):
    restaurant: int
    customer: int
    guests: int


class Watchers(msgspec.Struct, frozen=True, kw_only=True):
    """How many streams show an order to its restaurant's side, to its customer and to guests.

    `processes` and `is_complete` as in `Connected`.
    """

    restaurant: int
    customer: int
    guests: int
    processes: int
    is_complete: bool


async def ask_attendance(client: Client, restaurant_ids: Collection[str], *, seconds: float) -> dict[str, float | None]:
    """When somebody who may see a restaurant's orders last had a stream of them open, for each of the restaurants.

    It is the latest Unix time, by this machine's clock: now where a stream is open, None where nobody is known to have
    had one. Streams of `restaurants/` and `partners/` count, also as one of several topics. A stream that ended longer
    than `departures.REMEMBERED_SECONDS` ago, or on a process that has ended since, is not known any more.

    It takes `seconds` at most; less where all processes answer. What was heard by then is the answer.

    Raises:
        NobodyAnswered: nothing can be told now.
    """
    ids = list(dict.fromkeys(restaurant_ids))
    parts = [ids[begin : begin + MAX_RESTAURANTS] for begin in range(0, len(ids), MAX_RESTAURANTS)]
    latest: dict[str, float | None] = dict.fromkeys(ids)
    for part in await asyncio.gather(*[_attendance(client, part, seconds) for part in parts]):
        latest |= part
    return latest


async def _attendance(client: Client, restaurant_ids: list[str], seconds: float) -> dict[str, float]:
    question = _json.encode(_AttendanceAsked(restaurant_ids))
    heard = await gather(client, _ATTENDANCE, question, _Attendance, seconds=seconds)
    if not heard.is_complete:
        _log.warning("presence.incomplete", subject=_ATTENDANCE, processes=len(heard.answers))
    now = time.time()
    latest: dict[str, float] = {}
    for answer in heard.answers:
        for restaurant_id, ago in answer.seconds_ago.items():
            latest[restaurant_id] = max(latest.get(restaurant_id, 0.0), now - ago)
    return latest


class Presence:
    """What one gateway process answers of its own streams."""

    def __init__(self, client: Client, hub: Hub) -> None:
        self._client = client
        self._hub = hub
        self._process = secrets.token_hex(6)
        self._roster = Roster(self._process)
        self._asking = asyncio.Semaphore(MAX_QUESTIONS)
        self._unix = time.time() - hub.clock()  # once, so that a stream's beginning is the same in every answer
        self._answers: dict[str, Callable[[bytes], Answer]] = {
            _ATTENDANCE: self._attendance,
            _RESTAURANT: self._streams,
            _ORDER: self._watchers,
        }

    @property
    def alive(self) -> tuple[str, ...]:
        """The processes that this one has heard of, itself among them."""
        return self._roster.alive

    async def run(self) -> None:
        """Answer, and announce this process now and then, until cancelled."""
        subscription = await heeding_cancellation(self._client.subscribe(f"{_PREFIX}.*", cb=self._take))
        word = "begins"
        try:
            while True:
                await self._announce(word)
                word = "here"
                await asyncio.sleep(ALIVE_SECONDS)
        finally:
            await self._announce("ends")
            if not self._client.is_closed:
                await subscription.unsubscribe()

    async def of_restaurant(self, restaurant_id: str) -> Connected:
        """Who watches a restaurant, anywhere. Raises NobodyAnswered."""
        question = _json.encode(_RestaurantAsked(restaurant_id))
        async with self._asking:
            heard = await gather(self._client, _RESTAURANT, question, _Streams, seconds=ANSWER_SECONDS)
        streams = sorted((each for answer in heard.answers for each in answer.streams), key=_connected_since)
        return Connected(
            count=sum(answer.count for answer in heard.answers),
            streams=streams[:MAX_STREAMS],
            processes=len(heard.answers),
            is_complete=heard.is_complete,
        )

    async def of_order(self, order_id: str, restaurant_id: str, customer_key: str) -> Watchers:
        """How many watch an order, anywhere. Raises NobodyAnswered."""
        question = _json.encode(_OrderAsked(order_id, restaurant_id, customer_key))
        async with self._asking:
            heard = await gather(self._client, _ORDER, question, _Watchers, seconds=ANSWER_SECONDS)
        return Watchers(
            restaurant=sum(answer.restaurant for answer in heard.answers),
            customer=sum(answer.customer for answer in heard.answers),
            guests=sum(answer.guests for answer in heard.answers),
            processes=len(heard.answers),
            is_complete=heard.is_complete,
        )

    # -- The other processes -------------------------------------------------------------------------------------------

    async def _announce(self, word: str) -> None:
        await self._publish(_ALIVE, _Announcement(self._process, word))

    async def _take(self, message: Msg) -> None:
        """What is not understood is a later version's: whoever asked it hears of one process less."""
        try:
            if message.subject == _ALIVE:
                await self._hear(msgspec.json.decode(message.data, type=_Announcement))
            elif message.reply and message.subject in self._answers:
                await self._publish(message.reply, self._answers[message.subject](message.data))
        except msgspec.MsgspecError as error:
            _log.warning("presence.not_understood", subject=message.subject, reason=str(error))

    async def _hear(self, told: _Announcement) -> None:
        if told.word == "ends":
            self._roster.left(told.process)
            return
        self._roster.heard(told.process)
        if told.word == "begins" and told.process != self._process:
            await self._announce("here")  # so that it knows of all at once

    async def _publish(self, subject: str, told: msgspec.Struct) -> None:
        """At once or not at all: nats-py would keep it while the connection is down, and send it much later."""
        if not self._client.is_connected:
            return
        try:
            await heeding_cancellation(self._client.publish(subject, _json.encode(told)))
        except (OSError, nats.errors.Error) as error:
            _log.warning("presence.not_sent", subject=subject, reason=str(error) or type(error).__name__)

    # -- What this process answers. Each raises msgspec.MsgspecError ---------------------------------------------------

    def _attendance(self, question: bytes) -> Answer:
        asked = msgspec.json.decode(question, type=_AttendanceAsked)
        hub, now = self._hub, self._hub.clock()
        ago: dict[str, float] = {}
        for restaurant_id in asked.restaurants[:MAX_RESTAURANTS]:
            lane = restaurant_lane(restaurant_id)
            seconds = 0.0 if hub.is_watched(lane) else hub.departures.seconds_ago(lane, now)
            if seconds is not None:
                ago[restaurant_id] = seconds
        return _Attendance(**self._envelope(), seconds_ago=ago)

    def _streams(self, question: bytes) -> Answer:
        asked = msgspec.json.decode(question, type=_RestaurantAsked)
        lane = restaurant_lane(asked.restaurant)
        watching = self._hub.watching(lane)
        oldest = heapq.nsmallest(MAX_STREAMS, watching, key=_opened_at)
        return _Streams(
            **self._envelope(), count=len(watching), streams=[self._open_stream(each, lane) for each in oldest]
        )

    def _open_stream(self, subscriber: Subscriber, lane: str) -> OpenStream:
        return OpenStream(
            subject=subscriber.grant.subject,
            topics=tuple(topic_of(key) for key in subscriber.keys if lane_of(key) == lane),
            connected_since=self._unix + subscriber.opened_at,
            behind=0 if subscriber.live else max(0, self._hub.head - subscriber.position),
            paused=subscriber.paused,
        )

    def _watchers(self, question: bytes) -> Answer:
        asked = msgspec.json.decode(question, type=_OrderAsked)
        lane = order_lane(asked.order, asked.restaurant, asked.customer)
        of_order, of_customer = self._hub.watching(lane), self._hub.watching(customer_lane(asked.customer))
        guests = {each for each in of_order if not _has(each, lane, Audience.ORDER)}
        return _Watchers(
            **self._envelope(),
            restaurant=len(self._hub.watching(restaurant_lane(asked.restaurant))),
            customer=len({*of_order, *of_customer} - guests),
            guests=len(guests),
        )

    def _envelope(self) -> dict[str, Any]:
        return {"process": self._process, "alive": self._roster.alive}


def _has(subscriber: Subscriber, lane: str, audience: Audience) -> bool:
    return any(audience_of(key) == audience and lane_of(key) == lane for key in subscriber.keys)


def _connected_since(stream: OpenStream) -> float:
    return stream.connected_since


def _opened_at(subscriber: Subscriber) -> float:
    return subscriber.opened_at
