from __future__ import annotations

import hashlib
import hmac
import json

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from auth.claims import Claims, Role
from auth.errors import (
    AlgorithmNotAllowed,
    BadClaim,
    BadSignature,
    IssuersCollide,
    LifeTooLong,
    MalformedToken,
    MissingClaim,
    TokenExpired,
    TokenNotYetValid,
    TokenTooLong,
    Unauthorized,
    UnknownKey,
    WrongAudience,
    WrongIssuer,
)
from auth.issuers import Issuer
from auth.keys import Algorithm, PublicKey, VerificationKey
from auth.tokens import TOKEN_LENGTH, TokenVerifier, mint
from tests.auth.forging import (
    ABSENT,
    AUDIENCE,
    GOOD,
    HEADER,
    ISSUER,
    KEY,
    NOW,
    OURS,
    SIGNING_KEY,
    THEIRS,
    b64,
    forge,
    forged,
    identity_key,
    issuer,
    signed,
    verifier,
)


def refused(token: str) -> Unauthorized:
    with pytest.raises(Unauthorized) as caught:
        verifier().verify(token)
    assert len(token) < 8 or token not in caught.value.detail
    return caught.value


# ── what is accepted ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_good_token_says_who_it_is_and_what_for() -> None:
    token = forge(sub="auth0|5f", jti="t-1", scope="events:publish marketing:read", restaurants={"r1": "staff"})
    assert verifier().verify(token) == Claims(
        issuer=ISSUER,
        subject="auth0|5f",
        key=identity_key("auth0|5f"),
        token_id="t-1",
        issued_at=NOW,
        expires_at=NOW + 3600,
        scopes=frozenset({"events:publish", "marketing:read"}),
        restaurants={"r1": Role.STAFF},
    )


def test_minimal_token_grants_nothing() -> None:
    claims = verifier().verify(forge())
    assert (claims.scopes, dict(claims.restaurants), claims.token_id) == (frozenset(), {}, None)


def test_minted_token_verifies() -> None:
    token = mint(
        signing_key=SIGNING_KEY,
        issuer=ISSUER,
        audience=AUDIENCE,
        subject="Ada",
        life_seconds=60,
        restaurants={"r1": Role.OWNER},
        scopes=["a", "b"],
        clock=lambda: NOW + 0.9,
    )
    claims = verifier().verify(token)
    assert (claims.subject, dict(claims.restaurants), set(claims.scopes)) == ("Ada", {"r1": Role.OWNER}, {"a", "b"})
    assert (claims.issued_at, claims.expires_at) == (NOW, NOW + 60)
    assert claims.token_id
    assert jwt.get_unverified_header(token) == {"alg": "EdDSA", "typ": "JWT", "kid": KEY.kid}


def test_minted_tokens_differ() -> None:
    tokens = {
        mint(signing_key=SIGNING_KEY, issuer=ISSUER, audience=AUDIENCE, subject="a", life_seconds=1, clock=lambda: NOW)
        for _ in range(10)
    }
    assert len(tokens) == 10


def test_audience_may_be_one_of_several() -> None:
    assert verifier().verify(forge(aud=["other", AUDIENCE])).subject == "alice"


def test_claims_cannot_be_changed_afterwards() -> None:
    claims = verifier().verify(forge(restaurants={"r1": "staff"}))
    with pytest.raises(TypeError):
        claims.restaurants["r2"] = Role.OWNER  # type: ignore[index]
    with pytest.raises(AttributeError):
        claims.subject = "eve"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("private", "algorithm"),
    [(rsa.generate_private_key(65537, 2048), "RS256"), (ec.generate_private_key(ec.SECP256R1()), "ES256")],
)
def test_rsa_and_ec_issuers_verify_by_their_own_algorithm_only(
    private: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey, algorithm: Algorithm
) -> None:
    known = issuer(key=VerificationKey(algorithm, private.public_key()))
    assert verifier(known).verify(jwt.encode(GOOD, private, algorithm=algorithm)).subject == "alice"
    with pytest.raises(AlgorithmNotAllowed):
        verifier(known).verify(forge())
    if isinstance(private, rsa.RSAPrivateKey):
        with pytest.raises(AlgorithmNotAllowed, match="signed with RS256"):
            verifier(known).verify(jwt.encode(GOOD, private, algorithm="PS256"))


# ── issuers ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_each_issuer_has_its_own_key_claim_prefix_and_trust() -> None:
    second = issuer(
        "https://two.example",
        VerificationKey("EdDSA", THEIRS.public_key()),
        identity_claim="customer_id",
        prefix="two:",
        trusted_for_restaurants=False,
    )
    both = verifier(issuer(), second)
    claims = both.verify(
        forged({"iss": "https://two.example", "customer_id": "c1", "restaurants": {"r1": "owner", "*": 7}}, key=THEIRS)
    )
    assert (claims.issuer, claims.subject, claims.restaurants) == ("https://two.example", "two:c1", {})
    assert both.verify(forge()).subject == "alice"
    with pytest.raises(BadSignature):
        both.verify(forge(iss="https://two.example", customer_id="c1"))
    with pytest.raises(BadSignature):
        both.verify(forged(key=THEIRS))


@pytest.mark.parametrize("other", [issuer(prefix="x"), issuer("https://two.example")], ids=["name", "prefix"])
def test_issuers_that_could_be_confused_are_refused_at_start(other: Issuer) -> None:
    with pytest.raises(IssuersCollide):
        verifier(issuer(), other)


def test_issuer_cannot_give_out_another_ones_identity() -> None:
    """Its prefix, none, begins the other's: what it says could read the same."""
    second = issuer("https://two.example", VerificationKey("EdDSA", THEIRS.public_key()), prefix="two:")
    third = issuer("https://three.example", VerificationKey("EdDSA", THEIRS.public_key()), prefix="two:three:")
    all_three = verifier(issuer(), second, third)
    assert all_three.verify(forged({"iss": "https://two.example", "sub": "ann"}, key=THEIRS)).subject == "two:ann"
    assert all_three.verify(forged({"iss": "https://three.example"}, key=THEIRS)).subject == "two:three:alice"
    assert all_three.verify(forge(sub="two-ann")).subject == "two-ann"
    for claims in ({"sub": "two:ann"}, {"sub": "two:three:ann"}):
        with pytest.raises(BadClaim, match="'sub' begins as the identities of another issuer do"):
            all_three.verify(forged(claims))
    with pytest.raises(BadClaim, match="another issuer"):
        all_three.verify(forged({"iss": "https://two.example", "sub": "three:ann"}, key=THEIRS))


def test_unknown_issuer_is_told_which_one_is_right() -> None:
    error = refused(forge(iss="https://evil.example"))
    assert isinstance(error, WrongIssuer)
    assert error.expected == (ISSUER,)


@pytest.mark.parametrize("odd", [7, True, ["https://id.example"], {"a": 1}])
def test_issuer_of_another_type_is_a_bad_claim(odd: object) -> None:
    assert isinstance(refused(forge(iss=odd)), BadClaim)


def test_key_function_may_refuse_an_identity() -> None:
    def no_key(identity: str) -> str:
        raise ValueError(identity)

    with pytest.raises(BadClaim, match="'sub' can't be an identity"):
        TokenVerifier([issuer()], no_key, bool, clock=lambda: NOW).verify(forge())


# ── form, algorithm, signature ───────────────────────────────────────────────────────────────────────────────────────


def test_long_token_is_refused_before_it_is_parsed() -> None:
    error = refused("x" * (TOKEN_LENGTH + 1))
    assert isinstance(error, TokenTooLong)
    assert (error.size, error.limit) == (8193, 8192)
    assert isinstance(refused("x" * TOKEN_LENGTH), MalformedToken)


def test_token_of_just_the_limit_is_accepted() -> None:
    pad = next(n for n in range(4096, 8192) if len(forge(pad="x" * n)) >= TOKEN_LENGTH)
    assert len(forge(pad="x" * pad)) - TOKEN_LENGTH in (0, 1)
    assert verifier().verify(forge(pad="x" * (pad - 2))).subject == "alice"
    assert isinstance(refused(forge(pad="x" * (pad + 2))), TokenTooLong)


@pytest.mark.parametrize(
    "token",
    [
        "",
        ".",
        "..",
        "a.b",
        "a.b.c",
        "é.é.é",
        "\ud800",
        forge() + ".x",
        forge() + "\n",
        " " + forge(),
        forge().rsplit(".", 1)[0],
        forge()[:-1],
        "Bearer " + forge(),
        signed(b"{", b"{}"),
        signed(b"[]", b"{}"),
        signed(b"\xff", b"{}"),
        signed(b"[" * 5000, b"{}"),
        signed(b'{"alg":"EdDSA"}', b"[]"),
        signed(b'{"alg":"EdDSA"}', b"null"),
        signed(b'{"alg":"EdDSA"}', b""),
        signed(b'{"alg":"EdDSA"}', b"\xff\xfe"),
        signed(b'{"alg":"EdDSA"}', b"[" * 5000),
        signed(b'{"alg":"EdDSA"}', b'{"exp":' + b"9" * 5000 + b"}"),
        signed(b'{"alg":"EdDSA"}', json.dumps(GOOD).encode("utf-16")),
    ],
)
def test_what_is_no_jwt_is_malformed(token: str) -> None:
    assert isinstance(refused(token), MalformedToken)


@pytest.mark.parametrize(
    "payload",
    [
        json.dumps(GOOD)[:-1] + ', "sub": "eve"}',
        json.dumps(GOOD)[:-1] + ', "restaurants": {"r1": "staff", "r1": "owner"}}',
        json.dumps(GOOD)[:-1] + ', "x": NaN}',
        json.dumps({**GOOD, "exp": float("inf")}),
        json.dumps({**GOOD, "exp": float("nan")}),
    ],
)
def test_payload_with_two_readings_is_malformed(payload: str) -> None:
    assert isinstance(refused(signed(json.dumps(HEADER).encode(), payload.encode())), MalformedToken)


@pytest.mark.parametrize(
    "header",
    [
        {"crit": ["exp"]},
        {"crit": ["http://example/unknown"], "http://example/unknown": True},
        {"crit": []},
        {"crit": "exp"},
        {"crit": [7]},
        {"b64": False},
        {"b64": False, "crit": ["b64"]},
        {"kid": 7},
        {"kid": ["ours"]},
    ],
)
def test_header_that_must_be_understood_and_is_not_is_refused(header: dict[str, object]) -> None:
    assert isinstance(refused(forged(header=header)), MalformedToken)


@pytest.mark.parametrize(
    "alg", ["none", "None", "NONE", "nOnE", "", "HS256", "RS256", "ES256", "eddsa", None, 7, ["EdDSA"], {}]
)
def test_any_other_algorithm_is_refused_even_if_the_signature_fits(alg: object) -> None:
    error = refused(forged(header={"alg": alg}))
    assert isinstance(error, AlgorithmNotAllowed)
    assert error.allowed == "EdDSA"


def test_algorithm_must_be_named() -> None:
    assert isinstance(refused(signed(b'{"typ":"JWT"}', json.dumps(GOOD).encode())), AlgorithmNotAllowed)


def test_unsigned_token_is_refused() -> None:
    unsigned = jwt.encode(GOOD, "", algorithm="none")
    assert unsigned.endswith(".")
    assert isinstance(refused(unsigned), AlgorithmNotAllowed)
    assert isinstance(refused(forge().rsplit(".", 1)[0] + "."), BadSignature)


@pytest.mark.parametrize("encoding", [Encoding.PEM, Encoding.DER])
@pytest.mark.parametrize(
    ("public", "algorithm"),
    [(OURS.public_key(), "EdDSA"), (rsa.generate_private_key(65537, 2048).public_key(), "RS256")],
)
def test_hmac_with_the_public_key_as_its_secret_is_refused(
    public: PublicKey, algorithm: Algorithm, encoding: Encoding
) -> None:
    secret = public.public_bytes(encoding, PublicFormat.SubjectPublicKeyInfo)
    header = b64(json.dumps({"alg": "HS256", "typ": "JWT"}).encode())
    signing_input = f"{header}.{b64(json.dumps(GOOD).encode())}"
    token = f"{signing_input}.{b64(hmac.digest(secret, signing_input.encode(), hashlib.sha256))}"
    with pytest.raises(AlgorithmNotAllowed):
        verifier(issuer(key=VerificationKey(algorithm, public))).verify(token)


def test_key_that_the_token_brings_along_is_not_used() -> None:
    jwk = jwt.algorithms.OKPAlgorithm.to_jwk(THEIRS.public_key(), as_dict=True)
    header = {"jwk": jwk, "jku": "https://evil.example/keys", "x5u": "https://evil.example/cert"}
    assert isinstance(refused(forged(header=header, key=THEIRS)), BadSignature)


def test_token_of_another_named_key_is_told_so() -> None:
    assert isinstance(refused(forged(header={"kid": "former"}, key=THEIRS)), UnknownKey)
    assert isinstance(refused(forged(header={"kid": "ours"}, key=THEIRS)), BadSignature)
    assert verifier().verify(forged(header={"kid": "ours"})).subject == "alice"
    nameless = issuer(key=VerificationKey("EdDSA", OURS.public_key()))
    assert verifier(nameless).verify(forged(header={"kid": "whatever"})).subject == "alice"


def test_every_changed_bit_of_a_token_is_noticed() -> None:
    token = forge()
    for position in range(len(token)):
        changed = token[:position] + ("A" if token[position] != "A" else "B") + token[position + 1 :]
        refused(changed)


def test_payload_of_one_token_does_not_pass_with_the_signature_of_another() -> None:
    header, _, signature = forge().split(".")
    payload = forge(sub="eve").split(".")[1]
    assert isinstance(refused(f"{header}.{payload}.{signature}"), BadSignature)


# ── claims ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("value", [ABSENT, None])
@pytest.mark.parametrize("claim", ["exp", "iat", "sub", "aud", "iss"])
def test_each_required_claim_is_required(claim: str, value: object) -> None:
    error = refused(forged({claim: value}))
    assert isinstance(error, MissingClaim)
    assert error.claim == claim


def test_sub_is_required_even_where_another_claim_is_the_identity() -> None:
    known = verifier(issuer(identity_claim="customer_id"))
    with pytest.raises(MissingClaim, match="'sub'"):
        known.verify(forge(sub=ABSENT, customer_id="c1"))
    with pytest.raises(MissingClaim, match="'customer_id'"):
        known.verify(forge())


@pytest.mark.parametrize("aud", ["other", ["other"], 7, [7], ["passline", 7], {"passline": 1}, "passline ", "PASSLINE"])
def test_other_audience_is_told_which_one_is_right(aud: object) -> None:
    error = refused(forge(aud=aud))
    assert isinstance(error, WrongAudience)
    assert error.expected == AUDIENCE


@pytest.mark.parametrize(
    ("claims", "claim"),
    [
        ({"sub": 7}, "sub"),
        ({"sub": ""}, "sub"),
        ({"sub": "a\u0000b"}, "sub"),
        ({"sub": "\ud800"}, "sub"),
        ({"sub": "x" * 257}, "sub"),
        ({"sub": {"a": [{}]}}, "sub"),
        ({"jti": 7}, "jti"),
        ({"jti": None}, "jti"),
        ({"jti": "x" * 257}, "jti"),
        ({"exp": True}, "exp"),
        ({"exp": "1800003600"}, "exp"),
        ({"exp": -1}, "exp"),
        ({"exp": 10**300}, "exp"),
        ({"exp": (NOW + 3600) * 1000}, "exp"),
        ({"iat": False}, "iat"),
        ({"iat": [NOW]}, "iat"),
        ({"iat": -1.5}, "iat"),
        ({"iat": 10**18}, "iat"),
        ({"nbf": "soon"}, "nbf"),
        ({"nbf": True}, "nbf"),
        ({"scope": 7}, "scope"),
        ({"scope": {"a": 1}}, "scope"),
        ({"restaurants": ["r1"]}, "restaurants"),
        ({"restaurants": {"r1": "king"}}, "restaurants"),
        ({"restaurants": {"r.*": "owner"}}, "restaurants"),
        ({"restaurants": {f"{n}": "staff" for n in range(300)}}, "restaurants"),
    ],
)
def test_odd_claim_is_refused_with_its_name(claims: dict[str, object], claim: str) -> None:
    error = refused(forged(claims))
    assert isinstance(error, BadClaim)
    assert error.claim == claim


def test_infinite_exp_in_plain_json_is_a_bad_claim() -> None:
    payload = json.dumps({**GOOD, "exp": 0}).replace('"exp": 0', '"exp": 1e999')
    assert isinstance(refused(signed(json.dumps(HEADER).encode(), payload.encode())), BadClaim)


def test_restaurants_of_an_untrusted_issuer_are_not_even_read() -> None:
    untrusting = verifier(issuer(trusted_for_restaurants=False))
    assert untrusting.verify(forge(restaurants={"r1": "owner"})).restaurants == {}
    assert untrusting.verify(forge(restaurants=7)).restaurants == {}


# ── time ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_token_ends_at_exp_to_the_moment() -> None:
    token = forge(exp=NOW + 10.5)
    assert verifier(now=NOW + 10.499).verify(token).expires_at == NOW + 10.5
    for now in (NOW + 10.5, NOW + 11, NOW + 1e6):
        with pytest.raises(TokenExpired) as caught:
            verifier(now=now).verify(token)
        assert caught.value.expired_at == NOW + 10.5


def test_expired_token_says_when() -> None:
    assert (
        refused(forge(iat=NOW - 60, exp=NOW - 1)).detail == "The token expired at 2027-01-15T07:59:59Z; get a new one."
    )


@pytest.mark.parametrize("claim", ["iat", "nbf"])
def test_clock_ahead_is_borne_within_the_leeway_only(claim: str) -> None:
    assert verifier().verify(forged({claim: NOW + 5})).subject == "alice"
    error = refused(forged({claim: NOW + 5.001}))
    assert isinstance(error, TokenNotYetValid)
    assert (error.claim, error.valid_from) == (claim, NOW + 5.001)


def test_life_is_bounded() -> None:
    assert verifier().verify(forge(exp=NOW + 86_400)).subject == "alice"
    error = refused(forge(exp=NOW + 86_401))
    assert isinstance(error, LifeTooLong)
    assert (error.life_seconds, error.limit_seconds) == (86_401, 86_400)
    with pytest.raises(LifeTooLong):
        verifier(issuer(max_life_seconds=60)).verify(forge(exp=NOW + 61))
    assert isinstance(refused(forge(iat=0)), LifeTooLong)


def test_token_that_ends_before_it_begins_is_refused() -> None:
    assert isinstance(refused(forge(iat=NOW + 4, exp=NOW + 3)), BadClaim)


def test_forged_token_learns_nothing_of_its_claims() -> None:
    assert isinstance(refused(forged({"exp": 0, "sub": 7, "aud": "other"}, key=THEIRS)), BadSignature)
