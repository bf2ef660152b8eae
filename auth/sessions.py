"""The session cookie: a token where a browser's `EventSource`, which can send no header, will carry it.

Pure functions over header values. The token in the cookie is the session; nothing is stored here.
"""

from __future__ import annotations

import re

from auth.errors import AmbiguousSession, CrossOrigin, MalformedToken, SessionTooLarge

COOKIE_LIMIT = 4096
"""Bytes that every browser keeps for one cookie: name, value and attributes (RFC 6265 section 6.1)."""

_SECURE_NAME = "__Host-passline"
_INSECURE_NAME = "passline"
_COOKIE_VALUE = re.compile(r"[A-Za-z0-9_.=-]+")  # a JWT's characters, all of them cookie-octets
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}


def set_session(token: str, *, expires_at: float, now: float, insecure: bool = False) -> str:
    """The `Set-Cookie` value that keeps a verified `token` until it ends. Times are Unix seconds.

    `insecure` is for plain-HTTP networks: no `Secure`, hence no `__Host-` either (RFC 6265bis section 4.1.3.2).

    Raises:
        SessionTooLarge: it would not fit a browser's cookie.
        MalformedToken: it has characters that a JWT has not.
    """
    if not _COOKIE_VALUE.fullmatch(token):
        raise MalformedToken
    cookie = _cookie(token, max(0, int(expires_at - now)), insecure)
    if len(cookie) > COOKIE_LIMIT:
        raise SessionTooLarge(len(cookie), COOKIE_LIMIT)
    return cookie


def clear_session(*, insecure: bool = False) -> str:
    """The `Set-Cookie` value that ends the session."""
    return _cookie("", 0, insecure)


def read_session(cookie: str, *, insecure: bool = False) -> str | None:
    """The token in a `Cookie` header's value (several of them joined with `; `), or None where there is none.

    Other cookies, and whatever is no cookie at all, are passed over: they may be anybody's on this host.

    Raises:
        AmbiguousSession: two different ones. Nothing in the header tells ours from one that a neighbour planted.
    """
    name = _name(insecure)
    pairs = (pair.partition("=") for pair in cookie.split(";"))
    tokens = {value.strip(" \t") for key, _, value in pairs if key.strip(" \t") == name} - {""}
    if len(tokens) > 1:
        raise AmbiguousSession
    return tokens.pop() if tokens else None


def check_origin(
    origin: str | None,
    sec_fetch_site: str | None,
    host: str,
    allowed_origins: frozenset[str],
    scheme: str,
    *,
    method: str,
) -> None:
    """Refuse a request that carries the session cookie if another site's page may have caused it.

    `SameSite=Lax` keeps the cookie off requests from other sites, but not off a sibling subdomain's or another port's
    (same site, another origin), nor off links. So:

    - `Origin: null` (sandboxed frames, local files) is nobody's and never passes.
    - `Sec-Fetch-Site` can't be forged by a page and is believed: `same-origin` and `none` (typed, bookmarked) pass;
      anything else passes for an allowed `Origin` only.
    - Without it (browsers send it to HTTPS and localhost only, so it is missing on every plain-HTTP network, and from
      Safari before 16.4) `Origin` decides: our own, by `scheme` and `host`, or an allowed one.
    - With neither, reading passes: for a GET whose answer a page of another origin could read (`EventSource`, `fetch`
      in CORS mode) every browser sends `Origin`, and only for a same-origin one not; what is left are links and
      `<img>`-like loads, which see nothing of the answer. Anything that changes state does not pass: with those
      methods every browser sends `Origin`, so its absence means a client that can send a bearer token instead.

    `allowed_origins` are compared exactly; `scheme` is the one that the browser sees (`https` behind a TLS proxy).

    Raises:
        CrossOrigin: it may be another site's.
    """
    if origin == "null":
        raise CrossOrigin
    if origin is not None and origin in allowed_origins:
        return
    if sec_fetch_site is not None:
        passes = sec_fetch_site in ("same-origin", "none")
    elif origin is not None:
        passes = origin == _origin_of(scheme, host)
    else:
        passes = method in ("GET", "HEAD")
    if not passes:
        raise CrossOrigin


def _name(insecure: bool) -> str:
    return _INSECURE_NAME if insecure else _SECURE_NAME


def _cookie(value: str, max_age_seconds: int, insecure: bool) -> str:
    secure = "" if insecure else "Secure; "
    return f"{_name(insecure)}={value}; {secure}HttpOnly; SameSite=Lax; Path=/; Max-Age={max_age_seconds}"


def _origin_of(scheme: str, host: str) -> str:
    """As a browser writes it (RFC 6454 section 6.2): lower case, without the scheme's own port."""
    return f"{scheme}://{host.lower().removesuffix(_DEFAULT_PORTS.get(scheme, ''))}"
