"""The processes below `passline serve`: their place, their end, what they tell, and one gateway process's server."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import traceback
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from auth.claims import Role
from auth.keys import development_key
from gateway.children import Child, Status, child_command, kept
from gateway.minting import mint_token
from gateway.serve import GatewayServer, as_meant
from gateway.settings import Settings
from gateway.supervisor import ListenerNotUsable, listen
from gateway.worker import run as run_worker
from streams.errors import StreamMissing
from streams.migrations import WrongSchema
from tests.support.nats import eventually
from tests.support.sse_client import Ending, StreamRequest, open_stream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from structlog.typing import EventDict

    from streams.embedded import EmbeddedNats

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


def child(script: str, name: str = "child") -> Child:
    return Child(name, (sys.executable, "-c", script), dict(os.environ))


def deaths(logs: list[EventDict]) -> list[EventDict]:
    return [each for each in logs if each["event"] == "process.died"]


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@asynccontextmanager
async def keeping(*children: Child, grace_seconds: float = 5.0) -> AsyncIterator[None]:
    async with kept(children, grace_seconds=grace_seconds, on_death=pytest.fail):
        yield


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


# -- The listening socket --------------------------------------------------------------------------------------------


def test_port_that_is_taken_is_told_in_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ListenerNotUsable, match=f"127.0.0.1:{port} .*Address already in use.*--port") as refusal:
            listen("127.0.0.1", port)
    assert refusal.value.port == port
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("host", ["no-such-host.invalid", "203.0.113.7", "a" * 300])
def test_host_that_is_not_ours_is_told_in_one_line(host: str) -> None:
    with pytest.raises(ListenerNotUsable, match="choose another --host") as refusal:
        listen(host, 0)
    assert refusal.value.host == host


@pytest.mark.parametrize(("host", "reached_at"), [("127.0.0.1", "127.0.0.1"), ("::1", "::1"), ("::", "127.0.0.1")])
def test_listener_holds_connections_before_anybody_takes_them(host: str, reached_at: str) -> None:
    with listen(host, 0) as listener:
        assert not listener.getblocking()
        with socket.create_connection((reached_at, listener.getsockname()[1]), timeout=5):
            pass


# -- One gateway process ---------------------------------------------------------------------------------------------


def logged(message: str) -> str | None:
    """What of a message of uvicorn's comes into the log."""
    record = logging.LogRecord("uvicorn.error", logging.ERROR, "", 0, message, (), None)
    return record.getMessage() if as_meant(record) else None


def test_only_the_complaint_about_a_cut_stream_is_kept_out_of_the_log() -> None:
    assert logged("ASGI callable returned without completing response.") is None
    for message in ("ASGI callable returned without starting response.", "Exception in ASGI application\n"):
        assert logged(message) == message


def test_start_that_fails_for_a_known_reason_is_told_in_one_line() -> None:
    def traceback_of(error: Exception) -> str:
        try:
            raise ExceptionGroup("unhandled errors in a TaskGroup", [error])
        except ExceptionGroup as group:
            return "".join(traceback.format_exception(group))

    assert logged(traceback_of(StreamMissing("EVENTS"))) == str(StreamMissing("EVENTS"))
    assert logged(traceback_of(WrongSchema(None, "0001"))) == str(WrongSchema(None, "0001"))
    unknown = traceback_of(ZeroDivisionError("of ours"))
    assert logged(unknown) == unknown


class Serving:
    """A GatewayServer in the test's own loop, and what it reported."""

    def __init__(self, settings: Settings) -> None:
        self.reports: list[Status] = []
        self.server = GatewayServer(settings, self.reports.append)
        self.settings = settings
        self.listener = listen("127.0.0.1", 0)
        self.port = self.listener.getsockname()[1]

    def kitchen(self) -> StreamRequest:
        token, _ = mint_token(self.settings, subject="giulia", life_seconds=60, restaurants={"r1": Role.OWNER})
        return StreamRequest(f"http://127.0.0.1:{self.port}/api/v1/restaurants/r1/events?snapshot=false", token=token)


@pytest.fixture
async def serving(log_server: EmbeddedNats, migrated_sqlite: Path, tmp_path: Path) -> AsyncIterator[Serving]:
    data_dir = log_server.layout.data_dir
    development_key(data_dir)
    shutil.copyfile(migrated_sqlite, data_dir / "passline.db")
    settings = Settings.from_environment({}, data_dir=data_dir, drain_seconds=5)
    worker = asyncio.create_task(run_worker(settings, log_server.url("worker")))
    running = Serving(settings)
    task = asyncio.create_task(running.server.serve([running.listener]))
    await eventually(lambda: running.reports != [] and running.reports[-1].ready)
    yield running
    running.server.should_exit = True
    await task
    worker.cancel()
    await asyncio.wait({worker})


async def test_server_reports_its_open_streams_and_its_position(serving: Serving) -> None:
    async with open_stream(serving.kitchen()) as stream:
        await stream.next_event("stream.opened")
        await eventually(lambda: serving.reports[-1].streams == 1)
    await eventually(lambda: serving.reports[-1].streams == 0)
    assert serving.reports[-1].cursor == serving.server.gateway.hub.frames.cursor(0)
    assert all(before != after for before, after in pairwise(serving.reports))


async def test_process_whose_broker_connection_is_closed_for_good_ends_its_streams_and_itself(
    serving: Serving,
) -> None:
    async with open_stream(serving.kitchen()) as stream:
        await stream.next_event("stream.opened")
        await serving.server.gateway.publisher._client.close()
        closing = await stream.next_event("stream.closing")
        assert closing.data == '{"reason":"drain"}'
        assert await stream.read_to_end() is Ending.CUT
    assert serving.server.unfit == "the broker has closed the connection for good"
    assert serving.server.should_exit
    await eventually(lambda: is_refused(serving.port))


def is_refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except ConnectionRefusedError:
        return True
    return False
