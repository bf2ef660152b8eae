"""nats-server as our child process: one broker for one data directory, by the nats.conf that ships with Passline.

In the data directory: `nats/` the store, `nats.log`, `nats.pid`, `nats.url` (where the running broker listens, without
a password) and `credentials.json` (a password for each user, readable by its owner alone). Linux only.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import socket
import subprocess
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

import msgspec
import structlog

from streams import credentials
from streams.credentials import BrokerAddress
from streams.data_directory import LOCK_WAIT_SECONDS, Layout, lock_store, note_holder
from streams.discovery import find_binary, find_configuration
from streams.errors import (
    BinaryNotUsable,
    BrokerExitedAtStart,
    BrokerNotReady,
    PortNotUsable,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import TracebackType

    from streams.credentials import Role

HOST = "127.0.0.1"

# An ordinary start takes 20 ms; after a SIGKILL the index of a large store is built anew.
START_SECONDS = 15.0
STOP_SECONDS = 5.0

_READY_POLL_SECONDS = 0.002
_HEALTH_SECONDS = 1.0

_PR_SET_PDEATHSIG = 1
_SIGTERM = int(signal.SIGTERM)
# Looked up before any fork: what runs in the child of a process with threads should import and look up nothing.
_prctl = ctypes.CDLL(None).prctl

log = structlog.get_logger()


class EmbeddedNats:
    """`async with EmbeddedNats(data_dir) as broker:` a broker that lives as long as the block, or as this process.

    `port` 0 takes any free port; whichever it is, it stays this broker's over every `restart()`, so that clients find
    their way back. The store is locked by the child itself, so an orphan keeps it locked, too.

    The kernel ends the child when the *thread* that started it ends, so enter this on the main thread's event loop.

    Entering raises BinaryNotUsable, ConfigurationMissing, DataDirectoryNotUsable, CredentialsUnreadable, StoreLocked
    (after `lock_wait_seconds`), PortNotUsable, BrokerExitedAtStart, BrokerNotReady (after `start_seconds`).
    """

    def __init__(
        self,
        data_dir: Path,
        port: int = 0,
        binary: Path | None = None,
        *,
        lock_wait_seconds: float = LOCK_WAIT_SECONDS,
        start_seconds: float = START_SECONDS,
        stop_seconds: float = STOP_SECONDS,
    ) -> None:
        self.port = port
        self.layout = Layout(data_dir)
        self._binary = binary
        self._lock_wait_seconds = lock_wait_seconds
        self._start_seconds = start_seconds
        self._stop_seconds = stop_seconds
        # While open:
        self._reservation: socket.socket | None = None
        self._passwords: credentials.Passwords = {}
        # While a child runs:
        self._child: _Child | None = None
        self._monitor_port = 0

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except BaseException:
            self._release_port()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self._stop()
        finally:
            self._release_port()

    @property
    def address(self) -> BrokerAddress:
        return BrokerAddress(HOST, self.port, self._passwords)

    def url(self, role: Role) -> str:
        """With user and password: never to be logged."""
        return self.address.url(role)

    @property
    def monitor_url(self) -> str:
        """nats-server's own HTTP monitoring, on a loopback port that changes with every start."""
        return f"http://{HOST}:{self._monitor_port}"

    @property
    def pid(self) -> int:
        return self._started().pid

    async def wait_exited(self) -> int:
        """Wait until the child has ended, by itself or by `restart()`; its return code, negative for a signal."""
        return await self._started().wait()

    async def restart(self) -> None:
        """Start again on the same port and store, after a crash or instead of the child that runs.

        Raises what entering raises.
        """
        await self._stop()
        await self._start()

    def _started(self) -> _Child:
        if self._child is None:
            raise RuntimeError("the broker was not started")
        return self._child

    async def _start(self) -> None:
        binary = _checked(self._binary or find_binary())
        configuration = find_configuration()
        lock = await lock_store(self.layout, self._lock_wait_seconds)
        try:
            log_start = self._prepare()
            child = self._child = self._spawn(binary, configuration, lock)
            note_holder(lock, child.pid)
        finally:
            # The child has inherited it and holds the lock alone from here on.
            os.close(lock)
        try:
            await self._until_ready(child, log_start)
            self.layout.url.write_text(f"nats://{HOST}:{self.port}\n")
        except BaseException:
            await self._stop()
            raise
        log.info("broker.started", pid=child.pid, port=self.port, data_dir=str(self.layout.data_dir))

    def _prepare(self) -> int:
        """With the lock held: clear away what a killed predecessor left, have passwords and a port.

        Returns where in the log this start begins.
        """
        try:
            for stale in (self.layout.url, self.layout.pid, *self.layout.store.glob("nats-server_*.ports")):
                stale.unlink(missing_ok=True)
            self._passwords = credentials.ensure(self.layout.credentials)
            with self.layout.open_log() as output:
                log_start = output.tell()
        except OSError as error:
            raise self.layout.not_usable(error) from error
        if self._reservation is None:
            self._reservation = _reserve(self.port)
            self.port = self._reservation.getsockname()[1]
        return log_start

    def _spawn(self, binary: Path, configuration: Path, lock: int) -> _Child:
        arguments = (
            *("--config", configuration, "--addr", HOST, "--port", str(self.port), "--http_port", "-1"),
            *("--store_dir", self.layout.store, "--ports_file_dir", self.layout.store),
            *("--pid", self.layout.pid, "--log", self.layout.log),
        )
        environment = {credentials.password_variable(role): self._passwords[role] for role in credentials.ROLES}
        try:
            # What nats-server says before it has opened its log, and the trace of a panic, belong there, too.
            with self.layout.open_log() as output:
                process = subprocess.Popen(
                    (binary, *arguments),
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    pass_fds=(lock,),
                    # A Ctrl-C in the terminal is for us; we stop the broker once its clients are done.
                    start_new_session=True,
                    preexec_fn=_die_with(os.getpid()),
                )
        except OSError as error:
            raise BinaryNotUsable(binary, error.strerror or str(error)) from error
        return _Child(process)

    async def _until_ready(self, child: _Child, log_start: int) -> None:
        try:
            async with asyncio.timeout(self._start_seconds):
                while not await self._is_ready(child):
                    if child.returncode is not None:
                        raise self._exited(child.returncode, self.layout.log_tail(log_start))
                    await asyncio.sleep(_READY_POLL_SECONDS)
        except TimeoutError as error:
            tail = self.layout.log_tail(log_start)
            raise BrokerNotReady(self._start_seconds, self.layout.log, tail) from error

    async def _is_ready(self, child: _Child) -> bool:
        try:
            ports = msgspec.json.decode(self.layout.ports(child.pid).read_bytes(), type=_Ports)
        except (FileNotFoundError, msgspec.DecodeError):
            return False  # not there, or not yet whole
        self._monitor_port = urlsplit(ports.monitoring[0]).port or 0
        return await _is_healthy(self._monitor_port)

    def _exited(self, returncode: int, tail: str) -> BrokerExitedAtStart | PortNotUsable:
        # The reservation shuts out everyone but a broker whose parent reserved the same port at the same moment.
        if "address already in use" in tail:
            return PortNotUsable(HOST, self.port, "Address already in use")
        return BrokerExitedAtStart(returncode, self.layout.log, tail)

    async def _stop(self) -> None:
        child = self._child
        if child is None or child.returncode is not None:
            return
        self.layout.url.unlink(missing_ok=True)
        child.send(signal.SIGTERM)
        child.send(signal.SIGCONT)  # or, if it was stopped, it would never hear
        try:
            async with asyncio.timeout(self._stop_seconds):
                await child.wait()
        except TimeoutError:
            log.warning("broker.killed", pid=child.pid, waited_seconds=self._stop_seconds)
            child.send(signal.SIGKILL)
            await child.wait()
        finally:
            if child.returncode is None:  # we were cancelled
                child.send(signal.SIGKILL)

    def _release_port(self) -> None:
        if self._reservation is not None:
            self._reservation.close()
            self._reservation = None


class _Child:
    """A process whose end is told by its pidfd, alike on every event loop.

    Not asyncio's subprocesses: uvloop's hand every inheritable descriptor down, listening sockets among them.
    """

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.pid = process.pid
        self._process = process
        self._ended = asyncio.Event()
        self._pidfd = os.pidfd_open(process.pid)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._pidfd, self._reap)

    @property
    def returncode(self) -> int | None:
        return self._process.returncode

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def wait(self) -> int:
        await self._ended.wait()
        return self._process.wait()

    def _reap(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._process.wait()
        self._ended.set()


def _checked(binary: Path) -> Path:
    if not binary.is_file():
        raise BinaryNotUsable(binary, "no such file")
    if not os.access(binary, os.X_OK):
        raise BinaryNotUsable(binary, "not executable")
    return binary


def _reserve(port: int) -> socket.socket:
    """A bound socket that never listens: it keeps the port ours between two children.

    Another socket with SO_REUSEADDR, as nats-server's is, may listen beside it, but the kernel gives the port to
    nobody who asks for any: no listener, and no client that in its attempts to reconnect would meet itself.
    """
    reservation = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reservation.bind((HOST, port))
    except OSError as error:
        reservation.close()
        raise PortNotUsable(HOST, port, error.strerror or str(error)) from error
    return reservation


def _die_with(parent: int) -> Callable[[], None]:
    """What the child does between fork and exec, so that it never outlives `parent` by more than its own stop."""

    def in_child() -> None:
        _prctl(_PR_SET_PDEATHSIG, _SIGTERM, 0, 0, 0)
        if os.getppid() != parent:  # it ended before we asked to be told
            os._exit(1)

    return in_child


class _Ports(msgspec.Struct):
    monitoring: list[str]


async def _is_healthy(monitor_port: int) -> bool:
    """Whether JetStream has recovered its streams (`/healthz`)."""
    try:
        async with asyncio.timeout(_HEALTH_SECONDS):
            reader, writer = await asyncio.open_connection(HOST, monitor_port)
            try:
                writer.write(b"GET /healthz HTTP/1.0\r\n\r\n")
                return b" 200 " in await reader.readline()
            finally:
                writer.close()
                await writer.wait_closed()
    except OSError:  # TimeoutError is one
        return False
