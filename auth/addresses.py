"""Where keys may be fetched from."""

from __future__ import annotations

from ipaddress import ip_address
from urllib.parse import urlsplit

_MAX_LENGTH = 2048


def read_jwks_url(text: str) -> str:
    """An address of published keys: over HTTPS, or over plain HTTP from this machine itself.

    Raises:
        ValueError: with what is wrong and what would be right. It never repeats the address, which may have a secret.
    """
    wanted = "the value is not an address as https://id.example/keys.json"
    if len(text) > _MAX_LENGTH or not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError(wanted)
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ValueError(wanted) from None
    if parts.scheme not in ("http", "https") or not host or port == 0:
        raise ValueError(wanted)
    if "@" in parts.netloc or "#" in text:
        raise ValueError(f"{wanted}, with neither user nor fragment")
    if parts.scheme == "http" and not _is_loopback(host):
        raise ValueError("keys that come over plain HTTP may be anybody's; use https, or this machine's own address")
    return text


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
