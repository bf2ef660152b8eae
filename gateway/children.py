"""The processes below `passline serve`: each holds a place, and whoever dies there is replaced."""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING, Literal, Self

import msgspec
import structlog

from gateway.background import background
from gateway.errors import GatewayError

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType

Role = Literal["gateway", "worker"]

STEADY_SECONDS = 10.0
"""Who lived for so long did not die of its start: the next one is started at once."""

ON_TRIAL = "on-trial"
"""The last argument of a process that is to take another one's place."""

_BACKOFF_SECONDS = (0.1, 0.5, 1.0, 2.0, 5.0)

_log = structlog.get_logger()


class NotReplaced(GatewayError):
    """A process that should take another one's place did not become ready. The other one still has its place."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"the new {name} did not become ready: {reason}")
        self.name, self.reason = name, reason


class Status(msgspec.Struct, frozen=True):
    """What a process tells its supervisor, a line of JSON on its standard output whenever it has changed.

    `cursor` is its tail's position, `streams` the number of its open ones; the worker has neither. Of its event loop:
    the worst lag of the last minute in tenths of a second, and how often it was blocked since the start. One that is
    of another version may say more or less.
    """

    ready: bool
    streams: int = 0
    cursor: str = ""
    worst_lag_seconds: float = 0.0
    times_blocked: int = 0


def child_command(role: Role, name: str, listener: int | None = None) -> tuple[str, ...]:
    """What starts `gateway.child` below this process. `listener` is the descriptor of the listening socket."""
    given = () if listener is None else (str(listener),)
    # -P: what lies in the present directory must not stand in for our packages.
    return (sys.executable, "-P", "-m", "gateway.child", role, name, str(os.getpid()), *given)


def tell_supervisor(status: Status) -> None:
    """In a child: say it to the process that started this one."""
    try:
        os.write(sys.stdout.fileno(), msgspec.json.encode(status) + b"\n")
    except OSError as error:
        # The supervisor is gone, and SIGTERM is on its way.
        _log.debug("supervisor.untold", reason=error.strerror)


class Child:
    """A place for one process. `environment` is all of its environment, `descriptors` are what it inherits.

    `status` is what the present process told last, None before it told anything; `on_status` is called when it changes.
    One `on_trial` is told so, and is not started again if it dies before it was ready once.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        *,
        descriptors: Sequence[int] = (),
        on_status: Callable[[], None] = lambda: None,
        on_trial: bool = False,
    ) -> None:
        self.name = name
        self.status: Status | None = None
        self._command = command
        self._environment = environment
        self._descriptors = descriptors
        self._on_status = on_status
        self._on_trial = on_trial
        # None when it was ready once; how it ended, if it never will be.
        self._trial: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        self._ending = asyncio.Event()
        self._ended = asyncio.Event()
        self._process: Process | None = None

    @property
    def pid(self) -> int | None:
        """Of the present process, None between two of them."""
        return None if self._process is None else self._process.pid

    def successor(self) -> Child:
        """One like this, on trial."""
        return Child(
            self.name,
            self._command,
            self._environment,
            descriptors=self._descriptors,
            on_status=self._on_status,
            on_trial=True,
        )

    async def keep(self) -> None:
        """Run a process, and another one whenever it dies, until `end`; then wait to be cancelled."""
        loop = asyncio.get_running_loop()
        failures = 0
        while not self._ending.is_set():
            began = loop.time()
            outcome = await self._live()
            if self._ending.is_set():
                break
            if self._on_trial and not self._trial.done():
                self._trial.set_result(outcome)
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
        """Ask the process to end in its own time, and start no other one. Asked again it is left to that."""
        if not self._ending.is_set():  # a second signal would end it at once
            self._ending.set()
            self._terminate()

    async def wait_ended(self) -> None:
        """Until the process has ended after `end`."""
        await self._ended.wait()

    async def wait_ready(self) -> None:
        """Until the process has been ready once.

        Raises:
            NotReplaced: it is on trial, and has ended before that.
        """
        outcome = await asyncio.shield(self._trial)
        if outcome is not None:
            raise NotReplaced(self.name, outcome)

    async def _live(self) -> str:
        """One process from its start to its end; how it ended."""
        try:
            process = await asyncio.create_subprocess_exec(
                *self._command,
                *((ON_TRIAL,) if self._on_trial and not self._trial.done() else ()),
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
                self._terminate()
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

    def _terminate(self) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.terminate()

    async def _listen(self, process: Process) -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            try:
                self._tell(msgspec.json.decode(line, type=Status))
            except msgspec.MsgspecError:
                _log.warning("process.said", process=self.name, line=line[:200].decode(errors="replace").rstrip())

    def _tell(self, status: Status | None) -> None:
        self.status = status
        if status is not None and status.ready and not self._trial.done():
            self._trial.set_result(None)
        self._on_status()


class Kept:
    """`async with Kept(children, …):` keeps them for as long as the context lasts, then ends them all at once.

    Who has not ended after `grace_seconds`, or when the wait for it is cancelled, is killed.
    """

    def __init__(self, children: Sequence[Child], *, grace_seconds: float, on_death: Callable[[str], None]) -> None:
        self._at_first = children
        self._grace_seconds = grace_seconds
        self._on_death = on_death
        # While open, what keeps each:
        self._keepers: dict[Child, AsyncExitStack] = {}

    async def __aenter__(self) -> Self:
        for child in self._at_first:
            await self._keep(child)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for child in self.children:
            child.end()
        try:
            with suppress(TimeoutError):  # what is left is killed, which is told there
                async with asyncio.timeout(self._grace_seconds):
                    for child in self.children:
                        await child.wait_ended()
        finally:
            await asyncio.gather(*(keeper.aclose() for keeper in self._keepers.values()))

    @property
    def children(self) -> list[Child]:
        """Those that are kept now: for a moment also one that is being replaced, and the one that replaces it."""
        return list(self._keepers)

    async def replace(self, old: Child, ready_seconds: float) -> Child:
        """Start another process like `old`, and when it is ready end `old`, and wait for that. Returns the new one.

        Raises:
            NotReplaced: the new one has died, or was not ready after `ready_seconds`, and is no more. `old` has not
                even noticed.
        """
        new = old.successor()
        await self._keep(new)
        try:
            async with asyncio.timeout(ready_seconds):
                await new.wait_ready()
        except TimeoutError as error:
            await self._end(new)
            raise NotReplaced(new.name, f"not within {ready_seconds:g} s") from error
        except NotReplaced:
            await self._end(new)
            raise
        await self._end(old)
        return new

    async def _keep(self, child: Child) -> None:
        keeper = AsyncExitStack()
        await keeper.enter_async_context(background(child.keep(), on_death=self._on_death))
        self._keepers[child] = keeper

    async def _end(self, child: Child) -> None:
        child.end()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._grace_seconds):
                await child.wait_ended()
        await self._keepers[child].aclose()
        del self._keepers[child]
