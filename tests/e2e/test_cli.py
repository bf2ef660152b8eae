"""The command as people use it: its help, what it says when something is wrong, and its work beside a `serve`."""

from __future__ import annotations

import json
import os
import re
import signal
from typing import TYPE_CHECKING

import pytest
from click import Command, Context, Group
from click.testing import CliRunner

from gateway.cli import main
from tests.e2e.commands import (
    KITCHEN,
    event,
    is_applied,
    kitchen,
    lines,
    next_line,
    passline,
    publish,
    refused,
    tailing,
)
from tests.support.nats import eventually
from tests.support.processes import run_passline
from tests.support.sse_client import StreamRequest, open_stream

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.processes import PasslineProcess

COMMANDS = (
    *("serve", "demo", "token", "publish", "tail", "export"),
    *("schema asyncapi", "schema json", "schema topics"),
    *("outbox relay", "outbox list", "outbox retry", "outbox discard"),
    *("projection rebuild", "projection migrate", "projection position", "epoch bump"),
)


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("PASSLINE_")]:
        monkeypatch.delenv(name)


# -- Help, and what can be said without a broker -----------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command: str) -> None:
    shown = CliRunner().invoke(main, [*command.split(), "--help"])
    assert shown.exit_code == 0
    assert f"passline {command}" in shown.output.partition("Example:")[2]


def test_list_of_commands_is_whole() -> None:
    def names(command: Command, context: Context, prefix: str = "") -> Iterator[str]:
        if not isinstance(command, Group):
            yield prefix
            return
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            yield from names(below, context, f"{prefix} {name}".strip())

    assert sorted(names(main, Context(main))) == sorted(COMMANDS)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("serve --port 70000", "--port: '70000' is not a whole number from 0 to 65535"),
        ("serve --workers 0", "--workers: '0' is not a whole number from 1 to 64"),
        ("demo --rate 0", "--rate"),
        ("demo --restaurants 99", "--restaurants"),
        ("token", "--subject"),
        ("token --subject ada --restaurant pizzeria", "a restaurant's id, ':' and a role"),
        ("token --subject ada --restaurant pizzeria:chef", "a role (owner, staff, finance)"),
        ("token --subject ada --restaurant a.*:staff", "a restaurant's id"),
        ("token --subject ada --restaurant a:staff --restaurant a:owner", "a restaurant is named twice"),
        ("token --subject ada --expires tomorrow", "is not a span such as 90s, 15m, 1h or 1d"),
        ("token --subject ada --expires 0s", "is not a span"),
        ("token --subject ada --data-dir {empty}", "has no development key: start `passline serve"),
        ("publish {empty}/none.json", "No such file"),
        ("tail pizzeria", "a topic is one of restaurants/<id>, partners/<id>, orders/<id>"),
        ("tail restaurants/a.*", "a topic is one of"),
        ("tail restaurants/a --since yesterday", "neither a span such as 15m nor a time"),
        ("tail restaurants/a --since 15m --from e-1", "two places to begin at"),
        ("tail restaurants/a --data-dir {empty}", "no broker runs on {empty}: start `passline serve"),
        ("outbox list", "Set PASSLINE_OUTBOX_DATABASE_URL"),
        ("outbox list --outbox-database-url mysql://root:hunter2@h/d", "--outbox-database-url: no support for 'mysql'"),
        ("outbox list --outbox-table a;b", "'a;b' is not the name of a table"),
        ("outbox list --outbox-database-url sqlite:///{empty}/shop.db", "the database has no outbox passline_outbox"),
        ("outbox relay --keep soon", "is not a span such as"),
        ("outbox retry", "name the events by their ids, or give --all"),
        ("projection rebuild --data-dir {empty}", "no broker runs on {empty}"),
        ("projection position --data-dir {empty}", "run `passline projection migrate`"),
        ("epoch bump --data-dir {empty}", "no broker runs on {empty}"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(arguments: str, said: str, tmp_path: Path) -> None:
    given = [each.format(empty=tmp_path) for each in arguments.split(" ")]
    shown = CliRunner().invoke(main, given)
    assert shown.exit_code != 0
    errors = [line for line in shown.stderr.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1, shown.stderr
    assert said.format(empty=tmp_path) in errors[0]
    assert shown.stdout == ""


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "there is no event in it"),
        (b"{", "event 1: Input data was truncated"),
        (b"[1]", "Expected `object`"),
        (lines(event(1), event(2, "OrderLost")), "event 2: unknown event type 'OrderLost'"),
        (lines(event(1), event(2, orderId="a.b")), "event 2: "),
        (json.dumps(event(1, occurredOnUtc="now")).encode(), "(at /occurredOnUtc)"),
        (json.dumps([event(each, orderId=f"o-{each}") for each in range(1500)] + [1]).encode(), "event 1501: "),
        (lines(*[event(each) for each in range(1500)], event(9999, restaurantId="b/c")), "event 1501: "),
    ],
)
def test_input_that_is_wrong_anywhere_is_refused_before_a_broker_is_asked(
    body: bytes, said: str, tmp_path: Path
) -> None:
    shown = CliRunner().invoke(main, ["publish", "-", "--data-dir", str(tmp_path)], input=body)
    assert shown.exit_code == 1
    assert said in shown.stderr
    assert shown.stderr.count("\n") == 1


def test_several_wrong_settings_are_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PASSLINE_RETRY_MS", "1")
    monkeypatch.setenv("PASSLINE_LOG_LEVEL", "loud")
    shown = CliRunner().invoke(main, ["serve"])
    assert shown.exit_code == 1
    assert "PASSLINE_RETRY_MS" in shown.stderr
    assert "PASSLINE_LOG_LEVEL" in shown.stderr
    assert shown.stderr.count("\n") == 1


def test_migrate_makes_the_tables_and_does_so_once(tmp_path: Path) -> None:
    arguments = ["projection", "migrate", "--data-dir", str(tmp_path)]
    first = CliRunner().invoke(main, arguments)
    assert (first.exit_code, CliRunner().invoke(main, arguments).output) == (0, first.output)
    position = CliRunner().invoke(main, ["projection", "position", "--data-dir", str(tmp_path)])
    assert position.exit_code == 1
    assert "nothing of the log has been applied yet" in position.stderr


# -- Commands beside a running serve -----------------------------------------------------------------------------------


async def test_token_alone_is_on_standard_output_and_opens_a_stream(serving: PasslineProcess) -> None:
    arguments = ("--subject", "auth0|5f", "--restaurant", "pizzeria-roma:staff", "--expires", "5m")
    done = await run_passline("token", *arguments, "--data-dir", str(serving.data_dir))
    assert done.returncode == 0
    assert re.fullmatch(r"[\w-]+\.[\w-]+\.[\w-]+\n", done.stdout)
    assert re.fullmatch(r"key: h_[0-9a-f]{40}\n", done.stderr)
    async with open_stream(StreamRequest(serving.url + KITCHEN, token=done.stdout.strip())) as stream:
        await stream.next_event("snapshot")


async def test_token_that_the_gateway_would_refuse_is_not_made(serving: PasslineProcess) -> None:
    said = await refused("token", "--subject", "ada", "--expires", "2d", data_dir=serving.data_dir)
    assert "such a token would be refused: The token's life of 172800 seconds is too long" in said
    said = await refused("token", "--subject", "", data_dir=serving.data_dir)
    assert "'sub' must be 1 to 256 printable characters" in said


async def test_events_are_published_once_however_often_they_are_given(serving: PasslineProcess, tmp_path: Path) -> None:
    file = tmp_path / "events.ndjson"
    file.write_bytes(lines(event(1, "OrderPlaced"), event(2)))
    assert await passline("publish", str(file), data_dir=serving.data_dir) == "2 stored, 0 duplicates\n"
    array = json.dumps([event(1, "OrderPlaced"), event(2), event(3, "OrderPreparing")], indent=2).encode()
    assert await passline("publish", "-", data_dir=serving.data_dir, stdin=array) == "1 stored, 2 duplicates\n"
    one = json.dumps(event(4, "OrderReadyForDelivery"), indent=2).encode()
    assert await passline("publish", "-", data_dir=serving.data_dir, stdin=one) == "1 stored, 0 duplicates\n"


async def test_event_that_contradicts_the_log_is_told_and_the_others_are_published(
    serving: PasslineProcess,
) -> None:
    await publish(serving, event(1, "OrderPlaced"))
    body = lines(
        event(2, orderId="o-2", type="OrderPlaced"),
        event(3, customerId="mallory"),
        event(1, "OrderCancelled", orderId="o-3"),
        *[event(each, orderId="o-4") for each in range(10, 310)],
        event(4, "OrderPlaced", orderId="o-5"),
    )
    done = await run_passline("publish", "-", "--data-dir", str(serving.data_dir), stdin=body)
    assert done.returncode == 1
    assert done.stdout == "302 stored, 0 duplicates\n"
    told = done.stderr.splitlines()
    assert told == [
        "event 2 (e-3) failed: the order belongs to another restaurant or customer",
        "event 3 (e-1) failed: the log has another event with this eventId",
        "Error: 2 of 304 events are not in the log",
    ]


async def test_tail_shows_what_a_stream_shows_from_any_of_its_cursors_on(serving: PasslineProcess) -> None:
    events = [event(1, "OrderPlaced", customerName="Ada Lovelace"), event(2), event(3, "OrderPreparing")]
    await publish(serving, *events, event(4, "OrderPlaced", orderId="o-9", restaurantId="elsewhere"))
    async with tailing(serving, "restaurants/pizzeria-roma", "--since", "15m", "--json") as shown:
        found = [json.loads(await next_line(shown)) for _ in events]
        assert [each["data"]["eventId"] for each in found] == ["e-1", "e-2", "e-3"]
        assert "customerName" not in found[0]["data"]
        async with open_stream(await kitchen(serving, last_event_id=found[0]["id"])) as stream:
            for each in found[1:]:
                block = await stream.next_event("ReceiveOrderStatusChanged")
                assert each == {"id": block.id, "event": block.event, "data": json.loads(block.data or "")}
        await publish(serving, event(5, "OrderReadyForDelivery"))
        live = json.loads(await next_line(shown))
        assert live["data"]["status"] == "ReadyForDelivery"
    async with tailing(serving, "orders/o-1", "--from", found[1]["id"]) as shown:
        assert await next_line(shown) == (
            f"2026-11-20T10:00:00Z  {found[2]['id']:16}  ReceiveOrderStatusChanged     o-1  Preparing\n"
        )


async def test_tail_ends_quietly_with_ctrl_c(serving: PasslineProcess) -> None:
    await publish(serving, event(1, "OrderPlaced"))
    async with tailing(serving, "orders/o-1", "--since", "1h") as shown:
        await next_line(shown)
        shown.send_signal(signal.SIGINT)
        output, errors = await shown.communicate()
        assert (shown.returncode, output, errors) == (0, b"", b"")


async def test_cursor_that_can_not_be_resumed_is_told_with_its_reason(serving: PasslineProcess) -> None:
    cursor = await publish(serving, event(1, "OrderPlaced"))
    epoch = cursor.partition("-")[0]
    for given, reason in [
        ("nonsense", "reset (invalid), a cursor is"),
        ("other-1", f"reset (epoch), the log's epoch is {epoch}"),
        (f"{epoch}-99", f"reset (ahead), the log ends at {cursor}"),
    ]:
        said = await refused("tail", "restaurants/pizzeria-roma", "--from", given, data_dir=serving.data_dir)
        assert said.startswith(f"Error: the cursor '{given}' can't be resumed: {reason}")
    said = await refused("tail", "orders/unheard-of", data_dir=serving.data_dir)
    assert said == "Error: the log has no event of the order unheard-of"


async def test_projection_is_rebuilt_beside_a_running_worker_and_its_position_told(
    serving: PasslineProcess,
) -> None:
    cursor = await publish(serving, event(1, "OrderPlaced"), event(2))
    assert await passline("projection", "rebuild", data_dir=serving.data_dir) == f"rebuilt up to {cursor}\n"
    said, time = (await passline("projection", "position", data_dir=serving.data_dir)).split()
    assert said == cursor
    assert re.fullmatch(r"2\d{3}-\d\d-\d\dT[\d:.]+\+00:00", time)


async def test_bumped_epoch_resets_clients_and_everything_goes_on(serving: PasslineProcess) -> None:
    before = await publish(serving, event(1, "OrderPlaced"))
    await eventually(lambda: is_applied(serving, before), within=10)
    async with open_stream(await kitchen(serving)) as stream:
        await stream.next_event("snapshot")
        said = await passline("epoch", "bump", data_dir=serving.data_dir)
        found = re.fullmatch(r"the log's epoch is (\w+), the projection is at \1-1\n", said)
        assert found is not None, said
        assert (await stream.next_event("stream.closing")).data == '{"reason":"lagged"}'
    await serving.until_ready()
    after = await publish(serving, event(2))
    assert after == f"{found[1]}-2"
    await eventually(lambda: is_applied(serving, after), within=10)
    async with open_stream(await kitchen(serving, last_event_id=before)) as stream:
        opened = json.loads((await stream.next_event("stream.opened")).data or "")
        assert (opened["verdict"], opened["reason"]) == ("reset", "epoch")
        snapshot = json.loads((await stream.next_event("snapshot")).data or "")
        assert [each["status"] for each in snapshot["orders"]] == ["Accepted"]
