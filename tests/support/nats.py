"""Real brokers for tests: each its own nats-server, on its own port and directory, by the shipped nats.conf.

tests/conftest.py loads the fixtures.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from streams.broker import connect, request
from streams.credentials import inbox_prefix
from streams.embedded import EmbeddedNats
from streams.provision import StreamSettings, provision

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from nats.aio.client import Client

    from streams.credentials import Role

# Small, because bytes are reserved on the disk, and two runs at once must both find room.
SETTINGS = StreamSettings(
    max_bytes=64 * 1024**2, dead_max_bytes=8 * 1024**2, commands_max_bytes=8 * 1024**2, idempotency_max_bytes=1024**2
)

PLACED = "orders.r1.c1.o1.OrderPlaced"
"""A subject for tests to which any of EVENTS's would do."""


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
        await provision(admin, SETTINGS)
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


async def publish(
    nc: Client, subject: str = PLACED, data: bytes = b"{}", headers: dict[str, str] | None = None
) -> dict[str, Any]:
    """JetStream's answer to one publish, an error or an acknowledgement."""
    answer: dict[str, Any] = json.loads((await request(nc, subject, data, headers=headers)).data)
    return answer


async def api(nc: Client, operation: str, body: object = None) -> dict[str, Any]:
    """What JetStream's API answers, an error or not, with every field that it has."""
    message = await request(nc, f"$JS.API.{operation}", b"" if body is None else json.dumps(body).encode())
    answer: dict[str, Any] = json.loads(message.data)
    return answer


async def eventually(condition: Callable[[], bool | Awaitable[bool]], *, within: float = 5.0) -> None:
    """Wait until `condition` holds; fail if it still does not after `within` seconds."""
    async with asyncio.timeout(within):
        while True:
            held = condition()
            if held if isinstance(held, bool) else await held:
                return
            await asyncio.sleep(0.005)
