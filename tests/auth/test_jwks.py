"""Which of the keys in a JWK Set are used, and for what."""

from __future__ import annotations

import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, rsa
from hypothesis import given
from hypothesis import strategies as st
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from jwt.utils import base64url_encode

from auth.jwks import KID_LENGTH, MAX_KEYS, KeySet, read_key, read_key_set
from auth.keys import Algorithm
from tests.support.identity_provider import SigningJwk

RSA = SigningJwk("r", "RS256")
EC = SigningJwk("e", "ES256")
ED = SigningJwk("d", "EdDSA")


def read(*entries: object) -> KeySet:
    return read_key_set(json.dumps({"keys": entries}).encode())


@pytest.mark.parametrize("key", [RSA, EC, ED], ids=["RS256", "ES256", "EdDSA"])
@pytest.mark.parametrize("members", [{}, {"alg": None}, {"use": None}, {"key_ops": ["verify"]}, {"x5c": ["AAAA"]}])
def test_key_has_one_algorithm_by_its_kind(key: SigningJwk, members: dict[str, Any]) -> None:
    found = read_key(key.public(**members))
    assert (found.algorithm, found.kid) == (key.algorithm, key.kid)
    assert found.public == key.private.public_key()


def long_rsa(bits: int) -> dict[str, Any]:
    """None that anybody could sign with."""
    modulus = (1 << bits) - 1
    return RSA.public(n=base64url_encode(modulus.to_bytes(bits // 8)).decode())


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (7, "no object"),
        ([], "no object"),
        ({}, "'kty' and 'crv'"),
        ({"kty": ["RSA"]}, "'kty' and 'crv'"),
        ({"kty": "oct", "k": "c2VjcmV0", "kid": "r"}, "'kty' and 'crv'"),
        ({"kty": "oct", "k": "c2VjcmV0", "alg": "HS256"}, "'kty' and 'crv'"),
        (RSA.public(kty="oct"), "'kty' and 'crv'"),
        (RSA.public(kty="EC"), "'kty' and 'crv'"),
        (EC.public(crv="P-384"), "'kty' and 'crv'"),
        (ED.public(crv="X25519"), "'kty' and 'crv'"),
        (ECAlgorithm.to_jwk(ec.generate_private_key(ec.SECP384R1()).public_key(), as_dict=True), "'kty' and 'crv'"),
        (OKPAlgorithm.to_jwk(ed448.Ed448PrivateKey.generate().public_key(), as_dict=True), "'kty' and 'crv'"),
        (RSA.public(kid=""), "'kid'"),
        (RSA.public(kid=7), "'kid'"),
        (RSA.public(kid="k" * (KID_LENGTH + 1)), "'kid'"),
        (RSA.public(use="enc"), "'use'"),
        (RSA.public(use=["sig"]), "'use'"),
        (RSA.public(key_ops=["encrypt", "wrapKey"]), "'key_ops'"),
        (RSA.public(key_ops=[]), "'key_ops'"),
        (RSA.public(key_ops="verify"), "'key_ops'"),
        (RSA.public(alg="PS256"), "'alg' is not RS256"),
        (RSA.public(alg="RSA-OAEP"), "'alg' is not RS256"),
        (RSA.public(alg="HS256"), "'alg' is not RS256"),
        (RSA.public(alg="none"), "'alg' is not RS256"),
        (EC.public(alg="EdDSA"), "'alg' is not ES256"),
        (ED.public(alg="ES256"), "'alg' is not EdDSA"),
        (ED.public(d="AAAA"), "private key"),
        (
            RSAAlgorithm.to_jwk(rsa.generate_private_key(65537, 1024).public_key(), as_dict=True),
            "1024 bits is too weak",
        ),
        (long_rsa(8200), "8200 bits is too long"),
        (long_rsa(800_000), "numbers|too long"),
        (RSA.public(e=None), "numbers"),
        (RSA.public(e="AQ"), "numbers"),
        (RSA.public(e="Ag"), "numbers"),
        (RSA.public(n=""), "numbers"),
        (RSA.public(n="!!!!"), "numbers"),
        (RSA.public(n="é"), "numbers"),
        (RSA.public(n=7), "numbers"),
        (EC.public(x=EC.public()["y"]), "numbers"),
        (EC.public(y="AAAA"), "numbers"),
        (ED.public(x="AAAA"), "numbers"),
    ],
)
def test_key_that_cannot_be_used_says_why_and_leaves_the_others(entry: object, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        read_key(entry)
    found = read(entry, SigningJwk("good").public())
    assert list(found.keys) == ["good"]
    assert len(found.passed_over) == 1


def test_each_of_several_keys_is_found_by_its_name() -> None:
    found = read(RSA.public(), EC.public(), ED.public())
    assert {kid: key.algorithm for kid, key in found.keys.items()} == {"r": "RS256", "e": "ES256", "d": "EdDSA"}
    assert found.passed_over == ()


def test_different_keys_of_one_name_are_all_passed_over() -> None:
    twins = [SigningJwk("twin").public() for _ in range(3)]
    found = read(*twins, ED.public())
    assert list(found.keys) == ["d"]
    assert found.passed_over == ("several keys have the same 'kid'",)


def test_same_key_twice_is_one() -> None:
    assert list(read(ED.public(), ED.public(use=None)).keys) == ["d"]


def test_key_without_a_name_is_used_only_if_it_is_the_only_one() -> None:
    assert list(read(ED.public(kid=None)).keys) == [None]
    assert list(read(ED.public(kid=None), {"kty": "oct"}).keys) == [None]
    assert list(read(ED.public(kid=None), RSA.public()).keys) == ["r"]
    assert list(read(ED.public(kid=None), RSA.public(kid=None)).keys) == []


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
def test_only_keys_of_the_wanted_algorithms_are_used(algorithm: Algorithm) -> None:
    data = json.dumps({"keys": [key.public() for key in (RSA, EC, ED)]}).encode()
    found = read_key_set(data, frozenset({algorithm}))
    assert [key.algorithm for key in found.keys.values()] == [algorithm]


def test_number_of_keys_is_limited() -> None:
    assert len(read(*[ED.public()] * MAX_KEYS).keys) == 1
    with pytest.raises(ValueError, match="101 keys; at most 100"):
        read(*[ED.public()] * (MAX_KEYS + 1))


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda each: st.lists(each, max_size=3) | st.dictionaries(st.text(), each, max_size=3),
    max_leaves=5,
)


@given(
    st.sampled_from([RSA, EC, ED]),
    st.dictionaries(st.sampled_from(["kty", "crv", "kid", "use", "key_ops", "alg", "n", "e", "x", "y", "d"]), _json),
)
def test_whatever_a_key_says_it_is_used_rightly_or_passed_over(key: SigningJwk, members: dict[str, Any]) -> None:
    found = read(key.public() | members)
    for kid, used in found.keys.items():
        assert (used.algorithm, used.public, used.kid) == (key.algorithm, key.private.public_key(), kid)


@given(st.binary() | _json.map(lambda value: json.dumps(value).encode()))
def test_whatever_the_answer_it_is_a_key_set_or_a_value_error(data: bytes) -> None:
    told = "the answer is taken"
    try:
        read_key_set(data)
    except ValueError as error:
        told = str(error)
    assert told.startswith("the answer ")
