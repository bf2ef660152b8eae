"""`passline serve` as a set of processes: what they are given, who replaces whom, and how they end."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import pty
import re
import signal
import socket
import termios
from contextlib import suppress
from pathlib import Path

from streams.discovery import find_running
from tests.e2e.commands import PASSLINE, event, is_applied, is_published, kitchen, publish, refused
from tests.support.nats import eventually
from tests.support.process_table import RunningProcess, processes_of
from tests.support.processes import PasslineProcess
from tests.support.sse_client import Ending, open_stream


async def test_port_that_is_taken_ends_serve_with_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        said = await refused("serve", "--port", str(port), data_dir=tmp_path / "data")
    assert said.startswith(f"Error: can't listen on 127.0.0.1:{port} (Address already in use)")
    assert not (tmp_path / "data").exists()


async def test_serve_prints_one_line_where_it_listens_and_logs_in_json(serving: PasslineProcess) -> None:
    told = serving.output.splitlines()
    assert told.count(f"passline is listening on {serving.url}") == 1
    logs = [json.loads(line) for line in told if not line.startswith("passline")]
    assert {"broker.started", "process.started"} <= {each["event"] for each in logs}


async def test_descriptor_limit_is_raised_to_what_is_allowed(serving: PasslineProcess) -> None:
    [gateway] = serving.processes("gateway")
    found = re.search(r"Max open files +(\d+) +(\d+)", of_process(gateway, "limits"))
    assert found is not None
    assert int(found[1]) == min(int(found[2]), 1 << 20)


async def test_passwords_are_on_no_command_line_and_each_role_has_its_own_only(serving: PasslineProcess) -> None:
    passwords = find_running(serving.data_dir).passwords
    for each in serving.processes():
        assert not [word for word in each.arguments for password in passwords.values() if password in word]
    for role in ("gateway", "worker"):
        [process] = serving.processes(role)
        environment = of_process(process, "environ")
        assert {name for name, password in passwords.items() if password in environment} == {role}


async def test_gateway_that_is_killed_is_replaced_and_serves_again(serving: PasslineProcess) -> None:
    [gateway] = serving.processes("gateway")
    gateway.send(signal.SIGKILL)
    await eventually(lambda: gateway.pid not in {each.pid for each in serving.processes("gateway")})
    await serving.until_ready()
    assert len(serving.processes("gateway")) == 1


async def test_worker_that_is_killed_is_replaced_and_goes_on(serving: PasslineProcess) -> None:
    [worker] = serving.processes("worker")
    worker.send(signal.SIGKILL)
    cursor = await publish(serving, event(1, "OrderPlaced"))
    await eventually(lambda: is_applied(serving, cursor), within=10)
    assert [each.pid for each in serving.processes("worker")] != [worker.pid]


async def test_broker_that_is_killed_comes_back_on_its_port_and_streams_go_on(serving: PasslineProcess) -> None:
    address = find_running(serving.data_dir)
    async with open_stream(await kitchen(serving)) as stream:
        await stream.next_event("snapshot")
        [broker] = serving.processes("broker")
        broker.send(signal.SIGKILL)
        await eventually(lambda: broker.pid not in {each.pid for each in serving.processes("broker")})
        await eventually(lambda: is_published(serving, event(1, "OrderPlaced")), within=10)
        placed = await stream.next_event("ReceiveOrderPlaced")
    assert json.loads(placed.data or "")["eventId"] == "e-1"
    assert find_running(serving.data_dir) == address


async def test_sigterm_ends_every_stream_within_the_drain_window_and_every_process(
    serving: PasslineProcess,
) -> None:
    loop = asyncio.get_running_loop()
    async with open_stream(await kitchen(serving)) as first, open_stream(await kitchen(serving)) as second:
        for stream in (first, second):
            await stream.next_event("snapshot")
        began = loop.time()
        serving.terminate()
        for stream in (first, second):
            closing = await stream.next_event("stream.closing")
            assert closing.data == '{"reason":"drain"}'
            assert await stream.read_to_end() is Ending.CUT
        assert loop.time() - began < 2  # the window is a second
        assert second.arrivals[-1].at - first.arrivals[-1].at > 0.25  # over the window, not at once
    assert await serving.exited() == 0
    assert serving.processes() == []
    assert "without completing response" not in serving.output
    assert "Traceback" not in serving.output


async def test_address_refuses_while_streams_drain(tmp_path: Path) -> None:
    environment = {"PASSLINE_DRAIN_SECONDS": "30"}
    async with PasslineProcess("serve", "--workers", "2", data_dir=tmp_path / "data", environment=environment) as it:
        request = await kitchen(it)
        async with open_stream(request) as first, open_stream(request) as second:
            for stream in (first, second):
                await stream.next_event("snapshot")
            it.terminate()
            await eventually(lambda: is_refused(it.url))
            assert it.is_running
            it.terminate()  # once more: at once
            assert await it.exited(within=5) == 1
            assert {await first.read_to_end(), await second.read_to_end()} <= {Ending.CUT, Ending.RESET}
        assert it.processes() == []


async def test_second_signal_ends_a_draining_gateway_at_once(tmp_path: Path) -> None:
    environment = {"PASSLINE_DRAIN_SECONDS": "600"}
    async with PasslineProcess("serve", data_dir=tmp_path / "data", environment=environment) as it:
        [gateway] = it.processes("gateway")
        async with open_stream(await kitchen(it)) as first, open_stream(await kitchen(it)) as second:
            for stream in (first, second):
                await stream.next_event("snapshot")
            gateway.send(signal.SIGTERM)
            await first.next_event("stream.closing")
            await eventually(lambda: not is_among(signal.SIGTERM, gateway, "SigCgt"))  # caught, until then
            gateway.send(signal.SIGTERM)
            assert await second.read_to_end() in (Ending.CUT, Ending.RESET)
        await eventually(lambda: "killed by signal 15" in it.output)
        await it.until_ready()


async def test_terminal_that_is_closed_ends_all_in_good_order(tmp_path: Path) -> None:
    """Its SIGHUP is the same that asks for a roll; nobody could end then what has lost its terminal."""
    data_dir = tmp_path / "data"
    terminal, other_end = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *(PASSLINE, "serve", "--port", "0", "--data-dir", str(data_dir)),
        stdin=other_end,
        stdout=other_end,
        stderr=other_end,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    try:
        os.close(other_end)
        os.set_blocking(terminal, False)
        said = bytearray()

        def is_listening() -> bool:
            with suppress(BlockingIOError):
                said.extend(os.read(terminal, 65536))
            return b"passline is listening" in said

        await eventually(is_listening, within=20)
        os.close(terminal)
        async with asyncio.timeout(20):
            assert await process.wait() == 0
        await eventually(lambda: processes_of(data_dir, None) == [])
    finally:
        for each in processes_of(data_dir, None):
            each.send(signal.SIGKILL)


async def test_hang_up_that_reaches_all_processes_is_the_supervisor_s_to_answer(serving: PasslineProcess) -> None:
    for role in ("gateway", "worker"):
        [process] = serving.processes(role)
        assert is_among(signal.SIGHUP, process, "SigIgn")


async def test_all_processes_end_with_a_supervisor_that_is_killed(serving: PasslineProcess) -> None:
    async with open_stream(await kitchen(serving)) as stream:
        await stream.next_event("snapshot")
        serving.kill()
        assert (await stream.next_event("stream.closing")).data == '{"reason":"drain"}'
    await serving.until_gone()
    await serving.restart()


async def test_signal_during_the_start_ends_it_in_good_order(tmp_path: Path) -> None:
    async with PasslineProcess("serve", data_dir=tmp_path / "data") as it:
        it.terminate()
        await it.exited()
        await it.start(until_ready=False)
        await eventually(lambda: it.processes("broker") != [])
        it.terminate()
        assert await it.exited() == 0
        assert it.processes() == []
        assert "Traceback" not in it.output


def is_refused(url: str) -> bool:
    host, port = url.removeprefix("http://").split(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except ConnectionRefusedError:
        return True
    return False


def is_among(number: signal.Signals, process: RunningProcess, which: str) -> bool:
    """Whether a signal is among those that the process has a handler for (SigCgt), or ignores (SigIgn)."""
    found = re.search(rf"{which}:\s+([0-9a-f]+)", of_process(process, "status"))
    assert found is not None
    return bool(int(found[1], 16) >> (number - 1) & 1)


def of_process(process: RunningProcess, what: str) -> str:
    return Path(f"/proc/{process.pid}/{what}").read_text()
