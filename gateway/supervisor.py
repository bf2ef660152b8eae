"""`passline serve`: the broker, one worker and the gateway processes, started in order and ended in reverse."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Self

import structlog

from gateway.background import background
from gateway.children import Child, Kept, NotReplaced, Status, child_command
from gateway.descriptors import raise_descriptor_limit
from gateway.errors import GatewayError, ProcessUnfit
from gateway.preparation import prepare
from streams.credentials import ROLES, password_variable
from streams.embedded import EmbeddedNats
from streams.errors import StreamsError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable
    from types import TracebackType

    from gateway.settings import Settings
    from streams.credentials import Role

BACKLOG = 2048
"""Connections that the kernel holds while no process takes them, as after a crash of the only one."""

GATEWAY_GRACE_SECONDS = 14.0
"""For a gateway process to end, beyond the drain window: open requests before it and after it, then its connections to
broker and database.
"""

WORKER_GRACE_SECONDS = 8.0

ROLL_READY_SECONDS = 60.0
"""For a new process to take another one's place: its start, and to fill its window from the log."""

_BROKER_BACKOFF_SECONDS = (0.1, 0.5, 1.0, 2.0, 5.0)

_log = structlog.get_logger()


class ListenerNotUsable(GatewayError):
    """The address can't be listened on."""

    def __init__(self, host: str, port: int, reason: str) -> None:
        super().__init__(
            f"can't listen on {host}:{port} ({reason}): end what listens there, or choose another --host or --port"
        )
        self.host, self.port, self.reason = host, port, reason


class Supervisor:
    """`async with Supervisor(settings) as supervisor:` everything runs for as long as the block does.

    Entering starts all processes, which are not ready yet then. Leaving drains the gateways within the drain window,
    then ends the worker, then the broker; if leaving is cancelled, at once. `roll` replaces the gateways and the worker
    meanwhile.

    Entering raises ListenerNotUsable, KeyUnusable, and StreamsError where the broker or the database can't be used.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stack = AsyncExitStack()
        # While open:
        self._broker: EmbeddedNats | None = None
        self._gateways: Kept | None = None
        self._address = (settings.host, settings.port)
        self._ready = asyncio.Event()
        self._roll_wanted = asyncio.Event()
        self._unfit: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    @property
    def url(self) -> str:
        """Where the gateways listen."""
        host, port = self._address
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def broker_url(self, role: Role) -> str:
        """For one of the broker's users: never to be logged."""
        url = self._broker.url(role) if self._broker is not None else self._settings.external_nats_url(role)
        assert url is not None
        return url

    @property
    def statuses(self) -> list[Status]:
        """What each gateway process that runs told last."""
        gateways = self._gateways.children if self._gateways is not None else []
        return [each.status for each in gateways if each.status is not None]

    async def wait_ready(self) -> None:
        """Until a gateway process is ready.

        Raises:
            ProcessUnfit: what watches over the others has failed.
        """
        ready = asyncio.ensure_future(self._ready.wait())
        either: set[asyncio.Future[Any]] = {ready, self._unfit}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ready.cancel()
        if self._unfit.done():
            raise ProcessUnfit(self._unfit.result())

    def roll(self) -> None:
        """Replace each gateway by a new process, one after the other, and then the worker.

        The new one takes streams before the old one drains. One that does not become ready is given up, and the roll
        with it. Asked again before it has ended, all are replaced once more after that.
        """
        self._roll_wanted.set()

    async def run(self) -> None:
        """Until cancelled. Raises ProcessUnfit."""
        raise ProcessUnfit(await self._unfit)

    async def _start(self) -> None:
        settings, enter = self._settings, self._stack.enter_async_context
        raise_descriptor_limit()
        listener = self._stack.enter_context(listen(settings.host, settings.port))
        self._address = (settings.host, listener.getsockname()[1])
        if settings.nats_url is None:
            self._broker = await enter(EmbeddedNats(settings.data_dir))
            await enter(background(_keep_broker(self._broker), on_death=self._give_up))
        await prepare(settings, self.broker_url("admin"), is_alone=self._broker is not None)
        worker = Child("worker", child_command("worker", "worker"), self._environment("worker"))
        workers = await enter(Kept([worker], grace_seconds=WORKER_GRACE_SECONDS, on_death=self._give_up))
        gateways = [self._gateway(f"gateway-{number + 1}", listener.fileno()) for number in range(settings.workers)]
        grace = settings.drain_seconds + GATEWAY_GRACE_SECONDS
        self._gateways = Kept(gateways, grace_seconds=grace, on_death=self._give_up)
        await enter(self._gateways)
        await enter(background(self._roll_when_wanted(self._gateways, workers), on_death=self._give_up))
        # With theirs closed as well, the port refuses at once instead of holding what nobody will take.
        self._stack.callback(listener.close)

    def _gateway(self, name: str, listener: int) -> Child:
        return Child(
            name,
            child_command("gateway", name, listener),
            self._environment("gateway"),
            descriptors=(listener,),
            on_status=self._look_at_statuses,
        )

    def _environment(self, role: Role) -> dict[str, str]:
        """What a child gets: our environment, the settings that a command's options may have changed, and of an
        embedded broker's passwords its own.
        """
        settings, environment = self._settings, dict(os.environ)
        environment["PASSLINE_DATA_DIR"] = str(settings.data_dir.absolute())
        environment["PASSLINE_LOG_LEVEL"] = settings.log_level
        environment["PASSLINE_TEAM_CARTS"] = str(settings.team_carts).lower()
        environment["PASSLINE_SHOW_PLATFORM_FEE"] = str(settings.show_platform_fee).lower()
        if self._broker is not None:
            for each in ROLES:
                environment.pop(password_variable(each), None)
            environment["PASSLINE_NATS_URL"] = f"nats://{self._broker.address.host}:{self._broker.port}"
            environment[password_variable(role)] = self._broker.address.passwords[role]
        return environment

    async def _roll_when_wanted(self, *groups: Kept) -> None:
        while True:
            await self._roll_wanted.wait()
            self._roll_wanted.clear()
            _log.info("roll.began")
            try:
                await _roll(groups)
            except NotReplaced as error:
                _log.error("roll.stopped", reason=str(error))
            else:
                _log.info("roll.ended")

    def _look_at_statuses(self) -> None:
        if any(status.ready for status in self.statuses):
            self._ready.set()

    def _give_up(self, reason: str) -> None:
        if not self._unfit.done():
            self._unfit.set_result(reason)


async def _roll(groups: Iterable[Kept]) -> None:
    """Raises NotReplaced."""
    for group in groups:
        for old in group.children:
            replaced = old.pid
            new = await group.replace(old, ROLL_READY_SECONDS)
            _log.info("process.replaced", process=new.name, pid=new.pid, replaced=replaced)


async def supervise(settings: Settings, body: Callable[[Supervisor], Awaitable[None]]) -> bool:
    """Run `body` with everything started, until it ends or SIGTERM or SIGINT comes; a second one ends at once. SIGHUP
    rolls, but for the one by which a terminal says that it is gone: that one ends, too.

    Returns whether all ended in good order. Raises what entering a Supervisor raises, and ProcessUnfit.
    """
    task = asyncio.current_task()
    assert task is not None
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    supervisor = Supervisor(settings)
    has_terminal = sys.stderr.isatty()

    def on_hangup() -> None:
        if has_terminal and not sys.stderr.isatty():
            task.cancel()
        else:
            supervisor.roll()

    loop.add_signal_handler(signal.SIGHUP, on_hangup)
    started = False
    try:
        async with supervisor:
            started = True
            try:
                await body(supervisor)
            except asyncio.CancelledError:
                task.uncancel()  # or, before Python 3.11.4, no timeout would work in what is to be ended now
    except asyncio.CancelledError:
        _log.warning("supervisor.ended_at_once")
        return not started
    return True


async def _keep_broker(broker: EmbeddedNats) -> None:
    """Start the broker again whenever it dies, on its port, so that all find their way back."""
    while True:
        code = await broker.wait_exited()
        _log.error("broker.died", returncode=code)
        failures = 0
        while True:
            try:
                await broker.restart()
                break
            except StreamsError as error:
                pause = _BROKER_BACKOFF_SECONDS[min(failures, len(_BROKER_BACKOFF_SECONDS) - 1)]
                failures += 1
                _log.error("broker.not_restarted", reason=str(error), again_in_seconds=pause)
                await asyncio.sleep(pause)


def listen(host: str, port: int) -> socket.socket:
    """The socket that all gateway processes share; it holds connections from now on until one takes them.

    Raises:
        ListenerNotUsable
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        dual = family == socket.AF_INET6 and address[0] == "::" and socket.has_dualstack_ipv6()
        listener = socket.create_server(address[:2], family=family, backlog=BACKLOG, dualstack_ipv6=dual)
    except (socket.gaierror, UnicodeError) as error:
        raise ListenerNotUsable(host, port, "no such host") from error
    except OSError as error:
        raise ListenerNotUsable(host, port, os.strerror(error.errno or 0)) from error
    listener.setblocking(False)
    return listener
