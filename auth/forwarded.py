"""Who is asking, as a proxy says that has verified the token itself. Pure functions over header values.

Whether the proxy may be believed is decided before: whoever can send these headers can be anybody.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import msgspec

from auth.errors import BadClaim, ForwardedIdentityInvalid, MissingClaim

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from auth.claims import Claims
    from auth.issuers import Issuer, Issuers

USER: Final = "x-forwarded-user"
SCOPES: Final = "x-forwarded-scopes"
RESTAURANTS: Final = "x-forwarded-restaurants"
EXPIRES_AT: Final = "x-forwarded-expires-at"
ISSUED_AT: Final = "x-forwarded-issued-at"

HEADER_BYTES = 8 * 1024
"""The longest of these headers."""

_NAMES: Final = {name.encode(): name for name in (USER, SCOPES, RESTAURANTS, EXPIRES_AT, ISSUED_AT)}
_SECONDS = re.compile(r"[0-9]{1,12}")


def read_forwarded(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str] | None:
    """The forwarded identity's headers by name, None where there are none. One that is empty counts as not sent.

    Raises:
        ForwardedIdentityInvalid: one of them stands twice, is too long or not printable UTF-8, or the user is missing.
    """
    found: dict[str, str] = {}
    for raw_name, raw in headers:
        name = _NAMES.get(raw_name)
        if name is None:
            continue
        if name in found:
            raise ForwardedIdentityInvalid(name, "stands twice; the proxy must replace what a client sends")
        found[name] = _text(name, raw)
    given = {name: text for name, text in found.items() if text}
    if given and USER not in given:
        raise ForwardedIdentityInvalid(USER, "is missing, and others say more about a user")
    return given or None


def forwarded_claims(
    issuers: Issuers, issuer: Issuer, values: Mapping[str, str], *, life_seconds: float, now: float
) -> Claims:
    """The claims that a proxy has read in a token of `issuer`'s: they go through the same checks, and mean the same.

    Where the proxy does not say when the token ends, it is `life_seconds` from now. Where it does not say when it was
    issued, it counts as issued as long ago as a token of this issuer's may be, so that whatever was revoked meanwhile
    stays revoked.

    Raises:
        ForwardedIdentityInvalid: a header has no usable value.
        Unauthorized: the identity has expired, or can't be the issuer's.
    """
    ends = _seconds(EXPIRES_AT, values[EXPIRES_AT]) if EXPIRES_AT in values else int(now + life_seconds)
    earliest = max(0, ends - int(issuer.max_life_seconds))
    payload: dict[str, object] = {
        issuer.identity_claim: values[USER],
        "exp": ends,
        "iat": _seconds(ISSUED_AT, values[ISSUED_AT]) if ISSUED_AT in values else min(int(now), earliest),
        "scope": values.get(SCOPES, ""),
    }
    if issuer.trusted_for_restaurants and RESTAURANTS in values:
        payload["restaurants"] = _json(RESTAURANTS, values[RESTAURANTS])
    try:
        return issuers.claims(issuer, payload)
    except (BadClaim, MissingClaim) as error:
        headers = {"exp": EXPIRES_AT, "iat": ISSUED_AT, "scope": SCOPES, "restaurants": RESTAURANTS}
        reason = error.reason if isinstance(error, BadClaim) else "is missing"
        raise ForwardedIdentityInvalid(headers.get(error.claim, USER), reason) from error


def _text(name: str, raw: bytes) -> str:
    if len(raw) > HEADER_BYTES:
        raise ForwardedIdentityInvalid(name, f"is {len(raw)} bytes long; at most {HEADER_BYTES} are accepted")
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise ForwardedIdentityInvalid(name, "is not UTF-8") from error
    if not text.isprintable():
        raise ForwardedIdentityInvalid(name, "must be printable characters")
    return text


def _seconds(name: str, text: str) -> int:
    if not _SECONDS.fullmatch(text):
        raise ForwardedIdentityInvalid(name, "must be a whole number of seconds since 1970")
    return int(text)


def _json(name: str, text: str) -> object:
    try:
        value: object = msgspec.json.decode(text)
    except (ValueError, RecursionError) as error:
        raise ForwardedIdentityInvalid(name, "must be JSON") from error
    return value
