"""Why somebody was not let in: 401 (`Unauthorized`) and 403 (`Forbidden`), one leaf a condition.

Names and header follow RFC 6750 section 3. Every `detail` says what was wrong and what would be right; it never
contains the token, and of its claims only numbers: a detail goes into answers, headers and logs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import ClassVar, Literal, Protocol

_NOT_IN_DESCRIPTION = re.compile(r"[^\x20-\x21\x23-\x5b\x5d-\x7e]")
_NOT_IN_QUOTED_STRING = re.compile(r"[^\x20-\x7e]")


class AuthError(Exception):
    """Whatever goes wrong in `auth`."""


class AuthConfigError(AuthError):
    """The operator's settings can't be used; nobody's request is to blame."""


class KeyUnusable(AuthConfigError):
    """A key file that can't be used. `path` is the file, `reason` a sentence."""

    def __init__(self, path: object, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = str(path)
        self.reason = reason


class Askable(Protocol):
    """Keys that can be asked for anew: `auth.published.PublishedKeys`."""

    async def ask(self) -> bool:
        """Whether there was a new answer, whatever it was, so that looking again makes sense."""
        ...


class KeysUnavailable(AuthError):
    """What keys an issuer has can't be said now, as it is out of reach: no token is to blame, and it will pass.

    `issuer` is its name, `keys` can be asked anew.
    """

    def __init__(self, issuer: str, keys: Askable) -> None:
        super().__init__(f"the keys of the issuer {issuer!r} can't be had now")
        self.issuer = issuer
        self.keys = keys


class FetchFailed(AuthError):
    """An issuer's keys could not be fetched. `reason` says why, without the address: its query may hold a secret."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class IssuersCollide(AuthConfigError):
    """Two issuers of the same name, or of the same prefix, so that two people could share an identity."""

    def __init__(self, field: str, value: str) -> None:
        super().__init__(f"two issuers have the same {field} {value!r}; each needs its own")
        self.field = field
        self.value = value


class SessionTooLarge(AuthError):
    """The token does not fit into a cookie. `size` and `limit` are bytes of the whole Set-Cookie value."""

    def __init__(self, size: int, limit: int) -> None:
        self.detail = (
            f"The session cookie would be {size} bytes long and browsers keep {limit}; "
            f"use a token that is at least {size - limit} bytes shorter."
        )
        super().__init__(self.detail)
        self.size = size
        self.limit = limit


# ── 401 ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


class Unauthorized(AuthError):
    """No credentials, or none that hold. `error` is the code of RFC 6750 section 3.1, None if none were given."""

    error: ClassVar[Literal["invalid_token", "invalid_request"] | None] = "invalid_token"

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail

    def www_authenticate(self, realm: str = "passline") -> str:
        """The value of the `WWW-Authenticate` header (RFC 6750 section 3, quoting by RFC 9110 section 5.6.4).

        Raises:
            ValueError: `realm` has a character that is not printable ASCII.
        """
        if self.error is None:
            return _challenge(realm)
        description = _NOT_IN_DESCRIPTION.sub("?", self.detail.replace('"', "'"))
        return _challenge(realm, error=self.error, error_description=description)


class MissingToken(Unauthorized):
    """The request carries no credentials at all."""

    error = None

    def __init__(self) -> None:
        super().__init__("No credentials were given; send 'Authorization: Bearer <token>' or the session cookie.")


class MalformedAuthorization(Unauthorized):
    """An `Authorization: Bearer` header without exactly one token."""

    error = "invalid_request"

    def __init__(self) -> None:
        super().__init__("The Authorization header is malformed; send 'Bearer', one space, and one token.")


class AmbiguousSession(Unauthorized):
    """Several session cookies with different values: which one is ours can't be told."""

    error = "invalid_request"

    def __init__(self) -> None:
        super().__init__("Several different session cookies were sent; delete this site's cookies and sign in again.")


class TokenTooLong(Unauthorized):
    """`size` and `limit` are in characters."""

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(f"The token is {size} characters long; at most {limit} are accepted.")
        self.size = size
        self.limit = limit


class MalformedToken(Unauthorized):
    """Not a JWT in the compact form of RFC 7515, or its header or payload is not what RFC 7519 asks for."""

    def __init__(self, reason: str = "it must be three base64url parts of which the first two are JSON") -> None:
        super().__init__(f"The token is not a well-formed JWT: {reason}.")
        self.reason = reason


class AlgorithmNotAllowed(Unauthorized):
    """`allowed` is the one algorithm of this issuer's key."""

    def __init__(self, allowed: str) -> None:
        super().__init__(f"The token's algorithm is not accepted; tokens of this issuer are signed with {allowed}.")
        self.allowed = allowed


class UnknownKey(Unauthorized):
    """The token names a key (`kid`) that this issuer does not have here. `keys`, if not None, can be asked anew."""

    def __init__(self, keys: Askable | None = None) -> None:
        super().__init__(
            "The token was signed with a key that is not known here; get a token made with the present key."
        )
        self.keys = keys


class KeyNotNamed(Unauthorized):
    """The token names no key (`kid`), and its issuer has several."""

    def __init__(self) -> None:
        super().__init__("The token's header names no key, and its issuer has several; it must have a 'kid'.")


class BadSignature(Unauthorized):
    """The signature does not fit the token."""

    def __init__(self) -> None:
        super().__init__("The token's signature does not verify; send the token unchanged and from its own issuer.")


class TokenExpired(Unauthorized):
    """`expired_at` is in Unix seconds."""

    def __init__(self, expired_at: float) -> None:
        super().__init__(f"The token expired at {_utc(expired_at)}; get a new one.")
        self.expired_at = expired_at


class TokenRevoked(Unauthorized):
    """It was taken back before its end."""

    def __init__(self) -> None:
        super().__init__("The token was revoked; get a new one.")


class TokenNotYetValid(Unauthorized):
    """`claim` (`iat` or `nbf`) lies ahead, at `valid_from` in Unix seconds."""

    def __init__(self, claim: str, valid_from: float) -> None:
        super().__init__(
            f"The token's claim '{claim}' lies in the future, at {_utc(valid_from)}; "
            "wait until then, or mend the issuer's clock."
        )
        self.claim = claim
        self.valid_from = valid_from


class MissingClaim(Unauthorized):
    """`claim` is required and absent."""

    def __init__(self, claim: str) -> None:
        super().__init__(f"The token has no claim '{claim}', which is required.")
        self.claim = claim


class WrongAudience(Unauthorized):
    """`expected` is the audience that this issuer's tokens must name."""

    def __init__(self, expected: str) -> None:
        super().__init__(f"The token is for another audience; its claim 'aud' must name '{expected}'.")
        self.expected = expected


class WrongIssuer(Unauthorized):
    """`expected` are the issuers known here."""

    def __init__(self, expected: Iterable[str]) -> None:
        self.expected = tuple(expected)
        names = " or ".join(f"'{name}'" for name in self.expected)
        super().__init__(f"The token is from another issuer; its claim 'iss' must be {names}.")


class LifeTooLong(Unauthorized):
    """`life_seconds` is `exp - iat`."""

    def __init__(self, life_seconds: float, limit_seconds: float) -> None:
        super().__init__(
            f"The token's life of {life_seconds:.0f} seconds is too long; "
            f"'exp' may be at most {limit_seconds:.0f} seconds after 'iat'."
        )
        self.life_seconds = life_seconds
        self.limit_seconds = limit_seconds


class BadClaim(Unauthorized):
    """`claim` has a value that can't be used. `reason` completes the sentence "The token's claim … ."."""

    def __init__(self, claim: str, reason: str) -> None:
        super().__init__(f"The token's claim '{claim}' {reason}.")
        self.claim = claim
        self.reason = reason


class ForwardedIdentityInvalid(Unauthorized):
    """A named proxy's header about who is asking can't be used. `reason` completes the sentence "The header … ."."""

    error = "invalid_request"

    def __init__(self, header: str, reason: str) -> None:
        super().__init__(f"The header '{header}' {reason}.")
        self.header = header
        self.reason = reason


class AmbiguousIdentity(Unauthorized):
    """A request says twice who it is from: by a named proxy's headers, and by a token."""

    error = "invalid_request"

    def __init__(self) -> None:
        super().__init__(
            "The proxy says who this is, and the request carries a token as well; "
            "the proxy must remove the Authorization header and the session cookie."
        )


class PassIsNoToken(Unauthorized):
    """A pass where a token is asked for. Whether it is a good pass was not looked at."""

    def __init__(self) -> None:
        super().__init__("This is a pass, and it opens only what it names; send a token.")


class DeviceKeyRefused(Unauthorized):
    """No device's key, or one that is not good any more: one answer for all of it."""

    def __init__(self) -> None:
        super().__init__(
            "There is no device with this key, or not any more; send 'Authorization: Device <key>', or pair it anew."
        )

    def www_authenticate(self, realm: str = "passline") -> str:
        """A scheme of our own: a device's key is no bearer token, and no other route takes it."""
        return _challenge(realm, scheme="Device")


# ── 403 ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


class Forbidden(AuthError):
    """Known who it is, and they may not."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class InsufficientScope(Forbidden):
    """The token lacks `scope`."""

    def __init__(self, scope: str) -> None:
        super().__init__(f"The token's scope is insufficient; '{scope}' is needed.")
        self.scope = scope

    def www_authenticate(self, realm: str = "passline") -> str:
        """The value of the `WWW-Authenticate` header (RFC 6750 section 3.1 asks for it with this error, too).

        Raises:
            ValueError: `realm` has a character that is not printable ASCII.
        """
        return _challenge(realm, error="insufficient_scope", scope=self.scope)


class NotAllowed(Forbidden):
    """A policy said no."""


class PassRefused(Forbidden):
    """A pass that does not open what was asked for, whatever the reason: the answer is the same to the last byte.

    Who guesses learns nothing from it, neither of passes nor of what they name.
    """

    def __init__(self) -> None:
        super().__init__("This pass does not open this, or does so no more; ask for a new one.")


class PairingRefused(Forbidden):
    """A pairing code that pairs nothing: a wrong one, a used one, one whose time is up; one answer for all of it."""

    def __init__(self) -> None:
        super().__init__("This code pairs no device, or does so no more; ask the restaurant's owner for a new one.")


class CrossOrigin(Forbidden):
    """A request with the session cookie, or a proxy's session, that another site's page may have caused."""

    def __init__(self) -> None:
        super().__init__(
            "A browser's session is accepted from this site's own pages and from the allowed origins only; "
            "send 'Authorization: Bearer <token>' instead."
        )


def _challenge(realm: str, *, scheme: str = "Bearer", **parameters: str) -> str:
    pairs = {"realm": realm, **parameters}
    return f"{scheme} " + ", ".join(f"{name}={_quoted_string(value)}" for name, value in pairs.items())


def _quoted_string(text: str) -> str:
    if _NOT_IN_QUOTED_STRING.search(text):
        raise ValueError("a header's quoted string takes printable ASCII only")
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
