"""Tokens made by hand, byte for byte: what no well-behaved library would sign."""

from __future__ import annotations

import hashlib
import json
import re
from base64 import urlsafe_b64encode
from collections.abc import Iterable, Mapping

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from auth.issuers import Issuer
from auth.keys import Keys, SigningKey, VerificationKey
from auth.tokens import TokenVerifier

NOW = 1_800_000_000.0
ISSUER = "https://id.example"
AUDIENCE = "passline"
OURS = Ed25519PrivateKey.from_private_bytes(b"\x01" * 32)
THEIRS = Ed25519PrivateKey.from_private_bytes(b"\x02" * 32)
KEY = VerificationKey("EdDSA", OURS.public_key(), kid="ours")
SIGNING_KEY = SigningKey(OURS, KEY)
HEADER = {"alg": "EdDSA", "typ": "JWT"}
GOOD: dict[str, object] = {"iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "iat": NOW, "exp": NOW + 3600}
ABSENT = object()


def b64(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def signed(header: bytes, payload: bytes, key: Ed25519PrivateKey = OURS) -> str:
    """Any bytes as header and payload under a signature that fits."""
    signing_input = f"{b64(header)}.{b64(payload)}"
    return f"{signing_input}.{b64(key.sign(signing_input.encode()))}"


def forge(**claims: object) -> str:
    """A good token but for these claims; `ABSENT` leaves one out."""
    return forged(claims)


def forged(
    claims: Mapping[str, object] = GOOD, *, header: Mapping[str, object] = HEADER, key: Ed25519PrivateKey = OURS
) -> str:
    """The same with a changed header or another's key."""
    payload = {name: value for name, value in {**GOOD, **claims}.items() if value is not ABSENT}
    return signed(json.dumps({**HEADER, **header}).encode(), json.dumps(payload).encode(), key)


def is_id(text: str) -> bool:
    return re.fullmatch(r"[A-Za-z0-9_-]{1,64}", text) is not None


def identity_key(identity: str) -> str:
    return identity if is_id(identity) else "h_" + hashlib.sha256(identity.encode()).hexdigest()[:40]


def issuer(name: str = ISSUER, key: Keys = KEY, **settings: object) -> Issuer:
    return Issuer(**{"name": name, "audience": AUDIENCE, "keys": key, **settings})  # type: ignore[arg-type]


def verifier(*issuers: Issuer, now: float = NOW) -> TokenVerifier:
    known: Iterable[Issuer] = issuers or [issuer()]
    return TokenVerifier(known, identity_key, is_id, clock=lambda: now)
