"""Who is asking: a bearer token in the `Authorization` header, or else the session cookie from a page that may use it.

Handlers are closed unless they say `opt=PUBLIC`: an opt key of the handler itself, because a path pattern that is meant
for one route may match another. A token in the query is never read; queries end up in other people's logs.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Final, cast

from litestar.config.cors import CORSConfig
from litestar.enums import ScopeType
from litestar.middleware.authentication import AbstractAuthenticationMiddleware, AuthenticationResult

from auth.bearer import read_bearer
from auth.errors import MalformedAuthorization, MissingToken
from auth.keys import development_key, load_public_key
from auth.remembering import RememberingVerifier, Verifier
from auth.sessions import check_origin, read_session
from auth.tokens import Issuer, TokenVerifier
from streams.subjects import identity_key, is_id

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from litestar.connection import ASGIConnection
    from litestar.datastructures import Headers
    from litestar.types import ASGIApp, HTTPScope

    from gateway.settings import Settings

_OPT_KEY = "public"
PUBLIC: Final[Mapping[str, Any]] = {_OPT_KEY: True}
"""The `opt` of a handler that anybody may call."""


class Carrier(StrEnum):
    """What the token came in; `request.auth` in a handler."""

    BEARER = "bearer"
    SESSION = "session"


class Authentication(AbstractAuthenticationMiddleware):
    """Makes `request.user` the verified `Claims` and `request.auth` their `Carrier`, or refuses the request.

    Raises:
        Unauthorized: no credentials, or none that hold.
        CrossOrigin: a session cookie that another site's page may have caused to be sent.
    """

    def __init__(self, app: ASGIApp, verifier: Verifier, settings: Settings) -> None:
        super().__init__(app, exclude_from_auth_key=_OPT_KEY, scopes={ScopeType.HTTP})
        self._verifier = verifier
        self._settings = settings

    async def authenticate_request(self, connection: ASGIConnection[Any, Any, Any, Any]) -> AuthenticationResult:
        headers = connection.headers
        token, carrier = bearer_token(headers), Carrier.BEARER
        if token is None:
            token, carrier = _session_token(headers, self._settings), Carrier.SESSION
            method = cast("HTTPScope", connection.scope)["method"]
            check_session_origin(headers, method, self._settings)
        return AuthenticationResult(user=self._verifier.verify(token), auth=carrier)


def bearer_token(headers: Headers) -> str | None:
    """The token in the `Authorization` header, None where there is none or the scheme is another.

    Raises:
        MalformedAuthorization: not one token, or several such headers.
    """
    given = headers.getall("authorization", [])
    if len(given) > 1:
        raise MalformedAuthorization
    return read_bearer(given[0]) if given else None


def check_session_origin(headers: Headers, method: str, settings: Settings) -> None:
    """Refuse what another site's page may have caused.

    Raises:
        CrossOrigin
    """
    ours = {settings.public_url} if settings.public_url else set()
    check_origin(
        headers.get("origin"),
        headers.get("sec-fetch-site"),
        headers.get("host", ""),
        settings.cors_origins | ours,
        settings.browser_scheme,
        method=method,
    )


def token_verifier(settings: Settings) -> Verifier:
    """Checks tokens of the one issuer that is set: by its public key, or by the development key in the data directory.

    Raises:
        KeyUnusable: the key can't be read or used.
    """
    if settings.token_key_file is None:
        key = development_key(settings.data_dir).verification
    else:
        key = load_public_key(settings.token_key_file)
    issuer = Issuer(
        name=settings.token_issuer,
        audience=settings.token_audience,
        key=key,
        identity_claim=settings.token_identity_claim,
        prefix=settings.token_prefix,
        trusted_for_restaurants=settings.token_restaurants,
        max_life_seconds=settings.token_max_life_seconds,
    )
    return RememberingVerifier(TokenVerifier([issuer], identity_key, is_id))


def cors_config(settings: Settings) -> CORSConfig | None:
    """For pages of the other origins that are named, credentials included; None where there are none.

    `last-event-id` is what clients made of `fetch` send where a native `EventSource` asks nobody.
    """
    if not settings.cors_origins:
        return None
    return CORSConfig(
        allow_origins=sorted(settings.cors_origins),
        allow_methods=["GET", "POST", "DELETE"],
        allow_headers=["authorization", "content-type", "last-event-id"],
        allow_credentials=True,
        expose_headers=["retry-after", "www-authenticate"],
    )


def _session_token(headers: Headers, settings: Settings) -> str:
    # Several Cookie headers are one: HTTP/2 lets a proxy hand them on apart (RFC 9113 section 8.2.3).
    token = read_session("; ".join(headers.getall("cookie", [])), insecure=settings.insecure_cookies)
    if token is None:
        raise MissingToken
    return token
