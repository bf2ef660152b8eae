"""What one gateway process holds, opened in order and closed in reverse."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import structlog

from gateway.background import background
from gateway.descriptors import stream_limits
from gateway.handover import chunk
from gateway.pairing import DEVICE_REQUESTS_PER_SECOND, Attempts
from gateway.peers import Peers, read_networks
from gateway.renewal import Renewals
from gateway.sse import SseEncoder
from gateway.watchdog import LoopLag
from streams.binding import Bindings
from streams.broker import connect
from streams.carts import CartFacts
from streams.commands import Commands
from streams.credentials import inbox_prefix
from streams.database import open_database
from streams.facts import Facts, FactsUnavailable
from streams.frames import Frames
from streams.hub import Hub
from streams.limits import Rates
from streams.log import Log
from streams.overlay import Overlay
from streams.presence import Presence
from streams.projection import Projection
from streams.publisher import Publisher
from streams.replay import Replay, read_page
from streams.signals import Signals
from streams.snapshots import States
from streams.subscriber import End, Subscriber
from streams.tail import Place, Tail, find_place
from streams.window import Window
from streams.workflows import WorkflowFacts

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

    from nats.aio.client import Client
    from sqlalchemy.ext.asyncio import AsyncEngine

    from gateway.settings import Settings
    from streams.snapshots import OrderOwner

PRESENCE_PER_SECOND = 5
"""Questions of a subject who is connected: each is asked of every process."""

_TICK_SECONDS = 0.1
_PRUNE_SECONDS = 5.0
_DRAIN_STEP_SECONDS = 0.02
_DRAIN_AT_ONCE = 200  # about 10 ms of work; the requests and streams that are left go on meanwhile
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


class Gateway:
    """The parts of one process, for the handlers of its requests. `run` is what goes on beside those."""

    def __init__(self, settings: Settings, client: Client, engine: AsyncEngine) -> None:
        self.settings = settings
        self.encoder = SseEncoder(settings.retry_ms, frame=chunk)
        self.peers = Peers(read_networks(",".join(settings.trusted_proxies)))
        self.log = Log(client)
        self.hub = Hub(
            self._window(Place(_NO_EPOCH, 0, 0)),
            self._behind,
            limits=stream_limits(settings),
            heartbeat_seconds=settings.heartbeat_seconds,
            stall_seconds=settings.progress_seconds,
            expiring_seconds=settings.expiring_seconds,
        )
        self.replay = Replay(
            partial(read_page, client, self.log), epoch=lambda: self.hub.frames.epoch, head=lambda: self.hub.head
        )
        self.facts = Facts(States(engine), Overlay(0), self.log, _NO_EPOCH)
        self.tail = Tail(
            client,
            self.log,
            self.hub,
            self.facts,
            find_place=partial(find_place, self.log, Projection(engine).position, settings.window_events),
            new_window=self._window,
            lives=settings.lives,
        )
        self.workflows = WorkflowFacts(settings.workflow_seconds)
        self.carts = CartFacts(settings.team_cart_seconds)
        self.bindings = Bindings(client, self.log)
        self.publisher = Publisher(client, self.log, self._owner_if_known)
        self.commands = Commands(client)
        self.presence = Presence(client, self.hub)
        self.presence_asked = Rates(PRESENCE_PER_SECOND)
        self.signals = Signals(client, self.hub)
        self.signals_sent = Rates(settings.signals_per_second)
        self.pairing_attempts = Attempts()
        self.device_requests = Rates(DEVICE_REQUESTS_PER_SECOND)
        self.renewals = Renewals(client, self)
        self.readiness = Readiness(self.tail)
        self.loop_lag = LoopLag()

    @property
    def accepts_streams(self) -> bool:
        """Whether this process knows where it is in the log. If there is room, and no drain, the hub says."""
        return self.tail.mismatch is None and self.facts.epoch != _NO_EPOCH

    def on_hubs_clock(self, time_: float | None) -> float | None:
        """What the hub's clock shows at a time in Unix seconds, None for never."""
        return None if time_ is None else self.hub.clock() + time_ - time.time()

    def run(self) -> tuple[Coroutine[Any, Any, None], ...]:
        """What must run as long as the process serves; none of it ends by itself."""
        return (
            *(self.tail.run(), self.tail.watch(), self.replay.run()),
            *(self.presence.run(), self.signals.run(), self.renewals.run()),
            *(self._tick(), self._prune()),
        )

    async def drain(self, seconds: float) -> None:
        """Take no new streams and end the open ones, evenly over `seconds`, each with a jittered time to come back."""
        self.readiness.draining = True
        subscribers = self.hub.drain()
        if not subscribers:
            return
        _log.info("drain.began", streams=len(subscribers), seconds=seconds)
        begin, ended = time.monotonic(), 0
        while ended < len(subscribers) and len(self.hub):
            due = due_to_end(len(subscribers), time.monotonic() - begin, seconds)
            upto = min(due, ended + _DRAIN_AT_ONCE)
            for subscriber in subscribers[ended:upto]:
                subscriber.close(End.DRAIN)
            ended = upto
            await asyncio.sleep(_DRAIN_STEP_SECONDS if ended == due else 0)
        _log.info("drain.ended", streams=len(subscribers))

    def _window(self, place: Place) -> Window:
        return Window(
            Frames(place.epoch, self.encoder, shows_fee=self.settings.show_platform_fee),
            place.position,
            max_entries=self.settings.window_events,
            max_bytes=self.settings.window_bytes,
        )

    def _behind(self, subscriber: Subscriber) -> None:
        self.replay.wants(subscriber)

    async def _owner_if_known(self, order_id: str) -> OrderOwner | None:
        """For publishing: while the database is away, the broker alone is the arbiter."""
        try:
            return await self.facts.known_owner(order_id)
        except FactsUnavailable:
            return None

    async def _tick(self) -> None:
        """The one timer of all streams."""
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            self.hub.tick()

    async def _prune(self) -> None:
        while True:
            await asyncio.sleep(_PRUNE_SECONDS)
            try:
                await self.facts.prune(self.hub.window.floor)
            except FactsUnavailable as error:
                _log.debug("facts.not_pruned", reason=str(error))


def due_to_end(streams: int, elapsed: float, window: float) -> int:
    """How many of `streams` should have ended `elapsed` seconds after a drain over `window` seconds began: the first at
    once, the others at an even pace.
    """
    if elapsed >= window:
        return streams
    return min(streams, 1 + int(streams * elapsed / window)) if streams else 0


@asynccontextmanager
async def open_gateway(settings: Settings, nats_url: str, on_death: Callable[[str], None]) -> AsyncIterator[Gateway]:
    """Connect and start to read. `on_death` is called with a reason where this process can't do its work any more.

    Raises:
        StreamsError: the broker or the database can't be reached, or won't have us.
    """
    async with (
        connect(
            nats_url,
            name="passline-gateway",
            inbox_prefix=inbox_prefix("gateway"),
            on_closed=lambda: on_death("the broker has closed the connection for good"),
        ) as client,
        open_database(settings.sql_url, statement_seconds=settings.statement_seconds) as engine,
    ):
        gateway = Gateway(settings, client, engine)
        async with background(*gateway.run(), on_death=on_death):
            yield gateway
