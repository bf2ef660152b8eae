from __future__ import annotations

from collections.abc import Callable
from itertools import product

import msgspec
import pytest

from auth.claims import Claims, PassClaims, Role
from auth.errors import InsufficientScope, NotAllowed, PassRefused
from auth.policies import (
    Standing,
    may_bind_workflow,
    must_be_cart_member,
    must_be_order_owner,
    must_be_restaurant_owner,
    must_be_restaurant_staff,
    must_be_workflow_user,
    must_have_scope,
)

ISSUED_AT = 1000.0


def claims(claimed: Role | None = None, scopes: frozenset[str] = frozenset()) -> Claims:
    return Claims(
        issuer="i",
        subject="alice",
        key="alice",
        token_id=None,
        issued_at=ISSUED_AT,
        expires_at=2000,
        scopes=scopes,
        restaurants={} if claimed is None else {"r1": claimed},
    )


def allows(policy: Callable[..., None], *arguments: object) -> bool:
    try:
        policy(*arguments)
    except NotAllowed:
        return False
    return True


NO_ROLE: list[Role | None] = [None]


@pytest.mark.parametrize(
    ("policy", "enough"),
    [(must_be_restaurant_owner, {Role.OWNER}), (must_be_restaurant_staff, {Role.OWNER, Role.STAFF})],
)
def test_restaurant_policies_over_every_role_from_token_and_log(policy: Callable[..., None], enough: set[Role]) -> None:
    for claimed, assigned, revoked_at in product(
        [*NO_ROLE, *Role], [*NO_ROLE, *Role], [None, ISSUED_AT - 0.001, ISSUED_AT, ISSUED_AT + 1]
    ):
        standing = Standing(frozenset() if assigned is None else frozenset({assigned}), revoked_at)
        claim_counts = revoked_at is None or revoked_at < ISSUED_AT
        expected = assigned in enough or (claim_counts and claimed in enough)
        assert allows(policy, claims(claimed), "r1", standing) is expected, (claimed, assigned, revoked_at)


@pytest.mark.parametrize("policy", [must_be_restaurant_owner, must_be_restaurant_staff])
def test_role_in_one_restaurant_is_none_in_another(policy: Callable[..., None]) -> None:
    assert not allows(policy, claims(Role.OWNER), "r2", Standing())


def test_nobody_has_standing_by_default() -> None:
    assert Standing() == Standing(frozenset(), None)
    assert not allows(must_be_restaurant_staff, claims(), "r1", Standing())


def test_several_roles_add_up() -> None:
    standing = Standing(frozenset({Role.FINANCE, Role.STAFF}))
    assert allows(must_be_restaurant_staff, claims(), "r1", standing)
    assert not allows(must_be_restaurant_owner, claims(), "r1", standing)


def test_scope_must_be_held_exactly() -> None:
    held = claims(scopes=frozenset({"events:publish"}))
    must_have_scope(held, "events:publish")
    for other in ("events", "access:publish", "events:publish ", "", "EVENTS:PUBLISH"):
        with pytest.raises(InsufficientScope) as caught:
            must_have_scope(held, other)
        assert caught.value.scope == other


def test_only_the_customer_is_the_orders_owner() -> None:
    must_be_order_owner(claims(), "alice")
    for other in ("bob", "Alice", "", "h_alice", "alice "):
        with pytest.raises(NotAllowed):
            must_be_order_owner(claims(), other)


def test_workflow_is_for_whom_it_is_bound_to_and_anybody_binds_what_is_nobodys() -> None:
    for user, sees, binds in (("alice", True, True), ("bob", False, False), (None, False, True)):
        assert allows(must_be_workflow_user, claims(), user) is sees
        assert allows(may_bind_workflow, claims(), user) is binds
    a_pass = PassClaims(
        **{**msgspec.structs.asdict(claims()), "restaurants": {}, "key": "guest:p1"}, topic="workflows/w1"
    )
    for user in ("alice", None):
        with pytest.raises(PassRefused):
            may_bind_workflow(a_pass, user)


def test_cart_is_for_its_present_members() -> None:
    must_be_cart_member(claims(), {"bob": 1, "alice": 2})
    for members in ({}, {"bob": 1}):
        assert not allows(must_be_cart_member, claims(), members)


def test_refusal_does_not_tell_who_owns_the_order() -> None:
    with pytest.raises(NotAllowed) as caught:
        must_be_order_owner(claims(), "secret-customer")
    assert "secret-customer" not in caught.value.detail
    assert "alice" not in caught.value.detail
