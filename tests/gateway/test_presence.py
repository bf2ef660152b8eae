"""Who is connected anywhere: two gateway processes on one broker, asked over HTTP."""

from __future__ import annotations

import asyncio
import datetime as dt
import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import pytest

from gateway.passes import passes_of
from gateway.process import PRESENCE_PER_SECOND
from streams.presence import ask_attendance
from tests.gateway.serving import problem
from tests.support.delivery import Clock
from tests.support.logs import append_order
from tests.support.nats import client, eventually
from tests.support.sse_client import SseStream, StreamRequest, open_stream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.gateway.conftest import Rest
    from tests.support.gateway import RunningGateway

KEY_HASH = "0" * 64
DEVICES = "/restaurants/r1/devices"
WATCHERS = "/orders/o1/watchers"


@pytest.fixture
def database_kind() -> str:
    """Presence is in no database."""
    return "sqlite"


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    """What is open until the test ends."""
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture
async def other(rest: Rest) -> RunningGateway:
    """A second process, which the first one has heard of."""
    other = await rest.passline.gateway()
    gateways = (rest.gateway.gateway, other.gateway)
    await eventually(lambda: all(len(each.presence.alive) == 2 for each in gateways))
    return other


async def opened(stack: AsyncExitStack, request: StreamRequest) -> SseStream:
    stream = await stack.enter_async_context(open_stream(request))
    await stream.next_event("stream.opened")
    return stream


def till_pass(rest: Rest) -> str:
    """As a device has it that has traded its key."""
    return passes_of(rest.gateway.gateway.settings).for_device("r1", "till", "p1", time.time() + 600)


def owner(rest: Rest) -> dict[str, str]:
    return rest.bearer("boss", restaurants={"r1": "owner"})


async def asked(rest: Rest, path: str, headers: dict[str, str]) -> Any:
    response = await rest.get(path, headers)
    assert response.status_code == 200, response.text
    assert response.headers["cache-control"] == "no-store"
    return response.json()


async def test_stream_at_another_process_is_seen_until_it_ends(
    rest: Rest, other: RunningGateway, stack: AsyncExitStack
) -> None:
    began = dt.datetime.now(dt.UTC)
    kitchen = await opened(stack, other.kitchen("r1"))
    await opened(stack, other.kitchen("r2"))
    answer = await asked(rest, DEVICES, owner(rest))
    (device,) = answer.pop("devices")
    assert answer == {"restaurantId": "r1", "connected": 1, "processes": 2, "complete": True}
    since = dt.datetime.fromisoformat(device.pop("connectedSince"))
    assert since.tzinfo == dt.UTC
    assert abs(since - began) < dt.timedelta(seconds=10)
    assert device == {
        "kind": "staff",
        "subject": "owner-of-r1",
        "roles": [],
        "topics": ["restaurants/r1"],
        "behind": 0,
        "paused": False,
    }
    kitchen.close()
    await eventually(lambda: len(other.gateway.hub) == 1)
    assert (await asked(rest, DEVICES, owner(rest)))["devices"] == []


async def test_people_are_told_with_their_roles_and_devices_without_a_subject(
    rest: Rest, other: RunningGateway, stack: AsyncExitStack
) -> None:
    till = rest.staff_event("DeviceRegistered", "x", deviceId="till", name="Till by the door", keyHash=KEY_HASH)
    await rest.happened(
        rest.staff_event("StaffAssigned", "ann", role="staff"),
        rest.staff_event("StaffAssigned", "ann", role="finance"),
        till,
    )
    topics = "topic=restaurants/r2&topic=partners/r1&topic=restaurants/r1"
    token = rest.gateway.token("ann", restaurants={"r2": "owner"})
    await opened(stack, StreamRequest(f"{rest.gateway.url}/api/v1/events?{topics}", token=token))
    await opened(stack, other.stream("partners/r1", till_pass(rest)))
    ann, till = (await asked(rest, DEVICES, rest.bearer("ann")))["devices"]
    assert (ann["subject"], ann["roles"], ann["topics"]) == (
        "ann",
        ["finance", "staff"],
        ["partners/r1", "restaurants/r1"],
    )
    assert (till["kind"], till["deviceId"], till["name"]) == ("device", "till", "Till by the door")
    assert till["topics"] == ["partners/r1"]
    assert "subject" not in till
    assert "roles" not in till


async def test_client_that_does_not_read_is_told_as_paused_and_behind(
    rest: Rest, other: RunningGateway, stack: AsyncExitStack
) -> None:
    slow = await opened(stack, other.kitchen("r1", receive_buffer=4096))
    items = [{"name": "x" * 500, "quantity": 1}] * 20
    subscriber = next(iter(other.gateway.hub._subscribers))
    number = 0
    while not subscriber.paused:
        await append_order(rest.passline.nc, f"e{number}", kind="OrderPlaced", items=items)
        number += 1
        await asyncio.sleep(0)
    for _ in range(3):
        last = await append_order(rest.passline.nc, f"e{number}", restaurant="r2")
        number += 1
    await eventually(lambda: other.gateway.hub.head == last)
    (device,) = (await asked(rest, DEVICES, owner(rest)))["devices"]
    assert device["paused"]
    assert device["behind"] == last - subscriber.position >= 3
    while not subscriber.live:
        await slow.read()
    (device,) = (await asked(rest, DEVICES, owner(rest)))["devices"]
    assert (device["behind"], device["paused"]) == (0, False)


async def test_process_that_hangs_does_not_hang_the_answer(rest: Rest, stack: AsyncExitStack) -> None:
    """It was there a moment ago, and says nothing now."""
    await opened(stack, rest.gateway.kitchen("r1"))
    await rest.passline.nc.publish("passline.presence.alive", b'{"process":"hung"}')
    await eventually(lambda: "hung" in rest.gateway.gateway.presence.alive)
    async with asyncio.timeout(5):
        answer = await asked(rest, DEVICES, owner(rest))
    assert (answer["connected"], answer["processes"], answer["complete"]) == (1, 1, False)


async def test_attendance_is_asked_of_every_process(rest: Rest, other: RunningGateway, stack: AsyncExitStack) -> None:
    await opened(stack, rest.gateway.kitchen("r1"))
    left = await opened(stack, other.kitchen("r2"))
    left.close()
    await eventually(lambda: len(other.gateway.hub) == 0)
    async with client(rest.passline.server, "worker") as worker:
        latest = await ask_attendance(worker, {"r1", "r2", "r3"}, seconds=5)
    assert latest["r3"] is None
    assert 0 < (latest["r2"] or 0) < (latest["r1"] or 0)


async def test_watchers_of_an_order_are_counted_in_every_process(
    rest: Rest, other: RunningGateway, stack: AsyncExitStack
) -> None:
    await rest.happened(rest.event("OrderPlaced"), rest.event("OrderPlaced", "o2", customer="c2"))
    for gateway in (rest.gateway, other):
        await opened(stack, gateway.customer("o1"))
        await opened(stack, gateway.customer("o2", "c2"))
    await opened(stack, other.kitchen("r1"))
    await opened(stack, other.stream("customers/c1", other.token("c1")))
    given = (await rest.http.post("/api/v1/orders/o1/guest-pass", headers=rest.bearer("c1"))).json()["pass"]
    await opened(stack, rest.gateway.stream("orders/o1", given))
    for headers in (owner(rest), rest.bearer("c1")):
        assert await asked(rest, WATCHERS, headers) == {
            "orderId": "o1",
            "restaurant": 1,
            "customer": 3,
            "guests": 1,
            "processes": 2,
            "complete": True,
        }


async def test_who_may_ask(rest: Rest) -> None:
    await rest.happened(
        rest.event("OrderPlaced"),
        rest.event("OrderPlaced", "o2", restaurant="r2"),
        rest.staff_event("StaffAssigned", "ann", role="staff"),
        rest.staff_event("StaffAssigned", "bob", role="finance"),
        rest.staff_event("StaffAssigned", "cid", role="owner"),
        rest.staff_event("StaffAssigned", "cid", role="owner", restaurant="r2"),
        rest.staff_event("StaffRevoked", "cid"),
    )
    everything = ["events:publish", "access:publish", "marketing:read", "orders:command", "courier"]
    askers = {
        "owner": owner(rest),
        "staff": rest.bearer("ann"),
        "finance": rest.bearer("bob"),
        "staff of another restaurant": rest.bearer("cid"),
        "customer": rest.bearer("c1"),
        "another customer": rest.bearer("c2"),
        "service": rest.bearer("service", scopes=everything),
        "device": {"authorization": f"Bearer {till_pass(rest)}"},
        "nobody": {},
    }
    allowed = {
        who: tuple([(await rest.get(path, headers)).status_code for path in (DEVICES, WATCHERS)])
        for who, headers in askers.items()
    }
    assert allowed == {
        "owner": (200, 200),
        "staff": (200, 200),
        "finance": (403, 403),
        "staff of another restaurant": (403, 403),
        "customer": (403, 200),
        "another customer": (403, 403),
        "service": (403, 403),
        "device": (401, 401),
        "nobody": (401, 401),
    }


async def test_who_asks_too_often_is_told_to_wait(rest: Rest, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(rest.gateway.gateway.hub, "clock", clock)
    answers = [await rest.get(DEVICES, owner(rest)) for _ in range(PRESENCE_PER_SECOND + 1)]
    assert [answer.status_code for answer in answers] == [200] * PRESENCE_PER_SECOND + [429]
    assert problem(answers[-1])["type"] == "urn:passline:problem:rate-exceeded"
    assert answers[-1].headers["retry-after"] == "1"
    assert (await rest.get(DEVICES, rest.bearer("another", restaurants={"r1": "owner"}))).status_code == 200
    clock.now += 1
    assert (await rest.get(DEVICES, owner(rest))).status_code == 200


async def test_nobody_is_known_to_be_connected_while_the_broker_is_away(rest: Rest) -> None:
    headers = owner(rest)
    assert (await rest.get(DEVICES, headers)).status_code == 200
    with rest.hung_broker():
        response = await rest.get(DEVICES, headers)
    assert problem(response)["status"] == 503
    assert 1 <= int(response.headers["retry-after"]) <= 3
