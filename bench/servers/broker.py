"""A broker of our own, with the shipped nats.conf but for one line: it does not wait for the disk.

Only for what is about reading: hundreds of thousands of events are in its log within seconds. It can be away while they
are put there, so that who reads it has them all before it at once.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from itertools import islice
from typing import TYPE_CHECKING, BinaryIO

from bench.errors import BenchError
from bench.processes import running
from bench.servers.ports import free_port, listening
from streams.credentials import ROLES, inbox_prefix, password_variable
from streams.discovery import find_binary, find_configuration

if TYPE_CHECKING:
    from bench.bench import Bench
    from bench.servers.passline import Publishable

IN_ONE_WRITE = 500
"""Messages, of which the last is acknowledged."""

_AWAY = 8
"""So many writes may be on their way. JetStream drops what is beyond 10,000 messages."""

_SYNC, _NO_SYNC = "sync_interval: always", 'sync_interval: "2m"'


class NotFilled(BenchError):
    """The broker did not take what was published."""


class Broker:
    """`environment` is what a Passline needs to use it, wherever it is at the moment: its port stays."""

    def __init__(self, bench: Bench) -> None:
        self.port = free_port()
        self._passwords = {password_variable(role): f"p{role}" for role in ROLES}
        self.environment = {"PASSLINE_NATS_URL": f"nats://127.0.0.1:{self.port}"} | self._passwords
        self._bench = bench
        self._configuration = bench.directory / "broker.conf"
        shipped = find_configuration().read_text()
        if shipped.count(_SYNC) != 1:
            raise BenchError(f"nats.conf no longer says {_SYNC!r} once")
        self._configuration.write_text(shipped.replace(_SYNC, _NO_SYNC))

    @asynccontextmanager
    async def running(self, port: int | None = None) -> AsyncIterator[int]:
        """While inside, it listens; the port it listens on. On the same store each time, but for one at a time."""
        port = port or self.port
        command = (find_binary(), "-c", self._configuration, "--addr", "127.0.0.1", "--port", str(port))
        store = ("--store_dir", str(self._bench.directory / "broker"))
        directory, cores = self._bench.directory, self._bench.cores.others
        async with running("broker", (*command, *store), directory=directory, cores=cores, environment=self._passwords):
            await listening(port)
            yield port

    async def fill(self, events: Iterable[Publishable]) -> None:
        """Put events into its log where nobody else finds it meanwhile. Raises NotFilled."""
        async with self.running(free_port()) as port:
            await asyncio.to_thread(_fill, port, self._passwords[password_variable("gateway")], events)


def _fill(port: int, password: str, events: Iterable[Publishable]) -> None:
    """The protocol of NATS by hand: nats-py would take ten times as long."""
    inbox = f"{inbox_prefix('gateway')}.fill"
    login = {"user": "gateway", "pass": password, "verbose": False, "headers": True, "lang": "bench", "version": "1"}
    with socket.create_connection(("127.0.0.1", port)) as connection, connection.makefile("rb") as answers:
        connection.sendall(f"CONNECT {json.dumps(login)}\r\nSUB {inbox} 1\r\n".encode())
        away, left = 0, iter(events)
        while batch := list(islice(left, IN_ONE_WRITE)):
            *most, last = batch
            connection.sendall(b"".join([*(_message(event) for event in most), _message(last, inbox)]))
            away += 1
            if away == _AWAY:
                _await_stored(connection, answers)
                away -= 1
        for _ in range(away):
            _await_stored(connection, answers)


def _message(event: Publishable, reply: str = "") -> bytes:
    header = f"NATS/1.0\r\nNats-Msg-Id: {event.event_id}\r\n\r\n".encode()
    size = len(header) + len(event.body)
    return b"HPUB %b %b %d %d\r\n%b%b\r\n" % (
        event.subject.encode(),
        reply.encode(),
        len(header),
        size,
        header,
        event.body,
    )


def _await_stored(connection: socket.socket, answers: BinaryIO) -> None:
    while not (line := answers.readline()).startswith(b"MSG "):
        if line == b"PING\r\n":
            connection.sendall(b"PONG\r\n")
        elif not line or line.startswith(b"-ERR"):
            raise NotFilled(line.decode() or "the broker closed the connection")
    answer = answers.read(int(line.split()[-1]) + 2)
    if b'"seq":' not in answer or b'"error"' in answer:
        raise NotFilled(answer.decode())
