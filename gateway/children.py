"""The processes below `passline serve`: each holds a place, and whoever dies there is replaced."""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Literal

import msgspec
import structlog

from gateway.background import background

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence

Role = Literal["gateway", "worker"]

STEADY_SECONDS = 10.0
"""Who lived for so long did not die of its start: the next one is started at once."""

_BACKOFF_SECONDS = (0.1, 0.5, 1.0, 2.0, 5.0)

_log = structlog.get_logger()


class Status(msgspec.Struct, frozen=True):
    """What a gateway process tells its supervisor, a line of JSON on its standard output whenever it has changed.

    `cursor` is its tail's position, `streams` the number of its open ones.
    """

    ready: bool
    streams: int
    cursor: str


def child_command(role: Role, name: str, listener: int | None = None) -> tuple[str, ...]:
    """What starts `gateway.child` below this process. `listener` is the descriptor of the listening socket."""
    given = () if listener is None else (str(listener),)
    # -P: what lies in the present directory must not stand in for our packages.
    return (sys.executable, "-P", "-m", "gateway.child", role, name, str(os.getpid()), *given)


class Child:
    """A place for one process. `environment` is all of its environment, `descriptors` are what it inherits.

    `status` is what the present process told last, None before it told anything; `on_status` is called when it changes.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        *,
        descriptors: Sequence[int] = (),
        on_status: Callable[[], None] = lambda: None,
    ) -> None:
        self.name = name
        self.status: Status | None = None
        self._command = command
        self._environment = environment
        self._descriptors = descriptors
        self._on_status = on_status
        self._ending = asyncio.Event()
        self._ended = asyncio.Event()
        self._process: Process | None = None

    @property
    def pid(self) -> int | None:
        """Of the present process, None between two of them."""
        return None if self._process is None else self._process.pid

    async def keep(self) -> None:
        """Run a process, and another one whenever it dies, until `end`; then wait to be cancelled."""
        loop = asyncio.get_running_loop()
        failures = 0
        while not self._ending.is_set():
            began = loop.time()
            outcome = await self._live()
            if self._ending.is_set():
                break
            failures = 0 if loop.time() - began >= STEADY_SECONDS else failures + 1
            pause = _BACKOFF_SECONDS[min(failures, len(_BACKOFF_SECONDS) - 1)]
            _log.error("process.died", process=self.name, outcome=outcome, again_in_seconds=pause)
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._ending.wait()
        self._ended.set()
        await asyncio.Event().wait()

    def end(self) -> None:
        """Ask the process to end in its own time, and start no other one."""
        self._ending.set()
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.terminate()

    async def wait_ended(self) -> None:
        """Until the process has ended after `end`."""
        await self._ended.wait()

    async def _live(self) -> str:
        """One process from its start to its end; how it ended."""
        try:
            process = await asyncio.create_subprocess_exec(
                *self._command,
                env=self._environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                pass_fds=self._descriptors,
                # A Ctrl-C in the terminal is for the supervisor; it ends the others in their order.
                start_new_session=True,
            )
        except OSError as error:
            return f"not started: {error.strerror}"
        self._process = process
        try:
            if self._ending.is_set():
                self.end()
            _log.info("process.started", process=self.name, pid=process.pid)
            await self._listen(process)
            code = await process.wait()
        finally:
            self._process = None
            self._tell(None)
            if process.returncode is None:
                _log.warning("process.killed", process=self.name, pid=process.pid)
                with suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        return f"ended with code {code}" if code >= 0 else f"killed by signal {-code}"

    async def _listen(self, process: Process) -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            try:
                self._tell(msgspec.json.decode(line, type=Status))
            except msgspec.MsgspecError:
                _log.warning("process.said", process=self.name, line=line[:200].decode(errors="replace").rstrip())

    def _tell(self, status: Status | None) -> None:
        self.status = status
        self._on_status()


@asynccontextmanager
async def kept(
    children: Sequence[Child], *, grace_seconds: float, on_death: Callable[[str], None]
) -> AsyncIterator[None]:
    """Keep `children` for as long as the context lasts, then end them all at once.

    Who has not ended after `grace_seconds`, or when the wait for it is cancelled, is killed.
    """
    async with background(*(child.keep() for child in children), on_death=on_death):
        try:
            yield
        finally:
            for child in children:
                child.end()
            with suppress(TimeoutError):  # what is left is killed, which is told there
                async with asyncio.timeout(grace_seconds):
                    for child in children:
                        await child.wait_ended()
