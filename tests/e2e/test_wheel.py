"""The distribution works away from its checkout: nats.conf, the migrations and the command are in the wheel."""

from __future__ import annotations

import asyncio
import sys
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.support.processes import PasslineProcess, run_passline

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).resolve().parents[2]


async def run(*command: str, cwd: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *command, cwd=cwd, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()


async def installed(tmp_path: Path) -> tuple[Path, Sequence[str]]:
    """Build the wheel and unpack it; the command that runs it from there, with this environment's dependencies."""
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "-q")
    await run(*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(tmp_path / "dist"), ".", cwd=ROOT)
    (wheel,) = (tmp_path / "dist").glob("passline-*.whl")
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    start = f"import sys; sys.path.insert(0, {str(site)!r}); from gateway.cli import main; main()"
    return site, (sys.executable, "-P", "-c", start)


@pytest.mark.timeout(90)
async def test_wheel_brings_all_that_the_demo_needs(tmp_path: Path) -> None:
    site, command = await installed(tmp_path)
    assert (site / "streams" / "nats.conf").is_file()
    assert not (site / "tests").exists()
    environment = {"PYTHONPATH": str(site)}
    async with (
        PasslineProcess("demo", data_dir=tmp_path / "data", environment=environment, command=command) as passline,
        httpx.AsyncClient(base_url=passline.url, trust_env=False) as http,
    ):
        assert (await http.get("/schema/openapi.json")).json()["info"]["title"] == "Passline"


@pytest.mark.timeout(90)
async def test_wheel_finds_its_own_configuration_and_modules(tmp_path: Path) -> None:
    site, _ = await installed(tmp_path)
    asked = "import gateway, streams.discovery; print(gateway.__file__, streams.discovery.find_configuration())"
    found = await run_passline(command=(sys.executable, "-P", "-c", asked), environment={"PYTHONPATH": str(site)})
    assert found.stdout.split() == [str(site / "gateway" / "__init__.py"), str(site / "streams" / "nats.conf")]
