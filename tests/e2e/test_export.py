"""`passline export` beside a running Passline: what it promises, killed, cut off, refused and reset."""

from __future__ import annotations

import asyncio
import json
import signal
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

import pytest

from tests.e2e.commands import PASSLINE, event, lines, passline, publish, refused, running
from tests.support.nats import eventually
from tests.support.processes import run_passline
from tests.support.scripted_server import answer
from tests.support.scripted_server import serving as receiving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.support.processes import PasslineProcess
    from tests.support.scripted_server import Exchange

KITCHEN = ("--topic", "restaurants/pizzeria-roma")
COUNT = 600


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """The cursor file."""
    return tmp_path / "export.cursor"


def is_longer(file: Path, size: int) -> bool:
    return file.stat().st_size >= size


def cursor_in(kept: Path) -> str:
    cursor: str = json.loads(kept.read_bytes())["cursor"]
    return cursor


def ids(output: str) -> list[str]:
    """The event ids of NDJSON."""
    return [json.loads(line)["data"]["eventId"] for line in output.splitlines()]


async def fill(at: PasslineProcess, count: int, begin: int = 0) -> list[str]:
    """Publish order events. Returns their ids."""
    events = [
        event(number, "OrderPlaced" if number == 0 else "OrderAccepted") for number in range(begin, begin + count)
    ]
    await passline("publish", "-", data_dir=at.data_dir, stdin=lines(*events))
    return [each["eventId"] for each in events]


async def export(at: PasslineProcess, *arguments: str) -> str:
    """What an export up to the head says."""
    return await passline("export", *arguments, "--until-head", data_dir=at.data_dir)


@asynccontextmanager
async def exporting(at: PasslineProcess, *arguments: str, to: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """`passline export … >> to`, until the block is left."""
    with to.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            *(PASSLINE, "export", *arguments, "--data-dir", str(at.data_dir)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=asyncio.subprocess.PIPE,
        )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def test_export_goes_on_where_it_ended_and_tells_each_event_once(serving: PasslineProcess, kept: Path) -> None:
    first = await fill(serving, 20)
    arguments = (*KITCHEN, "--cursor-file", str(kept))
    assert ids(await export(serving, *arguments)) == first
    second = await fill(serving, 5, begin=20)
    output = await export(serving, *arguments)
    assert ids(output) == second
    assert json.loads(output.splitlines()[-1])["id"] == cursor_in(kept)
    assert ids(await export(serving, *KITCHEN, "--from", cursor_in(kept).partition("-")[0] + "-20")) == second


async def test_all_and_audience_choose_whose_views(serving: PasslineProcess) -> None:
    await publish(serving, event(1, "OrderPlaced", customerName="Ada Lovelace"))
    output = await export(serving, "--audience", "partners", "--audience", "guests")
    assert {(each["audience"], each["event"]) for each in map(json.loads, output.splitlines())} == {
        ("partners", "NewOrder"),
        ("guests", "ReceiveOrderPlaced"),
    }
    everything = await export(serving, "--all")
    assert len(everything.splitlines()) == 5
    assert "Lovelace" not in everything


async def test_killed_export_loses_nothing_and_leaves_no_torn_line(
    serving: PasslineProcess, kept: Path, tmp_path: Path
) -> None:
    wanted = await fill(serving, COUNT)
    output = tmp_path / "orders.ndjson"
    output.touch()
    arguments = (*KITCHEN, "--cursor-file", str(kept), "--batch", "50")
    for killed_at in (1, 100_000):
        async with exporting(serving, *arguments, to=output) as process:
            await eventually(partial(is_longer, output, killed_at), within=15)
            process.kill()
            await process.wait()
        with output.open("ab") as file:
            file.write(b'{"id":"torn')  # as a kill in the middle of a write leaves it
    async with exporting(serving, *arguments, "--until-head", to=output) as process:
        assert await process.wait() == 0
    found = ids(output.read_text())
    assert list(dict.fromkeys(found)) == wanted
    assert len(found) <= COUNT + 2 * 50


async def test_sigterm_ends_an_export_in_good_order(serving: PasslineProcess, kept: Path, tmp_path: Path) -> None:
    wanted = await fill(serving, 100)
    output = tmp_path / "orders.ndjson"
    output.touch()
    arguments = (*KITCHEN, "--cursor-file", str(kept))
    async with exporting(serving, *arguments, to=output) as process:
        await eventually(lambda: len(output.read_text().splitlines()) == 100, within=15)
        said = await refused("export", *arguments, data_dir=serving.data_dir)
        assert said == f"Error: the cursor file {kept}: another process is using it"
        process.send_signal(signal.SIGTERM)
        _, errors = await process.communicate()
        assert (process.returncode, errors) == (0, b"")
    wanted += await fill(serving, 10, begin=100)
    async with exporting(serving, *arguments, "--until-head", to=output) as process:
        assert await process.wait() == 0
    assert ids(output.read_text()) == wanted


async def test_reader_that_goes_away_ends_it_without_a_word(serving: PasslineProcess, kept: Path) -> None:
    await fill(serving, COUNT)
    async with running(
        *("sh", "-c", 'exec "$@" | head -n 1', "sh", PASSLINE, "export", *KITCHEN),
        *("--cursor-file", str(kept), "--batch", "50", "--data-dir", str(serving.data_dir)),
    ) as process:
        output, errors = await process.communicate()
        assert (ids(output.decode()), errors) == (["e-0"], b"")
    assert ids(await export(serving, *KITCHEN, "--cursor-file", str(kept)))[-1] == f"e-{COUNT - 1}"


async def test_export_posts_cloud_events_to_an_address(serving: PasslineProcess, kept: Path) -> None:
    wanted = await fill(serving, 30)
    bodies: list[bytes] = []

    async def take(exchange: Exchange) -> None:
        bodies.append(await exchange.body())
        assert exchange.request.headers["authorization"] == "Bearer sesame"
        await exchange.send(answer("202 Accepted"))

    async with receiving(take) as server:
        arguments = ("export", *KITCHEN, "--format", "cloudevents", "--to", f"{server.url}/in", "--until-head")
        done = await run_passline(
            *(*arguments, "--cursor-file", str(kept), "--data-dir", str(serving.data_dir)),
            environment={"PASSLINE_EXPORT_AUTHORIZATION": "Bearer sesame"},
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert server.failures == []
    events = [each for body in bodies for each in json.loads(body)]
    assert [each["id"] for each in events] == wanted
    assert {each["source"] for each in events} == {"/passline/restaurants/pizzeria-roma"}
    assert events[-1]["passlinecursor"] == cursor_in(kept)
