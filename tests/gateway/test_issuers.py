"""Which issuers the settings name: one by variables, several by a file, each told what is wrong with it."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from auth.errors import IssuersCollide, KeyUnusable, Unauthorized
from auth.keys import development_key
from auth.published import PublishedKeys
from auth.tokens import mint
from gateway.forwarded import forwarded_identity
from gateway.issuers import known_issuers, token_verifier
from gateway.issuers_file import IssuerSettings, read_issuers_file
from gateway.minting import NoDevelopmentKey, mint_token
from gateway.settings import Settings, SettingsInvalid
from tests.auth.forging import OURS

JWKS_URL = "https://id.example/keys"
MINIMAL = f"""
[[issuer]]
name = "https://id.example"
audience = "passline"
jwks_url = "{JWKS_URL}"
"""
PLAIN_HTTP = "keys that come over plain HTTP may be anybody's; use https, or this machine's own address"
PARTNERS = """
[[issuer]]
name = "https://partners.example"
audience = "orders"
key_file = "partners.pem"
identity_claim = "partner_id"
prefix = "partner:"
restaurants = true
max_life_seconds = 3600
algorithms = ["EdDSA"]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    pem = OURS.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "partners.pem").write_bytes(pem)
    return tmp_path / "issuers.toml"


def wrong_in(file: Path, text: str) -> list[str]:
    file.write_text(text)
    _, wrong = read_issuers_file(file)
    return wrong


def test_file_says_all_of_each_issuer(file: Path) -> None:
    file.write_text(MINIMAL + PARTNERS)
    assert read_issuers_file(file) == (
        [
            IssuerSettings(name="https://id.example", audience="passline", jwks_url=JWKS_URL),
            IssuerSettings(
                name="https://partners.example",
                audience="orders",
                key_file=file.parent / "partners.pem",
                identity_claim="partner_id",
                prefix="partner:",
                restaurants=True,
                max_life_seconds=3600,
                algorithms=frozenset({"EdDSA"}),
            ),
        ],
        [],
    )


def test_everything_wrong_is_told_with_its_issuer_and_field(file: Path) -> None:
    text = f"""
    issuers = 1
    {MINIMAL}
    restaurant = true
    max_life_seconds = 86401
    {PARTNERS}
    jwks_url = "http://partners.example/keys"
    [[issuer]]
    audience = ""
    prefix = 7
    restaurants = "yes"
    algorithms = ["RS256", "HS256"]
    """
    fields = "name, audience, key_file, jwks_url, identity_claim, prefix, restaurants, max_life_seconds, algorithms"
    assert wrong_in(file, text) == [
        "issuers: is not known here; an issuer begins with [[issuer]]",
        f"issuer 1 ('https://id.example'): restaurant: is not known here; the fields are {fields}",
        "issuer 1 ('https://id.example'): max_life_seconds: must be a whole number from 60 to 86400",
        "issuer 2 ('https://partners.example'): key_file and jwks_url: one of them must be set, not 2",
        f"issuer 2 ('https://partners.example'): jwks_url: {PLAIN_HTTP}",
        "issuer 3: name: is missing",
        "issuer 3: key_file and jwks_url: one of them must be set, not none",
        "issuer 3: audience: must be a text of 1 to 256 printable characters",
        "issuer 3: prefix: must be a text of at most 64 printable characters",
        "issuer 3: restaurants: must be true or false",
        "issuer 3: algorithms: must be a list of ES256, EdDSA, RS256",
    ]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "issuer: there is none"),
        ("[issuer]\nname = 'one'", "issuer: there is none"),
        ("issuer = []", "issuer: there is none"),
        ("issuer = [1]", "issuer 1: is no table"),
        ("[[issuer]\n", "this is not TOML: Expected ']]'"),
        (MINIMAL.replace(f'"{JWKS_URL}"', "7"), "jwks_url: must be a text"),
        (PARTNERS.replace('"partners.pem"', '""'), "key_file: must be the path of a file"),
        (PARTNERS.replace('"partners.pem"', '"a\\u0000b"'), "key_file: must be the path of a file"),
        (PARTNERS.replace('["EdDSA"]', "[]"), "algorithms: must be a list"),
        (PARTNERS.replace('["EdDSA"]', '"EdDSA"'), "algorithms: must be a list"),
        (PARTNERS.replace('["EdDSA"]', "[[]]"), "algorithms: must be a list"),
        (PARTNERS.replace("3600", "true"), "max_life_seconds: must be a whole number"),
    ],
)
def test_file_that_cannot_be_used_says_why(file: Path, text: str, reason: str) -> None:
    (told,) = wrong_in(file, text)
    assert reason in told


def test_file_that_cannot_be_read_stops_the_start(file: Path) -> None:
    with pytest.raises(SettingsInvalid) as refused:
        known_issuers(Settings(issuers_file=file))
    assert refused.value.reasons == (
        f"PASSLINE_ISSUERS_FILE: {file}: the file can't be read: No such file or directory",
    )
    file.write_bytes(b"\xff")
    with pytest.raises(SettingsInvalid, match="this is not TOML"):
        known_issuers(Settings(issuers_file=file))


def test_key_file_of_an_issuer_is_checked_at_the_start(file: Path) -> None:
    file.write_text(PARTNERS.replace('["EdDSA"]', '["RS256"]'))
    with pytest.raises(SettingsInvalid, match=r"'https://partners\.example': algorithms: .* is for EdDSA"):
        known_issuers(Settings(issuers_file=file))
    file.write_text(PARTNERS.replace("partners.pem", "none.pem"))
    with pytest.raises(KeyUnusable, match=r"none\.pem"):
        known_issuers(Settings(issuers_file=file))


def test_second_issuer_needs_a_prefix_of_its_own(file: Path) -> None:
    file.write_text(MINIMAL + PARTNERS.replace('"partner:"', '""'))
    with pytest.raises(IssuersCollide, match="same prefix ''; each needs its own"):
        known_issuers(Settings(issuers_file=file))
    file.write_text(MINIMAL)
    with pytest.raises(IssuersCollide, match="same name"):
        known_issuers(
            Settings(issuers_file=file, token_issuer="https://id.example", token_jwks_url=JWKS_URL, token_prefix="x")
        )


def test_each_issuer_of_the_file_is_known_beside_the_one_of_the_variables(file: Path) -> None:
    file.write_text(PARTNERS)
    known = known_issuers(Settings(issuers_file=file, token_jwks_url=JWKS_URL, token_issuer="https://id.example"))
    partners = known.issuers.named("https://partners.example")
    assert (partners.identity_claim, partners.prefix, partners.max_life_seconds) == ("partner_id", "partner:", 3600)
    assert partners.trusted_for_restaurants
    assert known.published == (known.issuers.named("https://id.example").keys,)
    assert isinstance(known.published[0], PublishedKeys)


def test_development_key_is_no_issuers_where_another_is_named(tmp_path: Path, file: Path) -> None:
    file.write_text(PARTNERS)
    token = mint(
        signing_key=development_key(tmp_path), issuer="passline", audience="passline", subject="eve", life_seconds=60
    )
    assert token_verifier(Settings(data_dir=tmp_path)).verify(token).subject == "eve"
    for settings in (
        Settings(data_dir=tmp_path, issuers_file=file),
        Settings(data_dir=tmp_path, token_key_file=file.parent / "partners.pem"),
    ):
        with pytest.raises(Unauthorized):
            token_verifier(settings).verify(token)
        with pytest.raises(NoDevelopmentKey, match="the private key of"):
            mint_token(settings, subject="eve", life_seconds=60)
    with pytest.raises(NoDevelopmentKey, match="the private key of the issuer;"):
        mint_token(Settings(data_dir=tmp_path, token_jwks_url=JWKS_URL), subject="eve", life_seconds=60)


def test_proxies_speak_for_an_issuer_that_is_known(tmp_path: Path) -> None:
    known = known_issuers(Settings(data_dir=tmp_path))
    assert forwarded_identity(Settings(), known.issuers) is None
    assert forwarded_identity(Settings(forwarded_identity="passline"), known.issuers) is not None
    with pytest.raises(SettingsInvalid) as refused:
        forwarded_identity(Settings(forwarded_identity="https://id.example"), known.issuers)
    assert refused.value.reasons == (
        "PASSLINE_FORWARDED_IDENTITY: 'https://id.example' is no issuer here; the issuers are 'passline'",
    )


@pytest.mark.parametrize(
    ("environ", "reason"),
    [
        (
            {"PASSLINE_TOKEN_JWKS_URL": JWKS_URL, "PASSLINE_TOKEN_KEY_FILE": "key.pem"},
            "PASSLINE_TOKEN_JWKS_URL: PASSLINE_TOKEN_KEY_FILE is set as well",
        ),
        ({"PASSLINE_TOKEN_JWKS_URL": "http://id.example/keys"}, "PASSLINE_TOKEN_JWKS_URL: keys that come over plain"),
        (
            {"PASSLINE_JWKS_REFRESH_SECONDS": "3600", "PASSLINE_JWKS_STALE_SECONDS": "600"},
            "PASSLINE_JWKS_STALE_SECONDS: keys would be too old before they are fetched anew",
        ),
        ({"PASSLINE_FORWARDED_IDENTITY": "passline"}, "PASSLINE_FORWARDED_IDENTITY: nobody would be believed"),
    ],
)
def test_settings_that_contradict_each_other_are_told(environ: dict[str, str], reason: str) -> None:
    with pytest.raises(SettingsInvalid) as refused:
        Settings.from_environment(environ)
    (told,) = refused.value.reasons
    assert told.startswith(reason)
