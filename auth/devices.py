"""What a device in a restaurant shows: once a pairing code, which a person reads to it, and from then on its key.

Neither is kept anywhere: the log and the database have hashes.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from typing import TYPE_CHECKING, Final

import msgspec

from auth.errors import DeviceKeyRefused

if TYPE_CHECKING:
    from collections.abc import Sequence

# Base 32 by Crockford: no I, L, O and U. Who reads one of the first three for a digit has written the digit.
_LETTERS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_MEANT = str.maketrans("ILO", "110", " -")
_CODE_LENGTH = 8  # letters of 5 bits each
_CODE = re.compile(rf"[{_LETTERS}]{{{_CODE_LENGTH}}}")

_KEY_BYTES = 32
# The prefix lets scanners of repositories and logs find a key that was lost.
_KEY = re.compile(r"passline_([A-Za-z0-9_-]{1,64})\.([A-Za-z0-9_-]{1,64})\.[A-Za-z0-9_-]{43}")
_SCHEME: Final = "device"


class DeviceKey(msgspec.Struct, frozen=True):
    """A key as it is looked up: whose it says it is, and its SHA-256 in hexadecimal."""

    restaurant_id: str
    device_id: str
    digest: str


def new_pairing_code() -> str:
    """40 random bits for a person to read aloud, as `K7QF-3MPX`."""
    letters = "".join(secrets.choice(_LETTERS) for _ in range(_CODE_LENGTH))
    return f"{letters[:4]}-{letters[4:]}"


def read_pairing_code(text: str) -> str | None:
    """The code that was meant, in its one form; None where it can't be one."""
    meant = text.upper().translate(_MEANT)
    return meant if _CODE.fullmatch(meant) else None


def new_device_key(restaurant_id: str, device_id: str) -> str:
    """256 random bits, and before them whose they are."""
    return f"passline_{restaurant_id}.{device_id}.{secrets.token_urlsafe(_KEY_BYTES)}"


def key_digest(key: str) -> str:
    """What the log and the database keep of a key. So many random bits need no slow hash."""
    return hashlib.sha256(key.encode()).hexdigest()


def read_device_key(authorization: Sequence[str]) -> DeviceKey:
    """The key in the `Authorization` headers of a request: `Device <key>`, and no other header of that name.

    Raises:
        DeviceKeyRefused
    """
    scheme, _, key = authorization[0].strip(" \t").partition(" ") if len(authorization) == 1 else ("", "", "")
    found = _KEY.fullmatch(key.lstrip(" "))
    if scheme.lower() != _SCHEME or found is None:
        raise DeviceKeyRefused
    return DeviceKey(found[1], found[2], key_digest(found[0]))
