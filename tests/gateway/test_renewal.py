"""A stream is told before its token ends, and goes on by a newer one."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import time
from typing import TYPE_CHECKING, Any

import httpx
import jwt

from tests.gateway.test_streams import applied, opened
from tests.support.logs import append, append_order, append_staff
from tests.support.nats import eventually
from tests.support.sse_client import Ending, SseStream, open_stream

if TYPE_CHECKING:
    from tests.support.gateway import Passline, RunningGateway

SILENT = {"snapshot": "false"}


async def renew(gateway: RunningGateway, token: str) -> int:
    async with httpx.AsyncClient(base_url=f"{gateway.url}/api/v1", timeout=10) as http:
        return (await http.post("/session", headers={"authorization": f"Bearer {token}"})).status_code


def expiries(gateway: RunningGateway) -> list[float]:
    """In how many seconds the process's streams end."""
    hub = gateway.gateway.hub
    return [(each.grant.expires_at or 0.0) - hub.clock() for each in hub._subscribers]


async def closing(stream: SseStream) -> Any:
    assert await stream.read_to_end() is Ending.CUT
    return json.loads(stream.blocks[-1].data or "{}")["reason"]


async def test_stream_is_told_a_while_before_its_token_ends(passline: Passline) -> None:
    gateway = await passline.gateway(expiring_seconds=100.0)
    token = gateway.token("ann", restaurants={"r1": "owner"}, life_seconds=40)  # sooner than half of it
    async with open_stream(gateway.stream("restaurants/r1", token, query=SILENT)) as stream:
        await opened(stream)
        block = await stream.next_event("stream.expiring")
        assert block.id is None
        assert abs(_unix(json.loads(block.data or "{}")["expiresAt"]) - time.time() - 40) < 5
        await append_order(passline.nc, "next")
        await stream.next_event("ReceiveOrderStatusChanged")
        assert [each.type for each in stream.blocks].count("stream.expiring") == 1


def _unix(text: str) -> float:
    return dt.datetime.fromisoformat(text).timestamp()


async def test_newer_token_lets_open_streams_go_on_in_every_process(passline: Passline) -> None:
    first, second = await passline.gateway(expiring_seconds=0.0), await passline.gateway(expiring_seconds=0.0)
    short = first.token("ann", restaurants={"r1": "owner"}, life_seconds=3)
    async with (
        open_stream(first.stream("restaurants/r1", short, query=SILENT)) as one,
        open_stream(second.stream("restaurants/r1", short, query=SILENT)) as two,
        open_stream(
            second.stream(
                "restaurants/r1", first.token("bob", restaurants={"r1": "owner"}, life_seconds=3), query=SILENT
            )
        ) as bobs,
    ):
        for stream in (one, two, bobs):
            await opened(stream)
        assert await renew(first, first.token("ann", restaurants={"r1": "owner"})) == 200
        await eventually(lambda: max(expiries(first)) > 1000 and max(expiries(second)) > 1000)
        assert await closing(bobs) == "expired"
        await append_order(passline.nc, "after")
        for stream in (one, two):
            await stream.next_event("ReceiveOrderStatusChanged")


async def test_opening_another_stream_with_a_newer_token_renews_the_others(passline: Passline) -> None:
    first, second = await passline.gateway(), await passline.gateway()
    short, long = (first.token("ann", restaurants={"r1": "owner"}, life_seconds=life) for life in (30, 3000))
    async with (
        open_stream(first.stream("restaurants/r1", short, query=SILENT)) as one,
        open_stream(second.stream("restaurants/r1", short, query=SILENT)) as two,
    ):
        await opened(one)
        await opened(two)
        async with open_stream(first.stream("restaurants/r1", long, query=SILENT)) as three:
            await opened(three)
            await eventually(lambda: min(expiries(first)) > 1000 and min(expiries(second)) > 1000)


async def test_token_that_allows_less_renews_only_what_it_allows(passline: Passline) -> None:
    gateway = await passline.gateway()
    both = gateway.token("ann", restaurants={"r1": "owner", "r2": "owner"}, life_seconds=60)
    async with (
        open_stream(gateway.stream("restaurants/r1", both, query=SILENT)) as one,
        open_stream(gateway.stream("restaurants/r2", both, query=SILENT)) as two,
    ):
        await opened(one)
        await opened(two)
        assert await renew(gateway, gateway.token("ann", restaurants={"r1": "staff"})) == 200
        await eventually(lambda: max(expiries(gateway)) > 1000)
        assert sorted(left > 1000 for left in expiries(gateway)) == [False, True]


async def test_older_or_foreign_token_shortens_and_extends_nothing(passline: Passline) -> None:
    gateway = await passline.gateway()
    token = gateway.token("ann", restaurants={"r1": "owner"}, life_seconds=600)
    async with open_stream(gateway.stream("restaurants/r1", token, query=SILENT)) as stream:
        await opened(stream)
        assert await renew(gateway, gateway.token("ann", restaurants={"r1": "owner"}, life_seconds=60)) == 200
        assert await renew(gateway, gateway.token("bob", restaurants={"r1": "owner"}, life_seconds=3600)) == 200
        async with open_stream(
            gateway.stream(
                "restaurants/r1", gateway.token("eve", restaurants={"r1": "owner"}, life_seconds=50), query=SILENT
            )
        ) as other:
            await opened(other)
            assert await renew(gateway, gateway.token("eve", restaurants={"r1": "owner"}, life_seconds=900)) == 200
            await eventually(lambda: max(expiries(gateway)) > 800)  # so the ones before were heard, too
            assert 500 < min(expiries(gateway)) < 600


async def test_renewed_stream_is_warned_again_and_ends_by_the_newer_token(passline: Passline) -> None:
    gateway = await passline.gateway(expiring_seconds=100.0)
    token = gateway.token("ann", restaurants={"r1": "owner"}, life_seconds=30)
    async with open_stream(gateway.stream("restaurants/r1", token, query=SILENT)) as stream:
        await stream.next_event("stream.expiring")
        newer = gateway.token("ann", restaurants={"r1": "owner"}, life_seconds=35)
        assert await renew(gateway, newer) == 200
        await stream.next_event("stream.expiring")
        await append(passline.nc, "TokenRevoked", "old-one-gone", jti=_jti(token))
        await append_order(passline.nc, "after")
        await stream.next_event("ReceiveOrderStatusChanged")  # it rests on the newer one
        await append(passline.nc, "TokenRevoked", "new-one-gone", jti=_jti(newer))
        assert await closing(stream) == "revoked"


async def test_stream_whose_role_was_revoked_meanwhile_is_not_renewed(passline: Passline) -> None:
    gateway = await passline.gateway()
    last = await append_staff(passline.nc, "s1", "StaffAssigned", restaurant="r1", subject="ann", role="staff")
    await applied(gateway, last)
    async with open_stream(
        gateway.stream("restaurants/r1", gateway.token("ann", life_seconds=60), query=SILENT)
    ) as stream:
        await opened(stream)
        await asyncio.gather(
            renew(gateway, gateway.token("ann")),
            append_staff(passline.nc, "s2", "StaffRevoked", restaurant="r1", subject="ann", role="staff"),
        )
        assert await closing(stream) == "revoked"


def _jti(token: str) -> str:
    return str(jwt.decode(token, options={"verify_signature": False})["jti"])
