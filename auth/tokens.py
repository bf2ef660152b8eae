"""From a token to claims, and back for development: the only place that knows PyJWT's way of checking.

Signature, audience, issuer and required claims are PyJWT's; time is ours (`auth.issuers`), because it is judged by an
injected clock, and so is the JSON of the payload, because two readings of one token are how checks are got around
(RFC 8725).
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jwt
from jwt.exceptions import InvalidJTIError, InvalidSubjectError

from auth.claims import Claims, Role
from auth.errors import (
    AlgorithmNotAllowed,
    BadClaim,
    BadSignature,
    MalformedToken,
    MissingClaim,
    PassIsNoToken,
    TokenTooLong,
    Unauthorized,
    WrongAudience,
    WrongIssuer,
)
from auth.issuers import Issuer, Issuers
from auth.keys import SigningKey, VerificationKey
from auth.passes import is_pass_type

TOKEN_LENGTH = 8 * 1024
"""The longest token, in characters. Checked before anything is parsed."""

REQUIRED = ["exp", "iat", "sub", "aud", "iss"]


class TokenVerifier:
    """Checks tokens of the issuers it was given.

    Args:
        issuers: no two with the same name or prefix (`IssuersCollide`).
        identity_key, valid_id, clock: as `auth.issuers.Issuers` takes them.
    """

    def __init__(
        self,
        issuers: Iterable[Issuer],
        identity_key: Callable[[str], str],
        valid_id: Callable[[str], bool],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.issuers = Issuers(issuers, identity_key, valid_id, clock)
        self._jwt = _StrictJWT()

    def verify(self, token: str) -> Claims:
        """What `token` says, if all of it holds now.

        Never waits: what an issuer's published keys can be asked for, `auth.published.verify_asking` asks.

        Raises:
            Unauthorized: the leaf says why.
            KeysUnavailable: the issuer's keys can't be had now. Nothing else is ever raised, whatever the token.
        """
        if len(token) > TOKEN_LENGTH:
            raise TokenTooLong(len(token), TOKEN_LENGTH)
        if not token.isascii():
            raise MalformedToken
        issuer, key = self._signer_of(token)
        return self.issuers.claims(issuer, self._verified(token, issuer, key))

    def _signer_of(self, token: str) -> tuple[Issuer, VerificationKey]:
        """The issuer that the token claims to be from, and the key of that issuer's that it claims to be signed with:
        decides which key must fit, and nothing else.
        """
        try:
            unverified = self._jwt.decode_complete(token, options={"verify_signature": False})
        except jwt.PyJWTError as error:
            raise _malformed(error) from error
        if is_pass_type(unverified["header"].get("typ")):
            raise PassIsNoToken
        name = unverified["payload"].get("iss")
        if name is None:
            raise MissingClaim("iss")
        if not isinstance(name, str):
            raise BadClaim("iss", "must be a string")
        issuer = self.issuers.named(name)
        return issuer, issuer.keys.named(unverified["header"].get("kid"))

    def _verified(self, token: str, issuer: Issuer, key: VerificationKey) -> dict[str, Any]:
        try:
            return self._jwt.decode(
                token,
                key.public,
                algorithms=[key.algorithm],
                audience=issuer.audience,
                issuer=issuer.name,
                options={"require": REQUIRED, "verify_exp": False, "verify_iat": False, "verify_nbf": False},
            )
        except jwt.PyJWTError as error:
            raise _refusal(error, issuer, key) from error


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


def _refusal(error: jwt.PyJWTError, issuer: Issuer, key: VerificationKey) -> Unauthorized:
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
            return AlgorithmNotAllowed(key.algorithm)
        case jwt.InvalidSignatureError():
            return BadSignature()
    return _malformed(error)


def _malformed(error: jwt.PyJWTError) -> MalformedToken:
    if isinstance(error, jwt.DecodeError):
        return MalformedToken()
    return MalformedToken("its header has a 'crit', 'b64' or 'kid' that is not understood here")
