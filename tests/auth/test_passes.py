"""Passes: what they say, everything that one can be refused for, and that none is ever taken for a token."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from auth.claims import PassClaims
from auth.errors import BadSignature, KeyUnusable, NotAllowed, PassIsNoToken, PassRefused
from auth.keys import PASS_KEY_FILE, SigningKey, VerificationKey, development_key, load_signing_key, pass_key
from auth.passes import MAX_PASS_SECONDS, PASS_ISSUER, PASS_TYPE, Passes, claims_to_be_pass
from auth.policies import Standing, must_be_device_of, must_be_order_owner, must_be_restaurant_staff, must_have_pass_for
from auth.tokens import mint
from tests.auth.forging import ABSENT, AUDIENCE, ISSUER, NOW, OURS, SIGNING_KEY, THEIRS, forge, issuer, signed, verifier

HEADER = {"alg": "EdDSA", "typ": PASS_TYPE, "kid": "ours"}
GOOD: dict[str, object] = {
    "iss": PASS_ISSUER,
    "aud": PASS_ISSUER,
    "iat": NOW,
    "exp": NOW + 3600,
    "jti": "p1",
    "topic": "orders/o1",
}


def rsa_pem() -> bytes:
    key = rsa.generate_private_key(65537, 2048)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def passes(now: float = NOW, key: SigningKey = SIGNING_KEY) -> Passes:
    return Passes(key, clock=lambda: now)


def forged_pass(*, header: dict[str, object] | None = None, key: Any = OURS, **claims: object) -> str:
    """A good pass but for these claims; `ABSENT` leaves one out."""
    payload = {name: value for name, value in {**GOOD, **claims}.items() if value is not ABSENT}
    return signed(json.dumps({**HEADER, **(header or {})}).encode(), json.dumps(payload).encode(), key)


def test_guests_pass_says_one_order_and_nothing_else() -> None:
    claims = passes().verify(passes().for_guest("o1", "p1", NOW + 60))
    assert (claims.topic, claims.token_id, claims.key) == ("orders/o1", "p1", "guest:p1")
    assert (claims.device_id, claims.scopes, dict(claims.restaurants)) == (None, frozenset(), {})
    assert (claims.issued_at, claims.expires_at) == (NOW, NOW + 60)


def test_devices_passes_share_a_key_that_says_which_device_it_is() -> None:
    first, second = (passes().verify(passes().for_device("r1", "d1", jti, NOW + 60)) for jti in ("a", "b"))
    assert first.key == second.key == "device:r1:d1"
    assert (first.topic, first.restaurant_id, first.device_id) == ("partners/r1", "r1", "d1")


def test_another_machine_with_the_same_key_takes_the_pass() -> None:
    text = passes().for_guest("o1", "p1", NOW + 60)
    other = Passes(SigningKey(OURS, VerificationKey("EdDSA", OURS.public_key(), "named otherwise")), lambda: NOW + 1)
    assert other.verify(text).token_id == "p1"


WRONG = {
    "empty": "",
    "junk": "junk",
    "not ascii": "é.é.é",
    "two parts": "a.b",
    "huge": "a" * 100_000,
    "another key": forged_pass(key=THEIRS),
    "no signature": forged_pass().rpartition(".")[0] + ".",
    "alg none": signed(b'{"alg":"none","typ":"passline-pass+jwt"}', json.dumps(GOOD).encode()),
    "alg HS256": forged_pass(header={"alg": "HS256"}),
    "no type": signed(b'{"alg":"EdDSA"}', json.dumps(GOOD).encode()),
    "a token's type": forged_pass(header={"typ": "JWT"}),
    "a type that is no text": forged_pass(header={"typ": 7}),
    "unknown crit": forged_pass(header={"crit": ["b64"], "b64": False}),
    "another issuer": forged_pass(iss=ISSUER),
    "another audience": forged_pass(aud=AUDIENCE),
    "no issuer": forged_pass(iss=ABSENT),
    "no audience": forged_pass(aud=ABSENT),
    "no id": forged_pass(jti=ABSENT),
    "id of another kind": forged_pass(jti=7),
    "no topic": forged_pass(topic=ABSENT),
    "topic of another kind": forged_pass(topic=["orders/o1"]),
    "no end": forged_pass(exp=ABSENT),
    "no beginning": forged_pass(iat=ABSENT),
    "ended": forged_pass(iat=NOW - 60, exp=NOW),
    "not begun": forged_pass(iat=NOW + 60),
    "too long a life": forged_pass(exp=NOW + MAX_PASS_SECONDS + 1),
    "an end that is no number": forged_pass(exp="tomorrow"),
    "an end beyond all numbers": forged_pass(exp=10**400),
    "a payload that is no object": signed(json.dumps(HEADER).encode(), b"[]"),
    "a token": forge(),
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG.keys())
def test_pass_that_is_wrong_in_any_way_is_refused_in_one_way(wrong: str) -> None:
    with pytest.raises(PassRefused) as refused:
        passes().verify(wrong)
    assert refused.value.detail == PassRefused().detail
    assert passes().verify(forged_pass()).token_id == "p1"


def test_pass_holds_up_to_its_very_end() -> None:
    text = forged_pass()
    assert passes(NOW + 3599.9).verify(text).token_id == "p1"
    with pytest.raises(PassRefused):
        passes(NOW + 3600).verify(text)


def test_clock_of_another_machine_may_be_a_little_ahead() -> None:
    assert passes(NOW - 4).verify(forged_pass()).token_id == "p1"
    with pytest.raises(PassRefused):
        passes(NOW - 6).verify(forged_pass())


@pytest.mark.parametrize("typ", [PASS_TYPE, "Passline-Pass+JWT", "application/passline-pass+jwt"])
def test_pass_is_no_token_even_where_an_issuer_has_its_key_and_names(typ: str) -> None:
    """The worst of all settings: an issuer that is called as passes' own is, with the public half of their key."""
    gullible = verifier(issuer(PASS_ISSUER, audience=PASS_ISSUER, identity_claim="jti"))
    text = forged_pass(header={"typ": typ}, sub="alice")
    with pytest.raises(PassIsNoToken):
        gullible.verify(text)
    assert gullible.verify(forged_pass(header={"typ": "JWT"}, sub="alice")).subject == "p1"


def test_token_is_no_pass_even_where_the_issuer_says_all_that_a_pass_says() -> None:
    claims = {**GOOD, "sub": "alice"}
    token = signed(json.dumps({"alg": "EdDSA", "typ": "JWT", "kid": "ours"}).encode(), json.dumps(claims).encode())
    with pytest.raises(PassRefused):
        passes().verify(token)


def test_issuers_own_key_makes_no_pass() -> None:
    with pytest.raises(PassRefused):
        passes().verify(forged_pass(key=THEIRS))
    with pytest.raises(BadSignature):
        verifier().verify(forge_with_their_key())


def forge_with_their_key() -> str:
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "iat": NOW, "exp": NOW + 60}
    return signed(b'{"alg":"EdDSA","typ":"JWT"}', json.dumps(claims).encode(), THEIRS)


def test_bearer_says_itself_which_of_the_two_it_is() -> None:
    token = mint(signing_key=SIGNING_KEY, issuer=ISSUER, audience=AUDIENCE, subject="a", life_seconds=60)
    assert claims_to_be_pass(passes().for_guest("o1", "p1", NOW + 60))
    assert not claims_to_be_pass(token)
    assert not any(claims_to_be_pass(each) for each in ("", "a.b.c", "é", "a" * 5000))


def test_longest_pass_there_can_be_is_taken() -> None:
    text = passes().for_device("r" * 64, "d" * 64, "j" * 64, NOW + MAX_PASS_SECONDS)
    assert passes().verify(text).device_id == "d" * 64


def claims_of(text: str) -> PassClaims:
    return passes().verify(text)


def test_policies_that_know_nothing_of_passes_refuse_them() -> None:
    device = claims_of(passes().for_device("r1", "d1", "p1", NOW + 60))
    with pytest.raises(NotAllowed):
        must_be_restaurant_staff(device, "r1", Standing())
    for customer_key in ("device:r1:d1"[:6], "d1", "r1", "p1"):
        with pytest.raises(NotAllowed):
            must_be_order_owner(device, customer_key)


def test_pass_is_for_its_own_topic_only() -> None:
    guest = claims_of(passes().for_guest("o1", "p1", NOW + 60))
    assert must_have_pass_for(guest, "orders/o1") is guest
    for topic in ("orders/o2", "orders/O1", "partners/o1", "orders/o1/", ""):
        with pytest.raises(PassRefused):
            must_have_pass_for(guest, topic)
    with pytest.raises(PassRefused):
        must_have_pass_for(verifier().verify(forge(sub="guest")), "orders/o1")


def test_device_is_one_of_its_own_restaurant_only() -> None:
    device = claims_of(passes().for_device("r1", "d1", "p1", NOW + 60))
    must_be_device_of(device, "r1")
    with pytest.raises(PassRefused):
        must_be_device_of(device, "r2")
    for other in (claims_of(passes().for_guest("r1", "p1", NOW + 60)), verifier().verify(forge())):
        with pytest.raises(NotAllowed):
            must_be_device_of(other, "r1")


def test_code_is_hashed_with_the_key_and_never_the_same_as_without() -> None:
    other = Passes(SigningKey(THEIRS, VerificationKey("EdDSA", THEIRS.public_key())))
    assert passes().blinded("K7QF3MPX") == passes().blinded("K7QF3MPX")
    assert passes().blinded("K7QF3MPX") != other.blinded("K7QF3MPX")
    assert len(passes().blinded("K7QF3MPX")) == 64


def test_key_is_made_once_for_its_owner_only_and_stays(tmp_path: Path) -> None:
    first, second = pass_key(tmp_path / "data"), pass_key(tmp_path / "data")
    text = Passes(first, lambda: NOW).for_guest("o1", "p1", NOW + 1)
    assert Passes(second, lambda: NOW).verify(text).token_id == "p1"
    assert stat.S_IMODE((tmp_path / "data" / PASS_KEY_FILE).stat().st_mode) == 0o600
    assert first.verification.kid != development_key(tmp_path / "data").verification.kid
    assert load_signing_key(tmp_path / "data" / PASS_KEY_FILE).verification.kid == first.verification.kid


@pytest.mark.parametrize(
    ("content", "mode", "reason"),
    [
        (b"junk", 0o600, "not an Ed25519 private key in PEM"),
        (rsa_pem(), 0o600, "not an Ed25519 private key in PEM"),
        (None, 0o640, "chmod 600"),
    ],
    ids=["junk", "rsa", "readable"],
)
def test_unusable_key_says_what_to_do(tmp_path: Path, content: bytes | None, mode: int, reason: str) -> None:
    path = tmp_path / "key.pem"
    pem = OURS.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(pem if content is None else content)
    path.chmod(mode)
    with pytest.raises(KeyUnusable, match=reason):
        load_signing_key(path)
    with pytest.raises(KeyUnusable, match="can't be read"):
        load_signing_key(tmp_path / "none.pem")
