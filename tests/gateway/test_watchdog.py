"""A blocked event loop, on the loop that processes run on: what is told of it, when, and what is remembered.

To block is what is tested here. A block lasts until what it waits for has been told, or for so long that it must be.
"""

from __future__ import annotations

import asyncio
import ctypes
import threading
import time
from typing import TYPE_CHECKING

import structlog
import uvloop
from structlog.testing import capture_logs

from gateway.watchdog import BEAT_SECONDS, BLOCKED_SECONDS, LAG_MEMORY_SECONDS, LoopLag, LoopWatchdog
from tests.support.nats import eventually

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from structlog.typing import EventDict

PATIENCE_SECONDS = 10.0


def told(logs: list[EventDict], event: str) -> list[EventDict]:
    return [each for each in logs if each["event"] == event]


def block_until_told(logs: list[EventDict], password: str) -> None:
    """Hold the loop until it is told that it is held. `password` stands for all that is nobody's business."""
    until = time.monotonic() + PATIENCE_SECONDS
    while not told(logs, "loop.blocked") and time.monotonic() < until:
        time.sleep(0.01)
    time.sleep(3 * BEAT_SECONDS)  # the watchdog looks again and again, and has nothing more to tell


def watched(body: Callable[[list[EventDict], LoopLag], Awaitable[None]]) -> tuple[list[EventDict], LoopLag]:
    """Run `body` on a loop that is watched. What was logged, and the lag."""
    lag = LoopLag()

    async def run(logs: list[EventDict]) -> None:
        with LoopWatchdog(lag):
            await body(logs, lag)

    with capture_logs(processors=[structlog.contextvars.merge_contextvars]) as logs:
        uvloop.run(run(logs))
    return logs, lag


async def blocked_once(logs: list[EventDict], lag: LoopLag) -> None:
    asyncio.get_running_loop().call_soon(block_until_told, logs, "secret-1")
    await eventually(lambda: lag.times_blocked == 1, within=PATIENCE_SECONDS)


def test_block_is_told_once_while_it_lasts_and_once_when_it_is_over() -> None:
    logs, lag = watched(blocked_once)
    assert [each["event"] for each in logs] == ["loop.blocked", "loop.unblocked"]
    assert BLOCKED_SECONDS <= logs[0]["seconds"] <= logs[1]["seconds"]
    assert lag.times_blocked == 1
    assert round(lag.worst_seconds, 3) == logs[1]["seconds"]


def test_line_says_where_the_loop_stands_and_no_values() -> None:
    logs, _ = watched(blocked_once)
    innermost = logs[0]["at"]
    assert innermost[0].startswith("test_watchdog.py:")
    assert any(place.endswith(" block_until_told") for place in innermost)
    assert "secret-1" not in repr(logs)
    assert "/" not in "".join(innermost)


def test_each_block_is_told_by_itself() -> None:
    async def twice(logs: list[EventDict], lag: LoopLag) -> None:
        await blocked_once(logs, lag)
        first = list(logs)
        logs.clear()
        asyncio.get_running_loop().call_soon(block_until_told, logs, "")
        await eventually(lambda: lag.times_blocked == 2, within=PATIENCE_SECONDS)
        logs[:0] = first

    logs, _ = watched(twice)
    assert [each["event"] for each in logs] == ["loop.blocked", "loop.unblocked"] * 2


def test_lag_below_the_limit_is_remembered_and_not_told() -> None:
    seconds = BLOCKED_SECONDS / 2

    async def late(logs: list[EventDict], lag: LoopLag) -> None:
        def sleep() -> None:
            time.sleep(seconds)

        asyncio.get_running_loop().call_soon(sleep)
        await eventually(lambda: lag.worst_seconds > 0, within=PATIENCE_SECONDS)

    logs, lag = watched(late)
    assert lag.worst_seconds >= seconds - 2 * BEAT_SECONDS
    assert len(told(logs, "loop.unblocked")) == lag.times_blocked  # none, but where the machine itself stood still


def test_block_that_holds_the_interpreter_too_is_told_when_it_is_over() -> None:
    usleep = ctypes.PyDLL(None).usleep  # of PyDLL's calls none lets another thread run

    async def held(logs: list[EventDict], lag: LoopLag) -> None:
        asyncio.get_running_loop().call_soon(usleep, int(2 * BLOCKED_SECONDS * 1_000_000))
        await eventually(lambda: lag.times_blocked == 1, within=PATIENCE_SECONDS)

    logs, lag = watched(held)
    assert len(told(logs, "loop.unblocked")) == 1
    assert lag.worst_seconds >= BLOCKED_SECONDS


def test_what_the_process_has_bound_for_its_log_is_in_the_line() -> None:
    with structlog.contextvars.bound_contextvars(process="gateway-7"):
        logs, _ = watched(blocked_once)
    assert {each["process"] for each in logs} == {"gateway-7"}


def test_nothing_of_the_watchdog_is_left_behind() -> None:
    before = threading.active_count()

    async def nothing(logs: list[EventDict], lag: LoopLag) -> None:
        assert threading.active_count() == before + 1

    watched(nothing)
    assert threading.active_count() == before


def test_worst_lag_is_the_last_minute_s() -> None:
    now = 0.0
    lag = LoopLag(clock=lambda: now)
    assert lag.worst_seconds == 0
    for at, seconds in ((0, 0.4), (10, 2.0), (20, 0.1), (30, 0.3)):
        now = at
        lag.note(seconds)
    assert lag.worst_seconds == 2.0
    now = 10 + LAG_MEMORY_SECONDS
    assert lag.worst_seconds == 0.3
    now = 30 + LAG_MEMORY_SECONDS
    assert lag.worst_seconds == 0
    assert lag.times_blocked == 1


def test_memory_of_lags_does_not_grow_with_time() -> None:
    now = 0.0
    lag = LoopLag(clock=lambda: now)
    for beat in range(10_000):
        now = beat * BEAT_SECONDS
        lag.note(1 / (1 + beat))  # ever less: the most that is to be remembered
        assert lag.worst_seconds > 0
    assert len(lag._worst) <= LAG_MEMORY_SECONDS / BEAT_SECONDS + 1
