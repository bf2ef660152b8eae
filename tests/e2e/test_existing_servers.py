"""`passline serve` on a broker and a database that are there already."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from streams.credentials import password_variable
from streams.log import Log
from tests.support.nats import client
from tests.support.processes import PasslineProcess, run_passline

if TYPE_CHECKING:
    from pathlib import Path

    from streams.credentials import Role
    from streams.embedded import EmbeddedNats


@pytest.fixture
def database_kind() -> str:
    return "postgresql"


def settings(server: EmbeddedNats, *roles: Role) -> dict[str, str]:
    """How an operator names an existing broker, with the passwords of some of its users."""
    passwords = {password_variable(role): server.address.passwords[role] for role in roles}
    return {"PASSLINE_NATS_URL": f"nats://{server.address.host}:{server.port}", **passwords}


async def test_existing_broker_is_used_and_given_its_streams(nats_server: EmbeddedNats, tmp_path: Path) -> None:
    environment = settings(nats_server, "gateway", "worker", "admin")
    async with PasslineProcess("serve", data_dir=tmp_path / "data", environment=environment) as passline:
        assert passline.processes("broker") == []
        async with client(nats_server, "gateway") as nc:
            assert (await Log(nc).state()).last == 0


async def test_existing_broker_whose_administrator_we_are_not_is_left_as_it_is(
    log_server: EmbeddedNats, tmp_path: Path
) -> None:
    environment = settings(log_server, "gateway", "worker")
    async with PasslineProcess("serve", data_dir=tmp_path / "data", environment=environment) as passline:
        assert '"event": "broker.not_provisioned"' in passline.output
        assert "drift" not in passline.output


async def test_broker_that_is_not_there_is_told_in_one_line(tmp_path: Path) -> None:
    environment = {"PASSLINE_NATS_URL": "nats://127.0.0.1:1"}
    done = await run_passline("serve", "--port", "0", "--data-dir", str(tmp_path / "data"), environment=environment)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("Error: no broker at nats://127.0.0.1:1 ")
    assert "Traceback" not in done.stderr


async def test_existing_database_is_migrated_by_its_operator_and_not_by_serve(
    log_server: EmbeddedNats, empty_database: str, tmp_path: Path
) -> None:
    environment = {**settings(log_server, "gateway", "worker"), "PASSLINE_DATABASE_URL": empty_database}
    options = ("--data-dir", str(tmp_path / "data"))
    done = await run_passline("serve", "--port", "0", *options, environment=environment)
    assert done.returncode == 1
    assert "run `passline projection migrate`" in done.stderr.splitlines()[-1]
    migrated = await run_passline("projection", "migrate", *options, environment=environment)
    assert (migrated.returncode, migrated.stderr) == (0, "")
    async with PasslineProcess("serve", data_dir=tmp_path / "data", environment=environment) as passline:
        assert passline.processes("worker") != []
