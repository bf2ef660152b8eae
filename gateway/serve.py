"""One gateway process: uvicorn with a drain of our own.

uvicorn waits for open responses before it tells the application anything, so streams would hold it for ever. Here the
hub ends them over the drain window first, and what uvicorn waits for then are ordinary requests.
"""

from __future__ import annotations

import asyncio
import logging
import re
import signal
import socket
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING

import structlog
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway.app import create_app
from gateway.children import Status, tell_supervisor
from gateway.errors import ProcessUnfit
from gateway.handover import HandoverProtocol
from gateway.handover_check import working_protocol
from gateway.watchdog import LoopWatchdog

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

    from gateway.app import Gateway
    from gateway.settings import Settings

BACKSTOP_SECONDS = 3
"""After the drain, for requests that are still being answered and clients that don't take their last bytes."""

SECOND_SIGNAL_SECONDS = 0.3
"""After the first signal a further one ends the process at once, but only from then on.

When the supervisor is killed the kernel may tell its death several times, once for each of its threads.
"""

LISTEN_SECONDS = 10.0
"""A process begins to listen when it is ready, since whoever came before would be sent away. After this it listens all
the same: somebody must be able to ask why, and what waits in the kernel's queue must not wait for ever.
"""

HEAD_SETTLE_SECONDS = 2.0
"""After the listening sockets have closed, for the requests on connections that were taken before. A client sends its
request at once; a browser may open connections ahead of any need, which say nothing.
"""

REQUEST_SETTLE_SECONDS = 6.0
"""After that, too, for requests to become streams or be answered. The longest wait is for an order that nobody has
heard of (5 s).
"""

UNFIT_DRAIN_SECONDS = 1.0
"""A process that can't do its work drains faster: until it has ended nothing takes its place."""

_STEP_SECONDS = 0.02
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
# How uvicorn tells of a body without its last chunk, which is how every stream is meant to end.
_CUT = "ASGI callable returned without completing response."
# How it tells of a start that failed: Litestar's traceback as a text, at the end of which stands one of our errors.
_OUR_ERROR = re.compile(
    r"Traceback .*^[ |]*(?:auth|gateway|streams)\.[\w.]+: ([^\n]+)[ |+\n-]*\Z", re.DOTALL | re.MULTILINE
)

_log = structlog.get_logger()


def serve_gateway(settings: Settings, listener: int, *, on_trial: bool = False) -> None:
    """Serve on the descriptor of a listening socket until SIGTERM, and tell the supervisor on standard output.

    One `on_trial` is to take another process's place, and does not listen before it is ready, however long that takes.

    Raises:
        ProcessUnfit: it can't do its work any more and has ended its streams.
        SettingsInvalid, KeyUnusable
    """
    logging.getLogger("uvicorn.error").addFilter(as_meant)
    server = GatewayServer(settings, tell_supervisor, listen_seconds=None if on_trial else LISTEN_SECONDS)
    server.run(sockets=[socket.socket(fileno=listener)])
    if server.unfit is not None:
        raise ProcessUnfit(server.unfit)


class GatewayServer(uvicorn.Server):
    """Serves the application; `report` is told its status whenever that changes.

    It listens when it is ready, or `listen_seconds` after its start if that is not None, or when it will not be ready
    without an operator.

    The first SIGTERM or SIGINT drains; a second one ends the process at once, and so does the first before there is
    anything to drain. `unfit` is why the process should be started anew, None while it can work.
    """

    def __init__(
        self, settings: Settings, report: Callable[[Status], None], *, listen_seconds: float | None = LISTEN_SECONDS
    ) -> None:
        self.unfit: str | None = None
        self._app = create_app(settings, on_death=self._give_up, before_serving=self._until_ready)
        self._listen_seconds = listen_seconds
        self._drain_seconds = settings.drain_seconds
        self._report = report
        self._reported: Status | None = None
        self._while_serving = ExitStack()
        super().__init__(
            uvicorn.Config(
                self._app,
                http=HandoverProtocol,
                loop="uvloop",
                ws="none",
                lifespan="on",
                interface="asgi3",
                log_config=None,
                access_log=False,  # it contains queries
                proxy_headers=False,  # `gateway.peers` reads them, from named peers only
                server_header=False,
                timeout_graceful_shutdown=BACKSTOP_SECONDS,
            )
        )

    @property
    def gateway(self) -> Gateway:
        """The parts of this process, once it has started."""
        gateway: Gateway = self._app.state.gateway
        return gateway

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """uvicorn's."""
        with self._while_serving:
            await super().serve(sockets)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """uvicorn's, and from here on there is something to watch and to drain."""
        self.config.http_protocol_class = await working_protocol()
        await super().startup(sockets)
        self._while_serving.enter_context(LoopWatchdog(self.gateway.loop_lag))
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, self._on_signal)

    async def on_tick(self, counter: int) -> bool:
        """uvicorn's, ten times a second."""
        gateway, hub = self.gateway, self.gateway.hub
        status = Status(
            gateway.readiness.ready,
            len(hub),
            hub.frames.cursor(hub.head),
            round(gateway.loop_lag.worst_seconds, 1),
            gateway.loop_lag.times_blocked,
        )
        if status != self._reported:
            self._report(status)
            self._reported = status
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close the listening sockets, let everybody in who was before that, drain, then what uvicorn does."""
        for server in self.servers:
            server.close()
        for each in sockets or ():
            each.close()
        if self.unfit is None:
            await self._settle()
            await self.gateway.drain(self._drain_seconds)
        else:
            await self.gateway.drain(min(self._drain_seconds, UNFIT_DRAIN_SECONDS))
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Not uvicorn's, which raises what it captured again at the end: an orderly end is no death by a signal."""
        yield

    async def _until_ready(self, gateway: Gateway) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(self._listen_seconds):
                # None of them tells when it changes.
                while not (gateway.readiness.ready or gateway.tail.mismatch or self.should_exit):  # noqa: ASYNC110
                    await asyncio.sleep(_STEP_SECONDS)

    async def _settle(self) -> None:
        """Wait until what was asked on connections that we have taken is a stream or answered, and close those that
        are quiet: whom nobody else can take in is not refused.
        """
        loop = asyncio.get_running_loop()
        began = loop.time()
        while True:
            await asyncio.sleep(_STEP_SECONDS)  # also for a connection that was taken in this very moment
            waited = loop.time() - began
            connections = [each for each in self.server_state.connections if isinstance(each, HttpToolsProtocol)]
            asking = waited < HEAD_SETTLE_SECONDS and any(each.cycle is None for each in connections)
            asked = waited < REQUEST_SETTLE_SECONDS and any(map(is_undecided, connections))
            if not (asking or asked):
                break
        for each in connections:
            if not is_undecided(each):
                each.shutdown()

    def _on_signal(self) -> None:
        if self.should_exit:
            return  # the same death of our parent, told again
        self.gateway.readiness.draining = True
        self.should_exit = True
        asyncio.get_running_loop().call_later(SECOND_SIGNAL_SECONDS, _end_at_once_from_now_on)
        _log.info("gateway.ends", streams=len(self.gateway.hub))

    def _give_up(self, reason: str) -> None:
        self.unfit = self.unfit or reason
        self.should_exit = True


def is_undecided(connection: HttpToolsProtocol) -> bool:
    """Whether there is a request on it to which nothing has been answered yet."""
    cycle: RequestResponseCycle | None = connection.cycle  # there is none before the first request
    return cycle is not None and not cycle.response_started


def _end_at_once_from_now_on() -> None:
    loop = asyncio.get_running_loop()
    for number in _SIGNALS:
        loop.remove_signal_handler(number)
        signal.signal(number, signal.SIG_DFL)


def as_meant(record: logging.LogRecord) -> bool:
    """A filter for what uvicorn logs: nothing of streams that were ended on purpose, and our own errors in one line."""
    message = record.getMessage()
    if found := _OUR_ERROR.search(message):
        record.msg, record.args = found[1], ()
    return message != _CUT
