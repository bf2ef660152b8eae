"""Media types as a `Content-Type` gives them (RFC 9110, section 8.3). Pure."""

from __future__ import annotations

import re

# Two tokens (RFC 9110, section 5.6.2), and what follows them.
_MEDIA_TYPE = re.compile(r"[ \t]*([!#$%&'*+.^_`|~0-9a-z-]+/[!#$%&'*+.^_`|~0-9a-z-]+)[ \t]*(?:;(.*))?", re.ASCII)
_CHARSET = re.compile(r"(?:^|;)[ \t]*charset=\"?([^\"; \t]*)")
_JSON = re.compile(r"[^/]+/(?:[^/]+\+)?json")


def utf8_media_type(content_type: str) -> str | None:
    """The media type in small letters, without its parameters. None if it is malformed or in another charset."""
    found = _MEDIA_TYPE.fullmatch(content_type.lower())
    if not found:
        return None
    charset = _CHARSET.search(found[2] or "")
    if charset and charset[1] not in ("utf-8", "utf8"):
        return None
    return found[1]


def is_json(media_type: str) -> bool:
    """Whether it is JSON itself or a format made of it, as `application/vnd.example+json` (RFC 6839)."""
    return _JSON.fullmatch(media_type) is not None
