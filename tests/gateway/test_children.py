"""The places for the processes below `passline serve`: who replaces whom, what they tell, and how they end."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from gateway.children import Child, Kept, NotReplaced, Status, child_command
from tests.support.nats import eventually

if TYPE_CHECKING:
    from pathlib import Path

    from structlog.typing import EventDict

# Processes that stand in for ours. The first says a status and lives; the second can't be asked to end.
TELLS = """
import sys, time
print("something stray")
print('{"ready":true,"streams":3,"cursor":"e-17"}', flush=True)
time.sleep(60)
"""
DEAF = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print('{"ready":true,"streams":0,"cursor":"e-0"}', flush=True)
time.sleep(60)
"""
DIES = "raise SystemExit(3)"
# These take another one's place. The first is ready when there is a file, and says whether it was on trial; the second
# is well only where it is not; the third is never ready there. The fourth tells how often it was asked to end.
WAITS = """
import pathlib, sys, time
while not pathlib.Path(sys.argv[1]).exists():
    time.sleep(0.01)
print('{"ready":true,"cursor":"%s"}' % sys.argv[-1], flush=True)
time.sleep(60)
"""
FAILS = """
import sys, time
if sys.argv[-1] == "on-trial":
    raise SystemExit(3)
print('{"ready":true}', flush=True)
time.sleep(60)
"""
TAKES_LONG = FAILS.replace("raise SystemExit(3)", "time.sleep(60)")
COUNTS = """
import signal, time
asked = 0
def count(*_):
    global asked
    asked += 1
    print('{"ready":false,"streams":%d}' % asked, flush=True)
signal.signal(signal.SIGTERM, count)
signal.signal(signal.SIGWINCH, lambda *_: exit(0))  # its number is the higher: it comes after what came with it
print('{"ready":true}', flush=True)
while True:
    time.sleep(0.01)
"""


def child(script: str, name: str = "child", argument: str = "") -> Child:
    return Child(name, (sys.executable, "-c", script, argument), dict(os.environ))


def deaths(logs: list[EventDict]) -> list[EventDict]:
    return [each for each in logs if each["event"] == "process.died"]


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def keeping(*children: Child, grace_seconds: float = 5.0) -> Kept:
    return Kept(children, grace_seconds=grace_seconds, on_death=pytest.fail)


async def is_ready(one: Child) -> int:
    """Its process, once it has said that it is ready."""
    await eventually(lambda: one.status is not None and one.status.ready)
    assert one.pid is not None
    return one.pid


# -- A place for a process -------------------------------------------------------------------------------------------


async def test_status_that_a_child_tells_is_known_until_it_ends() -> None:
    told: list[Status | None] = []
    telling = Child(
        "child", (sys.executable, "-c", TELLS), dict(os.environ), on_status=lambda: told.append(telling.status)
    )
    async with keeping(telling):
        await eventually(lambda: telling.status is not None)
        assert telling.status == Status(ready=True, streams=3, cursor="e-17")
    assert told == [Status(ready=True, streams=3, cursor="e-17"), None]


async def test_child_that_is_killed_is_replaced() -> None:
    one = child(TELLS)
    async with keeping(one):
        await eventually(lambda: one.status is not None)
        first = one.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        await eventually(lambda: one.pid not in (None, first) and one.status is not None)
    assert one.pid is None


async def test_child_that_dies_at_its_start_is_tried_again_ever_more_seldom() -> None:
    with capture_logs() as logs:
        async with keeping(child(DIES)):
            await eventually(lambda: len(deaths(logs)) >= 2)
    assert [each["outcome"] for each in deaths(logs)[:2]] == ["ended with code 3"] * 2
    pauses = [each["again_in_seconds"] for each in deaths(logs)[:2]]
    assert pauses[0] < pauses[1]


async def test_child_that_can_not_be_started_at_all_is_tried_again() -> None:
    with capture_logs() as logs:
        async with keeping(Child("missing", ("/nowhere/at/all",), {})):
            await eventually(lambda: len(deaths(logs)) >= 2)
    assert deaths(logs)[0]["outcome"] == "not started: No such file or directory"


async def test_signal_that_killed_a_child_is_told() -> None:
    with capture_logs() as logs:
        one = child(TELLS)
        async with keeping(one):
            await eventually(lambda: one.status is not None)
            assert one.pid is not None
            os.kill(one.pid, signal.SIGKILL)
            await eventually(lambda: deaths(logs) != [])
    assert deaths(logs)[0]["outcome"] == "killed by signal 9"


async def test_child_that_ignores_its_end_is_killed_after_its_grace() -> None:
    deaf = child(DEAF)
    async with keeping(deaf, grace_seconds=0.2):
        await eventually(lambda: deaf.status is not None)
        pid = deaf.pid
        assert pid is not None
    assert not is_alive(pid)


async def test_all_children_end_at_once_and_not_one_after_the_other() -> None:
    children = [child(DEAF, f"deaf-{number}") for number in range(3)]
    async with keeping(*children, grace_seconds=0.5):
        await eventually(lambda: all(each.status is not None for each in children))
        loop = asyncio.get_running_loop()
        began = loop.time()
    assert loop.time() - began < 1.4


async def test_leaving_that_is_cancelled_kills_at_once() -> None:
    deaf = child(DEAF)
    inside = asyncio.Event()

    async def live() -> None:
        async with keeping(deaf, grace_seconds=60):
            await eventually(lambda: deaf.status is not None)
            inside.set()

    life = asyncio.create_task(live())
    await inside.wait()
    pid = deaf.pid
    assert pid is not None
    life.cancel()
    await asyncio.wait({life}, timeout=5)
    assert life.cancelled()
    assert not is_alive(pid)


async def test_child_that_is_asked_twice_to_end_is_signalled_once() -> None:
    """A second signal would end a gateway at once, in the middle of its drain."""
    told: list[int] = []
    one = Child(
        "child",
        (sys.executable, "-c", COUNTS),
        dict(os.environ),
        on_status=lambda: told.append(one.status.streams if one.status else 0),
    )
    async with keeping(one):
        pid = await is_ready(one)
        one.end()
        await eventually(lambda: 1 in told)
        one.end()
        os.kill(pid, signal.SIGWINCH)
    assert max(told) == 1


# -- One process in another one's place ------------------------------------------------------------------------------


async def test_place_is_given_over_only_when_the_new_process_is_ready(tmp_path: Path) -> None:
    may_be_ready = tmp_path / "ready"
    may_be_ready.touch()
    old = child(WAITS, argument=str(may_be_ready))
    async with keeping(old) as kept:
        pid = await is_ready(old)
        may_be_ready.unlink()
        replacing = asyncio.create_task(kept.replace(old, ready_seconds=10))
        await eventually(lambda: len(kept.children) == 2 and kept.children[1].pid is not None)
        assert is_alive(pid)
        assert not replacing.done()
        may_be_ready.touch()
        new = await replacing
        assert kept.children == [new]
        assert new.pid not in (None, pid)
        assert not is_alive(pid)
        assert new.status == Status(ready=True, cursor="on-trial")


async def test_process_that_has_taken_a_place_is_kept_like_any_other(tmp_path: Path) -> None:
    (tmp_path / "ready").touch()
    old = child(WAITS, argument=str(tmp_path / "ready"))
    async with keeping(old) as kept:
        await is_ready(old)
        new = await kept.replace(old, ready_seconds=10)
        pid = await is_ready(new)
        os.kill(pid, signal.SIGKILL)
        await eventually(lambda: new.pid not in (None, pid) and new.status is not None)
        assert new.status == Status(ready=True, cursor=str(tmp_path / "ready"))  # and no more on trial


async def test_process_that_dies_on_trial_takes_nobody_s_place_and_is_not_tried_again() -> None:
    old = child(FAILS)
    with capture_logs() as logs:
        async with keeping(old) as kept:
            pid = await is_ready(old)
            with pytest.raises(NotReplaced, match="the new child did not become ready: ended with code 3"):
                await kept.replace(old, ready_seconds=10)
            assert kept.children == [old]
            assert old.pid == pid
            assert is_alive(pid)
    assert deaths(logs) == []
    assert len([each for each in logs if each["event"] == "process.started"]) == 2


async def test_process_that_is_not_ready_in_time_takes_nobody_s_place_and_is_ended() -> None:
    old = child(TAKES_LONG)
    with capture_logs() as logs:
        async with keeping(old) as kept:
            pid = await is_ready(old)
            with pytest.raises(NotReplaced, match=r"not within 0\.2 s"):
                await kept.replace(old, ready_seconds=0.2)
            assert kept.children == [old]
            assert is_alive(pid)
    [_, new] = [each["pid"] for each in logs if each["event"] == "process.started"]
    assert not is_alive(new)


async def test_leaving_while_a_place_is_given_over_ends_both() -> None:
    old = child(TAKES_LONG)
    with capture_logs() as logs:
        async with keeping(old) as kept:
            await is_ready(old)
            replacing = asyncio.create_task(kept.replace(old, ready_seconds=60))
            await eventually(lambda: len(kept.children) == 2 and kept.children[1].pid is not None)
            replacing.cancel()
    started = [each["pid"] for each in logs if each["event"] == "process.started"]
    assert len(started) == 2
    assert not any(map(is_alive, started))
    assert [each for each in logs if each["event"] == "process.killed"] == []


def test_child_ends_if_its_parent_has_ended_before_it_could_ask_to_be_told(tmp_path: Path) -> None:
    command = child_command("worker", "worker")
    orphan = tuple("1" if each == str(os.getpid()) else each for each in command)
    ended = subprocess.run(orphan, cwd=tmp_path, capture_output=True, text=True, timeout=10, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (1, "", "")


def test_package_of_the_present_directory_does_not_stand_in_for_ours(tmp_path: Path) -> None:
    (tmp_path / "gateway").mkdir()
    (tmp_path / "gateway" / "__init__.py").write_text("raise SystemExit('not ours')")
    (tmp_path / "msgspec.py").write_text("raise SystemExit('not ours')")
    environment = {**os.environ, "PASSLINE_PORT": "none"}
    ended = subprocess.run(
        child_command("worker", "worker"),
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=10,
        check=False,
    )
    assert ended.returncode == 1
    assert "not ours" not in ended.stderr
    assert "PASSLINE_PORT" in ended.stderr
    assert "Traceback" not in ended.stderr
