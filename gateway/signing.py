"""Signatures by which a receiver knows that a webhook is ours: the Standard Webhooks specification. Pure.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Sequence

SECRET_PREFIX = "whsec_"  # noqa: S105 - how each begins
KEY_BYTES = (24, 64)
"""How long a key may be, as the specification says."""

_WANTED = (
    f"the value is not a secret, {SECRET_PREFIX} and the base64 of {KEY_BYTES[0]} to {KEY_BYTES[1]} random bytes, or "
    f'several with commas between; `echo "{SECRET_PREFIX}$(openssl rand -base64 32)"` makes one'
)


def read_keys(text: str) -> tuple[bytes, ...]:
    """The keys in one or more secrets with commas between.

    Raises:
        ValueError: what would be right, without a word of what was given.
    """
    keys = []
    for secret in text.split(","):
        prefix, found, encoded = secret.strip().partition(SECRET_PREFIX)
        try:
            key = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError):
            raise ValueError(_WANTED) from None
        if prefix or not found or not KEY_BYTES[0] <= len(key) <= KEY_BYTES[1]:
            raise ValueError(_WANTED)
        keys.append(key)
    return tuple(keys)


def signature(keys: Sequence[bytes], message_id: str, timestamp: int, body: bytes) -> str:
    """The header `webhook-signature`: by each key one signature over id, time (Unix seconds) and body.

    So a receiver that has any of the keys can check it, and a key can be replaced without a gap.
    """
    signed = b"%b.%d.%b" % (message_id.encode(), timestamp, body)
    return " ".join(f"v1,{base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()}" for key in keys)
