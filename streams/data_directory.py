"""The data directory of an embedded broker: what lies where in it, and the lock on its store."""

from __future__ import annotations

import asyncio
import fcntl
import os
from typing import TYPE_CHECKING, BinaryIO

from streams.errors import DataDirectoryNotUsable, StoreLocked

if TYPE_CHECKING:
    from pathlib import Path

# An orphan that was told to stop needs a moment to close its streams; one that hangs needs a person.
LOCK_WAIT_SECONDS = 10.0

_LOCK_POLL_SECONDS = 0.02
_LOG_TAIL_BYTES = 4000


class Layout:
    """Where a broker keeps what in its data directory."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir.absolute()
        self.store = self.data_dir / "nats"
        self.lock = self.store / "lock"
        self.log = self.data_dir / "nats.log"
        self.pid = self.data_dir / "nats.pid"
        self.url = self.data_dir / "nats.url"
        self.credentials = self.data_dir / "credentials.json"

    def ports(self, pid: int) -> Path:
        """The file that nats-server writes when all its listeners are bound (`--ports_file_dir`)."""
        return self.store / f"nats-server_{pid}.ports"

    def open_log(self) -> BinaryIO:
        return self.log.open("ab")

    def log_tail(self, start: int) -> str:
        """The end of what was written to the log from `start` on, which rotation may have moved away."""
        with self.log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(start if start <= size else 0, size - _LOG_TAIL_BYTES))
            return file.read().decode(errors="replace")

    def not_usable(self, error: OSError) -> DataDirectoryNotUsable:
        return DataDirectoryNotUsable(self.data_dir, error.strerror or str(error))


async def lock_store(layout: Layout, wait_seconds: float = LOCK_WAIT_SECONDS) -> int:
    """The descriptor that holds the lock on the store, whose directories are made where they are missing.

    Whoever inherits the descriptor holds the lock, too. Raises DataDirectoryNotUsable, StoreLocked (after
    `wait_seconds`).
    """
    try:
        layout.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        layout.store.mkdir(mode=0o700, exist_ok=True)
        descriptor = os.open(layout.lock, os.O_CREAT | os.O_RDWR, 0o600)
    except OSError as error:
        raise layout.not_usable(error) from error
    deadline = asyncio.get_running_loop().time() + wait_seconds
    try:
        while not _try_lock(descriptor, fcntl.LOCK_EX):
            if asyncio.get_running_loop().time() >= deadline:
                raise StoreLocked(layout.store, _noted_pid(descriptor), wait_seconds)
            await asyncio.sleep(_LOCK_POLL_SECONDS)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def note_holder(descriptor: int, pid: int) -> None:
    """Write into the lock's file who holds it, for a message to whoever doesn't get it."""
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{pid}\n".encode(), 0)


def is_locked(layout: Layout) -> bool:
    """Whether a broker holds the lock. Holds it itself for an instant, shared, for which a start simply waits.

    Raises FileNotFoundError, if there was never one, and other OSErrors.
    """
    descriptor = os.open(layout.lock, os.O_RDONLY)
    try:
        return not _try_lock(descriptor, fcntl.LOCK_SH)
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _noted_pid(descriptor: int) -> int | None:
    noted = os.pread(descriptor, 32, 0).strip()
    return int(noted) if noted.isdigit() else None
