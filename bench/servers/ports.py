"""Ports for servers that can't tell which one they took."""

from __future__ import annotations

import asyncio
import socket

from bench.errors import BenchError

START_SECONDS = 20.0


class NotListening(BenchError):
    """A server did not begin to listen in time."""


def free_port() -> int:
    """One that nobody has at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def listening(port: int, within: float = START_SECONDS) -> None:
    """Wait until somebody listens. Raises NotListening."""
    deadline = asyncio.get_running_loop().time() + within
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except ConnectionRefusedError:
            if asyncio.get_running_loop().time() > deadline:
                raise NotListening(f"nobody listens on port {port} after {within:g} s") from None
            await asyncio.sleep(0.02)
        else:
            writer.close()
            return
