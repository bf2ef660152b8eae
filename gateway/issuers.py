"""The issuers that the settings name, with their keys: what tokens are checked by."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from auth.issuers import Issuer
from auth.keys import ALGORITHMS, Keys, development_key, load_public_key
from auth.published import PublishedKeys
from auth.remembering import RememberingVerifier
from auth.tokens import TokenVerifier
from gateway.issuers_file import IssuerSettings, read_issuers_file
from gateway.settings import SettingsInvalid
from streams.subjects import identity_key, is_id

if TYPE_CHECKING:
    from pathlib import Path

    from auth.issuers import Issuers
    from auth.keys import VerificationKey
    from auth.remembering import Verifier
    from gateway.settings import Settings


class KnownIssuers(NamedTuple):
    """Whose tokens are taken. Each of `published` must run as long as tokens are checked."""

    issuers: Issuers
    verifier: RememberingVerifier
    published: tuple[PublishedKeys, ...]


def known_issuers(settings: Settings) -> KnownIssuers:
    """The one issuer of the settings, and those of the issuers file. Nothing is fetched yet.

    An issuers file alone leaves no development key: then that one is no issuer at all.

    Raises:
        KeyUnusable: a key file can't be read or used.
        SettingsInvalid: the issuers file can't.
        IssuersCollide
    """
    issuers = []
    if settings.takes_development_tokens or settings.token_key_file or settings.token_jwks_url:
        issuers.append(_single(settings))
    if settings.issuers_file is not None:
        issuers.extend(_of_file(settings, settings.issuers_file))
    verifier = TokenVerifier(issuers, identity_key, is_id)
    remembering = RememberingVerifier(verifier)
    published = tuple(issuer.keys for issuer in issuers if isinstance(issuer.keys, PublishedKeys))
    for keys in published:
        keys.on_withdrawn = remembering.forget
    return KnownIssuers(verifier.issuers, remembering, published)


def token_verifier(settings: Settings) -> Verifier:
    """Checks tokens by what is here, without anything that runs beside it. Raises as `known_issuers` does."""
    return known_issuers(settings).verifier


def _single(settings: Settings) -> Issuer:
    keys: Keys
    if settings.token_jwks_url is not None:
        keys = _published(settings, settings.token_issuer, settings.token_jwks_url)
    elif settings.token_key_file is not None:
        keys = load_public_key(settings.token_key_file)
    else:
        keys = development_key(settings.data_dir).verification
    return Issuer(
        name=settings.token_issuer,
        audience=settings.token_audience,
        keys=keys,
        identity_claim=settings.token_identity_claim,
        prefix=settings.token_prefix,
        trusted_for_restaurants=settings.token_restaurants,
        max_life_seconds=settings.token_max_life_seconds,
    )


def _of_file(settings: Settings, path: Path) -> list[Issuer]:
    entries, wrong = read_issuers_file(path)
    if wrong:
        raise SettingsInvalid([f"PASSLINE_ISSUERS_FILE: {path}: {reason}" for reason in wrong])
    return [
        Issuer(
            name=entry.name,
            audience=entry.audience,
            keys=_keys(settings, entry),
            identity_claim=entry.identity_claim,
            prefix=entry.prefix,
            trusted_for_restaurants=entry.restaurants,
            max_life_seconds=entry.max_life_seconds,
        )
        for entry in entries
    ]


def _keys(settings: Settings, entry: IssuerSettings) -> Keys:
    if entry.jwks_url is not None:
        return _published(settings, entry.name, entry.jwks_url, entry.algorithms)
    assert entry.key_file is not None
    key: VerificationKey = load_public_key(entry.key_file)
    if key.algorithm not in entry.algorithms:
        reason = (
            f"PASSLINE_ISSUERS_FILE: {settings.issuers_file}: issuer {entry.name!r}: algorithms: the key in "
            f"{entry.key_file} is for {key.algorithm}, which is not among them"
        )
        raise SettingsInvalid([reason])
    return key


def _published(settings: Settings, issuer: str, address: str, algorithms: frozenset[str] = ALGORITHMS) -> PublishedKeys:
    return PublishedKeys(
        issuer,
        address,
        algorithms=frozenset(each for each in ALGORITHMS if each in algorithms),
        refresh_seconds=settings.jwks_refresh_seconds,
        stale_seconds=settings.jwks_stale_seconds,
    )
