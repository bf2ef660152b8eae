"""Commands over HTTP: who may send which, what is sent, once, and what its sender hears of it."""

from __future__ import annotations

import datetime as dt
import json
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

import gateway.worker
import streams.facts
from auth.policies import MAY_COMMAND, Capacity
from gateway.idempotency_key import unquoted
from gateway.passes import passes_of
from streams.command_consumer import CommandConsumer
from streams.events import Command
from streams.expiry import CommandExpiry
from tests.gateway.serving import problem
from tests.support.nats import api, client
from tests.support.sse_client import open_stream

if TYPE_CHECKING:
    from streams.commands import OrderCommand
    from tests.gateway.conftest import Rest

KEY_HASH = "0" * 64


@pytest.fixture
def database_kind() -> str:
    """Commands ask the database for owners and roles, as streams do."""
    return "sqlite"


@pytest.fixture
def unheard_of_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait less for an order that does not come."""
    monkeypatch.setattr(streams.facts, "WAIT_FOR_ORDER_SECONDS", 0.05)


async def send(
    rest: Rest, command: str, headers: dict[str, str] | None = None, order: str = "o1", **request: Any
) -> httpx.Response:
    headers = (headers if headers is not None else cook(rest)) | request.pop("more_headers", {})
    return await rest.http.post(f"/api/v1/orders/{order}/{command}", headers=headers, **request)


def cook(rest: Rest) -> dict[str, str]:
    return rest.bearer("cook", restaurants={"r1": "staff"})


def device(rest: Rest, restaurant: str, name: str) -> dict[str, str]:
    """The pass of a device, as one that has traded its key for it sends it."""
    made = passes_of(rest.gateway.gateway.settings).for_device(restaurant, name, f"p-{name}", time.time() + 600)
    return {"authorization": f"Bearer {made}"}


def guest(rest: Rest) -> dict[str, str]:
    made = passes_of(rest.gateway.gateway.settings).for_guest("o1", "p-guest", time.time() + 600)
    return {"authorization": f"Bearer {made}"}


def device_event(rest: Rest, kind: str, restaurant: str, device_id: str, **more: Any) -> Any:
    event = rest.staff_event(kind, "nobody", restaurant, deviceId=device_id, **more)
    return {key: value for key, value in event.items() if key != "subject"}


async def queue(rest: Rest) -> list[OrderCommand]:
    """What stands in COMMANDS; it stays there."""
    async with client(rest.passline.server, "orders") as nc:
        taken = await CommandConsumer(nc, ack_wait_seconds=0.2).take(100, 0.3)
        return [each.command for each in taken]


async def count(rest: Rest) -> int:
    async with client(rest.passline.server, "admin") as admin:
        messages: int = (await api(admin, "STREAM.INFO.COMMANDS"))["state"]["messages"]
        return messages


# -- Who may -----------------------------------------------------------------------------------------------------------


async def test_who_may_send_which_command(rest: Rest) -> None:
    await rest.happened(
        rest.event("OrderPlaced", customer="auth0|c1"),
        rest.staff_event("StaffAssigned", "chef", role="staff"),
        rest.staff_event("StaffAssigned", "dismissed", role="owner"),
        rest.staff_event("StaffRevoked", "dismissed"),
        device_event(rest, "DeviceRegistered", "r1", "till", name="Till", keyHash=KEY_HASH),
        device_event(rest, "DeviceRegistered", "r1", "lost", name="Lost", keyHash=KEY_HASH),
        device_event(rest, "DeviceRevoked", "r1", "lost"),
        device_event(rest, "DeviceRegistered", "r2", "elsewhere", name="Elsewhere", keyHash=KEY_HASH),
    )
    who: dict[str, tuple[dict[str, str], Capacity | None]] = {
        "owner": (rest.bearer("boss", restaurants={"r1": "owner"}), Capacity.STAFF),
        "staff by the token": (cook(rest), Capacity.STAFF),
        "staff by the log": (rest.bearer("chef"), Capacity.STAFF),
        "device": (device(rest, "r1", "till"), Capacity.DEVICE),
        "customer": (rest.bearer("auth0|c1"), Capacity.CUSTOMER),
        "courier": (rest.bearer("rider", scopes=["courier"]), Capacity.COURIER),
        "service": (rest.bearer("pos", scopes=["orders:command"]), Capacity.SERVICE),
        "revoked staff": (rest.bearer("dismissed"), None),
        "finance": (rest.bearer("clerk", restaurants={"r1": "finance"}), None),
        "staff elsewhere": (rest.bearer("neighbour", restaurants={"r2": "owner"}), None),
        "another customer": (rest.bearer("c2"), None),
        "publisher": (rest.bearer("publisher", scopes=["events:publish", "access:publish"]), None),
        "lost device": (device(rest, "r1", "lost"), None),
        "device elsewhere": (device(rest, "r2", "elsewhere"), None),
        "unknown device": (device(rest, "r1", "unheard-of"), None),
        "guest": (guest(rest), None),
    }
    answered = {
        (name, command): (await send(rest, command, headers)).status_code
        for name, (headers, _) in who.items()
        for command in Command
    }
    allowed = {
        (name, command): 202 if capacity is not None and command in MAY_COMMAND[capacity] else 403
        for name, (_, capacity) in who.items()
        for command in Command
    }
    # A pass is read only where a device may be; elsewhere it is no token.
    allowed |= {
        (name, command): 401
        for name in ("device", "lost device", "device elsewhere", "unknown device", "guest")
        for command in (Command.DELIVERED, Command.CANCEL)
    }
    assert answered == allowed
    sent = [(each.sent_by.identity, each.command) for each in await queue(rest)]
    assert len(sent) == sum(status == 202 for status in answered.values())
    assert {command for identity, command in sent if identity == "auth0|c1"} == {Command.CANCEL}


def test_table_of_who_may_names_every_command_and_no_other() -> None:
    assert set().union(*MAY_COMMAND.values()) == set(Command)
    assert set(MAY_COMMAND) == set(Capacity)


def test_documentation_shows_the_table_of_who_may() -> None:
    text = (Path(__file__).parents[2] / "docs" / "commands.md").read_text()
    head, _, *rows = [
        [cell.strip(" `") for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("|") and line.count("|") == len(Command) + 2
    ]
    shown = [{name for name, cell in zip(head[1:], row[1:], strict=True) if cell == "yes"} for row in rows]
    assert shown == [set(MAY_COMMAND[capacity]) for capacity in Capacity]


async def test_without_credentials_nothing_is_sent(rest: Rest) -> None:
    await rest.happened(rest.event("OrderPlaced"))
    assert problem(await send(rest, "accept", {}))["status"] == 401
    assert await count(rest) == 0


@pytest.mark.usefixtures("unheard_of_soon")
async def test_order_that_nobody_has_heard_of_is_not_found_but_for_a_guest(rest: Rest) -> None:
    assert problem(await send(rest, "accept", order="o9"))["status"] == 404
    assert problem(await send(rest, "accept", guest(rest), order="o9"))["status"] == 403


@pytest.mark.parametrize("order", ["a.b", "*", "a%20b", "x" * 65])
async def test_what_is_no_id_enters_no_subject(rest: Rest, order: str) -> None:
    assert problem(await send(rest, "accept", order=order))["status"] == 422


# -- What is sent ------------------------------------------------------------------------------------------------------


async def test_command_stands_in_the_queue_when_it_is_answered(rest: Rest) -> None:
    cursor = await rest.happened(rest.event("OrderPlaced", customer="auth0|c1"))
    response = await send(rest, "accept", json={"estimatedDeliveryTime": "2026-11-20T19:00:00Z"})
    answer = response.json()
    assert response.status_code == 202
    assert (answer["orderId"], answer["command"]) == ("o1", "accept")
    assert response.headers["cache-control"] == "no-store"
    [sent] = await queue(rest)
    assert sent.command_id == answer["commandId"]
    assert sent.expires_at == dt.datetime.fromisoformat(answer["expiresAt"])
    assert (sent.expires_at - sent.sent_at).total_seconds() == 60
    assert (sent.sent_by.identity, sent.sent_by.capacity, sent.target) == ("cook", "staff", "Restaurant")
    assert sent.estimated_delivery_time == dt.datetime(2026, 11, 20, 19, tzinfo=dt.UTC)
    assert sent.customer_key.startswith("h_")
    assert sent.cursor == cursor


async def test_side_of_the_sender_is_told_what_becomes_of_it(rest: Rest) -> None:
    await rest.happened(rest.event("OrderPlaced"))
    await send(rest, "cancel", rest.bearer("c1"), json={"reason": "Changed my mind."})
    await send(rest, "delivered", rest.bearer("rider", scopes=["courier"]))
    assert [(each.sent_by.capacity, each.target, each.reason or None) for each in await queue(rest)] == [
        ("customer", "Customer", "Changed my mind."),
        ("courier", "Restaurant", None),
    ]


@pytest.mark.parametrize(
    ("command", "body", "status"),
    [
        ("accept", b"", 202),
        ("accept", b"null", 202),
        ("accept", b"{}", 202),
        ("accept", b'{"reason":"x"}', 422),
        ("accept", b'{"estimatedDeliveryTime":"tomorrow"}', 422),
        ("accept", b'{"estimatedDeliveryTime":"2026-11-20T19:00:00"}', 422),
        ("reject", b'{"reason":"' + b"x" * 512 + b'"}', 202),
        ("reject", b'{"reason":"' + b"x" * 513 + b'"}', 422),
        ("cancel", b'{"reason":"\\u0000"}', 422),
        ("cancel", b'{"reason":7}', 422),
        ("reject", b"[]", 422),
        ("reject", b"{", 400),
        ("reject", b"\xff", 400),
        ("reject", b" " * 5000, 413),
    ],
)
async def test_body_is_optional_and_checked(rest: Rest, command: str, body: bytes, status: int) -> None:
    await rest.happened(rest.event("OrderPlaced"))
    response = await send(rest, command, content=body, more_headers={"content-type": "application/json"})
    assert response.status_code == status, response.text
    assert await count(rest) == (1 if status == 202 else 0)


async def test_command_that_there_is_not_is_not_found(rest: Rest) -> None:
    assert problem(await send(rest, "eaten"))["status"] == 404


# -- Once --------------------------------------------------------------------------------------------------------------


def under(key: str) -> Any:
    return {"more_headers": {"idempotency-key": key}}


async def test_same_request_under_the_same_key_has_the_same_answer_from_every_gateway(rest: Rest) -> None:
    await rest.happened(rest.event("OrderPlaced"))
    other = await rest.passline.gateway()
    first = await send(rest, "reject", json={"reason": "Full."}, **under("8e03978e"))
    again = await send(rest, "reject", json={"reason": "Full."}, **under('"8e03978e"'))
    async with httpx.AsyncClient(base_url=other.url) as http:
        headers = cook(rest) | {"idempotency-key": "8e03978e"}
        elsewhere = await http.post("/api/v1/orders/o1/reject", headers=headers, json={"reason": "Full."})
    assert [each.status_code for each in (first, again, elsewhere)] == [202, 202, 202]
    assert first.json() == again.json() == elsewhere.json()
    assert await count(rest) == 1


async def test_another_request_under_a_used_key_is_refused_and_names_the_header(rest: Rest) -> None:
    await rest.happened(rest.event("OrderPlaced"))
    await send(rest, "reject", json={"reason": "Full."}, **under("a"))
    for request in ({"command": "accept"}, {"command": "reject"}, {"command": "reject", "json": {"reason": "Other."}}):
        told = problem(await send(rest, **request, **under("a")))
        assert (told["status"], told["type"]) == (422, "urn:passline:problem:key-reused")
        assert [(each["parameter"], each["in"]) for each in told["errors"]] == [("Idempotency-Key", "header")]
    assert await count(rest) == 1


async def test_key_of_somebody_else_is_another_key(rest: Rest) -> None:
    await rest.happened(rest.event("OrderPlaced"))
    mine = await send(rest, "accept", **under("a"))
    theirs = await send(rest, "accept", rest.bearer("boss", restaurants={"r1": "owner"}), **under("a"))
    assert mine.json()["commandId"] != theirs.json()["commandId"]


async def test_without_a_key_each_request_is_a_command(rest: Rest) -> None:
    await rest.happened(rest.event("OrderPlaced"))
    ids = {(await send(rest, "accept")).json()["commandId"] for _ in range(3)}
    assert len(ids) == await count(rest) == 3


@pytest.mark.parametrize("key", ["", '"', '""', '"a', 'a"b" ä', '"a\\b"', "x" * 256, "a\tb"])
async def test_what_is_no_key_is_refused_in_words(rest: Rest, key: str) -> None:
    await rest.happened(rest.event("OrderPlaced"))
    headers = {name.encode(): value.encode() for name, value in cook(rest).items()}
    response = await rest.http.post("/api/v1/orders/o1/accept", headers=headers | {b"idempotency-key": key.encode()})
    told = problem(response)
    assert told["status"] == 422
    assert "a key is 1 to 255 printable" in told["detail"]


def test_key_in_quotes_is_the_key_without_them() -> None:
    assert unquoted(r'"a\"b\\c"') == r"a\b".replace("\\", '"') + r"\c"
    assert unquoted("plain") == "plain"


# -- What becomes of it ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("who", ["customer", "cook"])
async def test_what_nobody_takes_is_told_to_its_senders_side_alone(
    rest: Rest, monkeypatch: pytest.MonkeyPatch, who: str
) -> None:
    await rest.passline.stop_worker()
    monkeypatch.setattr(gateway.worker, "CommandExpiry", partial(CommandExpiry, margin_seconds=0))
    rest.passline.start_worker()
    short = await rest.passline.gateway(command_seconds=1)
    await rest.happened(rest.event("OrderPlaced"))
    async with open_stream(short.kitchen("r1")) as kitchen, open_stream(short.customer("o1")) as customer:
        headers = rest.bearer("c1") if who == "customer" else cook(rest)
        async with httpx.AsyncClient(base_url=short.url) as http:
            sent = (await http.post("/api/v1/orders/o1/cancel", headers=headers)).json()
        told, untold = (customer, kitchen) if who == "customer" else (kitchen, customer)
        expired = json.loads((await told.next_event("ReceiveCommandExpired", within=15)).data or "")
        assert (expired["commandId"], expired["command"]) == (sent["commandId"], "cancel")
        await rest.happened(rest.event("OrderAccepted"))
        await untold.next_event("ReceiveOrderStatusChanged")
        assert "ReceiveCommandExpired" not in {block.type for block in untold.blocks}
    assert await count(rest) == 0


async def test_broker_that_does_not_answer_is_a_503_within_three_seconds(rest: Rest) -> None:
    await rest.happened(rest.event("OrderPlaced"))
    with rest.hung_broker():
        began = time.monotonic()
        response = await send(rest, "accept", **under("a"))
        took = time.monotonic() - began
    told = problem(response)
    assert (told["status"], told["type"]) == (503, "urn:passline:problem:broker-unavailable")
    assert 1 <= int(response.headers["retry-after"]) <= 3
    assert took < 3
    assert (await send(rest, "accept", **under("a"))).status_code == 202
    assert await count(rest) == 1


async def test_process_that_has_no_place_in_the_log_yet_sends_nothing(
    rest: Rest, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rest.happened(rest.event("OrderPlaced"))
    monkeypatch.setattr(rest.gateway.gateway.facts, "epoch", "")
    assert problem(await send(rest, "accept"))["status"] == 503
    assert await count(rest) == 0
