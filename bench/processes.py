"""Processes to be measured: started on cores of their own, and asked by /proc what they have used."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Self

import msgspec

from bench.errors import ProcessEnded

STOP_SECONDS = 10.0
LONGEST_LINE = 1 << 20

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


class Cores(msgspec.Struct, frozen=True):
    """Which cores are whose: the measured server has one to itself, all else (clients, publisher, broker) the rest."""

    measured: frozenset[int]
    others: frozenset[int]

    @classmethod
    def divide(cls) -> Self:
        """The cores that this process may use. On a machine with one core all share it, and figures of time mean
        little.
        """
        first, *rest = sorted(os.sched_getaffinity(0))
        return cls(frozenset({first}), frozenset(rest or {first}))


def pin(pid: int, cores: frozenset[int]) -> None:
    """Let a process, with all threads that it has now and those that they will start, run on these cores only."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(thread.name), cores)


# -- What a process has used -------------------------------------------------------------------------------------------


def cpu_seconds(pid: int) -> float:
    """User and system time of all threads of a process, those that ended included, since its start.

    From the process's CPU clock (clock_getcpuclockid(3)), exact to microseconds where /proc/<pid>/stat counts ticks of
    10 ms. It contains what the kernel did in the name of the process, on loopback much of the receiver's side as well.
    """
    clock = ctypes.c_int()
    if error := _libc.clock_getcpuclockid(ctypes.c_int(pid), ctypes.byref(clock)):
        raise ProcessLookupError(error, os.strerror(error))
    return time.clock_gettime(clock.value)


def waited_seconds(pid: int) -> float:
    """How long a process's main thread was ready to run and had no core, since its start: others were on its core."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9


def rss_bytes(pid: int) -> int:
    """What a process has in memory, from /proc/<pid>/smaps_rollup."""
    return _kibibytes(Path(f"/proc/{pid}/smaps_rollup").read_text(), "Rss") * 1024


def tcp_buffer_bytes() -> int:
    """What the kernel has in TCP's buffers, of all processes of this network namespace."""
    for line in Path("/proc/net/sockstat").read_text().splitlines():
        if line.startswith("TCP:"):
            return int(line.split()[-1]) * os.sysconf("SC_PAGE_SIZE")
    raise ValueError("/proc/net/sockstat tells nothing of TCP")


def _kibibytes(table: str, name: str) -> int:
    for line in table.splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    raise ValueError(f"no {name} in {table!r}")


# -- Which processes there are -----------------------------------------------------------------------------------------


def descendants(pid: int) -> Iterator[tuple[int, str]]:
    """Process ids and command lines of all that a process and its children have started."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        for child in (thread / "children").read_text().split():
            yield int(child), Path(f"/proc/{child}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
            yield from descendants(int(child))


def descendant(pid: int, part: str) -> int:
    """The one process below `pid` whose command line contains `part`."""
    [found] = [child for child, command in descendants(pid) if part in command]
    return found


class Running:
    """A process that was started here. Its standard output is read by lines, its standard error goes to a file."""

    def __init__(self, process: asyncio.subprocess.Process, errors: Path) -> None:
        self.pid = process.pid
        self._process = process
        self._errors = errors

    async def line(self) -> str:
        """The next line of its standard output. Raises ProcessEnded."""
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line:
            raise self._ended()
        return line.decode().rstrip()

    async def line_with(self, part: str) -> str:
        """The next line that contains `part`; those before it are dropped. Raises ProcessEnded."""
        while part not in (line := await self.line()):
            pass
        return line

    async def ask(self, command: str) -> str:
        """Write a line to its standard input, and wait for the line of its answer. Raises ProcessEnded."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{command}\n".encode())
            await self._process.stdin.drain()
        except ConnectionError as error:
            raise self._ended() from error
        return await self.line()

    def check(self) -> None:
        """Raises ProcessEnded if it has ended."""
        if self._process.returncode is not None:
            raise self._ended()

    def _ended(self) -> ProcessEnded:
        return ProcessEnded(self._errors.stem, self._errors.read_text(errors="replace"))

    async def end(self) -> None:
        """SIGTERM, and SIGKILL for it and all below it where that does not help."""
        below = [pid for pid, _ in descendants(self.pid)] if self._process.returncode is None else []
        try:
            self._process.terminate()
            async with asyncio.timeout(STOP_SECONDS):
                await self._process.wait()
        except ProcessLookupError:
            pass
        except TimeoutError:
            for pid in (self.pid, *below):
                _kill(pid)
            await self._process.wait()


@asynccontextmanager
async def running(
    name: str,
    command: Sequence[str | Path],
    *,
    directory: Path,
    cores: frozenset[int],
    environment: Mapping[str, str] | None = None,
) -> AsyncIterator[Running]:
    """A process that runs while inside, and no longer than this one. `environment` comes on top of ours.

    Its working directory is `directory`, where a file `<name>.errors` gets what it writes to its standard error.
    """
    errors = directory / f"{name}.errors"
    with errors.open("wb") as file:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=file,
            env=os.environ | dict(environment or {}),
            cwd=directory,
            limit=LONGEST_LINE,
            start_new_session=True,
            preexec_fn=_prepared(os.getpid(), cores),
        )
    started = Running(process, errors)
    try:
        yield started
        started.check()
    finally:
        await started.end()


def _prepared(parent: int, cores: frozenset[int]) -> Callable[[], None]:
    number = int(signal.SIGTERM)

    def in_child() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)
        os.sched_setaffinity(0, cores)

    return in_child


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
