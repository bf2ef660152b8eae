"""Who may: decisions over claims and facts. Each returns if it is allowed and raises `Forbidden` if not.

Facts are handed in (`Standing`, the customer's key), so nothing is looked up here. What no policy allows is refused.
"""

from __future__ import annotations

import msgspec

from auth.claims import Claims, PassClaims, Role
from auth.errors import InsufficientScope, NotAllowed, PassRefused


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


def _roles(claims: Claims, restaurant: str, standing: Standing) -> frozenset[Role]:
    """Roles from the log, and the token's own unless a revocation came at or after its issue."""
    claimed = claims.restaurants.get(restaurant)
    if claimed is None or (standing.revoked_at is not None and claims.issued_at <= standing.revoked_at):
        return standing.roles
    return standing.roles | {claimed}
