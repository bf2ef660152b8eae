"""The demo's dinner, by way of a real gateway: what each of those who watch it is shown."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import pytest

from gateway import dinner
from gateway.dinner import Diners, Dinner
from gateway.order_service import OrderService
from gateway.town import CUSTOMERS, RESTAURANTS
from streams.command_consumer import CommandConsumer
from streams.history import OrderHistory
from streams.log import Log
from tests.gateway.test_streams import said
from tests.support.nats import client, eventually
from tests.support.sse_client import StreamRequest, open_stream

if TYPE_CHECKING:
    from tests.support.gateway import Passline

KITCHEN = RESTAURANTS[0]


async def test_cart_becomes_an_order_that_is_accepted_late_and_delivered_before_its_guest(
    passline: Passline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dinner, "_BEAT_SECONDS", 0.05)
    monkeypatch.setattr(dinner, "PROMISED_SECONDS", 0.2)
    gateway = await passline.gateway(team_carts=True)
    host, friend = CUSTOMERS[2:4]
    told: dict[str, str] = {}

    def bearer(subject: str, **claims: Any) -> str:
        return gateway.token(subject, **claims, restaurants={KITCHEN.id: "owner"} if subject == KITCHEN.owner else {})

    def tell(about: str, line: str) -> None:
        told.setdefault(about, line)

    diners = Diners(KITCHEN, host, friend, bearer)
    async with client(passline.server, "orders") as nc:
        service = OrderService(CommandConsumer(nc), OrderHistory(nc, Log(nc)))
        eating = Dinner(gateway.url, diners, tell)
        running = [asyncio.create_task(each) for each in (service.run(), eating.run())]
        try:
            await eventually(lambda: len(told) == 2, within=20)
            cart_line, guest_line = told.values()
            cart = cart_line.rpartition("/api/v1/")[2].removesuffix("/events")
            link = urlsplit(guest_line.split("'")[1])
            request = StreamRequest(
                f"{gateway.url}{link.path}", query={"pass": parse_qs(link.query)["pass"][0], "since": "1h"}
            )
            async with open_stream(request) as guest:
                seen = []
                while "Delivered" not in seen:
                    block = await guest.next_block()
                    assert block is not None
                    if block.type == "ReceiveSignal":
                        seen.append("at " + said(block)["from"])
                    elif block.type.startswith("Receive"):
                        seen.append(said(block).get("status") or block.type)
            steps = [each for each in seen if each != "at courier"]
            assert steps == [
                *("Placed", "ReceiveOrderPaymentSucceeded", "Accepted", "Preparing"),
                *("ReceiveOrderDelayed", "ReceiveOrderEtaUpdated", "ReadyForDelivery", "Delivered"),
            ]
            assert "at courier" in seen
            member = gateway.stream(cart, gateway.token(friend.identity), query={"since": "1h"})
            async with open_stream(member) as carts:
                converted = said(await carts.next_event("ReceiveTeamCartConverted"))
            assert converted["orderId"] == re.search(r"orders/([\w-]+)/events", link.path)[1]  # type: ignore[index]
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
