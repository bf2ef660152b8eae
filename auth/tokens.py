"""From a token to claims, and back for development: the only place that knows PyJWT's way of checking.

Signature, audience, issuer and required claims are PyJWT's; time is ours, because it is judged by an injected clock,
and so is the JSON of the payload, because two readings of one token are how checks are got around (RFC 8725).
"""

from __future__ import annotations

import json
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jwt
import msgspec
from jwt.exceptions import InvalidJTIError, InvalidSubjectError

from auth import claims
from auth.claims import Claims, Role
from auth.errors import (
    AlgorithmNotAllowed,
    BadClaim,
    BadSignature,
    IssuersCollide,
    LifeTooLong,
    MalformedToken,
    MissingClaim,
    TokenExpired,
    TokenNotYetValid,
    TokenTooLong,
    Unauthorized,
    UnknownKey,
    WrongAudience,
    WrongIssuer,
)
from auth.keys import SigningKey, VerificationKey

TOKEN_LENGTH = 8 * 1024
"""The longest token, in characters. Checked before anything is parsed."""

REQUIRED = ["exp", "iat", "sub", "aud", "iss"]


class Issuer(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody whose tokens are accepted, and what for.

    Attributes:
        name: the claim `iss`, exactly.
        audience: what the claim `aud` must be or contain.
        key: verifies this issuer's tokens, by its own algorithm and no other.
        identity_claim: the one claim that says who it is.
        prefix: stands before each identity of this issuer, so that two issuers' people never share a name.
        trusted_for_restaurants: whether its claim `restaurants` is taken; if not, it is not even read.
        max_life_seconds: the most that `exp` may be after `iat`.
        leeway_seconds: how far this issuer's clock may be ahead, for `iat` and `nbf`. `exp` has none.
    """

    name: str
    audience: str
    key: VerificationKey
    identity_claim: str = "sub"
    prefix: str = ""
    trusted_for_restaurants: bool = True
    max_life_seconds: float = 86_400
    leeway_seconds: float = 5


class TokenVerifier:
    """Checks tokens of the issuers it was given.

    Args:
        issuers: no two with the same name or prefix (`IssuersCollide`).
        identity_key: an identity's key; may raise ValueError for what can't be one.
        valid_id: whether a text is a restaurant id.
        clock: Unix seconds.
    """

    def __init__(
        self,
        issuers: Iterable[Issuer],
        identity_key: Callable[[str], str],
        valid_id: Callable[[str], bool],
        clock: Callable[[], float] = time.time,
    ) -> None:
        known = list(issuers)
        _refuse_twins("name", [issuer.name for issuer in known])
        _refuse_twins("prefix", [issuer.prefix for issuer in known])
        self._issuers = {issuer.name: issuer for issuer in known}
        self._identity_key = identity_key
        self._valid_id = valid_id
        self._clock = clock
        self._jwt = _StrictJWT()

    def verify(self, token: str) -> Claims:
        """What `token` says, if all of it holds now.

        Raises:
            Unauthorized: the leaf says why. Nothing else is ever raised, whatever the token.
        """
        if len(token) > TOKEN_LENGTH:
            raise TokenTooLong(len(token), TOKEN_LENGTH)
        if not token.isascii():
            raise MalformedToken
        issuer = self._issuer_of(token)
        payload = self._verified(token, issuer)
        issued_at, expires_at = self._lifetime(payload, issuer)
        subject = claims.identity(payload, issuer.identity_claim, issuer.prefix)
        trusted = issuer.trusted_for_restaurants
        return Claims(
            issuer=issuer.name,
            subject=subject,
            key=self._key_of(subject, issuer.identity_claim),
            token_id=claims.token_id(payload),
            issued_at=issued_at,
            expires_at=expires_at,
            scopes=claims.scopes(payload),
            restaurants=claims.restaurants(payload, self._valid_id) if trusted else {},
        )

    def _issuer_of(self, token: str) -> Issuer:
        """The issuer that the token claims to be from: decides which key must fit, and nothing else."""
        try:
            unverified = self._jwt.decode_complete(token, options={"verify_signature": False})
        except jwt.PyJWTError as error:
            raise _malformed(error) from error
        name = unverified["payload"].get("iss")
        if name is None:
            raise MissingClaim("iss")
        if not isinstance(name, str):
            raise BadClaim("iss", "must be a string")
        issuer = self._issuers.get(name)
        if issuer is None:
            raise WrongIssuer(self._issuers)
        kid = unverified["header"].get("kid")
        if kid is not None and issuer.key.kid is not None and kid != issuer.key.kid:
            raise UnknownKey
        return issuer

    def _verified(self, token: str, issuer: Issuer) -> dict[str, Any]:
        try:
            return self._jwt.decode(
                token,
                issuer.key.public,
                algorithms=[issuer.key.algorithm],
                audience=issuer.audience,
                issuer=issuer.name,
                options={"require": REQUIRED, "verify_exp": False, "verify_iat": False, "verify_nbf": False},
            )
        except jwt.PyJWTError as error:
            raise _refusal(error, issuer) from error

    def _lifetime(self, payload: Mapping[str, object], issuer: Issuer) -> tuple[float, float]:
        """(issued at, expires at) of a token whose time is now."""
        now = self._clock()
        issued_at = claims.numeric_date(payload, "iat")
        expires_at = claims.numeric_date(payload, "exp")
        not_before = claims.numeric_date(payload, "nbf") if "nbf" in payload else issued_at
        if now >= expires_at:
            raise TokenExpired(expires_at)
        for claim, moment in (("iat", issued_at), ("nbf", not_before)):
            if moment > now + issuer.leeway_seconds:
                raise TokenNotYetValid(claim, moment)
        if expires_at <= issued_at:
            raise BadClaim("exp", "must be later than 'iat'")
        if expires_at - issued_at > issuer.max_life_seconds:
            raise LifeTooLong(expires_at - issued_at, issuer.max_life_seconds)
        return issued_at, expires_at

    def _key_of(self, subject: str, claim: str) -> str:
        try:
            return self._identity_key(subject)
        except ValueError as error:
            raise BadClaim(claim, "can't be an identity") from error


def mint(
    *,
    signing_key: SigningKey,
    issuer: str,
    audience: str,
    subject: str,
    life_seconds: int,
    restaurants: Mapping[str, Role] | None = None,
    scopes: Iterable[str] = (),
    clock: Callable[[], float] = time.time,
) -> str:
    """A token signed with the development key, with a random `jti`, from now for `life_seconds`.

    Nothing is checked here: who needs to know that the token is good verifies it, as any other.
    """
    now = int(clock())
    payload: dict[str, object] = {
        "iss": issuer,
        "aud": audience,
        "sub": subject,
        "iat": now,
        "exp": now + life_seconds,
        "jti": secrets.token_urlsafe(16),
    }
    if restaurants:
        payload["restaurants"] = {restaurant: str(role) for restaurant, role in restaurants.items()}
    if scope := " ".join(scopes):
        payload["scope"] = scope
    headers = {"kid": signing_key.verification.kid}
    return jwt.encode(payload, signing_key.private, algorithm=signing_key.verification.algorithm, headers=headers)


class _StrictJWT(jwt.PyJWT):
    """PyJWT, with a payload that has one reading: UTF-8, no name twice, no NaN or Infinity (RFC 7519 section 4)."""

    def _decode_payload(self, decoded: dict[str, Any]) -> dict[str, Any]:
        try:
            payload = json.loads(
                str(decoded["payload"], "utf-8"),
                object_pairs_hook=_without_twins,
                parse_constant=_refuse_constant,
            )
        except (ValueError, RecursionError) as error:
            raise jwt.DecodeError("payload") from error
        if not isinstance(payload, dict):
            raise jwt.DecodeError("payload")
        return payload


def _without_twins(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise ValueError("a name stands twice in one object")
    return members


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _refusal(error: jwt.PyJWTError, issuer: Issuer) -> Unauthorized:
    match error:
        case jwt.MissingRequiredClaimError():
            return MissingClaim(error.claim)
        case jwt.InvalidAudienceError():
            return WrongAudience(issuer.audience)
        case jwt.InvalidIssuerError():
            return WrongIssuer([issuer.name])
        case InvalidSubjectError():
            return BadClaim("sub", "must be a string")
        case InvalidJTIError():
            return BadClaim("jti", "must be a string")
        case jwt.InvalidAlgorithmError():
            return AlgorithmNotAllowed(issuer.key.algorithm)
        case jwt.InvalidSignatureError():
            return BadSignature()
    return _malformed(error)


def _malformed(error: jwt.PyJWTError) -> MalformedToken:
    if isinstance(error, jwt.DecodeError):
        return MalformedToken()
    return MalformedToken("its header has a 'crit', 'b64' or 'kid' that is not understood here")


def _refuse_twins(field: str, values: list[str]) -> None:
    for value, count in Counter(values).items():
        if count > 1:
            raise IssuersCollide(field, value)
