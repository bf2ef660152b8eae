"""The baseline application bench/baselines/litestar_sse.py, on uvicorn with uvloop and httptools."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from bench.messages import Message
from bench.processes import Running, pin, running
from bench.servers.ports import free_port, listening
from bench.servers.posting import Poster, poster

if TYPE_CHECKING:
    from bench.bench import Bench

_TOP = Path(__file__).resolve().parents[2]


class LitestarSse:
    """Made by `litestar_sse`."""

    name = "Litestar"

    def __init__(self, process: Running, port: int, publisher: Poster) -> None:
        self.pid = process.pid
        self.port = port
        self.request = f"GET /events HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAccept: text/event-stream\r\n\r\n".encode()
        self._publisher = publisher

    async def publish(self, message: Message) -> None:
        """Raises PostRefused."""
        await self._publisher.post("/publish", message.view)


@asynccontextmanager
async def litestar_sse(bench: Bench) -> AsyncIterator[LitestarSse]:
    """The application in a process of its own."""
    port = free_port()
    options = f"--port {port} --loop uvloop --http httptools --no-access-log --log-level error".split()
    command: list[str | Path] = [sys.executable, "-m", "uvicorn", "bench.baselines.litestar_sse:app", "--app-dir", _TOP]
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        process = await enter(
            running("litestar", [*command, *options], directory=bench.directory, cores=bench.cores.others)
        )
        await listening(port)
        server = LitestarSse(process, port, await enter(poster(port)))
        pin(server.pid, bench.cores.measured)
        yield server
