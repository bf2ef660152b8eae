"""The yardstick: bench/native/sender.c, a loop of send() and nothing else."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from bench.messages import Message
from bench.processes import Running, pin, running

if TYPE_CHECKING:
    from bench.bench import Bench


class Yardstick:
    """Sends each message's frame to everybody who is connected. Made by `yardstick`."""

    name = "send() loop"
    request = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"

    def __init__(self, process: Running, port: int, datagrams: asyncio.DatagramTransport) -> None:
        self.pid = process.pid
        self.port = port
        self._datagrams = datagrams

    async def publish(self, message: Message) -> None:
        self._datagrams.sendto(message.frame())


@asynccontextmanager
async def yardstick(bench: Bench) -> AsyncIterator[Yardstick]:
    """The program, and a socket to trigger it by."""
    program = bench.program("sender")
    async with running("sender", (program,), directory=bench.directory, cores=bench.cores.others) as process:
        ports = json.loads(await process.line())
        pin(process.pid, bench.cores.measured)
        loop = asyncio.get_running_loop()
        address = ("127.0.0.1", ports["udp"])
        transport, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, remote_addr=address)
        try:
            yield Yardstick(process, ports["port"], transport)
        finally:
            transport.close()
