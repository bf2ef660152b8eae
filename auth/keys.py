"""The keys that verify tokens, each with its one algorithm, and the development key that also signs them."""

from __future__ import annotations

import json
import os
import stat
import tempfile
from hashlib import sha256
from pathlib import Path
from typing import Literal

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

from auth.errors import KeyUnusable

Algorithm = Literal["RS256", "ES256", "EdDSA"]
PublicKey = RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey

DEVELOPMENT_KEY_FILE = "development-key.pem"

RSA_MINIMUM_BITS = 2048
"""RFC 7518 section 3.3."""


class VerificationKey(msgspec.Struct, frozen=True):
    """A public key and the one algorithm it verifies.

    `kid` names the key; a token that names another one is refused before its signature is looked at. None: the key has
    no name, and a token may say what it likes.
    """

    algorithm: Algorithm
    public: PublicKey
    kid: str | None = None


class SigningKey(msgspec.Struct, frozen=True):
    """The development key: whoever has it can be anybody, so it is made and read on one machine only."""

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
    match public:
        case RSAPublicKey() if public.key_size < RSA_MINIMUM_BITS:
            raise KeyUnusable(path, f"an RSA key of {public.key_size} bits is too weak; use {RSA_MINIMUM_BITS} or more")
        case RSAPublicKey():
            return VerificationKey("RS256", public)
        case EllipticCurvePublicKey() if isinstance(public.curve, SECP256R1):
            return VerificationKey("ES256", public)
        case Ed25519PublicKey():
            return VerificationKey("EdDSA", public)
    raise KeyUnusable(path, "this kind of key is not supported; use RSA, EC P-256 (prime256v1) or Ed25519")


def development_key(data_dir: Path) -> SigningKey:
    """The key pair in `data_dir`, made there (mode 0600) if there is none yet.

    Any number of processes may call this at once; all get the same key.

    Raises:
        KeyUnusable: it can't be made or read, is corrupt, or others than its owner may read it.
    """
    path = data_dir / DEVELOPMENT_KEY_FILE
    try:
        if not path.exists():
            data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            _create(path)
        pem = _read_private(path)
    except OSError as error:
        raise KeyUnusable(path, f"the development key can't be made or read: {error.strerror}") from error
    try:
        private = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise _corrupt(path) from error
    if not isinstance(private, Ed25519PrivateKey):
        raise _corrupt(path)
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
        path, "this is not an Ed25519 private key; remove the file to have a new one made (its tokens end with it)"
    )


def _thumbprint(public: Ed25519PublicKey) -> str:
    """The key's name by RFC 7638."""
    jwk = json.dumps(OKPAlgorithm.to_jwk(public, as_dict=True), separators=(",", ":"), sort_keys=True)
    return base64url_encode(sha256(jwk.encode()).digest()).decode()
