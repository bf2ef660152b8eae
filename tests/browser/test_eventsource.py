"""Chromium's own EventSource, and curl: what the README's first page has people do."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from streams.subscriber import End
from tests.support.chromium import chromium_page
from tests.support.logs import append_order
from tests.support.nats import eventually

if TYPE_CHECKING:
    from playwright.async_api import Page

    from tests.support.gateway import Passline, RunningGateway

pytestmark = [pytest.mark.system, pytest.mark.timeout(90)]

LISTEN = """
path => {
  window.seen = [];
  window.source = new EventSource(path);
  const names = ['stream.opened', 'stream.closing', 'snapshot', 'ReceiveOrderPlaced', 'ReceiveOrderStatusChanged'];
  for (const name of names) {
    window.source.addEventListener(name, event => window.seen.push([name, JSON.parse(event.data), event.lastEventId]));
  }
}
"""


@pytest.fixture
def database_kind() -> str:
    return "sqlite"


async def sign_in(page: Page, gateway: RunningGateway, token: str) -> int:
    """Open any page of the gateway's and make a session there, as the README says. Returns the status."""
    await page.goto(f"{gateway.url}/health/live")
    status: int = await page.evaluate(
        """async token => (await fetch('/api/v1/session', {
             method: 'POST', headers: {Authorization: `Bearer ${token}`}
           })).status""",
        token,
    )
    return status


async def seen(page: Page, name: str, count: int = 1) -> list[Any]:
    """The data of the first `count` events of a name, when they have come."""
    await page.wait_for_function(
        "([name, count]) => window.seen.filter(each => each[0] === name).length >= count", arg=[name, count]
    )
    found: list[Any] = await page.evaluate("name => window.seen.filter(each => each[0] === name)", name)
    return found


async def test_event_source_reads_by_the_session_cookie_and_resumes(passline: Passline) -> None:
    gateway = await passline.gateway()
    token = gateway.token("chef", restaurants={"r1": "staff"})
    async with chromium_page() as page:
        assert await sign_in(page, gateway, token) == 200
        cookies = await page.context.cookies()
        assert [(each["name"], each["httpOnly"], each["secure"], each["sameSite"]) for each in cookies] == [
            ("__Host-passline", True, True, "Lax")
        ]
        await page.evaluate(LISTEN, "/api/v1/restaurants/r1/events")
        await seen(page, "snapshot")
        await append_order(passline.nc, "first", kind="OrderPlaced")
        await seen(page, "ReceiveOrderPlaced")
        for subscriber in tuple(gateway.gateway.hub._subscribers):
            subscriber.close(End.LAGGED)
        await append_order(passline.nc, "missed")
        await seen(page, "ReceiveOrderStatusChanged")
        await append_order(passline.nc, "live")
        changes = await seen(page, "ReceiveOrderStatusChanged", 2)
        assert [data["eventId"] for _, data, _ in changes] == ["missed", "live"]
        openings = await seen(page, "stream.opened", 2)
        assert [data["verdict"] for _, data, _ in openings] == ["fresh", "resumed"]
        assert [data["reason"] for _, data, _ in await seen(page, "stream.closing")] == ["lagged"]


async def test_heartbeat_moves_the_browsers_position_without_an_event(passline: Passline) -> None:
    gateway = await passline.gateway(heartbeat_seconds=0.1)
    token = gateway.token("chef", restaurants={"quiet": "staff"})
    async with chromium_page() as page:
        await sign_in(page, gateway, token)
        await page.evaluate(LISTEN, "/api/v1/restaurants/quiet/events")
        await seen(page, "snapshot")
        last = await append_order(passline.nc, "elsewhere", restaurant="r1")
        await eventually(lambda: gateway.gateway.hub.head == last)
        subscriber = next(iter(gateway.gateway.hub._subscribers))
        before = subscriber.written_at
        await eventually(lambda: subscriber.written_at > before)
        subscriber.close(End.LAGGED)
        openings = await seen(page, "stream.opened", 2)
        assert openings[1][1]["from"].endswith(f"-{last}")
        assert len(await page.evaluate("window.seen")) == 4


async def test_event_source_takes_a_soft_refusal_for_come_back_and_a_403_for_good(passline: Passline) -> None:
    gateway = await passline.gateway()
    token = gateway.token("chef", restaurants={"r1": "staff"})
    async with chromium_page() as page:
        await sign_in(page, gateway, token)
        await page.evaluate(LISTEN, "/api/v1/restaurants/r2/events")
        await page.wait_for_function("window.source.readyState === EventSource.CLOSED")
        await gateway.gateway.drain(0)
        await page.evaluate(LISTEN, "/api/v1/restaurants/r1/events")
        await page.evaluate("window.errors = 0; window.source.onerror = () => window.errors++")
        await page.wait_for_function("window.errors >= 2")
        assert await page.evaluate("window.source.readyState") != 2


async def test_page_of_another_origin_can_not_use_the_session(passline: Passline) -> None:
    gateway, other = await passline.gateway(), await passline.gateway()
    token = gateway.token("chef", restaurants={"r1": "staff"})
    async with chromium_page() as page:
        await sign_in(page, gateway, token)
        # Another port is another origin of the same site: the cookie is sent, and the origin is what refuses it.
        await page.goto(f"{other.url}/health/live")
        await page.evaluate(
            "url => { window.source = new EventSource(url, {withCredentials: true}); }",
            f"{gateway.url}/api/v1/restaurants/r1/events",
        )
        await page.wait_for_function("window.source.readyState === EventSource.CLOSED")
        assert len(gateway.gateway.hub) == 0


async def test_curl_reads_a_stream_and_resumes_it(passline: Passline) -> None:
    gateway = await passline.gateway()
    token = gateway.token("chef", restaurants={"r1": "staff"})
    url = f"{gateway.url}/api/v1/restaurants/r1/events"
    await append_order(passline.nc, "first", kind="OrderPlaced")
    first = await curl(url, token, "?since=1h", until=b"ReceiveOrderPlaced")
    last_id = [line for line in first.split(b"\n") if line.startswith(b"id: ")][-1].removeprefix(b"id: ").decode()
    await append_order(passline.nc, "missed")
    second = await curl(url, token, "", "-H", f"Last-Event-ID: {last_id}", until=b"ReceiveOrderStatusChanged")
    blocks = [block.split(b"\n") for block in second.split(b"\n\n") if block]
    told = json.loads(blocks[0][2].removeprefix(b"data: "))
    assert (told["verdict"], told["from"]) == ("resumed", last_id)
    assert json.loads(blocks[1][1].removeprefix(b"data: "))["eventId"] == "missed"
    assert b"first" not in second


async def curl(url: str, token: str, query: str, *options: str, until: bytes) -> bytes:
    """What `curl -N` prints up to the end of the block that has `until` in it."""
    process = await asyncio.create_subprocess_exec(
        *("curl", "-N", "-s", "-H", f"Authorization: Bearer {token}", *options, url + query),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    printed = b""
    try:
        async with asyncio.timeout(15):
            while until not in printed or not printed.endswith(b"\n\n"):
                piece = await process.stdout.read(4096)
                assert piece, f"curl ended after {printed!r}"
                printed += piece
    finally:
        process.kill()
        await process.wait()
    return printed


async def test_browser_hears_why_each_stream_ends(passline: Passline) -> None:
    """A block that came together with the cut would be lost on the way to the page, now and then."""
    gateway = await passline.gateway()
    token = gateway.token("chef", restaurants={"r1": "staff"})
    async with chromium_page() as page:
        await sign_in(page, gateway, token)
        for round_ in range(25):
            await page.evaluate(LISTEN, f"/api/v1/restaurants/r1/events?round={round_}")
            await seen(page, "snapshot")
            for subscriber in tuple(gateway.gateway.hub._subscribers):
                subscriber.close(End.LAGGED)
            assert [data["reason"] for _, data, _ in await seen(page, "stream.closing")] == ["lagged"]
            await page.evaluate("window.source.close()")
