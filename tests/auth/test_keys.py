from __future__ import annotations

import multiprocessing
import stat
import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from auth.errors import AuthConfigError, KeyUnusable
from auth.keys import DEVELOPMENT_KEY_FILE, PublicKey, SigningKey, development_key, load_public_key


def public_pem(key: object) -> bytes:
    public: PublicKey = key.public_key()  # type: ignore[attr-defined]
    return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def private_pem(key: ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


ED25519 = ed25519.Ed25519PrivateKey.generate()


@pytest.mark.parametrize(
    ("key", "algorithm"),
    [
        (rsa.generate_private_key(65537, 2048), "RS256"),
        (ec.generate_private_key(ec.SECP256R1()), "ES256"),
        (ED25519, "EdDSA"),
    ],
    ids=["rsa", "p-256", "ed25519"],
)
def test_public_key_has_one_algorithm_by_its_kind(tmp_path: Path, key: object, algorithm: str) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(public_pem(key))
    loaded = load_public_key(path)
    assert loaded.algorithm == algorithm
    assert loaded.kid is None
    assert loaded.public == key.public_key()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (public_pem(rsa.generate_private_key(65537, 1024)), "1024 bits is too weak; use 2048"),
        (public_pem(ec.generate_private_key(ec.SECP384R1())), "not supported; use RSA, EC P-256"),
        (public_pem(ec.generate_private_key(ec.SECP256K1())), "not supported"),
        (public_pem(ed448.Ed448PrivateKey.generate()), "not supported"),
        (private_pem(ED25519), "private key; give its public half"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "certificate; give its public key"),
        (public_pem(ED25519) * 2, "several keys"),
        (b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "not a public key in PEM"),
        (b"", "not a public key in PEM"),
        (b"\xff\xfe\x00junk", "not a public key in PEM"),
    ],
    ids=["rsa-1024", "p-384", "secp256k1", "ed448", "private", "certificate", "two", "corrupt", "empty", "junk"],
)
def test_unusable_public_key_says_what_to_do(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(content)
    with pytest.raises(KeyUnusable, match=reason) as caught:
        load_public_key(path)
    assert caught.value.path == str(path)


def test_absent_public_key_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(AuthConfigError, match="can't be read: No such file"):
        load_public_key(tmp_path / "none.pem")


def test_development_key_is_made_once_private_and_stays(tmp_path: Path) -> None:
    data_dir = tmp_path / "new" / "data"
    first, second = development_key(data_dir), development_key(data_dir)
    assert same_key([first, second])
    assert first.verification.algorithm == "EdDSA"
    path = data_dir / DEVELOPMENT_KEY_FILE
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.stat().st_nlink == 1
    assert names_in(data_dir) == [DEVELOPMENT_KEY_FILE]


def test_development_keys_are_told_apart_by_kid(tmp_path: Path) -> None:
    assert development_key(tmp_path / "a").verification.kid != development_key(tmp_path / "b").verification.kid


def test_threads_that_start_at_once_get_one_key(tmp_path: Path) -> None:
    for attempt in range(20):
        data_dir, barrier = tmp_path / str(attempt), threading.Barrier(8)

        def start(data_dir: Path = data_dir, barrier: threading.Barrier = barrier) -> SigningKey:
            barrier.wait()
            return development_key(data_dir)

        with ThreadPoolExecutor(8) as pool:
            keys = [future.result() for future in [pool.submit(start) for _ in range(8)]]
        assert same_key(keys)
        assert names_in(data_dir) == [DEVELOPMENT_KEY_FILE]


def test_processes_that_start_at_once_get_one_key(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(3, mp_context=context) as pool:
        kids = {future.result() for future in [pool.submit(start_process, tmp_path / "data") for _ in range(12)]}
    assert len(kids) == 1


def start_process(data_dir: Path) -> str | None:
    return development_key(data_dir).verification.kid


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o620, 0o666])
def test_development_key_that_others_may_read_or_write_is_refused(tmp_path: Path, mode: int) -> None:
    development_key(tmp_path)
    path = tmp_path / DEVELOPMENT_KEY_FILE
    path.chmod(mode)
    with pytest.raises(KeyUnusable, match=f"mode {mode:04o}.*chmod 600"):
        development_key(tmp_path)


@pytest.mark.parametrize(
    "content",
    [b"", b"junk", private_pem(ED25519)[:60], private_pem(rsa.generate_private_key(65537, 2048)), public_pem(ED25519)],
    ids=["empty", "junk", "cut", "rsa", "public"],
)
def test_corrupt_development_key_is_told_and_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / DEVELOPMENT_KEY_FILE
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(KeyUnusable, match="not an Ed25519 private key; remove the file"):
        development_key(tmp_path)
    assert path.read_bytes() == content


def test_data_directory_that_is_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    with pytest.raises(KeyUnusable, match="can't be made or read"):
        development_key(tmp_path / "data")


def test_development_key_that_is_a_directory_is_told(tmp_path: Path) -> None:
    (tmp_path / DEVELOPMENT_KEY_FILE).mkdir()
    with pytest.raises(KeyUnusable, match="can't be made or read: Is a directory"):
        development_key(tmp_path)


def names_in(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir()]


def same_key(keys: list[SigningKey]) -> bool:
    return (
        len({key.private.private_bytes_raw() for key in keys}) == 1 and len({key.verification.kid for key in keys}) == 1
    )
