"""The keys that verify tokens, each with its one algorithm, and our own keys, which also sign: the development key and
the one that signs passes.
"""

from __future__ import annotations

import json
import os
import stat
import tempfile
from hashlib import sha256
from pathlib import Path
from typing import Literal, Protocol, get_args

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
    load_pem_public_key,
)
from jwt.algorithms import OKPAlgorithm
from jwt.utils import base64url_encode

from auth.errors import KeyUnusable, UnknownKey

Algorithm = Literal["RS256", "ES256", "EdDSA"]
PublicKey = RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey

ALGORITHMS: frozenset[Algorithm] = frozenset(get_args(Algorithm))

DEVELOPMENT_KEY_FILE = "development-key.pem"
PASS_KEY_FILE = "pass-key.pem"  # noqa: S105 - a file's name

RSA_MINIMUM_BITS = 2048
"""RFC 7518 section 3.3."""

RSA_MAXIMUM_BITS = 8192
"""A check takes longer the longer the key is, and everybody may cause one."""


class Keys(Protocol):
    """The keys of one issuer: a single `VerificationKey`, or `auth.published.PublishedKeys`."""

    def named(self, kid: str | None) -> VerificationKey:
        """The key that verifies a token which names `kid`, None where it names none. Never waits.

        Raises:
            UnknownKey: the issuer has no such key.
            KeyNotNamed: the issuer has several, and the token names none.
            KeysUnavailable: what keys the issuer has can't be said now.
        """
        ...


class VerificationKey(msgspec.Struct, frozen=True):
    """A public key and the one algorithm it verifies. By itself it is the whole of an issuer's `Keys`.

    `kid` names the key; a token that names another one is refused before its signature is looked at. None: the key has
    no name, and a token may say what it likes.
    """

    algorithm: Algorithm
    public: PublicKey
    kid: str | None = None

    def named(self, kid: str | None) -> VerificationKey:
        """This one. Raises UnknownKey."""
        if kid is not None and self.kid is not None and kid != self.kid:
            raise UnknownKey
        return self


class SigningKey(msgspec.Struct, frozen=True):
    """A key of ours. Whoever has the development key can be anybody; whoever has that of passes can open any topic for
    which there are passes.
    """

    private: Ed25519PrivateKey
    verification: VerificationKey


def load_public_key(path: Path) -> VerificationKey:
    """The public key in a PEM file: RSA for RS256, EC P-256 for ES256, Ed25519 for EdDSA.

    Raises:
        KeyUnusable: the file can't be read, is no single public key, or a key of another kind or too weak.
    """
    try:
        pem = path.read_bytes()
    except OSError as error:
        raise KeyUnusable(path, f"the key can't be read: {error.strerror}") from error
    if b"PRIVATE KEY-----" in pem:
        raise KeyUnusable(path, "this is a private key; give its public half ('openssl pkey -pubout')")
    if b"-----BEGIN CERTIFICATE" in pem:
        raise KeyUnusable(path, "this is a certificate; give its public key ('openssl x509 -noout -pubkey')")
    if pem.count(b"-----BEGIN ") > 1:
        raise KeyUnusable(path, "there are several keys in this file; give one")
    try:
        public = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise KeyUnusable(path, "this is not a public key in PEM ('-----BEGIN PUBLIC KEY-----')") from error
    try:
        return verification_key(public)
    except ValueError as error:
        raise KeyUnusable(path, str(error)) from error


def verification_key(public: object, kid: str | None = None) -> VerificationKey:
    """`public` with the one algorithm of its kind: RSA for RS256, EC P-256 for ES256, Ed25519 for EdDSA.

    Raises:
        ValueError: of another kind, or too weak; the text says what would be right.
    """
    match public:
        case RSAPublicKey() if public.key_size < RSA_MINIMUM_BITS:
            raise ValueError(f"an RSA key of {public.key_size} bits is too weak; use {RSA_MINIMUM_BITS} or more")
        case RSAPublicKey() if public.key_size > RSA_MAXIMUM_BITS:
            raise ValueError(f"an RSA key of {public.key_size} bits is too long; use {RSA_MAXIMUM_BITS} or less")
        case RSAPublicKey():
            return VerificationKey("RS256", public, kid)
        case EllipticCurvePublicKey() if isinstance(public.curve, SECP256R1):
            return VerificationKey("ES256", public, kid)
        case Ed25519PublicKey():
            return VerificationKey("EdDSA", public, kid)
    raise ValueError("this kind of key is not supported; use RSA, EC P-256 (prime256v1) or Ed25519")


def development_key(data_dir: Path) -> SigningKey:
    """The development key in `data_dir`, made there (mode 0600) if there is none yet.

    Any number of processes may call this at once; all get the same key.

    Raises:
        KeyUnusable: it can't be made or read, is corrupt, or others than its owner may read it.
    """
    return _own_key(data_dir / DEVELOPMENT_KEY_FILE, "the development key")


def pass_key(data_dir: Path) -> SigningKey:
    """The key in `data_dir` that signs passes, made there if there is none yet, in the same way. Raises KeyUnusable."""
    return _own_key(data_dir / PASS_KEY_FILE, "the key of passes")


def load_signing_key(path: Path) -> SigningKey:
    """The Ed25519 private key in a PEM file, which only its owner may read.

    Raises:
        KeyUnusable: the file can't be read, holds anything else, or others may read it.
    """
    try:
        pem = _read_private(path)
    except OSError as error:
        raise KeyUnusable(path, f"the key can't be read: {error.strerror}") from error
    reason = "this is not an Ed25519 private key in PEM ('openssl genpkey -algorithm ed25519')"
    return _signing_key(pem, KeyUnusable(path, reason))


def _own_key(path: Path, name: str) -> SigningKey:
    try:
        if not path.exists():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _create(path)
        pem = _read_private(path)
    except OSError as error:
        raise KeyUnusable(path, f"{name} can't be made or read: {error.strerror}") from error
    return _signing_key(pem, _corrupt(path))


def _signing_key(pem: bytes, unusable: KeyUnusable) -> SigningKey:
    """Raises `unusable` where it is none."""
    try:
        private = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise unusable from error
    if not isinstance(private, Ed25519PrivateKey):
        raise unusable
    public = private.public_key()
    return SigningKey(private, VerificationKey("EdDSA", public, _thumbprint(public)))


def _create(path: Path) -> None:
    """Write a new key beside `path` and link it there: a link is atomic and fails where a name exists already."""
    pem = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")  # mode 0600
    draft = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(pem)
            file.flush()
            os.fsync(file.fileno())
        try:
            path.hardlink_to(draft)
        except FileExistsError:
            pass  # another process was first: its key is the key
    finally:
        draft.unlink()


def _read_private(path: Path) -> bytes:
    with path.open("rb") as file:
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        if mode & 0o077:
            raise KeyUnusable(path, f"others may read or write this key (mode {mode:04o}); run 'chmod 600' on it")
        return file.read()


def _corrupt(path: Path) -> KeyUnusable:
    return KeyUnusable(
        path, "this is not an Ed25519 private key; remove the file to have a new one made (what it signed ends with it)"
    )


def _thumbprint(public: Ed25519PublicKey) -> str:
    """The key's name by RFC 7638."""
    jwk = json.dumps(OKPAlgorithm.to_jwk(public, as_dict=True), separators=(",", ":"), sort_keys=True)
    return base64url_encode(sha256(jwk.encode()).digest()).decode()
