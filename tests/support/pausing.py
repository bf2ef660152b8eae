"""Processes that stand still."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path


def pause(pid: int) -> None:
    """Stop a process, and return when all its threads have stopped: the signal alone leaves it time to answer."""
    os.kill(pid, signal.SIGSTOP)
    deadline = time.monotonic() + 5
    while not _stands_still(pid):
        assert time.monotonic() < deadline, f"process {pid} does not stop"
        time.sleep(0.001)


def _stands_still(pid: int) -> bool:
    states = [stat.read_text().rpartition(")")[2].split()[0] for stat in Path(f"/proc/{pid}/task").glob("*/stat")]
    return all(state in "Tt" for state in states)
