"""Waiting for what a server does by itself, after others have done their part."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

from bench.errors import BenchError

SETTLE_SECONDS = 60.0

_POLL_SECONDS = 0.05


class NotSettled(BenchError):
    """A server did not do in time what it should do by itself."""


async def projected(data_dir: Path, sequence: int) -> None:
    """Wait until a Passline's worker has applied the log up to `sequence`. Raises NotSettled."""
    await _until(lambda: _position(data_dir) >= sequence, f"the worker has not come to {sequence}")


def sockets(pid: int) -> int:
    """How many sockets a process has open."""
    links = (Path(f"/proc/{pid}/fd") / name for name in os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208
    return sum(_target(link).startswith("socket:") for link in links)


async def closed(pid: int, before: int) -> None:
    """Wait until a server has closed what its clients have: until it has no more sockets open than `before`.

    Raises NotSettled.
    """
    await _until(lambda: sockets(pid) <= before, f"the server has more than {before} sockets open")


async def _until(condition: Callable[[], bool], otherwise: str) -> None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + SETTLE_SECONDS
    while not condition():
        if loop.time() > deadline:
            raise NotSettled(f"after {SETTLE_SECONDS:g} s {otherwise}")
        await asyncio.sleep(_POLL_SECONDS)


def _position(data_dir: Path) -> int:
    database = sqlite3.connect(f"file:{data_dir / 'passline.db'}?mode=ro", uri=True)
    try:
        found: tuple[int] | None = database.execute("SELECT sequence FROM position").fetchone()
    finally:
        database.close()
    return found[0] if found else 0


def _target(link: Path) -> str:
    try:
        return str(link.readlink())
    except FileNotFoundError:  # closed meanwhile
        return ""
