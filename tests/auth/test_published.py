"""Published keys, fetched from a real server that is slow, fails, changes its keys, and answers rubbish."""

from __future__ import annotations

import asyncio
import gzip
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from auth.errors import (
    AlgorithmNotAllowed,
    BadSignature,
    FetchFailed,
    KeyNotNamed,
    KeysUnavailable,
    Unauthorized,
    UnknownKey,
    WrongIssuer,
)
from auth.fetching import client, fetch
from auth.issuers import Issuer
from auth.jwks import MAX_KEYS
from auth.published import ASK_AGAIN_SECONDS, MAX_BYTES, PublishedKeys, verify_asking
from auth.remembering import RememberingVerifier
from auth.tokens import TokenVerifier
from streams.subjects import identity_key, is_id
from tests.support.identity_provider import IdentityProvider, SigningJwk, identity_provider
from tests.support.nats import eventually
from tests.support.scripted_server import answer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from auth.claims import Claims
    from auth.keys import Algorithm

ISSUER = "https://id.example"
STALE_SECONDS = 3600.0


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Checking:
    """Verifies the tokens of one issuer that publishes its keys, as a gateway does."""

    def __init__(self, provider: IdentityProvider, clock: Clock, **settings: Any) -> None:
        self.clock = clock
        self.provider = provider
        settings = {"refresh_seconds": 600, "stale_seconds": STALE_SECONDS, **settings}
        self.keys = PublishedKeys(ISSUER, provider.jwks_url, clock=clock, **settings)
        issuer = Issuer(name=ISSUER, audience="passline", keys=self.keys)
        self.verifier = RememberingVerifier(TokenVerifier([issuer], identity_key, is_id))
        self.keys.on_withdrawn = self.verifier.forget

    async def verify(self, token: str) -> Claims:
        return await verify_asking(self.verifier, token)

    async def refused(self, token: str, error: type[Exception]) -> None:
        """What the key was is in no text."""
        with pytest.raises(error) as caught:
            await self.verify(token)
        assert token not in str(caught.value)

    async def ask(self, count: int = 1) -> None:
        """Wait past the time between two questions, and have one asked; `count` are the requests in all."""
        self.clock.now += ASK_AGAIN_SECONDS
        assert await self.keys.ask()
        assert len(self.provider.requests) == count


@asynccontextmanager
async def running(*checks: Checking) -> AsyncIterator[None]:
    """Their first fetch has ended, and the next may be asked for."""
    asked = [asyncio.create_task(each.keys.ask()) for each in checks]  # first, so that they wait for the first fetch
    tasks = [asyncio.create_task(each.keys.run()) for each in checks]
    try:
        assert all(await asyncio.gather(*asked))
        for each in checks:
            each.clock.now += ASK_AGAIN_SECONDS
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def provider() -> AsyncIterator[IdentityProvider]:
    async with identity_provider() as provider:
        yield provider


# ── what verifies ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
async def test_published_key_verifies_by_its_algorithm(
    provider: IdentityProvider, clock: Clock, algorithm: Algorithm
) -> None:
    key, other = SigningJwk("k1", algorithm), SigningJwk("k2", "ES256" if algorithm != "ES256" else "EdDSA")
    provider.publish(key, other)
    check = Checking(provider, clock)
    async with running(check):
        assert (await check.verify(key.sign(ISSUER, "ann"))).subject == "ann"
        other.kid = "k1"
        await check.refused(other.sign(ISSUER, "ann"), AlgorithmNotAllowed)


async def test_known_key_costs_no_request_and_no_wait(provider: IdentityProvider, clock: Clock) -> None:
    key = SigningJwk()
    provider.publish(key)
    check = Checking(provider, clock)
    async with running(check):
        provider.mood = "holding"
        for number in range(3):
            assert check.verifier.verify(key.sign(ISSUER, f"ann-{number}")).subject == f"ann-{number}"
        assert len(provider.requests) == 1


async def test_token_that_names_no_key_is_taken_where_there_is_one(provider: IdentityProvider, clock: Clock) -> None:
    one, other = SigningJwk("k1"), SigningJwk("k2")
    nameless = SigningJwk(None)
    nameless.private = one.private
    provider.publish(one)
    check = Checking(provider, clock)
    async with running(check):
        assert (await check.verify(nameless.sign(ISSUER, "ann"))).subject == "ann"
        provider.publish(one, other)
        await check.ask(2)
        await check.refused(nameless.sign(ISSUER, "bob"), KeyNotNamed)


async def test_key_without_a_name_verifies_what_names_none(provider: IdentityProvider, clock: Clock) -> None:
    nameless, named = SigningJwk(None), SigningJwk("k1")
    named.private = nameless.private
    provider.publish(nameless)
    check = Checking(provider, clock)
    async with running(check):
        assert (await check.verify(nameless.sign(ISSUER, "ann"))).subject == "ann"
        await check.refused(named.sign(ISSUER, "ann"), UnknownKey)


async def test_algorithms_of_the_issuer_are_the_only_ones(provider: IdentityProvider, clock: Clock) -> None:
    rsa, ed25519 = SigningJwk("k1", "RS256"), SigningJwk("k2")
    provider.publish(rsa, ed25519)
    check = Checking(provider, clock, algorithms=frozenset({"RS256"}))
    async with running(check):
        assert (await check.verify(rsa.sign(ISSUER, "ann"))).subject == "ann"
        await check.refused(ed25519.sign(ISSUER, "ann"), UnknownKey)


# ── asking ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_those_who_wait_for_a_new_key_share_one_fetch(provider: IdentityProvider, clock: Clock) -> None:
    old, new = SigningJwk("k1"), SigningJwk("k2")
    provider.publish(old)
    check = Checking(provider, clock)
    async with running(check):
        provider.mood = "holding"
        waiting = [asyncio.create_task(check.verify(new.sign(ISSUER, f"ann-{number}"))) for number in range(20)]
        await eventually(lambda: len(provider.requests) == 2)
        assert (await check.verify(old.sign(ISSUER, "bob"))).subject == "bob"
        provider.publish(old, new)
        provider.mood = "well"
        assert [claims.subject for claims in await asyncio.gather(*waiting)] == [
            f"ann-{number}" for number in range(20)
        ]
        assert len(provider.requests) == 2


async def test_who_comes_before_the_first_answer_waits_for_it(provider: IdentityProvider, clock: Clock) -> None:
    key = SigningJwk()
    provider.publish(key)
    provider.mood = "holding"
    check = Checking(provider, clock)
    run = asyncio.create_task(check.keys.run())
    waiting = [asyncio.create_task(check.verify(key.sign(ISSUER, "ann"))) for _ in range(5)]
    await eventually(lambda: len(provider.requests) == 1)
    provider.mood = "well"
    assert {claims.subject for claims in await asyncio.gather(*waiting)} == {"ann"}
    run.cancel()
    await asyncio.wait({run})
    assert len(provider.requests) == 1


async def test_unknown_key_is_asked_for_once_in_30_seconds(provider: IdentityProvider, clock: Clock) -> None:
    stranger = SigningJwk("strange")
    provider.publish(SigningJwk())
    check = Checking(provider, clock)
    async with running(check):
        await check.refused(stranger.sign(ISSUER, "eve"), UnknownKey)
        assert len(provider.requests) == 2
        clock.now += ASK_AGAIN_SECONDS - 0.1
        for kid in ("strange", "stranger", "strangest"):
            stranger.kid = kid
            await check.refused(stranger.sign(ISSUER, "eve"), UnknownKey)
        assert len(provider.requests) == 2
        clock.now += 0.1
        await check.refused(stranger.sign(ISSUER, "eve"), UnknownKey)
        assert len(provider.requests) == 3


async def test_fetch_that_failed_counts_as_the_one_in_30_seconds(provider: IdentityProvider, clock: Clock) -> None:
    new = SigningJwk("k2")
    provider.publish(SigningJwk("k1"))
    check = Checking(provider, clock)
    async with running(check):
        provider.mood = "failing"
        for _ in range(3):
            # Not 401: it may be a good key, and an EventSource would never come back.
            await check.refused(new.sign(ISSUER, "ann"), KeysUnavailable)
        assert len(provider.requests) == 2


# ── keys that change ─────────────────────────────────────────────────────────────────────────────────────────────────


async def test_new_key_is_found_and_the_one_it_replaces_is_no_longer_good(
    provider: IdentityProvider, clock: Clock
) -> None:
    old, new = SigningJwk("k1"), SigningJwk("k2")
    provider.publish(old)
    check = Checking(provider, clock)
    async with running(check):
        remembered = old.sign(ISSUER, "ann")
        await check.verify(remembered)
        provider.publish(new)
        assert (await check.verify(new.sign(ISSUER, "bob"))).subject == "bob"
        await check.refused(remembered, UnknownKey)
        await check.refused(old.sign(ISSUER, "cid"), UnknownKey)


async def test_key_that_is_another_under_the_same_name_ends_what_the_first_has_verified(
    provider: IdentityProvider, clock: Clock
) -> None:
    old, new = SigningJwk("k1"), SigningJwk("k1")
    provider.publish(old)
    check = Checking(provider, clock)
    async with running(check):
        remembered = old.sign(ISSUER, "ann")
        await check.verify(remembered)
        provider.publish(new)
        await check.ask(2)
        await check.refused(remembered, BadSignature)
        assert (await check.verify(new.sign(ISSUER, "bob"))).subject == "bob"


async def test_same_answer_again_forgets_nothing(provider: IdentityProvider, clock: Clock) -> None:
    key = SigningJwk()
    provider.publish(key)
    check = Checking(provider, clock)
    async with running(check):
        await check.verify(key.sign(ISSUER, "ann"))
        provider.keys = [*provider.keys, SigningJwk("k2").public()]
        await check.ask(2)
        assert len(check.verifier) == 1


async def test_keys_are_fetched_anew_though_nobody_asks(provider: IdentityProvider, clock: Clock) -> None:
    old, new = SigningJwk("k1"), SigningJwk("k2")
    provider.publish(old)
    check = Checking(provider, clock, refresh_seconds=0)
    async with running(check):
        await check.verify(old.sign(ISSUER, "ann"))
        provider.publish(new)
        await eventually(lambda: len(check.verifier) == 0)
        assert check.verifier.verify(new.sign(ISSUER, "bob")).subject == "bob"


async def test_issuer_that_takes_all_its_keys_back_is_out_of_reach_and_no_token_to_blame(
    provider: IdentityProvider, clock: Clock
) -> None:
    key = SigningJwk()
    provider.publish(key)
    check = Checking(provider, clock)
    async with running(check):
        token = key.sign(ISSUER, "ann")
        await check.verify(token)
        provider.publish()
        await check.ask(2)
        await check.refused(token, KeysUnavailable)


# ── failures ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_keys_stay_good_while_they_cannot_be_fetched_and_no_longer_than_stated(
    provider: IdentityProvider, clock: Clock
) -> None:
    key = SigningJwk()
    provider.publish(key)
    check = Checking(provider, clock)
    async with running(check):
        fetched_at, token = clock.now - ASK_AGAIN_SECONDS, key.sign(ISSUER, "ann")
        await check.verify(token)
        provider.mood = "away"
        await check.ask(2)
        clock.now = fetched_at + STALE_SECONDS - 0.1
        assert check.verifier.verify(token).subject == "ann"
        assert check.verifier.verify(key.sign(ISSUER, "bob")).subject == "bob"
        clock.now = fetched_at + STALE_SECONDS
        await check.refused(key.sign(ISSUER, "cid"), KeysUnavailable)
        await eventually(lambda: len(check.verifier) == 0)  # what they have verified has gone with them
        await check.refused(token, KeysUnavailable)
        provider.mood = "well"
        clock.now += ASK_AGAIN_SECONDS
        assert (await check.verify(token)).subject == "ann"


async def test_without_any_answer_no_token_is_refused_for_good(provider: IdentityProvider, clock: Clock) -> None:
    key = SigningJwk()
    provider.publish(key)
    provider.mood = "away"
    check = Checking(provider, clock)
    async with running(check):
        await check.refused(key.sign(ISSUER, "ann"), KeysUnavailable)
        assert not isinstance(KeysUnavailable(ISSUER, check.keys), Unauthorized)
        provider.mood = "well"
        clock.now += ASK_AGAIN_SECONDS
        assert (await check.verify(key.sign(ISSUER, "ann"))).subject == "ann"


async def test_failed_fetch_is_tried_again_though_nobody_asks(provider: IdentityProvider) -> None:
    key = SigningJwk()
    provider.publish(key)
    provider.mood = "failing"
    check = Checking(provider, Clock(), refresh_seconds=0)
    async with running(check):
        provider.mood = "well"

        def is_good() -> bool:
            try:
                return check.verifier.verify(key.sign(ISSUER, "ann")).subject == "ann"
            except KeysUnavailable:
                return False

        await eventually(is_good)


KEYS = json.dumps({"keys": [SigningJwk("k2").public()]}).encode()
CROWD = json.dumps({"keys": [SigningJwk(f"k{number}").public() for number in range(MAX_KEYS + 1)]}).encode()
PADDED = KEYS + b" " * MAX_BYTES


@pytest.mark.parametrize(
    "raw",
    [
        answer("200 OK", b"<html>sign in</html>", "text/html"),
        answer("200 OK", b""),
        answer("200 OK", b"null"),
        answer("200 OK", b"[]"),
        answer("200 OK", b'{"keys": {}}'),
        answer("200 OK", b"[" * 10_000),
        answer("200 OK", b'{"keys": ["\xff"]}'),
        answer("200 OK", CROWD),
        answer("200 OK", PADDED),
        answer("204 No Content"),
        answer("404 Not Found", KEYS),
        answer("503 Service Unavailable", KEYS),
        b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + KEYS,
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n" + gzip.compress(PADDED),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"\x00" * 100_000,
    ],
    ids=[
        "html",
        "empty",
        "null",
        "list",
        "no-list",
        "deep",
        "no-utf-8",
        "too-many-keys",
        "too-long",
        "no-content",
        "not-found",
        "unavailable",
        "cut",
        "gzip",
        "bad-chunk",
        "no-http",
        "zeros",
    ],
)
async def test_rubbish_changes_nothing(provider: IdentityProvider, clock: Clock, raw: bytes) -> None:
    key = SigningJwk()
    provider.publish(key)
    check = Checking(provider, clock)
    async with running(check):
        provider.raw = raw
        await check.ask(2)
        assert check.verifier.verify(key.sign(ISSUER, "ann")).subject == "ann"
        await check.refused(SigningJwk("k2").sign(ISSUER, "eve"), KeysUnavailable)
        provider.raw = None
        await check.ask(3)
        assert check.verifier.verify(key.sign(ISSUER, "bob")).subject == "bob"


async def test_redirect_is_not_followed(provider: IdentityProvider, clock: Clock) -> None:
    eves = SigningJwk()
    async with identity_provider(eves) as elsewhere:
        location = f"Location: {elsewhere.jwks_url}\r\nContent-Length: 0\r\n\r\n".encode()
        provider.raw = b"HTTP/1.1 302 Found\r\n" + location
        check = Checking(provider, clock)
        async with running(check):
            await check.refused(eves.sign(ISSUER, "ann"), KeysUnavailable)
        assert elsewhere.requests == []


async def test_answer_that_is_too_slow_is_given_up(provider: IdentityProvider) -> None:
    provider.mood = "holding"
    async with client(10) as http:
        with pytest.raises(FetchFailed, match=r"no answer within 0\.05 seconds"):
            await fetch(http, provider.jwks_url, timeout=0.05, max_bytes=MAX_BYTES)


async def test_answer_of_just_the_limit_is_taken(provider: IdentityProvider) -> None:
    provider.raw = answer("200 OK", b" " * 1000)
    async with client(10) as http:
        assert len(await fetch(http, provider.jwks_url, timeout=5, max_bytes=1000)) == 1000
        with pytest.raises(FetchFailed, match="longer than 999 bytes"):
            await fetch(http, provider.jwks_url, timeout=5, max_bytes=999)


# ── several issuers ──────────────────────────────────────────────────────────────────────────────────────────────────


@asynccontextmanager
async def two_issuers(first: str, second: str, *keys: SigningJwk) -> AsyncIterator[RememberingVerifier]:
    """Each publishes one of `keys`."""
    async with identity_provider(keys[0]) as one, identity_provider(keys[1]) as other:
        published = [PublishedKeys(first, one.jwks_url), PublishedKeys(second, other.jwks_url)]
        issuers = [
            Issuer(name=first, audience="passline", keys=published[0]),
            Issuer(name=second, audience="passline", keys=published[1], prefix="two:"),
        ]
        running = [asyncio.create_task(each.run()) for each in published]
        assert all([await each.ask() for each in published])
        try:
            yield RememberingVerifier(TokenVerifier(issuers, identity_key, is_id))
        finally:
            for task in running:
                task.cancel()
            await asyncio.wait(running)


async def test_key_of_one_issuer_is_not_taken_for_another_though_they_share_its_name() -> None:
    """Keys looked up by `kid` alone let one issuer sign for another (CVE-2026-49998, in another server)."""
    ours, theirs = SigningJwk("1"), SigningJwk("1")
    async with two_issuers("https://one.example", "https://two.example", ours, theirs) as verifier:
        assert verifier.verify(ours.sign("https://one.example", "ann")).subject == "ann"
        assert verifier.verify(theirs.sign("https://two.example", "ann")).subject == "two:ann"
        with pytest.raises(BadSignature):
            verifier.verify(theirs.sign("https://one.example", "ann"))
        with pytest.raises(BadSignature):
            verifier.verify(ours.sign("https://two.example", "ann"))


async def test_issuer_and_key_whose_names_join_to_the_same_text_are_told_apart() -> None:
    """A cache by the two names joined gave one's key to the other (CVE-2026-39972, in another server)."""
    ours, theirs = SigningJwk("b/c"), SigningJwk("c")
    async with two_issuers("https://id.example/a", "https://id.example/a/b", ours, theirs) as verifier:
        verifier.verify(ours.sign("https://id.example/a", "ann"))
        verifier.verify(theirs.sign("https://id.example/a/b", "ann"))
        ours.kid, theirs.kid = "c", "b/c"
        with pytest.raises(UnknownKey):
            verifier.verify(ours.sign("https://id.example/a", "bob"))
        with pytest.raises(BadSignature):
            verifier.verify(ours.sign("https://id.example/a/b", "bob"))
        with pytest.raises(BadSignature):
            verifier.verify(theirs.sign("https://id.example/a", "bob"))


async def test_no_address_is_ever_taken_from_a_token(provider: IdentityProvider, clock: Clock) -> None:
    """An address built from a token's claims let its bearer bring the keys (CVE-2026-32301, in another server)."""
    provider.publish(SigningJwk())
    eves = SigningJwk("eves")
    check = Checking(provider, clock)
    async with identity_provider(eves) as evil, running(check):
        header = {"jku": evil.jwks_url, "x5u": evil.jwks_url, "jwk": eves.public()}
        await check.refused(eves.sign(ISSUER, "ann", header=header), UnknownKey)
        await check.refused(eves.sign(evil.url, "ann", header=header), WrongIssuer)
        await check.refused(eves.sign(f"{ISSUER}@{evil.url}", "ann", header=header), WrongIssuer)
        header["kid"] = evil.jwks_url
        clock.now += ASK_AGAIN_SECONDS
        await check.refused(eves.sign(ISSUER, "ann", header=header, jwks_uri=evil.jwks_url), UnknownKey)
        assert evil.requests == []
        assert {request.target for request in provider.requests} == {"/keys"}
