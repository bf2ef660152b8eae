"""Tokens that were verified before: a signature is checked once, not at every return of its bearer."""

from __future__ import annotations

import hashlib
import time
from typing import TYPE_CHECKING, Protocol

from auth.claims import pack, unpack
from auth.errors import TokenExpired
from auth.tokens import TOKEN_LENGTH

if TYPE_CHECKING:
    from collections.abc import Callable

    from auth.claims import Claims

MAX_REMEMBERED = 65_536
"""Tokens; each takes about 400 bytes. Beyond that the one that was used longest ago is forgotten."""


class Verifier(Protocol):
    """Who checks tokens: `auth.tokens.TokenVerifier`, or something before it."""

    def verify(self, token: str) -> Claims:
        """Raises Unauthorized, and KeysUnavailable where an issuer publishes its keys."""
        ...


class RememberingVerifier:
    """Verifies a token with `verifier` the first time, and from its hash until it expires.

    What is remembered is what the token says, which never changes. What may be taken back, such as a role or the token
    itself, is a fact of the log, and is asked for at each decision; where a key is taken back, `forget` is called.
    Tokens that were refused are not remembered. Only a SHA-256 hash of a token is kept.
    """

    def __init__(
        self, verifier: Verifier, *, max_remembered: int = MAX_REMEMBERED, clock: Callable[[], float] = time.time
    ) -> None:
        self._verifier = verifier
        self._max_remembered = max_remembered
        self._clock = clock
        self._known: dict[bytes, bytes] = {}

    def __len__(self) -> int:
        return len(self._known)

    def forget(self) -> None:
        """Verify every token anew: a key has gone. That is rare, and which tokens were its is not remembered."""
        self._known.clear()

    def verify(self, token: str) -> Claims:
        """What `token` says. Raises Unauthorized and KeysUnavailable, as `TokenVerifier.verify` does."""
        if len(token) > TOKEN_LENGTH or not token.isascii():
            return self._verifier.verify(token)
        name = hashlib.sha256(token.encode()).digest()
        packed = self._known.pop(name, None)
        if packed is None:
            claims = self._verifier.verify(token)
            packed = pack(claims)
            if len(self._known) >= self._max_remembered:
                del self._known[next(iter(self._known))]
        else:
            claims = unpack(packed)
            if self._clock() >= claims.expires_at:
                raise TokenExpired(claims.expires_at)
        self._known[name] = packed  # at the end: used last
        return claims
