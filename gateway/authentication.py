"""Who is asking: whom a named proxy says, or else a bearer token in the `Authorization` header, or else the session
cookie from a page that may use it.

Handlers are closed unless they say `opt=PUBLIC`: an opt key of the handler itself, because a path pattern that is meant
for one route may match another. A token in the query is never read; queries end up in other people's logs. Only a pass
may stand there, as it opens nothing but what it names, and only of handlers that say `opt=TAKES_PASS` it is read.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Final, cast

from litestar.config.cors import CORSConfig
from litestar.enums import ScopeType
from litestar.middleware.authentication import AbstractAuthenticationMiddleware, AuthenticationResult

from auth.bearer import read_bearer
from auth.errors import AmbiguousIdentity, MalformedAuthorization, MissingToken, PassRefused
from auth.passes import claims_to_be_pass
from auth.published import verify_asking
from auth.sessions import check_origin, read_session
from gateway.authorization import must_hold

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from litestar.connection import ASGIConnection
    from litestar.datastructures import Headers
    from litestar.types import ASGIApp, HTTPScope

    from auth.claims import Claims, PassClaims
    from auth.passes import Passes
    from auth.remembering import Verifier
    from gateway.forwarded import ForwardedIdentity
    from gateway.process import Gateway
    from gateway.settings import Settings

_OPT_KEY = "public"
PUBLIC: Final[Mapping[str, Any]] = {_OPT_KEY: True}
"""The `opt` of a handler that anybody may call."""

_PASS_OPT_KEY = "takes_pass"  # noqa: S105 - a name
TAKES_PASS: Final[Mapping[str, Any]] = {_PASS_OPT_KEY: True}
"""The `opt` of a handler that may be called with a pass as well: `request.user` is `PassClaims` then, and the handler
has to look whether the pass names what is asked for. Everywhere else a pass opens nothing.
"""


class Carrier(StrEnum):
    """What the token came in, or what was read in it; `request.auth` in a handler."""

    FORWARDED = "forwarded"
    BEARER = "bearer"
    PASS = "pass"  # noqa: S105 - a name
    SESSION = "session"


class Authentication(AbstractAuthenticationMiddleware):
    """Makes `request.user` the verified `Claims` and `request.auth` their `Carrier`, or refuses the request.

    Raises:
        Unauthorized: no credentials, or none that hold.
        PassRefused: a pass that is none of ours, or not good now.
        KeysUnavailable: the token's issuer publishes its keys, and they can't be had now.
        FactsUnavailable: whether the token was revoked can't be said now.
        CrossOrigin: a session cookie, or the proxy's own, that another site's page may have caused to be sent.
    """

    def __init__(
        self,
        app: ASGIApp,
        verifier: Verifier,
        settings: Settings,
        forwarded: ForwardedIdentity | None = None,
        passes: Passes | None = None,
    ) -> None:
        super().__init__(app, exclude_from_auth_key=_OPT_KEY, scopes={ScopeType.HTTP})
        self._verifier = verifier
        self._settings = settings
        self._forwarded = forwarded
        self._passes = passes

    async def authenticate_request(self, connection: ASGIConnection[Any, Any, Any, Any]) -> AuthenticationResult:
        result = await self._authenticated(connection)
        gateway: Gateway = connection.app.state.gateway
        await must_hold(gateway.facts, result.user)
        return result

    async def _authenticated(self, connection: ASGIConnection[Any, Any, Any, Any]) -> AuthenticationResult:
        headers, scope = connection.headers, cast("HTTPScope", connection.scope)
        if _PASS_OPT_KEY in connection.route_handler.opt and (of_pass := self._pass_claims(connection, scope)):
            return AuthenticationResult(of_pass, Carrier.PASS)
        if (claims := self._forwarded_claims(headers, scope)) is not None:
            return AuthenticationResult(claims, Carrier.FORWARDED)
        if (token := bearer_token(headers)) is not None:
            return AuthenticationResult(await verify_asking(self._verifier, token), Carrier.BEARER)
        if (token := session_token(headers, self._settings)) is not None:
            check_session_origin(headers, scope["method"], self._settings)
            return AuthenticationResult(await verify_asking(self._verifier, token), Carrier.SESSION)
        raise MissingToken

    def _pass_claims(self, connection: ASGIConnection[Any, Any, Any, Any], scope: HTTPScope) -> PassClaims | None:
        """The pass in the query of a GET, before all else that the request may carry: a browser adds a session to every
        request, and a link is for whoever opens it. In the header a pass may stand with every method.
        """
        if self._passes is None:
            return None
        given: list[str] = []
        if scope["method"] == "GET" and b"pass" in scope["query_string"]:  # to parse a query takes time
            given = connection.query_params.getall("pass", [])
        if given:
            if len(given) > 1:
                raise PassRefused
            return self._passes.verify(given[0])
        token = bearer_token(connection.headers)
        return self._passes.verify(token) if token is not None and claims_to_be_pass(token) else None

    def _forwarded_claims(self, headers: Headers, scope: HTTPScope) -> Claims | None:
        claims = self._forwarded.claims(scope) if self._forwarded is not None else None
        if claims is None:
            return None
        if bearer_token(headers) is not None or session_token(headers, self._settings) is not None:
            raise AmbiguousIdentity
        # The proxy may know its client by a cookie, which a page of another site can make a browser send. A request
        # with neither of these headers is not from a script of any page (`auth.sessions.check_origin` says why).
        if "origin" in headers or "sec-fetch-site" in headers:
            check_session_origin(headers, scope["method"], self._settings)
        return claims


def bearer_token(headers: Headers) -> str | None:
    """The token in the `Authorization` header, None where there is none or the scheme is another.

    Raises:
        MalformedAuthorization: not one token, or several such headers.
    """
    given = headers.getall("authorization", [])
    if len(given) > 1:
        raise MalformedAuthorization
    return read_bearer(given[0]) if given else None


def session_token(headers: Headers, settings: Settings) -> str | None:
    """The token in the session cookie, None where there is none.

    Raises:
        AmbiguousSession
    """
    # Several Cookie headers are one: HTTP/2 lets a proxy hand them on apart (RFC 9113 section 8.2.3).
    return read_session("; ".join(headers.getall("cookie", [])), insecure=settings.insecure_cookies)


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
