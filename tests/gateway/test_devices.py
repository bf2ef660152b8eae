"""Devices: from a code that an owner reads aloud to a stream, and out again."""

from __future__ import annotations

import asyncio
import json
import re
import time
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import structlog
from sqlalchemy import select

from auth.devices import key_digest
from streams.database import open_database, reading
from streams.events import DeviceRegistered, decode
from streams.subscriber import End
from streams.tables import metadata
from tests.gateway.serving import problem
from tests.gateway.ways import CORE
from tests.support.nats import eventually
from tests.support.sse_client import StreamRequest, open_stream

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.gateway.conftest import Rest
    from tests.support.gateway import RunningGateway
    from tests.support.sse_client import SseStream


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Codes may be tried as often as a test does."""
    monkeypatch.setattr("gateway.pairing.ATTEMPTS_PER_SECOND", 1000)
    monkeypatch.setattr("gateway.pairing.ATTEMPTS_OF_ALL_PER_SECOND", 1000)


pytestmark = pytest.mark.usefixtures("often")


def boss(rest: Rest, restaurant: str = "r1") -> dict[str, str]:
    return rest.bearer(f"boss-of-{restaurant}", restaurants={restaurant: "owner"})


async def post(
    gateway: RunningGateway, path: str, headers: dict[str, str] | None = None, **body: Any
) -> httpx.Response:
    async with httpx.AsyncClient(base_url=gateway.url, timeout=10) as http:
        return await http.post(f"/api/v1{path}", headers=headers, json=body or None)


async def code_for(rest: Rest, restaurant: str = "r1") -> str:
    response = await post(rest.gateway, f"/restaurants/{restaurant}/devices/pairing", boss(rest, restaurant))
    assert response.status_code == 201, response.text
    code: str = response.json()["code"]
    return code


async def paired(rest: Rest, restaurant: str = "r1", name: str = "Till 1") -> dict[str, str]:
    """A device of the restaurant, as it was told of itself."""
    response = await post(rest.gateway, "/devices", code=await code_for(rest, restaurant), name=name)
    assert response.status_code == 201, response.text
    device: dict[str, str] = response.json()
    return device


def with_key(key: str) -> dict[str, str]:
    return {"authorization": f"Device {key}"}


async def pass_of(gateway: RunningGateway, key: str) -> str:
    response = await post(gateway, "/devices/pass", with_key(key))
    assert response.status_code == 200, response.text
    text: str = response.json()["pass"]
    return text


async def revoke(rest: Rest, device_id: str, headers: dict[str, str] | None = None) -> httpx.Response:
    return await rest.http.delete(f"/api/v1/restaurants/r1/devices/{device_id}", headers=headers or boss(rest))


def partner(gateway: RunningGateway, text: str, restaurant: str = "r1", **options: Any) -> StreamRequest:
    return StreamRequest(f"{gateway.url}/api/v1/partners/{restaurant}/events", query={"pass": text}, **options)


async def said(stream: SseStream, event: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((await stream.next_event(event)).data or "null")
    return found


@CORE
async def test_device_comes_from_a_code_to_its_restaurants_orders(rest: Rest) -> None:
    device = await paired(rest)
    assert device["restaurantId"] == "r1"
    async with open_stream(partner(rest.gateway, await pass_of(rest.gateway, device["key"]))) as stream:
        assert await said(stream, "snapshot") == {"topic": "partners/r1", "orders": []}
        await rest.happened(rest.event("OrderPlaced", customerName="Ada Lovelace"), rest.event("OrderAccepted"))
        order = await said(stream, "NewOrder")
        assert (order["orderId"], order["customerName"], order["topic"]) == ("o1", "Ada L.", "partners/r1")
        assert (await said(stream, "OrderAccepted"))["orderId"] == "o1"


async def test_code_is_for_the_owner_to_ask_for_and_says_how_long_it_lives(rest: Rest) -> None:
    for other in (
        rest.bearer("cook", restaurants={"r1": "staff"}),
        rest.bearer("books", restaurants={"r1": "finance"}),
        boss(rest, "r2"),
        rest.bearer("c1"),
        rest.order_service,
    ):
        assert (await post(rest.gateway, "/restaurants/r1/devices/pairing", other)).status_code == 403
    assert (await post(rest.gateway, "/restaurants/r1/devices/pairing")).status_code == 401
    response = await post(rest.gateway, "/restaurants/r1/devices/pairing", boss(rest))
    assert re.fullmatch(r"[0-9A-Z]{4}-[0-9A-Z]{4}", response.json()["code"])
    assert response.json()["expiresAt"] > "2026"
    assert response.headers["cache-control"] == "no-store"


async def test_code_is_good_once(rest: Rest) -> None:
    code = await code_for(rest)
    assert (await post(rest.gateway, "/devices", code=code.lower().replace("-", " "), name="Till")).status_code == 201
    again = await post(rest.gateway, "/devices", code=code, name="Till")
    assert problem(again)["type"] == "urn:passline:problem:pairing-refused"


async def test_wrong_used_and_late_codes_are_refused_in_the_same_words(
    rest: Rest, monkeypatch: pytest.MonkeyPatch
) -> None:
    used, late = await code_for(rest), await code_for(rest)
    assert (await post(rest.gateway, "/devices", code=used, name="Till")).status_code == 201
    later = time.time() + 301
    monkeypatch.setattr("gateway.pairing.time.time", lambda: later)
    told = [
        await post(rest.gateway, "/devices", code=code, name="Till")
        for code in (used, late, "K7QF-3MPX", "K7QF", "not a code at all")
    ]
    assert {(each.status_code, each.content) for each in told} == {(403, told[0].content)}


async def test_of_two_gateways_that_are_shown_a_code_at_once_one_registers_the_device(rest: Rest) -> None:
    other = await rest.passline.gateway()
    await rest.passline.stop_worker()  # the database knows of nothing
    for _ in range(4):
        code = await code_for(rest)
        answers = await asyncio.gather(
            *(post(gateway, "/devices", code=code, name="Till") for gateway in (rest.gateway, other) * 3)
        )
        assert sorted(each.status_code for each in answers) == [201, 403, 403, 403, 403, 403]
        winner = next(each.json() for each in answers if each.status_code == 201)
        for gateway in (rest.gateway, other):
            assert await pass_of(gateway, winner["key"])


async def test_codes_are_tried_as_often_as_people_try_them(rest: Rest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.pairing.ATTEMPTS_PER_SECOND", 1)
    limited = await rest.passline.gateway()
    answers = await asyncio.gather(*(post(limited, "/devices", code="K7QF-3MPX", name="Till") for _ in range(6)))
    assert {each.status_code for each in answers} == {403, 429}
    assert all(int(each.headers["retry-after"]) >= 1 for each in answers if each.status_code == 429)
    monkeypatch.setattr("gateway.pairing.ATTEMPTS_PER_SECOND", 1000)
    monkeypatch.setattr("gateway.pairing.ATTEMPTS_OF_ALL_PER_SECOND", 2)
    crowded = await rest.passline.gateway()
    answers = await asyncio.gather(*(post(crowded, "/devices", code="K7QF-3MPX", name="Till") for _ in range(12)))
    assert {each.status_code for each in answers} == {403, 429}


async def test_device_says_its_name_and_nothing_else(rest: Rest) -> None:
    code = await code_for(rest)
    wrong: list[dict[str, Any]] = [{"code": code}, {"name": "Till"}, {"code": code, "name": ""}]
    wrong += [{"code": code, "name": "a\nb"}, {"code": code, "name": "x" * 65}]
    wrong.append({"code": code, "name": "Till", "restaurantId": "r2"})
    for body in wrong:
        assert (await post(rest.gateway, "/devices", **body)).status_code in (400, 422)
    assert (await post(rest.gateway, "/devices", code=code, name="Küche 2")).status_code == 201


def wrong_keys(key: str, other: str) -> Iterator[dict[str, str]]:
    yield {}
    yield with_key(key + "x")
    yield with_key(key[:-1] + ("A" if key[-1] != "A" else "B"))
    yield with_key(other.rpartition(".")[0] + "." + key.rpartition(".")[2])
    yield {"authorization": f"Bearer {key}"}
    yield {"authorization": key}
    yield {"cookie": f"key={key}"}
    yield with_key(key.replace("passline_r1", "passline_r2"))


async def test_only_a_devices_own_key_in_the_header_gives_a_pass(rest: Rest) -> None:
    one, two = await paired(rest), await paired(rest)
    assert await pass_of(rest.gateway, one["key"])
    told = [await post(rest.gateway, "/devices/pass", headers) for headers in wrong_keys(one["key"], two["key"])]
    told.append(await rest.http.post("/api/v1/devices/pass", params={"key": one["key"]}))
    assert {(each.status_code, each.content) for each in told} == {(401, told[0].content)}
    assert {each.headers["www-authenticate"] for each in told} == {'Device realm="passline"'}
    for path in ("/restaurants/r1/orders/new", "/partners/r1/events", "/restaurants/r1/devices/keys"):
        assert (await rest.http.get(f"/api/v1{path}", headers=with_key(one["key"]))).status_code == 401
        assert (await rest.http.get(f"/api/v1{path}", params={"key": one["key"]})).status_code == 401


async def test_devices_pass_opens_its_own_restaurants_partner_stream_and_nothing_else(rest: Rest) -> None:
    device = await paired(rest)
    text = await pass_of(rest.gateway, device["key"])
    for path in ("/partners/r2/events", "/orders/r1/events", "/orders/o1"):
        response = await rest.http.get(f"/api/v1{path}", params={"pass": text})
        assert problem(response)["type"] == "urn:passline:problem:pass-refused"
    for path in ("/restaurants/r1/events", "/restaurants/r1/orders/new", "/events?topic=partners/r1"):
        response = await rest.http.get(f"/api/v1{path}", headers={"authorization": f"Bearer {text}"})
        assert response.status_code == 401
    headers = {"authorization": f"Bearer {text}"}
    assert (await post(rest.gateway, "/restaurants/r1/devices/pairing", headers)).status_code == 401


@CORE
async def test_revoked_device_loses_its_streams_everywhere_before_any_later_event(rest: Rest) -> None:
    other = await rest.passline.gateway()
    gone, kept = await paired(rest), await paired(rest)
    async with (
        open_stream(partner(rest.gateway, await pass_of(rest.gateway, gone["key"]))) as here,
        open_stream(partner(other, await pass_of(other, gone["key"]))) as there,
        open_stream(partner(other, await pass_of(other, kept["key"]))) as others,
    ):
        for stream in (here, there, others):
            await said(stream, "snapshot")
        assert (await revoke(rest, gone["deviceId"])).status_code == 204
        await rest.happened(rest.event("OrderPlaced"))
        for stream in (here, there):
            assert (await said(stream, "stream.closing"))["reason"] == "revoked"
            await stream.read_to_end()
            assert b"NewOrder" not in stream.body
        assert (await said(others, "NewOrder"))["orderId"] == "o1"
    await eventually(lambda: other.gateway.hub.ended[End.REVOKED] == 1)
    assert (await post(rest.gateway, "/devices/pass", with_key(gone["key"]))).status_code == 401
    assert (await post(rest.gateway, "/devices/key", with_key(gone["key"]))).status_code == 401
    assert (await revoke(rest, gone["deviceId"])).status_code == 204


async def test_passes_of_a_revoked_device_end_with_it(rest: Rest) -> None:
    device = await paired(rest)
    text = await pass_of(rest.gateway, device["key"])
    assert (await revoke(rest, device["deviceId"])).status_code == 204
    await eventually(lambda: rest.gateway.gateway.facts.overlay.head >= 3)
    async with open_stream(partner(rest.gateway, text)) as stream:
        assert stream.status == 403


async def test_only_the_owner_lists_and_revokes_devices(rest: Rest) -> None:
    device = await paired(rest)
    for other in (rest.bearer("cook", restaurants={"r1": "staff"}), boss(rest, "r2"), rest.bearer("c1")):
        assert (await rest.get("/restaurants/r1/devices/keys", other)).status_code == 403
        assert (await revoke(rest, device["deviceId"], other)).status_code == 403
    assert problem(await revoke(rest, "nobody"))["status"] == 404


async def test_list_has_the_devices_that_are_registered_now(rest: Rest) -> None:
    devices = [await paired(rest, name=name) for name in ("Till", "Kitchen", "Bar")]
    await paired(rest, "r2")
    await revoke(rest, devices[1]["deviceId"])
    replaced = await post(rest.gateway, "/devices/key", with_key(devices[2]["key"]))
    cursor = await rest.happened(rest.event("OrderPlaced"))
    answer = (await rest.get("/restaurants/r1/devices/keys", boss(rest))).json()
    assert answer["cursor"] == cursor
    assert [(each["deviceId"], each["name"]) for each in answer["devices"]] == [
        (devices[0]["deviceId"], "Till"),
        (devices[2]["deviceId"], "Bar"),
    ]
    till, bar = answer["devices"]
    assert till["keySince"] == till["registeredAt"]
    assert bar["keySince"] > bar["registeredAt"]
    assert set(till) == {"deviceId", "name", "registeredAt", "keySince"}
    assert replaced.json()["key"] not in json.dumps(answer)


async def test_another_key_leaves_the_stream_alone_and_the_old_one_good_for_a_while(
    rest: Rest, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = await rest.passline.gateway()
    device = await paired(rest)
    async with open_stream(partner(rest.gateway, await pass_of(rest.gateway, device["key"]))) as stream:
        await said(stream, "snapshot")
        lost = await post(rest.gateway, "/devices/key", with_key(device["key"]))
        answer = await post(other, "/devices/key", with_key(device["key"]))  # as its answer was lost
        assert (lost.status_code, answer.status_code) == (201, 201)
        replaced = answer.json()
        assert (replaced["deviceId"], replaced["restaurantId"]) == (device["deviceId"], "r1")
        assert len({device["key"], lost.json()["key"], replaced["key"]}) == 3
        for key in (device["key"], replaced["key"]):
            for gateway in (rest.gateway, other):
                assert await pass_of(gateway, key)
        await rest.happened(rest.event("OrderPlaced"))
        assert (await said(stream, "NewOrder"))["orderId"] == "o1"
    later = time.time() + 601
    monkeypatch.setattr("gateway.routes.devices.time.time", lambda: later)
    assert (await post(rest.gateway, "/devices/pass", with_key(device["key"]))).status_code == 401
    assert await pass_of(rest.gateway, replaced["key"])


async def test_fresh_pass_keeps_the_devices_streams_open(rest: Rest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever it asks for one."""
    other, device = await rest.passline.gateway(), await paired(rest)
    monkeypatch.setattr("gateway.routes.devices.DEVICE_PASS_SECONDS", 20)
    short = await pass_of(rest.gateway, device["key"])
    monkeypatch.setattr("gateway.routes.devices.DEVICE_PASS_SECONDS", 900)
    async with open_stream(partner(rest.gateway, short)) as kept:
        await said(kept, "snapshot")
        hub = rest.gateway.gateway.hub
        (subscriber,) = hub._by_subject.at(f"device:r1:{device['deviceId']}")
        assert (subscriber.grant.expires_at or 0) < hub.clock() + 21
        await pass_of(other, device["key"])
        await eventually(lambda: (subscriber.grant.expires_at or 0) > hub.clock() + 600)


async def test_too_many_requests_from_one_address_wait(rest: Rest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.process.DEVICE_REQUESTS_PER_SECOND", 2)
    limited = await rest.passline.gateway()
    device = await paired(rest)
    answers = await asyncio.gather(
        *(post(limited, "/devices/pass", with_key(device["key"][:-2] + "xx")) for _ in range(12))
    )
    assert {each.status_code for each in answers} == {401, 429}


async def test_neither_code_nor_key_is_kept_or_logged(rest: Rest, caplog: pytest.LogCaptureFixture) -> None:
    with structlog.testing.capture_logs() as logged:
        code = await code_for(rest)
        device = (await post(rest.gateway, "/devices", code=code, name="Till")).json()
        text = await pass_of(rest.gateway, device["key"])
        newer = (await post(rest.gateway, "/devices/key", with_key(device["key"]))).json()["key"]
        await post(rest.gateway, "/devices/pass", with_key(newer + "x"))
        await rest.happened(rest.event("OrderPlaced"))
    log = rest.gateway.gateway.log
    entries = [await log.get(sequence) for sequence in range(1, (await log.state()).last + 1)]
    registered = [decode(each.data) for each in entries if each is not None and b'"DeviceRegistered"' in each.data]
    assert [each.key_hash for each in registered if isinstance(each, DeviceRegistered)] == [
        key_digest(device["key"]),
        key_digest(newer),
    ]
    kept = [json.dumps(logged, default=str), caplog.text, *(str(each) for each in entries)]
    kept.append(str(await everything(rest.gateway.gateway.settings.sql_url)))
    assert "device.registered" in kept[0]
    assert key_digest(newer) in kept[-1]
    secret = (code, code.replace("-", ""), device["key"].rpartition(".")[2], newer.rpartition(".")[2], text)
    assert [each for each in kept for word in secret if word in each] == []


async def everything(url: str) -> list[object]:
    """Every row of the database."""
    async with open_database(url) as engine, reading(engine) as connection:
        found: list[object] = []
        for table in metadata.tables.values():
            found += [tuple(row) for row in await connection.execute(select(table))]
    return found
