from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auth.bearer import read_bearer
from auth.errors import MalformedAuthorization
from tests.auth.forging import forge


@pytest.mark.parametrize("header", ["Bearer {}", "bearer {}", "BEARER   {}", " Bearer {} "])
def test_token_is_read_whatever_the_case_of_the_scheme(header: str) -> None:
    token = forge()
    assert read_bearer(header.format(token)) == token


@pytest.mark.parametrize("header", ["", "Basic dTpw", "Bearertoken", "Digest x", "token", "Bearer\ta"])
def test_another_scheme_is_no_token(header: str) -> None:
    assert read_bearer(header) is None


@pytest.mark.parametrize("header", ["Bearer", "Bearer ", "Bearer a b", "Bearer a,b", "Bearer é", 'Bearer "a"'])
def test_bearer_without_exactly_one_token_is_malformed(header: str) -> None:
    with pytest.raises(MalformedAuthorization):
        read_bearer(header)


@given(st.text())
def test_any_header_is_read_or_refused(header: str) -> None:
    for value in (header, f"Bearer {header}"):
        try:
            token = read_bearer(value)
        except MalformedAuthorization:
            continue
        assert token is None or (token.isascii() and " " not in token)
