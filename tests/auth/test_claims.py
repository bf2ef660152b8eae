from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auth import claims
from auth.claims import IDENTITY_LENGTH, LATEST_DATE, MAX_RESTAURANTS, Role
from auth.errors import BadClaim, MissingClaim, Unauthorized
from tests.auth.forging import is_id

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@pytest.mark.parametrize(
    "read",
    [
        lambda value: claims.numeric_date({"c": value}, "c"),
        lambda value: claims.identity({"c": value}, "c", "two:"),
        lambda value: claims.token_id({"jti": value}),
        lambda value: claims.scopes({"scope": value}),
        lambda value: claims.restaurants({"restaurants": value}, is_id),
    ],
    ids=["numeric_date", "identity", "token_id", "scopes", "restaurants"],
)
@given(value=ANYTHING)
def test_any_value_is_read_or_refused_as_unauthorized(read: Callable[[object], object], value: object) -> None:
    with suppress(Unauthorized):
        read(value)


@pytest.mark.parametrize("value", [0, 1, 1_800_000_000, 1_800_000_000.25, LATEST_DATE])
def test_numeric_date_may_be_whole_or_not(value: float) -> None:
    read = claims.numeric_date({"exp": value}, "exp")
    assert read == value
    assert isinstance(read, float)


@pytest.mark.parametrize(
    "value",
    [True, False, "1800000000", [], {}, -1, -0.5, math.nan, math.inf, -math.inf, 10**400, LATEST_DATE + 1, 1.8e12],
)
def test_odd_numeric_date_is_a_bad_claim(value: object) -> None:
    with pytest.raises(BadClaim) as caught:
        claims.numeric_date({"exp": value}, "exp")
    assert caught.value.claim == "exp"


def test_numeric_date_in_milliseconds_tells_the_unit() -> None:
    with pytest.raises(BadClaim, match="must lie between 1970 and 9999, in seconds"):
        claims.numeric_date({"exp": 1_800_000_000_000}, "exp")


@pytest.mark.parametrize("payload", [{}, {"exp": None}])
def test_absent_numeric_date_is_missing(payload: dict[str, object]) -> None:
    with pytest.raises(MissingClaim, match="'exp'"):
        claims.numeric_date(payload, "exp")


@pytest.mark.parametrize("value", ["alice", "auth0|5f7c", "Zoë Ünal", "a b", "x" * IDENTITY_LENGTH])
def test_anything_printable_is_an_identity(value: str) -> None:
    assert claims.identity({"sub": value}, "sub", "") == value


@pytest.mark.parametrize(
    "value", ["", "x" * (IDENTITY_LENGTH + 1), "a\n", "\x00", "\ud800", "a\u2028b", 7, True, ["a"], {}]
)
def test_odd_identity_is_a_bad_claim(value: object) -> None:
    with pytest.raises(BadClaim):
        claims.identity({"sub": value}, "sub", "")


def test_prefix_counts_and_an_empty_identity_does_not_pass_as_the_prefix() -> None:
    assert claims.identity({"sub": "bob"}, "sub", "two:") == "two:bob"
    with pytest.raises(BadClaim):
        claims.identity({"sub": ""}, "sub", "two:")
    with pytest.raises(BadClaim):
        claims.identity({"sub": "x" * (IDENTITY_LENGTH - 3)}, "sub", "two:")


def test_identity_comes_from_the_named_claim_only() -> None:
    assert claims.identity({"sub": "a", "customer_id": "c-1"}, "customer_id", "") == "c-1"
    with pytest.raises(MissingClaim, match="'customer_id'"):
        claims.identity({"sub": "a"}, "customer_id", "")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("", set()),
        ("events:publish", {"events:publish"}),
        ("a  b a", {"a", "b"}),
        (["a", "b"], {"a", "b"}),
        ([], set()),
    ],
)
def test_scope_is_a_string_or_a_list(value: object, expected: set[str]) -> None:
    assert claims.scopes({"scope": value}) == expected


def test_no_scope_claim_is_no_scope() -> None:
    assert claims.scopes({}) == frozenset()


@pytest.mark.parametrize("value", [None, 1, True, {}, {"a": 1}, ["a b"], [""], ["a", 1], [["a"]], "a\tb", 'a "b"', "ä"])
def test_odd_scope_is_a_bad_claim(value: object) -> None:
    with pytest.raises(BadClaim, match="'scope'"):
        claims.scopes({"scope": value})


def test_restaurants_are_roles_by_id() -> None:
    read = claims.restaurants({"restaurants": {"r1": "owner", "r2": "staff", "r3": "finance"}}, is_id)
    assert read == {"r1": Role.OWNER, "r2": Role.STAFF, "r3": Role.FINANCE}
    assert claims.restaurants({}, is_id) == {}


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "an object"),
        ([], "an object"),
        ("r1", "an object"),
        (["r1"], "an object"),
        ({"*": "owner"}, "not a restaurant id"),
        ({">": "owner"}, "not a restaurant id"),
        ({"": "owner"}, "not a restaurant id"),
        ({"a.b": "owner"}, "not a restaurant id"),
        ({"x" * 65: "owner"}, "not a restaurant id"),
        ({"r1": "king"}, "the roles are owner, staff, finance"),
        ({"r1": "OWNER"}, "unknown role"),
        ({"r1": None}, "unknown role"),
        ({"r1": ["owner"]}, "unknown role"),
        ({"r1": {"owner": True}}, "unknown role"),
        ({f"r{n}": "owner" for n in range(10_000)}, f"at most {MAX_RESTAURANTS}"),
    ],
)
def test_odd_restaurants_are_a_bad_claim_with_the_reason(value: object, reason: str) -> None:
    with pytest.raises(BadClaim, match=reason):
        claims.restaurants({"restaurants": value}, is_id)


def test_token_id_is_optional_but_never_odd() -> None:
    assert claims.token_id({}) is None
    assert claims.token_id({"jti": "t-1"}) == "t-1"
    for odd in (None, "", 1, "a\x07", "x" * 257):
        with pytest.raises(BadClaim, match="'jti'"):
            claims.token_id({"jti": odd})
