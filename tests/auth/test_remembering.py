"""Tokens that were verified before are known by their hash, until they expire, and within a bound."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from auth.claims import Claims, Role
from auth.errors import BadSignature, TokenExpired, TokenTooLong, Unauthorized
from auth.issuers import Issuer
from auth.keys import development_key
from auth.remembering import RememberingVerifier
from auth.tokens import TOKEN_LENGTH, TokenVerifier, mint
from streams.subjects import identity_key, is_id


@dataclass
class Counting:
    """A verifier that notes what it was asked."""

    verifier: TokenVerifier
    asked: list[str] = field(default_factory=list)

    def verify(self, token: str) -> Claims:
        self.asked.append(token)
        return self.verifier.verify(token)


class Fixture:
    def __init__(self, directory: Path, max_remembered: int = 100) -> None:
        self.now = 1_000_000.0
        self.key = development_key(directory)
        issuer = Issuer(name="passline", audience="passline", keys=self.key.verification)
        self.inner = Counting(TokenVerifier([issuer], identity_key, is_id, clock=lambda: self.now))
        self.verifier = RememberingVerifier(self.inner, max_remembered=max_remembered, clock=lambda: self.now)

    def token(self, subject: str = "ann", life_seconds: int = 60) -> str:
        return mint(
            signing_key=self.key,
            issuer="passline",
            audience="passline",
            subject=subject,
            life_seconds=life_seconds,
            restaurants={"r1": Role.STAFF},
            scopes=["events:publish", "marketing:read"],
            clock=lambda: self.now,
        )


def test_token_is_verified_once_and_says_the_same_again(tmp_path: Path) -> None:
    fixture = Fixture(tmp_path)
    token = fixture.token()
    first = fixture.verifier.verify(token)
    again = fixture.verifier.verify(token)
    assert (again, dict(again.restaurants)) == (first, {"r1": Role.STAFF})
    assert again == fixture.inner.verifier.verify(token)
    assert fixture.inner.asked == [token]


def test_remembered_token_expires_to_the_moment(tmp_path: Path) -> None:
    fixture = Fixture(tmp_path)
    token = fixture.token(life_seconds=60)
    expires_at = fixture.verifier.verify(token).expires_at
    fixture.now = expires_at - 0.001
    fixture.verifier.verify(token)
    fixture.now = expires_at
    with pytest.raises(TokenExpired):
        fixture.verifier.verify(token)
    assert len(fixture.verifier) == 0


def test_refused_token_is_checked_every_time(tmp_path: Path) -> None:
    fixture = Fixture(tmp_path)
    forged = fixture.token()[:-4] + "AAAA"
    for _ in range(2):
        with pytest.raises(BadSignature):
            fixture.verifier.verify(forged)
    assert (len(fixture.inner.asked), len(fixture.verifier)) == (2, 0)


@pytest.mark.parametrize("token", ["x" * (TOKEN_LENGTH + 1), "ü", "", "\udcff"])
def test_what_is_no_token_is_refused_as_ever(tmp_path: Path, token: str) -> None:
    fixture = Fixture(tmp_path)
    with pytest.raises(Unauthorized) as refusal:
        fixture.verifier.verify(token)
    assert isinstance(refusal.value, TokenTooLong) == (len(token) > TOKEN_LENGTH)


def test_of_too_many_tokens_the_one_that_was_used_longest_ago_is_forgotten(tmp_path: Path) -> None:
    fixture = Fixture(tmp_path, max_remembered=2)
    ann, bob, eve = (fixture.token(name) for name in ("ann", "bob", "eve"))
    for token in (ann, bob, ann, eve):
        fixture.verifier.verify(token)
    fixture.inner.asked.clear()
    fixture.verifier.verify(ann)
    assert fixture.inner.asked == []
    fixture.verifier.verify(bob)
    assert fixture.inner.asked == [bob]
    assert len(fixture.verifier) == 2


def test_token_itself_is_not_kept(tmp_path: Path) -> None:
    fixture = Fixture(tmp_path)
    token = fixture.token()
    fixture.verifier.verify(token)
    signature = token.rpartition(".")[2].encode()
    assert not any(signature in key or signature in value for key, value in fixture.verifier._known.items())
