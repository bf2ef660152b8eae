"""Real brokers for tests: each its own nats-server, on its own port and directory, by the shipped nats.conf.

A root conftest loads the fixtures: `pytest_plugins = ["tests.support.nats"]`.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from streams import broker
from streams.broker import StreamSettings, connect
from streams.credentials import inbox_prefix
from streams.embedded import EmbeddedNats

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from nats.aio.client import Client

    from streams.credentials import Role

# Small, because bytes are reserved on the disk, and two runs at once must both find room.
SETTINGS = StreamSettings(max_bytes=64 * 1024**2, dead_max_bytes=8 * 1024**2)


class StartNats(Protocol):
    """`await start_nats("a")`: one more broker in a directory of that name, with EmbeddedNats's further arguments."""

    async def __call__(self, name: str, **options: Any) -> EmbeddedNats: ...


@pytest.fixture
async def nats_server(tmp_path: Path) -> AsyncIterator[EmbeddedNats]:
    """A broker without streams, as `passline serve` starts it. About 30 ms."""
    async with EmbeddedNats(tmp_path / "broker") as server:
        yield server


@pytest.fixture
async def start_nats(tmp_path: Path) -> AsyncIterator[StartNats]:
    """Several brokers, all ended with the test."""
    async with AsyncExitStack() as stack:

        async def start(name: str, **options: Any) -> EmbeddedNats:
            return await stack.enter_async_context(EmbeddedNats(tmp_path / name, **options))

        yield start


@pytest.fixture
async def log_server(nats_server: EmbeddedNats) -> EmbeddedNats:
    """A broker that has EVENTS and DEAD."""
    async with client(nats_server, "admin") as admin:
        await broker.provision(admin, SETTINGS)
    return nats_server


@asynccontextmanager
async def client(server: EmbeddedNats, role: Role) -> AsyncIterator[Client]:
    """A connection by one of nats.conf's users that fails the test if the broker ends it for good."""
    ended = asyncio.Event()
    async with connect(
        server.url(role), name=f"test-{role}", inbox_prefix=inbox_prefix(role), on_closed=ended.set
    ) as nc:
        yield nc
        assert not ended.is_set(), "the broker ended the connection"


async def eventually(condition: Callable[[], bool | Awaitable[bool]], *, within: float = 5.0) -> None:
    """Wait until `condition` holds; fail if it still does not after `within` seconds."""
    async with asyncio.timeout(within):
        while True:
            held = condition()
            if held if isinstance(held, bool) else await held:
                return
            await asyncio.sleep(0.005)
