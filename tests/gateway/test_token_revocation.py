"""`TokenRevoked` ends what its tokens have opened, in every process, before anything that follows it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import httpx
import jwt
import pytest

from tests.gateway.test_streams import applied, opened
from tests.support.logs import append, append_order, append_orders
from tests.support.nats import eventually
from tests.support.sse_client import Ending, open_stream

if TYPE_CHECKING:
    from tests.support.gateway import Passline, RunningGateway


def jti_of(token: str) -> str:
    return str(jwt.decode(token, options={"verify_signature": False})["jti"])


async def status_of(gateway: RunningGateway, token: str, path: str = "/restaurants/r1/orders/new") -> tuple[int, str]:
    async with httpx.AsyncClient(base_url=f"{gateway.url}/api/v1", timeout=10) as http:
        answer = await http.get(path, headers={"authorization": f"Bearer {token}"})
        return answer.status_code, answer.headers.get("www-authenticate", "")


@pytest.mark.parametrize("by", ["jti", "subject"])
async def test_revocation_ends_the_tokens_streams_in_every_process_before_what_follows(
    passline: Passline, by: str
) -> None:
    first, second = await passline.gateway(), await passline.gateway()
    token = first.token("ann", restaurants={"r1": "owner"})
    other = first.token("ann" if by == "jti" else "bob", restaurants={"r1": "owner"})
    query = {"snapshot": "false"}
    async with (
        open_stream(first.stream("restaurants/r1", token, query=query)) as one,
        open_stream(second.stream("restaurants/r1", token, query=query)) as two,
        open_stream(second.stream("restaurants/r1", other, query=query)) as spared,
    ):
        for stream in (one, two, spared):
            await opened(stream)
        if by == "jti":
            await append(passline.nc, "TokenRevoked", "gone", jti=jti_of(token))
        else:
            await append(passline.nc, "TokenRevoked", "gone", subject="ann")
        await append_order(passline.nc, "later")
        for stream in (one, two):
            assert await stream.read_to_end() is Ending.CUT
            assert [block.type for block in stream.blocks if block.type] == ["stream.opened", "stream.closing"]
            assert '"revoked"' in (stream.blocks[-1].data or "")
        assert (await spared.next_event("ReceiveOrderStatusChanged")).data
    for gateway in (first, second):
        assert (await status_of(gateway, token))[0] == 401
        assert (await status_of(gateway, token, "/restaurants/r1/events"))[0] == 401
        assert 'error="invalid_token"' in (await status_of(gateway, token))[1]
        assert (await status_of(gateway, other))[0] == 200


async def test_revoked_token_is_remembered_by_processes_that_come_later(passline: Passline) -> None:
    gateway = await passline.gateway()
    token = gateway.token("ann", restaurants={"r1": "owner"})
    assert (await status_of(gateway, token))[0] == 200
    await applied(gateway, await append(passline.nc, "TokenRevoked", "gone", jti=jti_of(token)))
    later = await passline.gateway()
    assert (await status_of(later, token))[0] == 401


async def test_token_that_is_issued_after_its_persons_were_revoked_is_good(passline: Passline) -> None:
    gateway = await passline.gateway()
    old = gateway.token("ann", restaurants={"r1": "owner"})
    await append(passline.nc, "TokenRevoked", "gone", subject="ann")
    await eventually(lambda: gateway.gateway.hub.head == 1)
    assert (await status_of(gateway, old))[0] == 401
    revoked_in = int(time.time())
    await eventually(lambda: time.time() >= revoked_in + 1)  # a token tells whole seconds only
    assert (await status_of(gateway, gateway.token("ann", restaurants={"r1": "owner"})))[0] == 200


async def test_revocation_ends_a_stream_that_is_still_catching_up(passline: Passline) -> None:
    """What follows the revocation is not delivered, nor is what stands before it once it is read."""
    gateway = await passline.gateway(window_events=5)
    await append_orders(passline.nc, 300)
    await eventually(lambda: gateway.gateway.hub.head == 300)
    token = gateway.token("ann", restaurants={"r1": "owner"})
    request = gateway.stream("restaurants/r1", token, query={"since": "1h"}, receive_buffer=4096)
    async with open_stream(request) as stream:
        await append(passline.nc, "TokenRevoked", "gone", jti=jti_of(token))
        await append_order(passline.nc, "later")
        await stream.read_to_end()
        assert not [block for block in stream.blocks if '"later"' in (block.data or "")]
    assert (await status_of(gateway, token))[0] == 401
