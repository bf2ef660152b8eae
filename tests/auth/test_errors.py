from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auth.errors import (
    AmbiguousSession,
    BadClaim,
    InsufficientScope,
    MalformedAuthorization,
    MissingToken,
    TokenExpired,
    TokenTooLong,
    Unauthorized,
    WrongAudience,
    WrongIssuer,
)


def test_without_credentials_the_challenge_names_no_error() -> None:
    assert MissingToken().www_authenticate() == 'Bearer realm="passline"'


def test_bad_token_challenge_exact() -> None:
    assert TokenExpired(1_800_000_000).www_authenticate() == (
        'Bearer realm="passline", error="invalid_token", '
        'error_description="The token expired at 2027-01-15T08:00:00Z; get a new one."'
    )


def test_missing_scope_challenge_names_the_scope() -> None:
    assert InsufficientScope("events:publish").www_authenticate("kitchen") == (
        'Bearer realm="kitchen", error="insufficient_scope", scope="events:publish"'
    )


@pytest.mark.parametrize("error", [MalformedAuthorization(), AmbiguousSession()])
def test_wrongly_carried_credentials_are_an_invalid_request(error: Unauthorized) -> None:
    assert error.www_authenticate().startswith('Bearer realm="passline", error="invalid_request", error_description="')


def test_realm_is_a_quoted_string() -> None:
    assert MissingToken().www_authenticate('a "b" \\c') == 'Bearer realm="a \\"b\\" \\\\c"'


@pytest.mark.parametrize("realm", ["é", "a\r\nSet-Cookie: x", "\x00"])
def test_realm_of_other_characters_is_refused(realm: str) -> None:
    with pytest.raises(ValueError, match="printable ASCII"):
        MissingToken().www_authenticate(realm)


@given(st.text())
def test_whatever_the_detail_the_description_has_only_the_characters_of_rfc_6750(text: str) -> None:
    header = Unauthorized(text).www_authenticate()
    prefix = 'Bearer realm="passline", error="invalid_token", error_description="'
    assert header.startswith(prefix)
    assert header.endswith('"')
    assert re.fullmatch(r"[\x20-\x21\x23-\x5b\x5d-\x7e]*", header[len(prefix) : -1])


def test_errors_carry_their_facts() -> None:
    assert TokenTooLong(9000, 8192).limit == 8192
    assert BadClaim("exp", "is odd").detail == "The token's claim 'exp' is odd."
    assert WrongAudience("passline").expected == "passline"
    assert WrongIssuer(["a", "b"]).detail.endswith("must be 'a' or 'b'.")
