"""Whatever the token, the verifier answers with claims or with Unauthorized, and never with anything else."""

from __future__ import annotations

import json

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import assume, example, given
from hypothesis import strategies as st

from auth.claims import Claims
from auth.errors import BadSignature, Unauthorized
from auth.keys import VerificationKey
from tests.auth.forging import HEADER, ISSUER, THEIRS, b64, forge, forged, issuer, signed, verifier

VERIFIER = verifier()

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)
CLAIM = st.sampled_from(["iss", "aud", "sub", "iat", "exp", "nbf", "jti", "scope", "restaurants", "x"])
HEADER_NAME = st.sampled_from(["alg", "typ", "kid", "crit", "b64", "cty", "jwk", "zip"])


def outcome(token: str) -> Claims | Unauthorized:
    try:
        result: Claims | Unauthorized = VERIFIER.verify(token)
    except Unauthorized as error:
        result = error
    if isinstance(result, Unauthorized):
        assert len(token) < 8 or token not in result.detail
        assert result.www_authenticate().isprintable()
        assert result.www_authenticate().isascii()
    return result


@given(st.text() | st.binary().map(lambda data: data.decode("latin-1")))
@example("." * 8192)
def test_arbitrary_text_is_never_accepted(token: str) -> None:
    assert isinstance(outcome(token), Unauthorized)


@given(st.lists(st.binary().map(b64), min_size=3, max_size=3).map(".".join))
def test_arbitrary_bytes_in_three_parts_are_never_accepted(token: str) -> None:
    assert isinstance(outcome(token), Unauthorized)


@given(JSON, JSON)
def test_arbitrary_json_unsigned_is_never_accepted(header: object, payload: object) -> None:
    token = f"{b64(json.dumps(header).encode())}.{b64(json.dumps(payload).encode())}.{b64(b'0' * 64)}"
    assert isinstance(outcome(token), Unauthorized)


@given(st.binary(), st.binary())
def test_arbitrary_bytes_with_a_fitting_signature(header: bytes, payload: bytes) -> None:
    outcome(signed(header, payload))


@given(st.dictionaries(HEADER_NAME, JSON))
def test_arbitrary_header_with_a_fitting_signature(header: dict[str, object]) -> None:
    outcome(forged(header=header))


@given(st.binary())
def test_arbitrary_payload_with_a_fitting_signature(payload: bytes) -> None:
    assert isinstance(outcome(signed(json.dumps(HEADER).encode(), payload)), Unauthorized)


@given(st.dictionaries(CLAIM, JSON, min_size=1))
def test_arbitrary_claims_with_a_fitting_signature(claims: dict[str, object]) -> None:
    result = outcome(forged(claims))
    if isinstance(result, Claims):
        assert result.issuer == ISSUER


@given(st.dictionaries(st.text(), JSON))
def test_arbitrary_further_claims_change_nothing(claims: dict[str, object]) -> None:
    further = json.dumps({f"x-{name}": value for name, value in claims.items()})
    assume(len(further) < 4000 and "NaN" not in further and "Infinity" not in further)
    result = outcome(forged({f"x-{name}": value for name, value in claims.items()}))
    assert isinstance(result, Claims)
    assert result.subject == "alice"


@given(st.dictionaries(CLAIM, JSON))
def test_nothing_signed_by_another_is_accepted(claims: dict[str, object]) -> None:
    assert isinstance(outcome(forged(claims, key=THEIRS)), Unauthorized)


@given(st.integers(min_value=0), st.integers(min_value=0), st.binary(max_size=3))
def test_spliced_token_is_never_accepted(start: int, length: int, junk: bytes) -> None:
    token = forge()
    start %= len(token)
    spliced = token[:start] + junk.decode("latin-1") + token[start + length % 5 :]
    if spliced != token:
        assert isinstance(outcome(spliced), Unauthorized)


RSA = rsa.generate_private_key(65537, 2048).public_key()
EC = ec.generate_private_key(ec.SECP256R1()).public_key()


@pytest.mark.parametrize("key", [VerificationKey("RS256", RSA), VerificationKey("ES256", EC)], ids=["RS256", "ES256"])
@given(
    signature=st.binary(max_size=80) | st.binary(min_size=64, max_size=64) | st.just(bytes(64)) | st.just(bytes(256))
)
def test_arbitrary_signature_is_refused_by_every_kind_of_key(key: VerificationKey, signature: bytes) -> None:
    signing_input = forged(header={"alg": key.algorithm}).rsplit(".", 1)[0]
    with pytest.raises(BadSignature):
        verifier(issuer(key=key)).verify(f"{signing_input}.{b64(signature)}")
