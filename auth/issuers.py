"""Whose word is taken, and what for: issuers, and the reading of what one of them has verifiably said."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping

import msgspec

from auth import claims
from auth.claims import Claims
from auth.errors import BadClaim, IssuersCollide, LifeTooLong, TokenExpired, TokenNotYetValid, WrongIssuer
from auth.keys import Keys


class Issuer(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody whose tokens are accepted, and what for.

    Attributes:
        name: the claim `iss`, exactly.
        audience: what the claim `aud` must be or contain.
        keys: verify this issuer's tokens and no others', each by its own algorithm.
        identity_claim: the one claim that says who it is.
        prefix: stands before each identity of this issuer, so that two issuers' people never share a name.
        trusted_for_restaurants: whether its claim `restaurants` is taken; if not, it is not even read.
        max_life_seconds: the most that `exp` may be after `iat`.
        leeway_seconds: how far this issuer's clock may be ahead, for `iat` and `nbf`. `exp` has none.
    """

    name: str
    audience: str
    keys: Keys
    identity_claim: str = "sub"
    prefix: str = ""
    trusted_for_restaurants: bool = True
    max_life_seconds: float = 86_400
    leeway_seconds: float = 5


class Issuers:
    """The issuers that are known.

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
        prefixes = [issuer.prefix for issuer in known]
        self._longer_prefixes = {
            own: tuple(prefix for prefix in prefixes if prefix != own and prefix.startswith(own)) for own in prefixes
        }
        self._identity_key = identity_key
        self._valid_id = valid_id
        self._clock = clock

    def named(self, name: str) -> Issuer:
        """The issuer of this name. Raises WrongIssuer."""
        issuer = self._issuers.get(name)
        if issuer is None:
            raise WrongIssuer(self._issuers)
        return issuer

    def claims(self, issuer: Issuer, payload: Mapping[str, object]) -> Claims:
        """What `payload`, which is known to come from `issuer`, says, if it holds now.

        Raises:
            Unauthorized: the leaf says why.
        """
        issued_at, expires_at = self._lifetime(payload, issuer)
        subject = self._subject(payload, issuer)
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

    def _subject(self, payload: Mapping[str, object], issuer: Issuer) -> str:
        """The identity. Where this issuer's prefix begins another's (none begins every other), what it says may read
        as one of the other's identities: those are not its own to give.
        """
        subject = claims.identity(payload, issuer.identity_claim, issuer.prefix)
        if subject.startswith(self._longer_prefixes[issuer.prefix]):
            raise BadClaim(issuer.identity_claim, "begins as the identities of another issuer do")
        return subject

    def _key_of(self, subject: str, claim: str) -> str:
        try:
            return self._identity_key(subject)
        except ValueError as error:
            raise BadClaim(claim, "can't be an identity") from error


def _refuse_twins(field: str, values: list[str]) -> None:
    for value, count in Counter(values).items():
        if count > 1:
            raise IssuersCollide(field, value)
