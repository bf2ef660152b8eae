"""The `Authorization` header (RFC 6750 section 2.1)."""

from __future__ import annotations

import re

from auth.errors import MalformedAuthorization

_TOKEN = re.compile(r"[A-Za-z0-9\-._~+/]+=*")


def read_bearer(authorization: str) -> str | None:
    """The token in an `Authorization` header's value, or None where the scheme is another.

    Another scheme is not ours to judge: a proxy's `Basic` may stand beside our session cookie.

    Raises:
        MalformedAuthorization: `Bearer` without exactly one token.
    """
    scheme, _, token = authorization.strip(" \t").partition(" ")
    if scheme.lower() != "bearer":
        return None
    token = token.lstrip(" ")
    if not _TOKEN.fullmatch(token):
        raise MalformedAuthorization
    return token
