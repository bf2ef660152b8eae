"""An export of a real log to receivers that fail, refuse and hang, and from logs that are replaced under it."""

from __future__ import annotations

import asyncio
import json
import os
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cloudevents.core.bindings.http import HTTPMessage, from_http_event

from gateway.cursor_file import CursorFile, CursorFileUnusable, Place
from gateway.export_output import BatchRefused, HttpReceiver, StandardOutput
from gateway.export_records import CloudEvents, NdJson, Selection, gap
from gateway.exporting import Exporter, ExportReset
from streams.cursor import Cursor
from streams.log import Log
from streams.provision import provision
from streams.reader import Reader
from streams.topics import Audience, restaurant_feed
from tests.support.logs import SMALL, append_order, append_orders, back_up, replace_by_new_log, restore, stop
from tests.support.nats import SETTINGS, client, eventually
from tests.support.scripted_server import ScriptedServer, answer, serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from nats.aio.client import Client

    from gateway.export_output import Output
    from gateway.export_records import Form, Record
    from streams.embedded import EmbeddedNats
    from tests.support.scripted_server import Exchange

KITCHEN = Selection(feeds=(restaurant_feed("r1"),))


class Kept:
    """An output, and what was saved."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.places: list[Place] = []

    async def send(self, records: Sequence[Record], cursor: str) -> bool:
        self.records += records
        assert str(records[-1].cursor) <= cursor
        return True

    @property
    def event_ids(self) -> list[str]:
        return [record.event_id for record in self.records]


def exporter(nc: Client, output: Output, kept: Kept, **options: Any) -> Exporter:
    log = Log(nc)
    options.setdefault("stopping", asyncio.Event())
    return Exporter(log, partial(Reader, nc, log), KITCHEN, output, kept.places.append, **options)


async def beginning(nc: Client) -> Place:
    state = await Log(nc).state()
    return Place(Cursor(state.epoch, state.first - 1))


class Receiver:
    """Takes batches once it has answered with each of its `troubles`; an empty one is a cut connection."""

    def __init__(self, *troubles: bytes) -> None:
        self.troubles = list(troubles)
        self.seen: list[tuple[dict[str, str], bytes]] = []
        self.taken: list[tuple[str, bytes]] = []

    async def __call__(self, exchange: Exchange) -> None:
        body = await exchange.body()
        self.seen.append((exchange.request.headers, body))
        if self.troubles:
            await exchange.send(self.troubles.pop(0))
            return
        self.taken.append((exchange.request.headers["passline-cursor"], body))
        await exchange.send(answer("204 No Content"))


@asynccontextmanager
async def receiving(
    receiver: Receiver, form: Form, stopping: asyncio.Event, **options: Any
) -> AsyncIterator[tuple[ScriptedServer, HttpReceiver]]:
    async with (
        serving(receiver) as server,
        HttpReceiver(form, f"{server.url}/in", stopping, first_retry_seconds=0.01, **options) as output,
    ):
        yield server, output


def event_ids(bodies: list[tuple[str, bytes]]) -> list[str]:
    return [json.loads(line)["data"]["eventId"] for _, body in bodies for line in body.splitlines()]


async def test_exports_what_is_chosen_in_the_logs_order_up_to_the_head(log_server: EmbeddedNats) -> None:
    async with client(log_server, "gateway") as nc:
        await append_orders(nc, 5)
        await append_order(nc, "another", restaurant="r2", order="o2")
        kept = Kept()
        await exporter(nc, kept, kept).run(await beginning(nc), until_head=True)
        assert kept.event_ids == [f"e{number}" for number in range(5)]
        assert kept.places[-1].cursor.sequence in (5, 6)
        await append_orders(nc, 3, prefix="f")
        again = Kept()
        await exporter(nc, again, again).run(kept.places[-1], until_head=True)
        assert again.event_ids == ["f0", "f1", "f2"]


async def test_position_moves_on_while_there_is_nothing_to_export(
    log_server: EmbeddedNats, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.exporting.IDLE_SAVE_SECONDS", 0.0)
    async with client(log_server, "gateway") as nc:
        await append_orders(nc, 5, restaurant="r2")
        kept = Kept()
        await exporter(nc, kept, kept).run(await beginning(nc), until_head=True)
        assert (kept.records, kept.places[-1].cursor.sequence) == ([], 5)


async def test_batches_are_cut_between_entries_and_never_inside_one(log_server: EmbeddedNats) -> None:
    async with client(log_server, "gateway") as nc:
        await append_orders(nc, 5)
        sizes: list[int] = []

        class Counting(Kept):
            async def send(self, records: Sequence[Record], cursor: str) -> bool:
                sizes.append(len(records))
                assert {record.cursor for record in records if record.cursor == cursor}
                return await super().send(records, cursor)

        kept, log = Counting(), Log(nc)
        selection = Selection(frozenset({Audience.RESTAURANT, Audience.PARTNER, Audience.CUSTOMER}))
        export = Exporter(
            log,
            partial(Reader, nc, log),
            selection,
            kept,
            kept.places.append,
            stopping=asyncio.Event(),
            batch_records=4,
        )
        await export.run(await beginning(nc), until_head=True)
        assert all(size % 3 == 0 and size <= 6 for size in sizes)
        assert sum(sizes) == export.sent == 15


async def test_receiver_that_fails_is_tried_again_and_misses_nothing(log_server: EmbeddedNats) -> None:
    often = b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 0\r\nContent-Length: 0\r\n\r\n"
    receiver = Receiver(answer("503 Service Unavailable"), b"", often, answer("408 Request Timeout"))
    stopping, kept = asyncio.Event(), Kept()
    form = CloudEvents("/passline")
    async with (
        client(log_server, "gateway") as nc,
        receiving(receiver, form, stopping, authorization="Bearer sesame") as (_, output),
    ):
        await append_orders(nc, 30)
        export = exporter(nc, output, kept, stopping=stopping, batch_records=10)
        await export.run(await beginning(nc), until_head=True)
    first_five = receiver.seen[:5]
    assert len({body for _, body in first_five}) == 1
    assert len({headers["passline-cursor"] for headers, _ in first_five}) == 1
    for headers, _ in receiver.seen:
        assert headers["content-type"] == "application/cloudevents-batch+json"
        assert headers["authorization"] == "Bearer sesame"
    received = []
    for _, body in receiver.taken:
        for each in json.loads(body):
            message = HTTPMessage({"content-type": "application/cloudevents+json"}, json.dumps(each).encode())
            received.append(from_http_event(message).get_id())
    assert received == [f"e{number}" for number in range(30)]
    assert [str(place.cursor) for place in kept.places] == [cursor for cursor, _ in receiver.taken]


@pytest.mark.parametrize("status", ["403 Forbidden", "400 Bad Request", "302 Found"])
async def test_receiver_that_refuses_for_good_ends_the_export(log_server: EmbeddedNats, status: str) -> None:
    receiver, stopping, kept = Receiver(answer(status)), asyncio.Event(), Kept()
    async with (
        client(log_server, "gateway") as nc,
        receiving(receiver, NdJson(), stopping) as (_, output),
    ):
        await append_orders(nc, 5)
        export = exporter(nc, output, kept, stopping=stopping)
        with pytest.raises(BatchRefused, match=status[:3]):
            await export.run(await beginning(nc), until_head=True)
        assert kept.places == []
        await export.run(await beginning(nc), until_head=True)
    assert event_ids(receiver.taken) == [f"e{number}" for number in range(5)]


async def test_export_that_waits_for_its_receiver_can_be_stopped(log_server: EmbeddedNats) -> None:
    receiver = Receiver(b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 300\r\nContent-Length: 0\r\n\r\n")
    stopping, kept = asyncio.Event(), Kept()
    async with (
        client(log_server, "gateway") as nc,
        receiving(receiver, NdJson(), stopping) as (_, output),
    ):
        await append_orders(nc, 5)
        running = asyncio.create_task(exporter(nc, output, kept, stopping=stopping).run(await beginning(nc)))
        await eventually(lambda: not receiver.troubles)
        stopping.set()
        await asyncio.wait_for(running, 5)
    assert (kept.places, receiver.taken) == ([], [])


async def test_broker_that_goes_away_is_waited_for(log_server: EmbeddedNats) -> None:
    stopping, kept = asyncio.Event(), Kept()
    async with client(log_server, "gateway") as nc:
        await append_orders(nc, 5)
        running = asyncio.create_task(exporter(nc, kept, kept, stopping=stopping).run(await beginning(nc)))
        await eventually(lambda: len(kept.records) == 5)
        await stop(log_server)
        await log_server.restart()
        await eventually(lambda: nc.is_connected, within=10)
        await append_orders(nc, 5, prefix="f")
        await eventually(lambda: len(kept.records) == 10, within=10)
        stopping.set()
        await asyncio.wait_for(running, 5)
    assert kept.event_ids == [f"{prefix}{number}" for prefix in "ef" for number in range(5)]


# -- Resets ------------------------------------------------------------------------------------------------------------


async def reset(nc: Client, place: Place, reason: str) -> Kept:
    """An export from a place that is lost: it is an error, or else a gap comes first. Returns what comes."""
    kept = Kept()
    for until_head in (True, False):
        with pytest.raises(ExportReset) as caught:
            await asyncio.wait_for(exporter(nc, kept, kept).run(place, until_head=until_head), 5)
        assert (caught.value.reason, str(caught.value.after)) == (reason, str(place.cursor))
        assert f"the cursor '{place.cursor}' can't be resumed: reset ({reason}), " in str(caught.value)
    assert (kept.records, kept.places) == ([], [])
    await exporter(nc, kept, kept, goes_on=True).run(place, until_head=True)
    noted = kept.records.pop(0)
    oldest = str((await beginning(nc)).cursor)
    assert (noted.name, noted.cursor) == ("stream.gap", oldest)
    assert json.loads(noted.data) == {"reason": reason, "lost": {"from": str(place.cursor), "to": oldest}}
    assert str(kept.places[0].cursor) == oldest
    return kept


async def test_another_log_is_a_reset(log_server: EmbeddedNats) -> None:
    async with client(log_server, "gateway") as nc:
        await append_orders(nc, 5)
        kept = Kept()
        await exporter(nc, kept, kept).run(await beginning(nc), until_head=True)
    await replace_by_new_log(log_server, SETTINGS)
    async with client(log_server, "gateway") as nc:
        await append_orders(nc, 9, prefix="new")
        assert len((await reset(nc, kept.places[-1], "epoch")).records) == 9


async def test_position_that_retention_has_passed_is_a_reset(nats_server: EmbeddedNats) -> None:
    async with client(nats_server, "admin") as admin:
        await provision(admin, SMALL)
    async with client(nats_server, "gateway") as nc:
        await append_orders(nc, 1500)
        first = (await Log(nc).state()).first
        assert first > 3
        found = await reset(nc, Place(Cursor((await Log(nc).state()).epoch, 2)), "expired")
        assert found.event_ids == [f"e{number}" for number in range(first - 1, 1500)]


async def test_restored_backup_is_a_reset(log_server: EmbeddedNats, tmp_path: Path) -> None:
    kept = Kept()
    async with client(log_server, "gateway") as nc:
        await append_orders(nc, 5)
    await back_up(log_server, tmp_path / "backup")
    async with client(log_server, "gateway") as nc:
        await append_orders(nc, 5, prefix="lost")
        await exporter(nc, kept, kept).run(await beginning(nc), until_head=True)
    await restore(log_server, tmp_path / "backup")
    async with client(log_server, "gateway") as nc:
        assert (await reset(nc, kept.places[-1], "ahead")).event_ids == [f"e{number}" for number in range(5)]
        await append_orders(nc, 7, prefix="after")
        assert len((await reset(nc, kept.places[-1], "foreign")).records) == 12


# -- Files -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("left", "kept"),
    [
        (b"", b""),
        (b'{"id":"e-1"}\n', b'{"id":"e-1"}\n'),
        (b'{"id":"e-1"}\n{"id":"e-2","da', b'{"id":"e-1"}\n'),
        (b'{"i', b""),
        (b'{"id":"e-1"}', b'{"id":"e-1"}\n'),
        (b"a note of somebody's", b"a note of somebody's\n"),
    ],
)
async def test_file_is_gone_on_with_after_its_last_whole_line(tmp_path: Path, left: bytes, kept: bytes) -> None:
    path = tmp_path / "out"
    path.write_bytes(left)
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
    try:
        assert await StandardOutput(NdJson(), descriptor).send([gap("hole", Cursor("e", 1), Cursor("e", 2))], "e-2")
    finally:
        os.close(descriptor)
    written = path.read_bytes()
    assert written.startswith(kept)
    assert json.loads(written.removeprefix(kept))["id"] == "e-2"


# -- The cursor file ---------------------------------------------------------------------------------------------------


def test_cursor_file_keeps_the_last_place_and_one_process(tmp_path: Path) -> None:
    file = CursorFile(tmp_path / "cursor")
    assert file.load() is None
    with file.held():
        for place in (Place(Cursor("e", 1), 1.5), Place(Cursor("e", 2))):
            file.save(place)
            assert file.load() == place
        with (
            pytest.raises(CursorFileUnusable, match="another process is using it"),
            CursorFile(tmp_path / "cursor").held(),
        ):
            pass
    with file.held():
        assert file.load() == Place(Cursor("e", 2))


@pytest.mark.parametrize("text", [b"", b"nonsense", b'{"cursor":"no cursor"}', b"\xff", b'{"cursor":"e-1","time":"x"}'])
def test_file_that_is_none_is_told_and_never_taken_for_a_beginning(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "cursor").write_bytes(text)
    with pytest.raises(CursorFileUnusable, match=r"it holds no position \(reset: invalid\)"):
        CursorFile(tmp_path / "cursor").load()


def test_cursor_file_that_can_not_be_written_is_told(tmp_path: Path) -> None:
    nowhere = CursorFile(tmp_path / "nowhere" / "cursor")
    with pytest.raises(CursorFileUnusable, match="No such file or directory"):
        nowhere.save(Place(Cursor("e", 1)))
    with pytest.raises(CursorFileUnusable, match="No such file or directory"), nowhere.held():
        pass
