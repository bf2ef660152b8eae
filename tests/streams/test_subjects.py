"""What may enter a subject, and which filters JetStream takes together."""

from __future__ import annotations

import re
from functools import cache
from itertools import product

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from streams.events import Id
from streams.subjects import (
    IDENTITY_LENGTH,
    InvalidId,
    InvalidIdentity,
    access_subject,
    any_owner_filter,
    checked_id,
    identity_key,
    is_id,
    order_filter,
    order_subject,
    restaurant_filter,
    without_contained,
)

IDS = ["a", "Z9", "_", "-", "--help", "x" * 64, "7f9c24e8-3b13-4d1a-9c3f-2b8f5a1d0c11", "h_1"]
HOSTILE = [
    *["", " ", "a b", "a.b", ".", "..", "*", ">", "a*", "$SYS", "a/b", "a\\b", "a%2Eb", "a:b", "a@b", "a|b", "a+b"],
    *["a\n", "\na", "a\r", "a\t", "a\0", "a\x7f", "a\u2028", "\ufeffa", "é", "ａ", "١", "x²", "\u212a", "\ud800", "🍕"],
    *["x" * 65, "x" * 300, "a,b", "'", '"', "{", "${x}"],
]
IDENTITIES = st.text(st.characters(exclude_categories=("C", "Z"), include_characters=" "), min_size=1, max_size=64)


@pytest.mark.parametrize("text", IDS)
def test_id_is_one(text: str) -> None:
    assert is_id(text)
    assert checked_id(text) == text
    assert msgspec.convert(text, Id) == text


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_no_id_here_nor_in_an_event(text: str) -> None:
    assert not is_id(text)
    with pytest.raises(InvalidId) as refusal:
        checked_id(text)
    assert refusal.value.text == text
    with pytest.raises((msgspec.ValidationError, UnicodeEncodeError)):
        msgspec.convert(text, Id)


@given(st.one_of(st.text(max_size=70), st.from_regex(r"[A-Za-z0-9_-]{1,64}\s?")))
def test_id_in_a_path_is_an_id_in_an_event(text: str) -> None:
    try:
        msgspec.convert(text, Id)
    except msgspec.ValidationError:
        assert not is_id(text)
    else:
        assert is_id(text)


@given(IDENTITIES)
@example("auth0|5f7c8ec7c33c6c004bbafe82")
@example("h_")
@example("x" * 64)
@example("x" * 65)
@example("*")
@example("orders.>")
def test_key_of_an_identity_is_an_id_and_a_hash_where_the_identity_is_none(identity: str) -> None:
    key = identity_key(identity)
    assert is_id(key)
    if is_id(identity) and not identity.startswith("h_"):
        assert key == identity
    else:
        assert re.fullmatch("h_[0-9a-f]{40}", key)


@given(st.lists(IDENTITIES, min_size=2, max_size=8, unique=True))
def test_two_identities_never_share_a_key(identities: list[str]) -> None:
    everything = [*identities, *(identity_key(each) for each in identities)]
    distinct = set(everything)
    assert len({identity_key(each) for each in distinct}) == len(distinct)


def test_identity_that_looks_like_a_hash_is_hashed() -> None:
    victim = identity_key("auth0|5f7c8ec7")
    assert victim == "h_621b3ebd936e3d561f86d5a77e7b36d500435f86"
    assert identity_key(victim) != victim


@pytest.mark.parametrize(
    "identity", ["", "a\n", "\t", "a\0", "\x7f", "\u200b", "\u2028", "\u00a0", "\ud800", "\ufeff", "x" * 257]
)
def test_identity_that_is_empty_too_long_or_not_printable_is_refused(identity: str) -> None:
    with pytest.raises(InvalidIdentity) as refusal:
        identity_key(identity)
    assert refusal.value.text == identity


def test_identity_of_the_greatest_length_has_a_key() -> None:
    assert is_id(identity_key("é" * IDENTITY_LENGTH))


def test_subjects_and_filters_have_their_tokens_in_order() -> None:
    assert order_subject("r", "c", "o", "OrderPlaced") == "orders.r.c.o.OrderPlaced"
    assert access_subject("r", "StaffAssigned") == "access.r.StaffAssigned"
    assert restaurant_filter("r") == "orders.r.>"
    assert order_filter("r", "c", "o") == "orders.r.c.o.>"
    assert any_owner_filter("o") == "orders.*.*.o.>"


# -- Filters, by what they match ---------------------------------------------------------------------------------------

SUBJECTS = [subject for length in range(1, 6) for subject in product("abz", repeat=length)]
FILTERS = st.builds(
    lambda tokens, tail: ".".join([*tokens, *tail]),
    st.lists(st.sampled_from("ab*"), min_size=1, max_size=4),
    st.sampled_from([[], [], [">"]]),
) | st.just(">")


@cache
def matched(filter_subject: str) -> frozenset[tuple[str, ...]]:
    """The subjects that a filter matches, of all with up to five tokens; no filter here can name `z`."""
    pattern = re.escape(filter_subject).replace(r"\*", "[^.]+").replace(">", ".+")
    return frozenset(subject for subject in SUBJECTS if re.fullmatch(pattern, ".".join(subject)))


@given(st.lists(FILTERS, max_size=6))
@example(["a", "*"])
@example(["a.b", "a.>", "a.*"])
@example(["a.>", "a.b.>"])
@example(["a", "a.>"])
@example(["*.>", ">"])
@example(["*.b", "a.*"])
@example(["*.*.>", "*.>"])
def test_filters_without_contained_ones_match_the_same_and_none_contains_another(filters: list[str]) -> None:
    kept = without_contained(filters)
    assert set(kept) <= set(filters)
    assert len(set(kept)) == len(kept)
    assert frozenset[tuple[str, ...]]().union(*map(matched, kept)) == frozenset().union(*map(matched, filters))
    for one, other in product(kept, kept):
        assert one == other or not matched(one) <= matched(other)


@given(st.lists(FILTERS, max_size=6))
def test_filters_without_contained_ones_do_not_depend_on_the_order_given(filters: list[str]) -> None:
    assert without_contained(filters) == without_contained(filters[::-1])


def test_an_orders_filter_is_contained_in_its_restaurants() -> None:
    filters = [order_filter("r1", "c1", "o1"), restaurant_filter("r1"), order_filter("r2", "c1", "o2")]
    assert without_contained(filters) == ["orders.r1.>", "orders.r2.c1.o2.>"]
