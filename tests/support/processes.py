"""Passline as its users run it: real processes, which a test can kill, and of which none outlives the test."""

from __future__ import annotations

import asyncio
import ctypes
import os
import re
import signal
import socket
import subprocess
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING, Self

import httpx

from tests.support.nats import eventually
from tests.support.process_table import processes_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from tests.support.process_table import Role, RunningProcess

START_SECONDS = 20.0
STOP_SECONDS = 20.0
ORPHAN_SECONDS = 12.0
"""Those whose parent was killed end by themselves within this: a drain window of a second, and their grace."""

DEFAULTS = {"PASSLINE_DRAIN_SECONDS": "1", "PASSLINE_RETRY_MS": "500"}
"""Settings that keep tests short; a test may give others."""

_PASSLINE = (str(Path(sysconfig.get_path("scripts")) / "passline"),)
_LISTENING = re.compile(r"listening on (http://\S+:[0-9]+)")
_PR_SET_PDEATHSIG = 1
_SHOWN_BYTES = 8000


class PasslineProcess:
    """`async with PasslineProcess("serve", "--workers", "2", data_dir=tmp_path / "data") as passline:` runs, and is
    ready, while inside.

    Its address stays its own over every `restart()`, so that clients find their way back. `environment` comes on top of
    DEFAULTS; no PASSLINE_ variable of the tests' own environment gets through. `command` stands for `passline` itself.

    Leaving ends all processes of the run; it fails if any had to be killed for that, or had died unnoticed.
    """

    def __init__(
        self,
        *arguments: str,
        data_dir: Path,
        environment: Mapping[str, str] | None = None,
        command: Sequence[str] = _PASSLINE,
        orphan_seconds: float = ORPHAN_SECONDS,
    ) -> None:
        self.data_dir = data_dir
        self.url = ""
        self._command = (*command, *arguments)
        self._environment = _environment(environment or {})
        self._output = data_dir.parent / f"{data_dir.name}.output"
        self._orphan_seconds = orphan_seconds
        self._reservation = _reserve_port()
        # While it runs:
        self._process: subprocess.Popen[bytes] | None = None
        self._output_start = 0

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self._end_all()
            raise
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        failures = await self._end_all()
        if kind is None:
            assert not failures, f"{'; '.join(failures)}\n{self.tail}"

    # -- one process and its descendants ----------------------------------------------------------------------------

    async def start(self, *, until_ready: bool = True) -> None:
        """Start it, and wait until it takes streams or, without `until_ready`, for nothing."""
        assert self._process is None or self._process.poll() is not None, "it runs"
        self._spawn()
        if until_ready:
            await self.until_ready()

    async def until_ready(self, within: float = START_SECONDS) -> None:
        """Wait for the address that it prints and for `/health/ready` there. Fails at once if it ends."""
        async with httpx.AsyncClient(trust_env=False, timeout=5) as client:

            async def is_ready() -> bool:
                assert self.is_running, f"it ended with {self._popen.returncode} at its start\n{self.tail}"
                found = _LISTENING.search(self.output)
                if found is None:
                    return False
                self.url = found[1]
                try:
                    return (await client.get(f"{self.url}/health/ready")).status_code == 200
                except httpx.TransportError:
                    return False

            try:
                await eventually(is_ready, within=within)
            except TimeoutError as error:
                raise AssertionError(f"not ready after {within} s\n{self.tail}") from error

    async def restart(self) -> None:
        """Start it again after its end, once all that belonged to it has ended, too."""
        await self.until_gone()
        await self.start()

    def kill(self) -> None:
        """SIGKILL for the process that was started, not for those that it has started."""
        self._popen.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        """SIGTERM for it."""
        self._popen.send_signal(signal.SIGTERM)

    async def exited(self, within: float = STOP_SECONDS) -> int:
        """Wait for its end. Returns its code, negative for a signal."""
        await self._eventually(lambda: not self.is_running, within, "still running")
        code = self._popen.returncode
        assert code is not None
        return code

    async def until_gone(self, within: float | None = None) -> None:
        """Wait until no process of the run is left, for `orphan_seconds` if not told otherwise. Kills none."""
        seconds = self._orphan_seconds if within is None else within
        await self._eventually(lambda: not (self.is_running or self.processes()), seconds, "left behind")

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        return self._popen.pid

    def processes(self, role: Role | None = None) -> list[RunningProcess]:
        """All that run now, or those of a role."""
        first = None if self._process is None else self._process.pid
        return [each for each in processes_of(self.data_dir, first) if role in (None, each.role)]

    # -- what it said --------------------------------------------------------------------------------------------------

    @property
    def output(self) -> str:
        """What it has written since its last start, standard output and standard error together."""
        with self._output.open("rb") as file:
            file.seek(self._output_start)
            return file.read().decode(errors="replace")

    @property
    def tail(self) -> str:
        """The end of what it has written, over all starts: for the message of a failure."""
        return self._output.read_bytes()[-_SHOWN_BYTES:].decode(errors="replace")

    # -- the end -------------------------------------------------------------------------------------------------------

    @property
    def _popen(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "it was not started"
        return self._process

    def _spawn(self) -> None:
        port = self._reservation.getsockname()[1]
        with self._output.open("ab") as output:
            self._output_start = output.tell()
            self._process = subprocess.Popen(
                (*self._command, "--data-dir", str(self.data_dir), "--port", str(port)),
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self.data_dir.parent,
                start_new_session=True,
                preexec_fn=_die_with(os.getpid()),
            )

    async def _eventually(self, condition: Callable[[], bool], within: float, what: str) -> None:
        try:
            await eventually(condition, within=within)
        except TimeoutError as error:
            left = ", ".join(map(str, self.processes()))
            raise AssertionError(f"{what} after {within} s: {left}\n{self.tail}") from error

    async def _end_all(self) -> list[str]:
        """End everything, and tell what did not end as it should."""
        failures: list[str] = []
        try:
            if self.is_running:
                for each in self.processes():
                    each.send(signal.SIGCONT)  # what a test has stopped hears nothing
                self.terminate()
                await self.exited()
            await self.until_gone()
        except AssertionError as error:
            failures.append(str(error).partition("\n")[0])
        finally:
            self._kill_all()
            self._reservation.close()
        return failures

    def _kill_all(self) -> None:
        while left := self.processes():  # one may have started another meanwhile
            for each in left:
                each.send(signal.SIGKILL)
        if self._process is not None:
            self._process.kill()
            self._process.wait()


async def run_passline(
    *arguments: str,
    environment: Mapping[str, str] | None = None,
    stdin: bytes = b"",
    within: float = 20.0,
    command: Sequence[str] = _PASSLINE,
) -> subprocess.CompletedProcess[str]:
    """A `passline …` that ends by itself: its code and what it wrote. Raises TimeoutError, and kills it."""
    process = await asyncio.create_subprocess_exec(
        *command,
        *arguments,
        env=_environment(environment or {}),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(within):
            output, errors = await process.communicate(stdin)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return subprocess.CompletedProcess(arguments, process.returncode, output.decode(), errors.decode())


def _environment(given: Mapping[str, str]) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PASSLINE_")}
    return inherited | DEFAULTS | dict(given)


def _reserve_port() -> socket.socket:
    """A bound socket that never listens: nobody else gets the port, and who asks to reuse the address may listen."""
    reservation = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reservation.bind(("127.0.0.1", 0))
    return reservation


def _die_with(parent: int) -> Callable[[], None]:
    """What the child does before it becomes `passline`, so that it ends with the tests, however those end."""
    prctl = ctypes.CDLL(None).prctl
    number = int(signal.SIGTERM)

    def in_child() -> None:
        prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)

    return in_child
