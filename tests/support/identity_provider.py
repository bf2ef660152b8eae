"""An issuer of tokens that publishes its keys over HTTP: a real server on a free port, as good or bad as is asked."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Literal

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from tests.support.scripted_server import answer, serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from auth.keys import Algorithm
    from tests.support.scripted_server import Exchange, Request

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey

_RSA = rsa.generate_private_key(65537, 2048)  # takes a while, so one for all


class SigningJwk:
    """A key pair of one algorithm, `kid` its name."""

    def __init__(self, kid: str | None = "k1", algorithm: Algorithm = "EdDSA") -> None:
        self.kid = kid
        self.algorithm = algorithm
        self.private = _private(algorithm)

    def public(self, **members: Any) -> dict[str, Any]:
        """As it is published, with these members changed; one that is None is left out."""
        jwk: dict[str, Any] = {
            "kid": self.kid,
            "alg": self.algorithm,
            "use": "sig",
            **_members(self.private),
            **members,
        }
        return {name: value for name, value in jwk.items() if value is not None}

    def sign(self, issuer: str, subject: str, *, header: dict[str, Any] | None = None, **claims: Any) -> str:
        """A token of `issuer`'s for `subject`, good for an hour unless the claims say otherwise."""
        now = int(time.time())
        payload = {"iss": issuer, "aud": "passline", "sub": subject, "iat": now, "exp": now + 3600, **claims}
        named = {} if self.kid is None else {"kid": self.kid}
        return jwt.encode(payload, self.private, algorithm=self.algorithm, headers={**named, **(header or {})})


class IdentityProvider:
    """A running one. Each request is answered with the set of `keys`, unless `mood` says otherwise.

    `mood`: `away` resets the connection, `failing` answers 500, `holding` answers only when it changes.
    """

    def __init__(self, url: str, requests: list[Request]) -> None:
        self.url = url
        self.requests = requests
        self.keys: list[dict[str, Any]] = []
        self.raw: bytes | None = None
        """The whole response, where it is not the set of keys."""
        self._mood: Literal["well", "away", "failing", "holding"] = "well"
        self._mood_changed = asyncio.Event()

    @property
    def jwks_url(self) -> str:
        return f"{self.url}/keys"

    @property
    def mood(self) -> Literal["well", "away", "failing", "holding"]:
        return self._mood

    @mood.setter
    def mood(self, mood: Literal["well", "away", "failing", "holding"]) -> None:
        self._mood = mood
        self._mood_changed.set()
        self._mood_changed = asyncio.Event()

    def publish(self, *keys: SigningJwk) -> None:
        """These and no others."""
        self.keys = [key.public() for key in keys]

    async def respond(self, exchange: Exchange) -> None:
        """As the mood is."""
        while self._mood == "holding":
            await self._mood_changed.wait()
        if self._mood == "away":
            exchange.reset()
        elif self._mood == "failing":
            await exchange.send(answer("500 Internal Server Error"))
        else:
            body = json.dumps({"keys": self.keys}).encode()
            await exchange.send(self.raw or answer("200 OK", body, "application/json"))


@asynccontextmanager
async def identity_provider(*keys: SigningJwk) -> AsyncIterator[IdentityProvider]:
    """One that publishes `keys`."""
    provider: IdentityProvider | None = None

    async def script(exchange: Exchange) -> None:
        assert provider is not None
        await provider.respond(exchange)

    async with serving(script) as server:
        provider = IdentityProvider(server.url, server.requests)
        provider.publish(*keys)
        yield provider


def _private(algorithm: Algorithm) -> PrivateKey:
    match algorithm:
        case "RS256":
            return _RSA
        case "ES256":
            return ec.generate_private_key(ec.SECP256R1())
        case "EdDSA":
            return ed25519.Ed25519PrivateKey.generate()


def _members(private: PrivateKey) -> dict[str, Any]:
    if isinstance(private, rsa.RSAPrivateKey):
        jwk = RSAAlgorithm.to_jwk(private.public_key(), as_dict=True)
    elif isinstance(private, ec.EllipticCurvePrivateKey):
        jwk = ECAlgorithm.to_jwk(private.public_key(), as_dict=True)
    else:
        jwk = OKPAlgorithm.to_jwk(private.public_key(), as_dict=True)
    return {name: value for name, value in jwk.items() if name != "key_ops"}
