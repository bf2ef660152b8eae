"""One gateway process: uvicorn with a drain of our own.

uvicorn waits for open responses before it tells the application anything, so streams would hold it for ever. Here the
hub ends them over the drain window first, and what uvicorn waits for then are ordinary requests.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import signal
import socket
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import msgspec
import structlog
import uvicorn

from gateway.app import create_app
from gateway.children import Status
from gateway.errors import ProcessUnfit
from gateway.handover import HandoverProtocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gateway.app import Gateway
    from gateway.settings import Settings

BACKSTOP_SECONDS = 3
"""After the drain, for requests that are still being answered and clients that don't take their last bytes."""

SECOND_SIGNAL_SECONDS = 0.3
"""After the first signal a further one ends the process at once, but only from then on.

When the supervisor is killed the kernel may tell its death several times, once for each of its threads.
"""

UNFIT_DRAIN_SECONDS = 1.0
"""A process that can't do its work drains faster: until it has ended nothing takes its place."""

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
# How uvicorn tells of a body without its last chunk, which is how every stream is meant to end.
_CUT = "ASGI callable returned without completing response."
# How it tells of a start that failed: Litestar's traceback as a text, at the end of which stands one of our errors.
_OUR_ERROR = re.compile(
    r"Traceback .*^[ |]*(?:auth|gateway|streams)\.[\w.]+: ([^\n]+)[ |+\n-]*\Z", re.DOTALL | re.MULTILINE
)

_log = structlog.get_logger()


def serve_gateway(settings: Settings, listener: int) -> None:
    """Serve on the descriptor of a listening socket until SIGTERM, and tell the supervisor on standard output.

    Raises:
        ProcessUnfit: it can't do its work any more and has ended its streams.
        SettingsInvalid, KeyUnusable
    """
    logging.getLogger("uvicorn.error").addFilter(as_meant)
    server = GatewayServer(settings, _tell_supervisor)
    server.run(sockets=[socket.socket(fileno=listener)])
    if server.unfit is not None:
        raise ProcessUnfit(server.unfit)


class GatewayServer(uvicorn.Server):
    """Serves the application; `report` is told its status whenever that changes.

    The first SIGTERM or SIGINT drains; a second one ends the process at once, and so does the first before there is
    anything to drain. `unfit` is why the process should be started anew, None while it can work.
    """

    def __init__(self, settings: Settings, report: Callable[[Status], None]) -> None:
        self.unfit: str | None = None
        self._app = create_app(settings, on_death=self._give_up)
        self._drain_seconds = settings.drain_seconds
        self._report = report
        self._reported: Status | None = None
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
                proxy_headers=False,  # believed from no one
                server_header=False,
                timeout_graceful_shutdown=BACKSTOP_SECONDS,
            )
        )

    @property
    def gateway(self) -> Gateway:
        """The parts of this process, once it has started."""
        gateway: Gateway = self._app.state.gateway
        return gateway

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """uvicorn's, and from here on there is something to drain."""
        await super().startup(sockets)
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, self._on_signal)

    async def on_tick(self, counter: int) -> bool:
        """uvicorn's, ten times a second."""
        hub, readiness = self.gateway.hub, self.gateway.readiness
        status = Status(readiness.ready, len(hub), hub.frames.cursor(hub.head))
        if status != self._reported:
            self._report(status)
            self._reported = status
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close the listening sockets, drain, then what uvicorn does."""
        for server in self.servers:
            server.close()
        for each in sockets or ():
            each.close()
        window = self._drain_seconds if self.unfit is None else min(self._drain_seconds, UNFIT_DRAIN_SECONDS)
        await self.gateway.drain(window)
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Not uvicorn's, which raises what it captured again at the end: an orderly end is no death by a signal."""
        yield

    def _on_signal(self) -> None:
        if self.should_exit:
            return  # the same death of our parent, told again
        asyncio.get_running_loop().call_later(SECOND_SIGNAL_SECONDS, _end_at_once_from_now_on)
        _log.info("gateway.ends", streams=len(self.gateway.hub))
        self.gateway.readiness.draining = True
        self.should_exit = True

    def _give_up(self, reason: str) -> None:
        self.unfit = self.unfit or reason
        self.should_exit = True


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


def _tell_supervisor(status: Status) -> None:
    try:
        os.write(sys.stdout.fileno(), msgspec.json.encode(status) + b"\n")
    except OSError as error:
        # The supervisor is gone, and SIGTERM is on its way.
        _log.debug("gateway.untold", reason=error.strerror)
