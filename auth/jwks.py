"""A set of published keys: JSON Web Keys (RFC 7517) → the keys of it that can be used here. Pure."""

from __future__ import annotations

from base64 import b64decode
from typing import TYPE_CHECKING, NamedTuple

import msgspec
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicNumbers
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicNumbers

from auth.keys import ALGORITHMS, Algorithm, PublicKey, VerificationKey, verification_key

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

MAX_KEYS = 100
"""In one set. Issuers have a handful."""

KID_LENGTH = 256
"""The longest name of a key, in characters."""

_EC_BYTES = 32  # of each coordinate on P-256 (RFC 7518 section 6.2.1.2)


class KeySet(NamedTuple):
    """The usable keys by name, None for the name of a single one that has none; and why each other was passed over."""

    keys: Mapping[str | None, VerificationKey]
    passed_over: tuple[str, ...]


def read_key_set(data: bytes, algorithms: frozenset[Algorithm] = ALGORITHMS) -> KeySet:
    """The keys in a JWK Set that verify by one of `algorithms`.

    What can't be used is passed over (RFC 7517 section 5): another kind of key, algorithm or use, a weak one, a secret
    one. So are different keys of one name, since a token can't say which it means, and keys without a name unless there
    is only one key.

    Raises:
        ValueError: this is no JWK Set, or it has too many keys.
    """
    entries = _entries(data)
    keys: dict[str | None, VerificationKey] = {}
    passed_over = []
    twins = set()
    for number, entry in enumerate(entries, 1):
        try:
            key = read_key(entry, algorithms)
        except ValueError as error:
            passed_over.append(f"key {number}: {error}")
            continue
        if keys.setdefault(key.kid, key) != key:
            twins.add(key.kid)
    for kid in twins:
        del keys[kid]
        passed_over.append("several keys have the same 'kid'" if kid else "several keys have no 'kid'")
    if len(keys) > 1 and keys.pop(None, None) is not None:
        passed_over.append("one of several keys has no 'kid'")
    return KeySet(keys, tuple(passed_over))


def read_key(entry: object, algorithms: frozenset[Algorithm] = ALGORITHMS) -> VerificationKey:
    """One JSON Web Key.

    Raises:
        ValueError: it can't be used here; the text says why.
    """
    if not isinstance(entry, dict):
        raise ValueError("it is no object")
    kid = entry.get("kid")
    if kid is not None and not (isinstance(kid, str) and 1 <= len(kid) <= KID_LENGTH):
        raise ValueError(f"its 'kid' is no text of 1 to {KID_LENGTH} characters")
    if entry.get("use", "sig") != "sig":
        raise ValueError("its 'use' is not 'sig'")
    operations = entry.get("key_ops", ["verify"])
    if not isinstance(operations, list) or "verify" not in operations:
        raise ValueError("its 'key_ops' don't have 'verify'")
    if "d" in entry:
        raise ValueError("it is a private key, which everybody could read; replace it")
    key = verification_key(_public_key(entry), kid)
    if entry.get("alg", key.algorithm) != key.algorithm:
        raise ValueError(f"its 'alg' is not {key.algorithm}, which is what a key of its kind is for here")
    if key.algorithm not in algorithms:
        raise ValueError(f"{key.algorithm} is not among the issuer's algorithms")
    return key


def _entries(data: bytes) -> list[object]:
    try:
        document = msgspec.json.decode(data)
    except (ValueError, RecursionError) as error:
        raise ValueError("the answer is not JSON") from error
    entries = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(entries, list):
        raise ValueError("the answer is no JWK Set: it has no list 'keys'")
    if len(entries) > MAX_KEYS:
        raise ValueError(f"the answer has {len(entries)} keys; at most {MAX_KEYS} are accepted")
    return entries


def _public_key(entry: Mapping[str, object]) -> PublicKey:
    kind = (entry.get("kty"), entry.get("crv"))
    make = next((make for known, make in _KINDS if known == kind), None)
    if make is None:
        raise ValueError("its 'kty' and 'crv' are not those of an RSA, P-256 or Ed25519 key")
    try:
        return make(entry)
    except (ValueError, OverflowError) as error:
        raise ValueError("its numbers are not those of such a key") from error


def _rsa(entry: Mapping[str, object]) -> PublicKey:
    exponent, modulus = (int.from_bytes(_octets(entry, name)) for name in ("e", "n"))
    return RSAPublicNumbers(exponent, modulus).public_key()


def _p256(entry: Mapping[str, object]) -> PublicKey:
    x, y = (_octets(entry, name) for name in ("x", "y"))
    if len(x) != _EC_BYTES or len(y) != _EC_BYTES:
        raise ValueError("a coordinate of another curve")
    return EllipticCurvePublicNumbers(int.from_bytes(x), int.from_bytes(y), SECP256R1()).public_key()


def _ed25519(entry: Mapping[str, object]) -> PublicKey:
    return Ed25519PublicKey.from_public_bytes(_octets(entry, "x"))


_KINDS: tuple[tuple[tuple[str, str | None], Callable[[Mapping[str, object]], PublicKey]], ...] = (
    (("RSA", None), _rsa),
    (("EC", "P-256"), _p256),
    (("OKP", "Ed25519"), _ed25519),
)


def _octets(entry: Mapping[str, object], name: str) -> bytes:
    value = entry.get(name)
    if not isinstance(value, str):
        raise ValueError(f"no text {name!r}")
    return b64decode(value + "=" * (-len(value) % 4), altchars="-_", validate=True)
