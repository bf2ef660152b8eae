"""Tokens of our own making, for development and the demo: signed with the development key."""

from __future__ import annotations

from typing import TYPE_CHECKING

from auth.errors import Unauthorized
from auth.keys import DEVELOPMENT_KEY_FILE, development_key
from auth.tokens import mint
from gateway.errors import GatewayError
from gateway.issuers import token_verifier

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from auth.claims import Claims, Role
    from gateway.settings import Settings


class NoDevelopmentKey(GatewayError):
    """There is nothing to sign tokens with that the gateway would take."""


class TokenUnusable(GatewayError):
    """The gateway would refuse such a token. `reason` is what it would answer."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"such a token would be refused: {reason}")
        self.reason = reason


def mint_token(
    settings: Settings,
    *,
    subject: str,
    life_seconds: int,
    restaurants: Mapping[str, Role] | None = None,
    scopes: Iterable[str] = (),
) -> tuple[str, Claims]:
    """A token that the gateways of the same settings take, and what they read in it.

    Raises:
        NoDevelopmentKey: these gateways take another issuer's tokens, or have never been started.
        TokenUnusable: they would not take this one.
        KeyUnusable
    """
    if not settings.takes_development_tokens:
        raise NoDevelopmentKey(
            f"tokens are signed by who has the private key of {_other_source(settings)}; only without "
            "PASSLINE_TOKEN_KEY_FILE, PASSLINE_TOKEN_JWKS_URL and PASSLINE_ISSUERS_FILE there is a development key to "
            "sign with"
        )
    if not (settings.data_dir / DEVELOPMENT_KEY_FILE).exists():  # one made now would be nobody's
        raise NoDevelopmentKey(
            f"{settings.data_dir} has no development key: start `passline serve --data-dir {settings.data_dir}`, "
            "which makes it"
        )
    token = mint(
        signing_key=development_key(settings.data_dir),
        issuer=settings.token_issuer,
        audience=settings.token_audience,
        subject=subject,
        life_seconds=life_seconds,
        restaurants=restaurants,
        scopes=scopes,
    )
    try:
        return token, token_verifier(settings).verify(token)
    except Unauthorized as error:
        raise TokenUnusable(error.detail) from error


def _other_source(settings: Settings) -> str:
    if settings.token_key_file is not None:
        return str(settings.token_key_file)
    return "the issuer" if settings.token_jwks_url is not None else f"an issuer in {settings.issuers_file}"
