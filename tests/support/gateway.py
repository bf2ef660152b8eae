"""A whole Passline in the test's own process: a real broker, a real database, the worker, and uvicorn on a real socket.

What needs processes that can be killed is in tests/e2e.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import msgspec
import pytest
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from auth.keys import SigningKey, development_key
from auth.tokens import mint
from gateway.app import Gateway, create_app
from gateway.handover import HandoverProtocol, StreamConnection
from gateway.settings import Settings
from gateway.worker import run as run_worker
from streams.embedded import EmbeddedNats
from streams.facts import FactsUnavailable
from streams.provision import StreamSettings, provision
from tests.support.nats import SETTINGS, client, eventually
from tests.support.sse_client import StreamRequest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from nats.aio.client import Client

HttpProtocol: TypeAlias = type[HttpToolsProtocol]


class RunningGateway:
    """One gateway process's worth of Passline, at `url`."""

    def __init__(self, url: str, gateway: Gateway, key: SigningKey) -> None:
        self.url = url
        self.gateway = gateway
        self._key = key

    def token(self, subject: str, *, life_seconds: int = 3600, **claims: Any) -> str:
        """A token of the development key; `restaurants` and `scopes` as `auth.tokens.mint` takes them."""
        settings = self.gateway.settings
        return mint(
            signing_key=self._key,
            issuer=settings.token_issuer,
            audience=settings.token_audience,
            subject=subject,
            life_seconds=life_seconds,
            **claims,
        )

    def stream(self, topic: str, token: str, **options: Any) -> StreamRequest:
        """A request for the stream of `restaurants/<id>` or `orders/<id>`."""
        return StreamRequest(f"{self.url}/api/v1/{topic}/events", token=token, **options)

    def kitchen(self, restaurant: str, **options: Any) -> StreamRequest:
        """A request of its owner's for a restaurant's stream."""
        token = self.token(f"owner-of-{restaurant}", restaurants={restaurant: "owner"})
        return self.stream(f"restaurants/{restaurant}", token, **options)

    def customer(self, order: str, customer: str = "c1", **options: Any) -> StreamRequest:
        """A request of its customer's for an order's stream."""
        return self.stream(f"orders/{order}", self.token(customer), **options)


class Passline(Protocol):
    """A broker with its log, a database and a worker that applies the one to the other, and gateways as asked."""

    server: EmbeddedNats
    settings: Settings
    nc: Client

    async def gateway(self, **settings: Any) -> RunningGateway: ...

    async def stop_worker(self) -> None: ...

    def start_worker(self) -> None: ...


class _Passline:
    def __init__(
        self, server: EmbeddedNats, settings: Settings, nc: Client, stack: AsyncExitStack, http_protocol: HttpProtocol
    ) -> None:
        self.server = server
        self._http_protocol = http_protocol
        self.settings = settings
        self.nc = nc
        self._stack = stack
        self._worker: asyncio.Task[None] | None = None

    async def gateway(self, **settings: Any) -> RunningGateway:
        """One more gateway, ready."""
        changed = msgspec.structs.replace(self.settings, **settings)
        return await self._stack.enter_async_context(_running(changed, self._http_protocol))

    def start_worker(self) -> None:
        """Let the projection follow the log."""
        self._worker = asyncio.create_task(run_worker(self.settings, self.server.url("worker")))

    async def stop_worker(self) -> None:
        """Leave the projection where it is."""
        if self._worker is not None:
            self._worker.cancel()
            await asyncio.wait({self._worker})
            self._worker = None


@pytest.fixture
def stream_settings() -> StreamSettings:
    """How the log is made; a test module may say otherwise."""
    return SETTINGS


@pytest.fixture
def http_protocol(request: pytest.FixtureRequest) -> HttpProtocol:
    """With the hand-over, or without: then streams go through ASGI. A test may ask for either or both."""
    kind = getattr(request, "param", "handover")
    return HandoverProtocol if kind == "handover" else HttpToolsProtocol


@pytest.fixture
async def passline(
    nats_server: EmbeddedNats,
    tmp_path: Path,
    database: str,
    stream_settings: StreamSettings,
    http_protocol: HttpProtocol,
) -> AsyncIterator[_Passline]:
    """A broker, a database of each kind, and a worker. Its gateways end with the test."""
    async with client(nats_server, "admin") as admin:
        await provision(admin, stream_settings)
    settings = Settings.from_environment(
        {}, data_dir=tmp_path / "broker", database_url=database, heartbeat_seconds=0.5, retry_ms=500, drain_seconds=0.2
    )
    async with AsyncExitStack() as stack:
        nc = await stack.enter_async_context(client(nats_server, "gateway"))
        running = _Passline(nats_server, settings, nc, stack, http_protocol)
        running.start_worker()
        try:
            yield running
        finally:
            await running.stop_worker()


@asynccontextmanager
async def _running(settings: Settings, http_protocol: HttpProtocol) -> AsyncIterator[RunningGateway]:
    app = create_app(settings, on_death=_fail)
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        app,
        http=http_protocol,
        proxy_headers=False,
        server_header=False,
        access_log=False,
        log_config=None,
        lifespan="on",
        timeout_keep_alive=1,
        timeout_graceful_shutdown=2,
    )
    server = _Server(config)
    with _expected_cuts():
        serving = asyncio.create_task(server.serve([listener]))
        try:
            await eventually(lambda: server.started or serving.done(), within=10)
            if serving.done():
                await serving
            gateway: Gateway = app.state.gateway
            await eventually(lambda: gateway.readiness.ready or gateway.tail.mismatch is not None, within=10)
            await eventually(lambda: _has_facts(gateway), within=10)
            port = listener.getsockname()[1]
            yield RunningGateway(f"http://127.0.0.1:{port}", gateway, development_key(settings.data_dir))
        finally:
            if not serving.done():
                await app.state.gateway.drain(0)
                server.should_exit = True
            await serving
            await _cut_those_left(server)


async def _has_facts(gateway: Gateway) -> bool:
    """Whether the projection has been begun, which takes a new worker a moment."""
    try:
        async with gateway.facts.reading():
            return True
    except FactsUnavailable:
        return gateway.tail.mismatch is not None


async def _cut_those_left(server: uvicorn.Server) -> None:
    """After a test that failed there may be some. uvloop waits for ever at its end for one that is still open, where
    warnings are errors.
    """
    for connection in tuple(server.server_state.connections):
        open_one: Any = connection
        (open_one._transport if isinstance(open_one, StreamConnection) else open_one.transport).abort()
    await asyncio.sleep(0)


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """The test runner's signals stay its own."""
        yield


@contextmanager
def _expected_cuts() -> Iterator[None]:
    """A cut stream is what a finished one looks like to uvicorn, which takes it for an accident."""
    logger = logging.getLogger("uvicorn.error")

    def is_no_cut(record: logging.LogRecord) -> bool:
        return "without completing response" not in record.getMessage()

    logger.addFilter(is_no_cut)
    try:
        yield
    finally:
        logger.removeFilter(is_no_cut)


def _fail(reason: str) -> None:
    pytest.fail(f"a background task died: {reason}")
