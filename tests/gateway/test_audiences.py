"""Each audience over a real socket: what it begins with, what it is shown, and what takes it away."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.gateway.test_streams import applied, opened, said
from tests.support.logs import append, append_order, append_staff
from tests.support.sse_client import Ending, SseStream, StreamRequest, open_stream

if TYPE_CHECKING:
    from tests.support.gateway import Passline, RunningGateway

TOTAL = {"amount": "25.00", "currency": "EUR"}
FEE = {"amount": "2.00", "currency": "EUR"}
PLACED: dict[str, Any] = {
    "kind": "OrderPlaced",
    "customerName": "Ada Lovelace",
    "items": [{"name": "Pizza", "quantity": 2}],
    "total": TOTAL,
    "platformFee": FEE,
}


async def next_of(stream: SseStream, count: int) -> list[tuple[str, str, str]]:
    """SSE event name, topic and event id of the next events that are the log's."""
    found: list[tuple[str, str, str]] = []
    while len(found) < count:
        block = await stream.next_block()
        assert block is not None, f"the stream ended after {found}"
        if block.type and not block.type.startswith("stream.") and block.type != "snapshot":
            told = said(block)
            found.append((block.type, told["topic"], told["eventId"]))
    return found


def several(gateway: RunningGateway, token: str, *topics: str, more: str = "", **options: Any) -> StreamRequest:
    query = "&".join(f"topic={topic}" for topic in topics)
    return StreamRequest(f"{gateway.url}/api/v1/events?{query}{more}", token=token, **options)


async def get(gateway: RunningGateway, path: str, token: str) -> httpx.Response:
    async with httpx.AsyncClient(base_url=f"{gateway.url}/api/v1", timeout=10) as http:
        return await http.get(path, headers={"authorization": f"Bearer {token}"})


async def test_customer_sees_all_of_their_orders_on_one_stream_and_nobody_elses(passline: Passline) -> None:
    gateway = await passline.gateway()
    await append_order(passline.nc, "placed-1", order="o1", restaurant="r1", **PLACED)
    await append_order(passline.nc, "gone", order="o3", kind="OrderDelivered")
    last = await append_order(passline.nc, "placed-2", order="o2", restaurant="r2", **PLACED)
    await applied(gateway, last)
    async with open_stream(gateway.stream("customers/c1", gateway.token("c1"))) as stream:
        assert (await opened(stream))["topics"] == ["customers/c1"]
        state = said(await stream.next_event("snapshot"))
        assert [order["orderId"] for order in state["orders"]] == ["o1", "o2"]
        assert state["orders"][0]["total"] == TOTAL
        assert "platformFee" not in state["orders"][0]
        await append_order(passline.nc, "not-theirs", order="o9", customer="c2", kind="OrderPlaced")
        await append(passline.nc, "OrderEtaUpdated", "eta", orderId="o2", restaurantId="r2")
        await append_order(passline.nc, "accepted", order="o1")
        assert await next_of(stream, 2) == [
            ("ReceiveOrderEtaUpdated", "customers/c1", "eta"),
            ("ReceiveOrderStatusChanged", "customers/c1", "accepted"),
        ]


@pytest.mark.parametrize("shown", [True, False])
async def test_customer_is_shown_the_fee_where_the_setting_allows_it(passline: Passline, shown: bool) -> None:
    gateway = await passline.gateway(show_platform_fee=shown)
    last = await append_order(passline.nc, "placed", **PLACED)
    await applied(gateway, last)
    for topic, token in (("customers/c1", gateway.token("c1")), ("orders/o1", gateway.token("c1"))):
        async with open_stream(gateway.stream(topic, token, query={"since": "1h"})) as stream:
            block = await stream.next_event("ReceiveOrderPlaced")
            assert said(block).get("platformFee") == (FEE if shown else None)
        async with open_stream(gateway.stream(topic, token)) as stream:
            state = said(await stream.next_event("snapshot"))
            order = state["order"] if "order" in state else state["orders"][0]
            assert order.get("platformFee") == (FEE if shown else None)
    order = (await get(gateway, "/orders/o1", gateway.token("c1"))).json()["order"]
    assert order.get("platformFee") == (FEE if shown else None)
    async with open_stream(gateway.kitchen("r1", query={"since": "1h"})) as stream:
        assert "platformFee" not in said(await stream.next_event("ReceiveOrderPlaced"))


async def test_partner_is_told_of_a_new_order_in_its_own_words(passline: Passline) -> None:
    gateway = await passline.gateway()
    token = gateway.token("owner", restaurants={"r1": "owner"})
    async with open_stream(gateway.stream("partners/r1", token, query={"snapshot": "false"})) as stream:
        await opened(stream)
        await append_order(passline.nc, "placed", **PLACED)
        new = said(await stream.next_event("NewOrder"))
        assert {name: new[name] for name in ("orderId", "customerName", "items", "totalPrice")} == {
            "orderId": "o1",
            "customerName": "Ada L.",
            "items": PLACED["items"],
            "totalPrice": TOTAL,
        }
        assert set(new) == {
            *("orderId", "customerName", "items", "totalPrice", "eventId", "occurredOnUtc", "topic", "schemaVersion")
        }
        for kind in ("OrderAccepted", "OrderRejected"):
            await append_order(passline.nc, kind, kind=kind)
            assert said(await stream.next_event(kind))["topic"] == "partners/r1"


async def test_audiences_of_one_lane_each_get_their_own_view_of_the_same_event(passline: Passline) -> None:
    gateway = await passline.gateway()
    token = gateway.token("owner", restaurants={"r1": "owner"})
    query = {"snapshot": "false"}
    async with (
        open_stream(gateway.kitchen("r1", query=query)) as kitchen,
        open_stream(gateway.stream("partners/r1", token, query=query)) as partner,
        open_stream(gateway.kitchen("r1", query=query)) as other_kitchen,
    ):
        for stream in (kitchen, partner, other_kitchen):
            await opened(stream)
        await append_order(passline.nc, "placed", **PLACED)
        assert await next_of(kitchen, 1) == [("ReceiveOrderPlaced", "restaurants/r1", "placed")]
        assert await next_of(other_kitchen, 1) == [("ReceiveOrderPlaced", "restaurants/r1", "placed")]
        assert await next_of(partner, 1) == [("NewOrder", "partners/r1", "placed")]


async def test_bookings_are_for_the_owner_and_the_finance_role(passline: Passline) -> None:
    gateway = await passline.gateway()
    await append_staff(passline.nc, "s1", "StaffAssigned", restaurant="r1", subject="fin", role="finance")
    last = await append_staff(passline.nc, "s2", "StaffAssigned", restaurant="r1", subject="cook", role="staff")
    await applied(gateway, last)
    assert (await get(gateway, "/restaurants/r1/finance/events", gateway.token("cook"))).status_code == 403
    assert (await get(gateway, "/restaurants/r1/events", gateway.token("fin"))).status_code == 403
    async with open_stream(gateway.stream("restaurants/r1/finance", gateway.token("fin"))) as stream:
        told = await opened(stream)
        assert told["topics"] == ["finance/r1"]
        assert told["id"] is not None  # it has no snapshot
        balance = {"amount": "100.50", "currency": "USD"}
        await append(passline.nc, "RevenueRecorded", "revenue", newBalance=balance)
        block = await stream.next_event("ReceiveRevenueRecorded")
        assert (said(block)["amount"], said(block)["newBalance"]) == ({"amount": "25.00", "currency": "USD"}, balance)
        await append_staff(passline.nc, "s3", "StaffRevoked", restaurant="r1", subject="fin", role="finance")
        await append(passline.nc, "PlatformFeeRecorded", "fee")
        assert await stream.read_to_end() is Ending.CUT
        assert [block.type for block in stream.blocks if block.type][-1] == "stream.closing"
        assert "ReceivePlatformFeeRecorded" not in [block.type for block in stream.blocks]


async def test_coupons_are_for_who_has_the_scope(passline: Passline) -> None:
    gateway = await passline.gateway()
    reader = gateway.token("analyst", scopes=["marketing:read"])
    for path in ("/coupons/k1/events", "/marketing/events"):
        assert (await get(gateway, path, gateway.token("analyst"))).status_code == 403
    async with (
        open_stream(gateway.stream("coupons/k1", reader)) as one,
        open_stream(StreamRequest(f"{gateway.url}/api/v1/marketing/events", token=reader)) as every,
    ):
        await opened(one)
        assert (await opened(every))["topics"] == ["marketing"]
        await append(passline.nc, "CouponUsed", "other", couponId="k2")
        await append(passline.nc, "CouponUsed", "used", previousUsageCount=4, newUsageCount=5)
        block = await one.next_event("ReceiveCouponUsed")
        assert (said(block)["eventId"], said(block)["previousUsageCount"], said(block)["newUsageCount"]) == (
            "used",
            4,
            5,
        )
        assert await next_of(every, 2) == [
            ("ReceiveCouponUsed", "marketing", "other"),
            ("ReceiveCouponUsed", "marketing", "used"),
        ]


# -- Several topics on one stream --------------------------------------------------------------------------------------


async def test_several_topics_share_one_stream_and_one_cursor(passline: Passline) -> None:
    gateway = await passline.gateway()
    last = await append_order(passline.nc, "placed", **PLACED)
    await applied(gateway, last)
    owner = gateway.token("c1", restaurants={"r1": "owner", "r2": "owner"})
    request = several(gateway, owner, "restaurants/r1", "restaurants/r2", "orders/o1", "finance/r1", "restaurants/r1")
    async with open_stream(request) as stream:
        told = await opened(stream)
        assert told["topics"] == ["restaurants/r1", "restaurants/r2", "orders/o1", "finance/r1"]
        assert told["id"] is None
        snapshots = [await stream.next_event("snapshot") for _ in range(3)]
        assert [said(block)["topic"] for block in snapshots] == ["restaurants/r1", "restaurants/r2", "orders/o1"]
        assert [block.id for block in snapshots] == [None, None, told["from"]]
        await append_order(passline.nc, "accepted")
        await append_order(passline.nc, "elsewhere", restaurant="r2", order="o2", customer="c2")
        await append(passline.nc, "RevenueRecorded", "revenue")
        assert await next_of(stream, 4) == [
            ("ReceiveOrderStatusChanged", "restaurants/r1", "accepted"),
            ("ReceiveOrderStatusChanged", "orders/o1", "accepted"),
            ("ReceiveOrderStatusChanged", "restaurants/r2", "elsewhere"),
            ("ReceiveRevenueRecorded", "finance/r1", "revenue"),
        ]
        first_of_two, both = [block for block in stream.blocks if '"accepted"' in (block.data or "")]
        assert first_of_two.id != both.id  # only the last block of an entry moves the client
    async with open_stream(several(gateway, owner, "restaurants/r2", last_event_id=both.id)) as stream:
        assert (await opened(stream))["verdict"] == "resumed"
        assert await next_of(stream, 1) == [("ReceiveOrderStatusChanged", "restaurants/r2", "elsewhere")]


async def test_refusal_of_one_topic_refuses_the_stream_and_names_it(passline: Passline) -> None:
    gateway = await passline.gateway()
    await append_order(passline.nc, "theirs", order="o2", customer="c2")
    token = gateway.token("c1", restaurants={"r1": "staff"})
    for refused, status in (("restaurants/r2", 403), ("orders/o2", 403), ("orders/o404", 404), ("marketing", 403)):
        answer = await get(gateway, f"/events?topic=restaurants/r1&topic={refused}&topic=customers/c1", token)
        assert answer.status_code == status
        told = answer.json()
        assert told["topic"] == refused
        assert told["detail"].startswith(f"{refused}: ")


@pytest.mark.parametrize(
    ("query", "said_of_it"),
    [
        ("", "topic"),
        ("?topic=orders", "a topic is one of"),
        ("?topic=orders/a.b", "a topic is one of"),
        ("?topic=restaurants/r1&topic=what/1", "a topic is one of"),
        ("?" + "&".join(f"topic=restaurants/r{number}" for number in range(101)), "topic"),
    ],
)
async def test_topics_that_are_none_are_refused_clearly(passline: Passline, query: str, said_of_it: str) -> None:
    gateway = await passline.gateway()
    answer = await get(gateway, f"/events{query}", gateway.token("c1"))
    assert answer.status_code == 422
    assert said_of_it.lower() in json.dumps(answer.json()).lower()


async def test_revocation_in_one_of_several_topics_ends_the_stream_before_what_follows(passline: Passline) -> None:
    gateway = await passline.gateway()
    for restaurant in ("r1", "r2"):
        last = await append_staff(
            passline.nc, f"s-{restaurant}", "StaffAssigned", restaurant=restaurant, subject="ann", role="staff"
        )
    await applied(gateway, last)
    topics = ("restaurants/r1", "restaurants/r2")
    async with open_stream(several(gateway, gateway.token("ann"), *topics, more="&snapshot=false")) as stream:
        await opened(stream)
        await append_staff(passline.nc, "gone", "StaffRevoked", restaurant="r2", subject="ann", role="staff")
        await append_order(passline.nc, "later", restaurant="r1")
        assert await stream.read_to_end() is Ending.CUT
        assert [block.type for block in stream.blocks if block.type] == ["stream.opened", "stream.closing"]
