"""`passline export` beside a running Passline: what it promises, killed, cut off, refused and reset."""

from __future__ import annotations

import asyncio
import json
import signal
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from cloudevents.core.bindings.http import HTTPMessage, from_http_event

from tests.e2e.commands import PASSLINE, event, is_published, lines, passline, publish, refused, running
from tests.support.nats import eventually
from tests.support.scripted_server import answer
from tests.support.scripted_server import serving as receiving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.support.processes import PasslineProcess
    from tests.support.scripted_server import Exchange

KITCHEN = ("--topic", "restaurants/pizzeria-roma")
COUNT = 1500


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """The cursor file."""
    return tmp_path / "export.cursor"


def is_there(file: Path) -> bool:
    return file.exists()


def is_longer(file: Path, size: int) -> bool:
    return file.stat().st_size >= size


def keep(kept: Path, text: str) -> None:
    kept.write_text(text)


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


class Receiver:
    """Takes batches, after it has answered each with what is left of `troubles`."""

    def __init__(self, *troubles: bytes) -> None:
        self.troubles = list(troubles)
        self.taken: list[tuple[str, bytes]] = []

    async def __call__(self, exchange: Exchange) -> None:
        body = await exchange.body()
        if self.troubles:
            if trouble := self.troubles.pop(0):
                await exchange.send(trouble)
            return
        self.taken.append((exchange.request.headers["passline-cursor"], body))
        await exchange.send(answer("204 No Content"))


async def test_export_goes_on_where_it_ended_and_tells_each_event_once(serving: PasslineProcess, kept: Path) -> None:
    first = await fill(serving, 20)
    arguments = (*KITCHEN, "--cursor-file", str(kept))
    assert ids(await export(serving, *arguments)) == first
    assert await export(serving, *arguments) == ""
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
    for killed_at in (1, 100_000, 250_000):
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
    assert len(found) <= COUNT + 3 * 50


async def test_sigterm_ends_an_export_in_good_order(serving: PasslineProcess, kept: Path, tmp_path: Path) -> None:
    wanted = await fill(serving, 100)
    output = tmp_path / "orders.ndjson"
    output.touch()
    arguments = (*KITCHEN, "--cursor-file", str(kept))
    async with exporting(serving, *arguments, to=output) as process:
        await eventually(lambda: len(output.read_text().splitlines()) == 100, within=15)
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


async def test_two_exports_never_share_a_cursor_file(serving: PasslineProcess, kept: Path, tmp_path: Path) -> None:
    await fill(serving, 1)
    output = tmp_path / "orders.ndjson"
    output.touch()
    async with exporting(serving, *KITCHEN, "--cursor-file", str(kept), to=output):
        await eventually(lambda: output.stat().st_size > 0, within=15)
        said = await refused("export", *KITCHEN, "--cursor-file", str(kept), data_dir=serving.data_dir)
        assert said == f"Error: the cursor file {kept}: another process is using it"


async def test_receiver_that_fails_is_tried_again_and_misses_nothing(serving: PasslineProcess, kept: Path) -> None:
    wanted = await fill(serving, 30)
    cut = b""
    away = answer("503 Service Unavailable")
    often = b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 0\r\nContent-Length: 0\r\n\r\n"
    receiver = Receiver(away, cut, often)
    async with receiving(receiver) as server:
        arguments = ("--format", "cloudevents", "--to", server.url, "--cursor-file", str(kept), "--batch", "10")
        assert await export(serving, *KITCHEN, *arguments) == ""
        assert len(server.requests) == 3 + len(receiver.taken)
        assert {each.headers["content-type"] for each in server.requests} == {"application/cloudevents-batch+json"}
        assert not server.failures
    received = []
    for _, body in receiver.taken:
        for each in json.loads(body):
            headers = {"content-type": "application/cloudevents+json"}
            parsed = from_http_event(HTTPMessage(headers=headers, body=json.dumps(each).encode()))
            assert parsed.get_type().startswith("passline.ReceiveOrder")
            assert parsed.get_source() == "/passline/restaurants/pizzeria-roma"
            received.append(parsed.get_id())
    assert received == wanted
    assert cursor_in(kept) == receiver.taken[-1][0]


async def test_receiver_that_refuses_for_good_ends_the_export_and_nothing_counts_as_sent(
    serving: PasslineProcess, kept: Path
) -> None:
    wanted = await fill(serving, 30)
    receiver = Receiver(answer("403 Forbidden"))
    async with receiving(receiver) as server:
        arguments = (*KITCHEN, "--to", server.url, "--cursor-file", str(kept), "--until-head", "--batch", "100")
        said = await refused("export", *arguments, data_dir=serving.data_dir)
        assert said.startswith("Error: the receiver has refused the batch up to ")
        assert said.endswith(" with status 403")
        assert not is_there(kept)
        await passline("export", *arguments, data_dir=serving.data_dir)
    assert ids(b"".join(body for _, body in receiver.taken).decode()) == wanted


async def test_export_that_waits_for_its_receiver_can_be_stopped_and_goes_on(
    serving: PasslineProcess, kept: Path, tmp_path: Path
) -> None:
    wanted = await fill(serving, 5)
    receiver = Receiver(*[b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 300\r\nContent-Length: 0\r\n\r\n"])
    async with receiving(receiver) as server:
        arguments = (*KITCHEN, "--to", server.url, "--cursor-file", str(kept))
        async with exporting(serving, *arguments, to=tmp_path / "nothing") as process:
            await eventually(lambda: not receiver.troubles, within=15)
            process.send_signal(signal.SIGTERM)
            await process.communicate()
            assert process.returncode == 0
        assert not is_there(kept)
        await export(serving, *arguments)
    assert ids(b"".join(body for _, body in receiver.taken).decode()) == wanted


async def test_lost_position_is_an_error_or_a_gap_that_is_noted(serving: PasslineProcess, kept: Path) -> None:
    wanted = await fill(serving, 5)
    arguments = (*KITCHEN, "--cursor-file", str(kept))
    await export(serving, *arguments)
    last = cursor_in(kept)
    epoch = last.partition("-")[0]
    for damaged, reason in ((f"{epoch}-99", "ahead"), ("other-3", "epoch")):
        keep(kept, json.dumps({"cursor": damaged}))
        said = await refused("export", *arguments, "--until-head", data_dir=serving.data_dir)
        assert said.startswith(f"Error: the cursor '{damaged}' can't be resumed: reset ({reason}), ")
        assert cursor_in(kept) == damaged
        output = await export(serving, *arguments, "--on-reset", "continue")
        noted, *rest = output.splitlines()
        told: dict[str, Any] = json.loads(noted)
        assert (told["event"], told["id"]) == ("stream.gap", f"{epoch}-0")
        assert told["data"] == {"reason": reason, "lost": {"from": damaged, "to": f"{epoch}-0"}}
        assert ids("\n".join(rest)) == wanted
        assert cursor_in(kept) == last
    keep(kept, "nonsense")
    said = await refused("export", *arguments, "--on-reset", "continue", data_dir=serving.data_dir)
    assert said.startswith(f"Error: the cursor file {kept}: it holds no position (reset: invalid)")


async def test_export_waits_for_a_broker_that_is_away(serving: PasslineProcess, kept: Path, tmp_path: Path) -> None:
    await fill(serving, 5)
    output = tmp_path / "orders.ndjson"
    output.touch()
    async with exporting(serving, *KITCHEN, "--cursor-file", str(kept), to=output):
        await eventually(lambda: len(output.read_text().splitlines()) == 5, within=15)
        (broker,) = serving.processes("broker")
        broker.signal(signal.SIGKILL)
        await eventually(lambda: is_published(serving, event(5)), within=15)
        await fill(serving, 4, begin=6)
        await eventually(lambda: len(output.read_text().splitlines()) == 10, within=15)
    assert ids(output.read_text()) == [f"e-{number}" for number in range(10)]
