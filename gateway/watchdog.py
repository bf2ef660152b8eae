"""Notices that the event loop is blocked: while it is, since all that could tell afterwards stands still with it.

The loop moves a due time on, ten times a second, and a thread looks at it. Nothing is done for a request or an event.
"""

from __future__ import annotations

import asyncio
import contextvars
import sys
import threading
import time
from collections import deque
from pathlib import PurePath
from typing import TYPE_CHECKING, Self

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

BLOCKED_SECONDS = 0.5
"""A loop that is so late is blocked. A fan-out to 10,000 streams holds it for less than a tenth of a second, and it
pauses more often than that; half a second is what people notice, and far below every time limit of ours.
"""

BEAT_SECONDS = 0.1
LAG_MEMORY_SECONDS = 60.0

_FRAMES = 8

_log = structlog.get_logger()


class LoopLag:
    """How late the event loop was with what was due.

    `clock` is monotonic, in seconds; `times_blocked` counts from the start of the process.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.times_blocked = 0
        self._clock = clock
        # Of the last minute, when and how late; the worst first, and each less than those before it.
        self._worst: deque[tuple[float, float]] = deque()

    @property
    def worst_seconds(self) -> float:
        """The worst lag of the last minute, in seconds."""
        while self._worst and self._worst[0][0] <= self._clock() - LAG_MEMORY_SECONDS:
            self._worst.popleft()
        return self._worst[0][1] if self._worst else 0.0

    def note(self, seconds: float) -> None:
        """The loop was so late just now."""
        while self._worst and self._worst[-1][1] <= seconds:
            self._worst.pop()
        self._worst.append((self._clock(), seconds))
        self.times_blocked += seconds >= BLOCKED_SECONDS


class LoopWatchdog:
    """`with LoopWatchdog(lag):` in the thread of a running loop watches it, and notes in `lag` how late it was.

    A loop that is blocked is told once while it is, as `loop.blocked` with where it stands, and once when that is over,
    as `loop.unblocked`. The thread needs Python's lock for it: of a block that holds that, too, only the end is told.
    """

    def __init__(self, lag: LoopLag) -> None:
        self._lag = lag
        self._due = 0.0
        self._told: float | None = None  # the time that was due and over when we told
        self._watched = threading.get_ident()
        self._over = threading.Event()

    def __enter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._await_beat()
        # The names that the process has bound for its log are in this context.
        context = contextvars.copy_context()
        self._thread = threading.Thread(target=context.run, args=(self._watch,), name="loop-watchdog", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        self._over.set()
        self._thread.join()

    def _await_beat(self) -> None:
        self._due = time.monotonic() + BEAT_SECONDS
        self._timer = self._loop.call_later(BEAT_SECONDS, self._beat)

    def _beat(self) -> None:
        late = max(0.0, time.monotonic() - self._due)
        self._lag.note(late)
        self._await_beat()
        if late >= BLOCKED_SECONDS:
            _log.warning("loop.unblocked", seconds=round(late, 3))

    def _watch(self) -> None:
        while not self._over.wait(BEAT_SECONDS):
            due = self._due
            late = time.monotonic() - due
            if late >= BLOCKED_SECONDS and due != self._told:
                self._told = due
                _log.warning("loop.blocked", seconds=round(late, 3), at=_where(self._watched))


def _where(thread: int) -> list[str]:
    """The innermost functions in which a thread is now, the innermost first. No arguments, no values."""
    frame = sys._current_frames().get(thread)  # noqa: SLF001 - there is no other way to another thread's
    found: list[str] = []
    while frame is not None and len(found) < _FRAMES:
        code = frame.f_code
        found.append(f"{PurePath(code.co_filename).name}:{frame.f_lineno} {code.co_qualname}")
        frame = frame.f_back
    return found
