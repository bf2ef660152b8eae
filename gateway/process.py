"""What one gateway process holds, opened in order and closed in reverse."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

import msgspec
import structlog

from gateway.background import background
from gateway.sse import SseEncoder
from streams.broker import connect
from streams.credentials import inbox_prefix
from streams.database import open_database
from streams.facts import Facts, FactsUnavailable, Overlay
from streams.frames import Frames
from streams.hub import Hub
from streams.log import Log
from streams.projection import Projection
from streams.publisher import Publisher
from streams.replay import Replay, read_page
from streams.snapshots import States
from streams.subscriber import End, Subscriber
from streams.tail import Place, Tail, find_place
from streams.window import Window

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from gateway.settings import Settings
    from streams.snapshots import OrderOwner

_TICK_SECONDS = 0.1
_PRUNE_SECONDS = 5.0
_NO_EPOCH = ""  # no log has it, so nothing is resumed before the tail has found its place

_log = structlog.get_logger()


class Readiness:
    """Whether this process should be sent clients: red before its first catch-up, while it drains, and while the log is
    of another history. What is merely away is waited for, or every balancer would empty at once.
    """

    def __init__(self, tail: Tail) -> None:
        self._tail = tail
        self.draining = False

    @property
    def ready(self) -> bool:
        """Whether clients should come here."""
        return self._tail.is_ready and not self.draining

    @property
    def reason(self) -> str:
        """Why, in a few words."""
        if self.draining:
            return "draining"
        if self._tail.mismatch is not None:
            return self._tail.mismatch
        return "ready" if self._tail.is_ready else "reading the log up to where it was at the start"


class Gateway(msgspec.Struct, frozen=True):
    """The parts of one process, for the handlers of its requests."""

    settings: Settings
    encoder: SseEncoder
    log: Log
    hub: Hub
    tail: Tail
    facts: Facts
    publisher: Publisher
    readiness: Readiness

    @property
    def accepts_streams(self) -> bool:
        """Whether a new stream can be opened now."""
        return not self.readiness.draining and self.tail.mismatch is None and self.facts.epoch != _NO_EPOCH

    async def drain(self, seconds: float) -> None:
        """Take no new streams and end the open ones, evenly over `seconds`, each with a jittered time to come back."""
        self.readiness.draining = True
        subscribers = self.hub.drain()
        if not subscribers:
            return
        _log.info("drain.began", streams=len(subscribers), seconds=seconds)
        begin = time.monotonic()
        for index, subscriber in enumerate(subscribers):
            pause = begin + seconds * index / len(subscribers) - time.monotonic()
            if pause > 0:
                await asyncio.sleep(pause)
            subscriber.close(End.DRAIN)
        _log.info("drain.ended", streams=len(subscribers))


@asynccontextmanager
async def open_gateway(settings: Settings, nats_url: str, on_death: Callable[[str], None]) -> AsyncIterator[Gateway]:
    """Connect and start to read. `on_death` is called with a reason where this process can't do its work any more.

    Raises:
        StreamsError: the broker or the database can't be reached, or won't have us.
    """
    encoder = SseEncoder(settings.retry_ms)
    async with (
        connect(
            nats_url,
            name="passline-gateway",
            inbox_prefix=inbox_prefix("gateway"),
            on_closed=lambda: on_death("the broker has closed the connection for good"),
        ) as client,
        open_database(settings.sql_url, statement_seconds=settings.statement_seconds) as engine,
    ):
        log = Log(client)

        def new_window(place: Place) -> Window:
            return Window(
                Frames(place.epoch, encoder),
                place.position,
                max_entries=settings.window_events,
                max_bytes=settings.window_bytes,
            )

        def behind(subscriber: Subscriber) -> None:
            replay.wants(subscriber)

        hub = Hub(
            new_window(Place(_NO_EPOCH, 0, 0)),
            behind,
            heartbeat_seconds=settings.heartbeat_seconds,
            stall_seconds=settings.progress_seconds,
        )
        replay = Replay(partial(read_page, client, log), epoch=lambda: hub.frames.epoch, head=lambda: hub.head)
        facts = Facts(States(engine), Overlay(0), log, _NO_EPOCH)
        tail = Tail(
            client,
            log,
            hub,
            facts,
            find_place=partial(find_place, log, Projection(engine).position, settings.window_events),
            new_window=new_window,
        )
        publisher = Publisher(client, log, partial(_owner_if_known, facts))
        async with background(tail.run(), replay.run(), _tick(hub), _prune(facts), on_death=on_death):
            yield Gateway(settings, encoder, log, hub, tail, facts, publisher, Readiness(tail))


async def _owner_if_known(facts: Facts, order_id: str) -> OrderOwner | None:
    """For publishing: while the database is away, the broker alone is the arbiter."""
    try:
        return await facts.known_owner(order_id)
    except FactsUnavailable:
        return None


async def _tick(hub: Hub) -> None:
    """The one timer of all streams."""
    while True:
        await asyncio.sleep(_TICK_SECONDS)
        hub.tick()


async def _prune(facts: Facts) -> None:
    while True:
        await asyncio.sleep(_PRUNE_SECONDS)
        try:
            await facts.prune()
        except FactsUnavailable as error:
            _log.debug("facts.not_pruned", reason=str(error))
