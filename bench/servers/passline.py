"""Passline as it is shipped: `passline serve`, with its caps off, and events published straight into the log."""

from __future__ import annotations

import asyncio
import json
import sysconfig
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

from auth.keys import development_key
from auth.tokens import mint
from bench.errors import BenchError
from bench.messages import RESTAURANT
from bench.processes import Running, descendant, pin, running
from gateway.broker_url import broker_url
from gateway.settings import Settings
from streams.broker import connect
from streams.credentials import Role, inbox_prefix

if TYPE_CHECKING:
    from nats.aio.client import Client
    from nats.aio.msg import Msg

    from bench.bench import Bench

START_SECONDS = 30.0
ACKNOWLEDGE_SECONDS = 10.0

UNCAPPED = {
    "PASSLINE_LOG_LEVEL": "warning",
    "PASSLINE_DRAIN_SECONDS": "0",
    "PASSLINE_MAX_PER_SUBJECT_TOPIC": "0",
    "PASSLINE_MAX_PER_SUBJECT": "0",
    "PASSLINE_MAX_PER_ADDRESS": "0",
    "PASSLINE_MAX_PER_TOPIC": "0",
    "PASSLINE_MAX_PER_PROCESS": "0",
    "PASSLINE_MAX_NEW_PER_SECOND": "0",
    # Nobody answers these orders, and an alarm would be an event more.
    "PASSLINE_ACCEPT_WITHIN_SECONDS": "0",
    "PASSLINE_READY_WITHIN_SECONDS": "0",
    "PASSLINE_DELIVER_WITHIN_SECONDS": "0",
    "PASSLINE_UNATTENDED_SECONDS": "0",
}
"""Thousands of streams from one address are what caps are there to refuse. All else is as by default."""


class PublishRefused(BenchError):
    """JetStream did not take an event."""


class Publishable(Protocol):
    """A `Message`, or anything else that may stand in the log."""

    @property
    def subject(self) -> str: ...

    @property
    def event_id(self) -> str: ...

    @property
    def body(self) -> bytes: ...


class Passline:
    """`passline serve` with one gateway process, which is the measured one. Made by `passline`."""

    name = "passline"

    def __init__(
        self, process: Running, data_dir: Path, url: str, publisher: Client, environment: Mapping[str, str]
    ) -> None:
        self.pid = descendant(process.pid, "gateway.child gateway")
        self.supervisor_pid = process.pid
        self.data_dir = data_dir
        self.publisher = publisher
        self._environment = environment
        self._key = development_key(data_dir)
        self.port = urlsplit(url).port or 0
        self.request = self.stream(f"restaurants/{RESTAURANT}", self.token("owner", restaurants={RESTAURANT: "owner"}))

    def client(self, role: Role) -> AbstractAsyncContextManager[Client]:
        """A connection of one's own to the broker, as one of its users."""
        return client(self.data_dir, role, self._environment)

    def token(self, subject: str, **claims: Any) -> str:
        """A token that is accepted; `restaurants` and `scopes` as `auth.tokens.mint` takes them. About 0.1 ms."""
        settings = Settings()
        return mint(
            signing_key=self._key,
            issuer=settings.token_issuer,
            audience=settings.token_audience,
            subject=subject,
            life_seconds=3600,
            **claims,
        )

    def stream(self, topic: str, token: str, *, cursor: str | None = None, snapshot: bool = False) -> bytes:
        """A request for the stream of `restaurants/<id>` or `orders/<id>`, as a client sends it."""
        returning = "" if cursor is None else f"Last-Event-ID: {cursor}\r\n"
        return (
            f"GET /api/v1/{topic}/events?snapshot={'true' if snapshot else 'false'} HTTP/1.1\r\n"
            f"Host: 127.0.0.1:{self.port}\r\nAccept: text/event-stream\r\nAuthorization: Bearer {token}\r\n"
            f"{returning}\r\n"
        ).encode()

    async def publish(self, message: Publishable) -> None:
        """Into the log, acknowledged. Raises PublishRefused."""
        await publish(self.publisher, message)

    async def publish_all(self, messages: Iterable[Publishable], in_flight: int = 64) -> float:
        """As `publish_all`, by this one's publisher."""
        return await publish_all(self.publisher, messages, in_flight)


async def publish(nc: Client, message: Publishable) -> None:
    """Into the log, acknowledged. Raises PublishRefused."""
    answer = await nc.request(message.subject, message.body, headers={"Nats-Msg-Id": message.event_id})
    _check(answer.data)


async def publish_all(nc: Client, messages: Iterable[Publishable], in_flight: int = 64) -> float:
    """As fast as JetStream takes them, in order, with so many not yet acknowledged.

    `messages` is asked for the next one when that is about to be sent. Returns how many were taken in a second. Raises
    PublishRefused.
    """
    acknowledged = _Acknowledged(in_flight)
    inbox = nc.new_inbox()
    subscription = await nc.subscribe(inbox, cb=acknowledged.take)
    began = time.monotonic()
    count = 0
    unsent = iter(messages)
    while True:
        await acknowledged.room()
        if (message := next(unsent, None)) is None:
            break
        count += 1
        headers = {"Nats-Msg-Id": message.event_id}
        await nc.publish(message.subject, message.body, reply=inbox, headers=headers)
    await acknowledged.all(count)
    seconds = time.monotonic() - began
    await subscription.unsubscribe()
    return count / seconds


class _Acknowledged:
    """Counts acknowledgements, and says when there is room for one more event in flight."""

    def __init__(self, in_flight: int) -> None:
        self._free = asyncio.Semaphore(in_flight)
        self._count = 0
        self._wanted = -1
        self._done = asyncio.Event()
        self._refusal: PublishRefused | None = None

    async def take(self, message: Msg) -> None:
        try:
            _check(message.data)
        except PublishRefused as refusal:
            self._refusal = refusal
        self._count += 1
        self._free.release()
        if self._count == self._wanted:
            self._done.set()

    async def room(self) -> None:
        await self._free.acquire()
        if self._refusal is not None:
            raise self._refusal

    async def all(self, count: int) -> None:
        self._wanted = count
        if self._count < count:
            async with asyncio.timeout(ACKNOWLEDGE_SECONDS):
                await self._done.wait()
        if self._refusal is not None:
            raise self._refusal


def _check(answer: bytes) -> None:
    told = json.loads(answer)
    if "error" in told or told.get("duplicate"):
        raise PublishRefused(str(told))


@asynccontextmanager
async def passline(
    bench: Bench, environment: Mapping[str, str] | None = None, name: str = "passline"
) -> AsyncIterator[Passline]:
    """A Passline with a log of its own, which it goes on with when it is started again under the same `name`.

    `environment` comes on top of UNCAPPED.
    """
    data_dir, settings = bench.directory / f"{name}-data", UNCAPPED | dict(environment or {})
    command = (Path(sysconfig.get_path("scripts")) / "passline", "serve", "--data-dir", data_dir, "--port", "0")
    async with running(
        name,
        command,
        directory=bench.directory,
        cores=bench.cores.others,
        environment=settings,
    ) as process:
        async with asyncio.timeout(START_SECONDS):
            url = (await process.line_with("listening on")).rpartition(" ")[2]
        async with client(data_dir, "publisher", settings) as publisher:
            started = Passline(process, data_dir, url, publisher, settings)
            pin(started.pid, bench.cores.measured)
            yield started


@asynccontextmanager
async def client(data_dir: Path, role: Role, environment: Mapping[str, str]) -> AsyncIterator[Client]:
    """A connection to the broker of a running Passline, as one of its users."""

    def ended() -> None:
        raise PublishRefused("the broker ended the connection")

    url = broker_url(Settings.from_environment(environment, data_dir=data_dir), role)
    async with connect(url, name=f"bench-{role}", inbox_prefix=inbox_prefix(role), on_closed=ended) as nc:
        yield nc
