"""Where a process below `passline serve` begins: `python -P -m gateway.child ROLE NAME PARENT [LISTENER] [on-trial]`.

Settings come from the environment, what only a parent knows from the arguments: its process id, the descriptor of the
listening socket, and whether this process is to take another one's place. It lives no longer than its parent. Not for
use by hand.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
import signal
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.settings import Settings

GC_THRESHOLD = 10_000
"""Objects made and not yet forgotten until the collector looks at the young ones. A new stream is some hundred."""

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Run the role, and end with 1 and a line in the log if it fails."""
    role, name, parent, *more = sys.argv[1:]
    _end_with(int(parent))
    # Only now what takes its time to be imported: until here an orphan would live on.
    import msgspec
    import structlog

    from auth.errors import AuthError
    from gateway.children import ON_TRIAL
    from gateway.errors import GatewayError
    from gateway.settings import Settings, SettingsInvalid
    from gateway.telemetry import configure_logging
    from streams.errors import StreamsError

    try:
        # The parent has told the notices.
        settings = msgspec.structs.replace(Settings.from_environment(os.environ), notices=())
    except SettingsInvalid as error:
        sys.exit(str(error))  # there is no log yet
    configure_logging(settings)
    try:
        structlog.contextvars.bind_contextvars(process=name)
        if role == "gateway":
            _serve(settings, int(more[0]), on_trial=ON_TRIAL in more)
        else:
            _work(settings)
    except (GatewayError, StreamsError, AuthError) as error:
        structlog.get_logger().error("process.failed", reason=str(error))
        sys.exit(1)


def _end_with(parent: int) -> None:
    """Have the kernel send SIGTERM when the parent ends."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # not a traceback
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # who sends it to all of us means the supervisor
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
    if os.getppid() != parent:  # it ended before we asked to be told
        sys.exit(1)


def _serve(settings: Settings, listener: int, *, on_trial: bool) -> None:
    from gateway.serve import serve_gateway

    # All modules are there now, for good: the collector need not look at them again and again while clients connect.
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD)
    serve_gateway(settings, listener, on_trial=on_trial)


def _work(settings: Settings) -> None:
    import uvloop

    from gateway import worker
    from gateway.broker_url import broker_url
    from gateway.children import Status, tell_supervisor
    from gateway.watchdog import LoopLag, LoopWatchdog

    def on_ready() -> None:
        tell_supervisor(Status(ready=True))

    async def until_ended() -> None:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        with suppress(asyncio.CancelledError), LoopWatchdog(LoopLag()):
            await worker.run(settings, broker_url(settings, "worker"), on_ready)

    uvloop.run(until_ended())


if __name__ == "__main__":
    main()
