"""Who may: decisions over claims and facts. Each returns if it is allowed and raises `Forbidden` if not.

Facts are handed in (`Standing`, the customer's key), so nothing is looked up here. What no policy allows is refused.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from enum import StrEnum
from typing import Final

import msgspec

from auth.claims import Claims, PassClaims, Role
from auth.errors import Forbidden, InsufficientScope, NotAllowed, PassRefused

COURIER_SCOPE: Final = "courier"
COMMAND_SCOPE: Final = "orders:command"


class Capacity(StrEnum):
    """As what somebody wants something done with an order."""

    STAFF = "staff"
    DEVICE = "device"
    CUSTOMER = "customer"
    COURIER = "courier"
    SERVICE = "service"


# fmt: off
MAY_COMMAND: Final[Mapping[Capacity, frozenset[str]]] = {
    Capacity.STAFF:    frozenset({"accept", "reject", "preparing", "ready", "delivered", "cancel"}),
    Capacity.DEVICE:   frozenset({"accept", "reject", "preparing", "ready"}),
    Capacity.CUSTOMER: frozenset({"cancel"}),
    Capacity.COURIER:  frozenset({"delivered"}),
    Capacity.SERVICE:  frozenset({"accept", "reject", "preparing", "ready", "delivered", "cancel"}),
}
# fmt: on
"""Who may ask for what. Somebody who is several of these acts as the first one that may."""


class Standing(msgspec.Struct, frozen=True):
    """What the log says of one person in one restaurant.

    Attributes:
        roles: assigned and not revoked.
        revoked_at: log time (Unix seconds) of the last `StaffRevoked` of this pair, None if there was none.
    """

    roles: frozenset[Role] = frozenset()
    revoked_at: float | None = None


def must_have_scope(claims: Claims, scope: str) -> None:
    """Raises InsufficientScope."""
    if scope not in claims.scopes:
        raise InsufficientScope(scope)


def must_be_restaurant_owner(claims: Claims, restaurant: str, standing: Standing) -> None:
    """`standing` is that of the claims' identity in `restaurant`. Raises NotAllowed."""
    if Role.OWNER not in _roles(claims, restaurant, standing):
        raise NotAllowed("Only an owner of this restaurant may do this.")


def must_be_restaurant_staff(claims: Claims, restaurant: str, standing: Standing) -> None:
    """Staff or owner. `standing` is that of the claims' identity in `restaurant`. Raises NotAllowed."""
    if _roles(claims, restaurant, standing).isdisjoint({Role.OWNER, Role.STAFF}):
        raise NotAllowed("Only the owner and the staff of this restaurant may do this.")


def must_see_finance(claims: Claims, restaurant: str, standing: Standing) -> None:
    """Owner or finance. `standing` is that of the claims' identity in `restaurant`. Raises NotAllowed."""
    if _roles(claims, restaurant, standing).isdisjoint({Role.OWNER, Role.FINANCE}):
        raise NotAllowed("Only the owner and the finance role of this restaurant may do this.")


def must_be_customer(claims: Claims, customer_key: str) -> None:
    """`customer_key` is the key of the customer whose orders they are. Raises NotAllowed."""
    if claims.key != customer_key:
        raise NotAllowed("Only this customer may do this.")


def must_be_order_owner(claims: Claims, customer_key: str) -> None:
    """`customer_key` is the key of the customer who placed the order. Raises NotAllowed, which does not tell it."""
    if claims.key != customer_key:
        raise NotAllowed("Only the customer who placed this order may do this.")


def must_be_workflow_user(claims: Claims, user_key: str | None) -> None:
    """`user_key` is the key of whom the workflow is bound to. Raises NotAllowed, which does not tell it."""
    if claims.key != user_key:
        raise NotAllowed("This workflow is bound to somebody else.")


def may_bind_workflow(claims: Claims, user_key: str | None) -> None:
    """Any user may bind what is bound to nobody (None), and again what is bound to them.

    Raises:
        NotAllowed: it is somebody else's.
        PassRefused: a pass is no user.
    """
    if isinstance(claims, PassClaims):
        raise PassRefused
    if user_key is not None:
        must_be_workflow_user(claims, user_key)


def must_be_cart_member(claims: Claims, member_keys: Container[str]) -> None:
    """`member_keys` are those of the cart's present members. Raises NotAllowed."""
    if claims.key not in member_keys:
        raise NotAllowed("Only the members of this cart may do this.")


def must_have_pass_for(claims: Claims, topic: str) -> PassClaims:
    """The claims of a pass that names `topic`. That it was not revoked is a fact. Raises PassRefused."""
    if not isinstance(claims, PassClaims) or claims.topic != topic:
        raise PassRefused
    return claims


def must_be_device_of(claims: Claims, restaurant: str) -> None:
    """The claims of a device's pass, of a device in `restaurant`; which one is `claims.device_id`.

    That the device has not been revoked since the pass was made is a fact: `gateway.authorization.may_act_as_device`
    asks for both.

    Raises:
        NotAllowed: it is no device.
        PassRefused: it is another restaurant's.
    """
    if not isinstance(claims, PassClaims) or claims.device_id is None:
        raise NotAllowed("Only a device of this restaurant may do this.")
    if claims.restaurant_id != restaurant:
        raise PassRefused


def must_be_able_to_command(
    claims: Claims, command: str, restaurant: str, customer_key: str, standing: Standing
) -> Capacity:
    """As what the caller may ask for `command`, of an order of `restaurant` that the customer has placed.

    That a device has not been revoked since its pass was made is a fact, as in `must_be_device_of`.

    Raises:
        NotAllowed: nothing of MAY_COMMAND allows it.
        PassRefused: it is a pass of no device of this restaurant.
    """
    for capacity, commands in MAY_COMMAND.items():
        if command in commands and _acts_as(capacity, claims, restaurant, customer_key, standing):
            return capacity
    if isinstance(claims, PassClaims) and claims.restaurant_id != restaurant:
        raise PassRefused
    raise NotAllowed("You may not ask for this with this order.")


def _acts_as(capacity: Capacity, claims: Claims, restaurant: str, customer_key: str, standing: Standing) -> bool:
    try:
        match capacity:
            case Capacity.STAFF:
                must_be_restaurant_staff(claims, restaurant, standing)
            case Capacity.DEVICE:
                must_be_device_of(claims, restaurant)
            case Capacity.CUSTOMER:
                must_be_order_owner(claims, customer_key)
            case Capacity.COURIER:
                must_have_scope(claims, COURIER_SCOPE)
            case Capacity.SERVICE:
                must_have_scope(claims, COMMAND_SCOPE)
    except Forbidden:
        return False
    return True


def _roles(claims: Claims, restaurant: str, standing: Standing) -> frozenset[Role]:
    """Roles from the log, and the token's own unless a revocation came at or after its issue."""
    claimed = claims.restaurants.get(restaurant)
    if claimed is None or (standing.revoked_at is not None and claims.issued_at <= standing.revoked_at):
        return standing.roles
    return standing.roles | {claimed}
