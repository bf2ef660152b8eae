"""Passline in processes of its own: it starts, is found, is killed, comes back at its address, and leaves nobody."""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.support.process_table import processes_of
from tests.support.processes import PasslineProcess, run_passline

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def data_dir(tmp_path: Path) -> Iterator[Path]:
    """A run's directory, of which nothing may be running afterwards."""
    directory = tmp_path / "data"
    yield directory
    assert processes_of(directory, None) == []


async def test_serve_runs_with_all_its_processes_and_leaves_none(data_dir: Path) -> None:
    async with PasslineProcess("serve", "--workers", "2", data_dir=data_dir) as passline:
        async with httpx.AsyncClient(trust_env=False) as client:
            assert (await client.get(f"{passline.url}/health/live")).status_code == 200
        assert [each.pid for each in passline.processes("supervisor")] == [passline.pid]
        assert {role: len(passline.processes(role)) for role in ("gateway", "worker", "broker", "other")} == {
            "gateway": 2,
            "worker": 1,
            "broker": 1,
            "other": 0,
        }
    assert passline.output.endswith("\n")


async def test_killed_it_starts_again_at_its_address(data_dir: Path) -> None:
    async with PasslineProcess("serve", data_dir=data_dir) as passline:
        url, pid = passline.url, passline.pid
        passline.kill()
        assert await passline.exited() == -signal.SIGKILL
        await passline.restart()
        assert passline.url == url
        assert passline.pid != pid


async def test_terminated_it_ends_in_good_order(data_dir: Path) -> None:
    async with PasslineProcess("serve", data_dir=data_dir) as passline:
        passline.terminate()
        assert await passline.exited() == 0
        await passline.until_gone(within=1)


async def test_a_stopped_child_is_ended_too(data_dir: Path) -> None:
    async with PasslineProcess("serve", data_dir=data_dir) as passline:
        for each in passline.processes("worker"):
            each.send(signal.SIGSTOP)


async def test_settings_get_through_and_the_output_is_in_the_failure(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PASSLINE_WORKERS", "of the tests' own environment")
    with pytest.raises(AssertionError, match="PASSLINE_RETRY_MS"):
        async with PasslineProcess("serve", data_dir=data_dir, environment={"PASSLINE_RETRY_MS": "soon"}):
            pass


async def test_a_process_that_outlives_its_parent_fails_the_test_and_is_killed(tmp_path: Path) -> None:
    script = """
import http.server, subprocess, sys
port = int(sys.argv[sys.argv.index("--port") + 1])
data_dir = sys.argv[sys.argv.index("--data-dir") + 1]
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", data_dir])
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
server = http.server.HTTPServer(("127.0.0.1", port), Handler)
print(f"listening on http://127.0.0.1:{port}", flush=True)
server.serve_forever()
"""
    command = (sys.executable, "-c", script)
    passline = PasslineProcess(data_dir=tmp_path / "data", command=command, orphan_seconds=0.2)
    with pytest.raises(AssertionError, match=r"left behind after 0\.2 s: other [0-9]+"):
        async with passline:
            assert len(passline.processes("other")) == 1
    assert passline.processes() == []


async def test_a_command_that_ends_gives_its_code_and_what_it_wrote() -> None:
    done = await run_passline("--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "Usage" in done.stdout

    done = await run_passline("no-such-command")
    assert done.returncode != 0
    assert "no-such-command" in done.stderr


async def test_a_command_that_does_not_end_is_killed(tmp_path: Path) -> None:
    with pytest.raises(TimeoutError):
        await run_passline(str(tmp_path), command=(sys.executable, "-c", "import time; time.sleep(600)"), within=0.5)
    assert processes_of(tmp_path, None) == []
