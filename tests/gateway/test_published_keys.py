"""A running gateway, with issuers that publish their keys, and behind a proxy that says who is asking."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from streams.subjects import identity_key
from tests.gateway.conftest import Rest
from tests.gateway.ways import CORE
from tests.support.identity_provider import IdentityProvider, SigningJwk, identity_provider
from tests.support.nats import eventually
from tests.support.sse_client import Ending, StreamRequest, open_stream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.support.gateway import Passline, RunningGateway

ISSUER = "https://id.example"
OWNER = {"r1": "owner"}


@pytest.fixture
async def key() -> SigningJwk:
    return SigningJwk("k1", "ES256")


@pytest.fixture
async def provider(key: SigningJwk) -> AsyncIterator[IdentityProvider]:
    async with identity_provider(key) as provider:
        yield provider


def by(provider: IdentityProvider) -> dict[str, Any]:
    """The settings of a gateway that takes this issuer's tokens."""
    return {"token_issuer": ISSUER, "token_jwks_url": provider.jwks_url}


def kitchen(gateway: RunningGateway, token: str | None, **options: Any) -> StreamRequest:
    return StreamRequest(f"{gateway.url}/api/v1/restaurants/r1/events", token=token, **options)


async def opens(request: StreamRequest) -> bool:
    """Whether the stream begins. If not, it was refused softly."""
    async with open_stream(request) as stream:
        assert stream.is_event_stream, stream.status
        block = await stream.next_block()
        assert block is not None
        if block.type == "stream.opened":
            return True
        assert block.retry_ms is not None
        assert await stream.read_to_end() is Ending.CUT
        return False


async def rest(gateway: RunningGateway, token: str) -> httpx.Response:
    async with httpx.AsyncClient(timeout=10) as http:
        headers = {"authorization": f"Bearer {token}"}
        return await http.get(f"{gateway.url}/api/v1/restaurants/r1/orders/new", headers=headers)


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
async def test_token_of_an_issuer_that_publishes_its_keys_opens_a_stream(
    passline: Passline, provider: IdentityProvider, algorithm: Any
) -> None:
    key = SigningJwk("k2", algorithm)
    gateway = await passline.gateway(**by(provider))
    provider.publish(key)
    assert await opens(kitchen(gateway, key.sign(ISSUER, "ann", restaurants=OWNER)))
    assert (await rest(gateway, key.sign(ISSUER, "ann", restaurants=OWNER))).status_code == 200


async def test_token_of_a_key_that_the_issuer_does_not_have_is_a_401(
    passline: Passline, provider: IdentityProvider
) -> None:
    gateway = await passline.gateway(**by(provider))
    eves = SigningJwk("eves").sign(ISSUER, "eve", restaurants=OWNER)
    answers = [await rest(gateway, eves) for _ in range(3)]
    assert {answer.status_code for answer in answers} == {401}
    assert answers[0].json()["type"] == "urn:passline:problem:unknown-key"
    async with open_stream(kitchen(gateway, eves)) as stream:
        assert stream.status == 401
    assert len(provider.requests) == 2  # at the start, and once for all four


async def test_token_of_a_key_that_was_withdrawn_is_refused_though_it_was_taken_before(
    passline: Passline, provider: IdentityProvider, key: SigningJwk
) -> None:
    gateway = await passline.gateway(**by(provider), jwks_refresh_seconds=0.2)
    token = key.sign(ISSUER, "ann", restaurants=OWNER)
    assert (await rest(gateway, token)).status_code == 200
    provider.publish(SigningJwk("k2"))

    async def is_refused() -> bool:
        return (await rest(gateway, token)).status_code == 401

    await eventually(is_refused)
    async with open_stream(kitchen(gateway, token)) as stream:
        assert stream.status == 401


@CORE
async def test_while_the_issuer_was_never_reached_streams_are_refused_softly_and_others_by_503(
    passline: Passline, provider: IdentityProvider, key: SigningJwk
) -> None:
    provider.mood = "away"
    gateway = await passline.gateway(**by(provider))
    token = key.sign(ISSUER, "ann", restaurants=OWNER)
    assert not await opens(kitchen(gateway, token))
    assert not await opens(kitchen(gateway, None, cookies={"__Host-passline": token}))
    refused = await rest(gateway, token)
    assert (refused.status_code, refused.json()["type"]) == (503, "urn:passline:problem:keys-unavailable")
    assert 1 <= int(refused.headers["retry-after"]) <= 3
    async with open_stream(kitchen(gateway, token[:-4] + "~~~~")) as stream:
        assert stream.status == 401  # whatever the keys are, this is no token

    provider.mood = "well"

    async def is_good() -> bool:
        return (await rest(gateway, token)).status_code == 200

    await eventually(is_good, within=20)
    assert await opens(kitchen(gateway, token))


async def test_two_issuers_people_of_the_same_name_are_two(
    passline: Passline, provider: IdentityProvider, key: SigningJwk, tmp_path: Path
) -> None:
    theirs = SigningJwk("k1")
    async with identity_provider(theirs) as other:
        file = tmp_path / "issuers.toml"
        file.write_text(
            f"""
            [[issuer]]
            name = "https://two.example"
            audience = "passline"
            jwks_url = "{other.jwks_url}"
            prefix = "two-"
            """
        )
        gateway = await passline.gateway(**by(provider), issuers_file=file)
        ann, other_ann = key.sign(ISSUER, "ann", scope="events:publish"), theirs.sign("https://two.example", "ann")
        async with httpx.AsyncClient(base_url=gateway.url, timeout=10) as http:
            who = []
            for token in (ann, other_ann):
                response = await http.post("/api/v1/session", headers={"authorization": f"Bearer {token}"})
                who.append((response.json()["subject"], response.json()["key"]))
            assert who == [("ann", "ann"), ("two-ann", identity_key("two-ann"))]
            made = Rest(passline, gateway, http)
            order = made.event("OrderPlaced", customer="ann")
            assert (await made.post([order], {"authorization": f"Bearer {ann}"})).status_code == 200
        stream = f"{gateway.url}/api/v1/orders/o1/events"
        assert await opens(StreamRequest(stream, token=ann))
        async with open_stream(StreamRequest(stream, token=other_ann)) as refused:
            assert refused.status == 403
        # Nor can the first issuer's people be called as the second's are.
        async with open_stream(StreamRequest(stream, token=key.sign(ISSUER, "two-ann"))) as refused:
            assert refused.status == 401


async def test_identity_from_a_named_proxy_opens_a_stream_and_from_a_stranger_none(passline: Passline) -> None:
    headers = {"X-Forwarded-User": "ann", "X-Forwarded-Restaurants": '{"r1": "owner"}'}
    settings = {"forwarded_identity": "passline"}
    named = await passline.gateway(trusted_proxies=("127.0.0.1/32",), **settings)
    assert await opens(kitchen(named, None, headers=headers))
    async with open_stream(kitchen(named, named.token("ann"), headers=headers)) as stream:
        assert stream.status == 401
    stranger = await passline.gateway(trusted_proxies=("10.0.0.7/32",), **settings)
    async with open_stream(kitchen(stranger, None, headers=headers)) as stream:
        assert stream.status == 401


async def test_stream_of_a_forwarded_identity_ends_with_it(passline: Passline) -> None:
    gateway = await passline.gateway(forwarded_identity="passline", trusted_proxies=("127.0.0.1/32",))
    headers = {
        "X-Forwarded-User": "ann",
        "X-Forwarded-Restaurants": '{"r1": "owner"}',
        "X-Forwarded-Expires-At": str(int(time.time()) + 2),
    }
    async with open_stream(kitchen(gateway, None, headers=headers)) as stream:
        closing = await stream.next_event("stream.closing")
        assert '"expired"' in (closing.data or "")
