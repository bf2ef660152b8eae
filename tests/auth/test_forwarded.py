"""An identity in a named proxy's headers: the same checks as a token's claims, and no leniency."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auth.claims import Claims, Role
from auth.errors import ForwardedIdentityInvalid, LifeTooLong, TokenExpired, TokenNotYetValid, Unauthorized
from auth.forwarded import HEADER_BYTES, forwarded_claims, read_forwarded
from auth.issuers import Issuers
from tests.auth.forging import ISSUER, NOW, identity_key, is_id, issuer

LIFE = 900
FULL = {
    "x-forwarded-user": "auth0|5f",
    "x-forwarded-scopes": "events:publish marketing:read",
    "x-forwarded-restaurants": '{"r1": "staff"}',
    "x-forwarded-expires-at": str(int(NOW) + 600),
    "x-forwarded-issued-at": str(int(NOW) - 60),
}


def read(*headers: tuple[str, str | bytes]) -> dict[str, str] | None:
    return read_forwarded(
        [(name.encode(), value.encode() if isinstance(value, str) else value) for name, value in headers]
    )


def claims(settings: dict[str, Any] | None = None, **values: str | None) -> Claims:
    """Of all headers, with these changed (their names without `x-forwarded-`), None for left out."""
    changed = FULL | {f"x-forwarded-{name.replace('_', '-')}": value for name, value in values.items()}
    given = read(*[(name, value) for name, value in changed.items() if value is not None])
    assert given is not None
    said = issuer(**(settings or {}))
    return forwarded_claims(Issuers([said], identity_key, is_id, lambda: NOW), said, given, life_seconds=LIFE, now=NOW)


def test_headers_say_what_a_token_would() -> None:
    assert claims() == Claims(
        issuer=ISSUER,
        subject="auth0|5f",
        key=identity_key("auth0|5f"),
        token_id=None,
        issued_at=NOW - 60,
        expires_at=NOW + 600,
        scopes=frozenset({"events:publish", "marketing:read"}),
        restaurants={"r1": Role.STAFF},
    )


def test_user_alone_grants_nothing_and_ends_soon() -> None:
    alone = claims(scopes=None, restaurants=None, expires_at=None, issued_at=None)
    assert (alone.scopes, dict(alone.restaurants), alone.expires_at) == (frozenset(), {}, NOW + LIFE)


def test_without_its_issue_an_identity_counts_as_issued_as_early_as_its_end_allows() -> None:
    """Else a role that was revoked would be back with the next request."""
    settings = {"max_life_seconds": 3600}
    assert claims(settings, issued_at=None).issued_at == NOW + 600 - 3600
    assert claims(settings, issued_at=None, expires_at=None).issued_at == NOW + LIFE - 3600
    assert claims({"max_life_seconds": 60}, issued_at=None, expires_at=str(int(NOW) + 60)).issued_at == NOW


def test_issuers_prefix_claim_and_trust_hold() -> None:
    said = claims({"prefix": "two:", "identity_claim": "customer_id", "trusted_for_restaurants": False})
    assert (said.subject, said.key, dict(said.restaurants)) == ("two:auth0|5f", identity_key("two:auth0|5f"), {})
    assert claims({"trusted_for_restaurants": False}, restaurants="rubbish").restaurants == {}


def test_identity_is_read_as_utf_8() -> None:
    assert claims(user="Jörg Müller").subject == "Jörg Müller"


@pytest.mark.parametrize(
    ("values", "header"),
    [
        ({"user": "x" * 257}, "user"),
        ({"user": "a\tb"}, "user"),
        ({"user": "a\u200bb"}, "user"),
        ({"scopes": 'a"b'}, "scopes"),
        ({"scopes": "a,b\u00e9"}, "scopes"),
        ({"restaurants": "r1=staff"}, "restaurants"),
        ({"restaurants": '["r1"]'}, "restaurants"),
        ({"restaurants": '{"r.*": "owner"}'}, "restaurants"),
        ({"restaurants": '{"r1": "king"}'}, "restaurants"),
        ({"restaurants": "[" * 5000}, "restaurants"),
        ({"expires_at": "soon"}, "expires-at"),
        ({"expires_at": "1e99"}, "expires-at"),
        ({"expires_at": "-1"}, "expires-at"),
        ({"expires_at": "1800000600.5"}, "expires-at"),
        ({"expires_at": "１８００００００００"}, "expires-at"),
        ({"expires_at": "999999999999"}, "expires-at"),
        ({"issued_at": "yesterday"}, "issued-at"),
        ({"issued_at": str(int(NOW) + 3), "expires_at": str(int(NOW) + 2)}, "expires-at"),
    ],
)
def test_odd_value_is_refused_with_its_header(values: dict[str, Any], header: str) -> None:
    with pytest.raises(ForwardedIdentityInvalid) as caught:
        claims(**values)
    assert caught.value.header == f"x-forwarded-{header}"
    assert caught.value.www_authenticate().startswith('Bearer realm="passline", error="invalid_request"')


def test_time_is_judged_as_a_tokens() -> None:
    with pytest.raises(TokenExpired):
        claims(expires_at=str(int(NOW)))
    with pytest.raises(TokenExpired):
        claims(expires_at=str(int(NOW)), issued_at=None)
    with pytest.raises(TokenNotYetValid):
        claims(issued_at=str(int(NOW) + 6))
    with pytest.raises(LifeTooLong):
        claims(expires_at=str(int(NOW) + 86_400))
    with pytest.raises(LifeTooLong):
        claims(expires_at=str(int(NOW) + 86_401), issued_at=None)


@pytest.mark.parametrize("name", sorted(FULL))
def test_header_that_stands_twice_is_refused(name: str) -> None:
    with pytest.raises(ForwardedIdentityInvalid, match="stands twice"):
        read(*FULL.items(), (name, FULL[name]))
    with pytest.raises(ForwardedIdentityInvalid, match="stands twice"):
        read(*FULL.items(), (name, ""))


def test_header_has_a_longest_length() -> None:
    assert read(("x-forwarded-user", "x" * HEADER_BYTES)) is not None
    with pytest.raises(ForwardedIdentityInvalid, match="8193 bytes long; at most 8192"):
        read(("x-forwarded-user", "x" * (HEADER_BYTES + 1)))


@pytest.mark.parametrize("value", [b"\xff", b"J\xf6rg", b"a\xc2\x80b", b"\xed\xa0\x80"])
def test_header_that_is_not_printable_utf_8_is_refused(value: bytes) -> None:
    with pytest.raises(ForwardedIdentityInvalid):
        read(("x-forwarded-user", value))


def test_empty_header_is_as_none() -> None:
    assert read(("x-forwarded-user", "")) is None
    assert read(("x-forwarded-user", "ann"), ("x-forwarded-scopes", "")) == {"x-forwarded-user": "ann"}


def test_other_headers_say_nothing() -> None:
    assert read(("x-forwarded-for", "10.0.0.1"), ("x_forwarded_user", "ann"), ("x-forwarded-user-id", "ann")) is None


@pytest.mark.parametrize("name", sorted(FULL.keys() - {"x-forwarded-user"}))
def test_more_about_nobody_is_refused(name: str) -> None:
    with pytest.raises(ForwardedIdentityInvalid, match="'x-forwarded-user' is missing"):
        read((name, FULL[name]))
    with pytest.raises(ForwardedIdentityInvalid, match="'x-forwarded-user' is missing"):
        read((name, FULL[name]), ("x-forwarded-user", ""))


@given(st.fixed_dictionaries({}, optional={name: st.binary() | st.text().map(str.encode) for name in FULL}))
def test_whatever_the_headers_say_it_is_an_identity_or_refused(values: dict[str, bytes]) -> None:
    said, refused = issuer(), None
    try:
        given = read(*values.items())
        if given is not None:
            issuers = Issuers([said], identity_key, is_id, lambda: NOW)
            found = forwarded_claims(issuers, said, given, life_seconds=LIFE, now=NOW)
            assert found.subject.encode() == values["x-forwarded-user"]
    except Unauthorized as error:
        refused = error
    assert refused is None or refused.www_authenticate()
