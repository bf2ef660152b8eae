"""What a verified token says, and the reading of each claim: odd values become `BadClaim`, never another exception."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Any

import msgspec

from auth.errors import BadClaim, MissingClaim

IDENTITY_LENGTH = 256
"""The longest identity, token id included, in characters."""

LATEST_DATE = 253_402_300_799
"""9999-12-31T23:59:59Z, the last second that a date can name: a later NumericDate is a mistake (milliseconds, say)."""

MAX_RESTAURANTS = 256
"""The claims stay in memory as long as their streams; who works in more places has these roles from the log."""

_SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+")  # RFC 6749 section 3.3


class Role(StrEnum):
    """What somebody is in a restaurant."""

    OWNER = "owner"
    STAFF = "staff"
    FINANCE = "finance"


class Claims(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """A verified token's content, as far as it is used. Packed it is an array, so that many can be remembered.

    Attributes:
        issuer: the claim `iss`.
        subject: the identity: the issuer's prefix and the value of its identity claim; printable, 1 to 256 characters.
        key: the identity's form in subjects, topics and paths.
        token_id: the claim `jti`, if there is one.
        issued_at: Unix seconds.
        expires_at: Unix seconds; the token is void from this moment on.
        scopes: from the claim `scope`.
        restaurants: restaurant id to role; empty unless the issuer is trusted for it.
    """

    issuer: str
    subject: str
    key: str
    token_id: str | None
    issued_at: float
    expires_at: float
    scopes: frozenset[str]
    restaurants: Mapping[str, Role]

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "restaurants", MappingProxyType(self.restaurants))


class PassClaims(Claims, frozen=True, kw_only=True, array_like=True):
    """What a verified pass says. Its `key` is nobody's identity key, as it has a colon: `guest:<pass id>`, or
    `device:<restaurant>:<device>`, the same for every pass of a device. It has neither scopes nor restaurants, so a
    policy that knows nothing of passes refuses it.

    Attributes:
        topic: the one topic that it opens.
        restaurant_id: whose device it is; None for a guest.
        device_id: which device it is; None for a guest.
    """

    topic: str
    restaurant_id: str | None = None
    device_id: str | None = None


_packer = msgspec.msgpack.Encoder(enc_hook=dict)  # the restaurants are a read-only view of a dict
_unpackers: dict[bytes, Any] = {b"t": msgspec.msgpack.Decoder(Claims), b"p": msgspec.msgpack.Decoder(PassClaims)}


def pack(claims: Claims) -> bytes:
    """Claims as bytes: a third of the memory, or a message from one process to another."""
    return (b"p" if isinstance(claims, PassClaims) else b"t") + _packer.encode(claims)


def unpack(packed: bytes) -> Claims:
    """What `pack` made."""
    claims: Claims = _unpackers[packed[:1]].decode(packed[1:])
    return claims


def identity(payload: Mapping[str, object], claim: str, prefix: str) -> str:
    """The identity that `claim` states, with the issuer's `prefix` before it.

    Raises:
        MissingClaim: the claim is absent.
        BadClaim: empty, too long, not printable, or not a string.
    """
    if payload.get(claim) is None:
        raise MissingClaim(claim)
    return prefix + _short_text(payload, claim, IDENTITY_LENGTH - len(prefix))


def token_id(payload: Mapping[str, object]) -> str | None:
    """The claim `jti`, or None where there is none.

    Raises:
        BadClaim: empty, too long, not printable, or not a string.
    """
    return _short_text(payload, "jti", IDENTITY_LENGTH) if "jti" in payload else None


def numeric_date(payload: Mapping[str, object], claim: str) -> float:
    """A NumericDate (RFC 7519 section 2) in Unix seconds, whole or not.

    Raises:
        MissingClaim: the claim is absent.
        BadClaim: not a number, or no date from 1970 to 9999.
    """
    value = payload.get(claim)
    if value is None:
        raise MissingClaim(claim)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadClaim(claim, "must be a number of seconds since 1970")
    # Compared before it is converted, because a huge int has no float; NaN compares as false.
    if not 0 <= value <= LATEST_DATE:
        raise BadClaim(claim, "must lie between 1970 and 9999, in seconds")
    return float(value)


def scopes(payload: Mapping[str, object]) -> frozenset[str]:
    """The claim `scope`: a string with spaces between (RFC 8693 section 4.2), or a list of strings.

    Raises:
        BadClaim: anything else.
    """
    value = payload.get("scope", "")
    words: object = [word for word in value.split(" ") if word] if isinstance(value, str) else value
    if not isinstance(words, list) or not all(isinstance(word, str) and _SCOPE.fullmatch(word) for word in words):
        raise BadClaim("scope", "must be scopes with single spaces between, or a list of scopes")
    return frozenset(words)


def restaurants(payload: Mapping[str, object], valid_id: Callable[[str], bool]) -> dict[str, Role]:
    """The claim `restaurants`: an object of restaurant id to role.

    Raises:
        BadClaim: no object, too many restaurants, a key that is no id, or an unknown role.
    """
    value = payload.get("restaurants", {})
    if not isinstance(value, dict):
        raise BadClaim("restaurants", "must be an object of restaurant id to role")
    if len(value) > MAX_RESTAURANTS:
        raise BadClaim("restaurants", f"names {len(value)} restaurants; at most {MAX_RESTAURANTS} are accepted")
    if not all(isinstance(restaurant, str) and valid_id(restaurant) for restaurant in value):
        raise BadClaim("restaurants", "has a key that is not a restaurant id")
    try:
        return {restaurant: Role(role) for restaurant, role in value.items()}
    except (ValueError, TypeError) as error:
        raise BadClaim("restaurants", f"has an unknown role; the roles are {', '.join(Role)}") from error


def _short_text(payload: Mapping[str, object], claim: str, length: int) -> str:
    value = payload[claim]
    if not isinstance(value, str):
        raise BadClaim(claim, "must be a string")
    if not 1 <= len(value) <= length or not value.isprintable():
        raise BadClaim(claim, f"must be 1 to {length} printable characters")
    return value
