"""Passes: for guests and devices, which have no token. Signed by us, each for one topic, short, and good for nothing
else, so that one may stand in a URL.

A pass is a JWT that can't be taken for a token, nor a token for a pass: it has a key, a type, an issuer and an audience
of its own, and all four are asked for (RFC 8725 sections 3.9, 3.11 and 3.12).
"""

from __future__ import annotations

import hmac
import time
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import jwt
import msgspec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from auth.claims import PassClaims
from auth.errors import PassRefused

if TYPE_CHECKING:
    from collections.abc import Callable

    from auth.keys import SigningKey

PASS_TYPE: Final = "passline-pass+jwt"  # noqa: S105 - a media type
"""The header `typ` of every pass, and of nothing else."""

PASS_ISSUER: Final = "urn:passline:pass"  # noqa: S105 - a name
"""`iss` and `aud` of every pass: they are from us, for us."""

MAX_PASS_SECONDS: Final = 86_400
"""The longest life of any pass; a guest's default."""

DEVICE_PASS_SECONDS: Final = 900

_MAX_LENGTH = 1024  # characters; ours have some 500
_LEEWAY_SECONDS = 5  # so much may the clock of the machine that signed it be ahead
_ALGORITHM = "EdDSA"
_REQUIRED = ["exp", "iat", "aud", "iss", "jti"]


class _Payload(msgspec.Struct, frozen=True, omit_defaults=True):
    """What stands in a pass, in the names of RFC 7519. `restaurant` and `device` are of devices only."""

    iss: str
    aud: str
    iat: float
    exp: float
    jti: str
    topic: str
    restaurant: str | None = None
    device: str | None = None


class Passes:
    """Makes passes and checks them. `clock` is in Unix seconds.

    Machines that serve the same clients need the same key: what one of them signs, another one checks.
    """

    def __init__(self, key: SigningKey, clock: Callable[[], float] = time.time) -> None:
        self._key = key
        self._clock = clock
        private = key.private.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
        self._blinding = hmac.digest(private, b"passline pairing codes", "sha256")

    def for_guest(self, order_id: str, pass_id: str, expires_at: float) -> str:
        """A pass for `orders/<id>`. Nothing is checked here."""
        return self._signed(jti=pass_id, topic=f"orders/{order_id}", expires_at=expires_at)

    def for_device(self, restaurant_id: str, device_id: str, pass_id: str, expires_at: float) -> str:
        """A pass for `partners/<restaurant>`. Nothing is checked here."""
        return self._signed(
            jti=pass_id,
            topic=f"partners/{restaurant_id}",
            expires_at=expires_at,
            restaurant=restaurant_id,
            device=device_id,
        )

    def verify(self, text: str) -> PassClaims:
        """What the pass says, if it is one of ours and good now. Whether it was revoked is a fact of the log.

        Raises:
            PassRefused: whatever is wrong with it. Nothing else is ever raised.
        """
        if len(text) > _MAX_LENGTH or not text.isascii():
            raise PassRefused
        try:
            found = jwt.decode_complete(
                text,
                self._key.verification.public,
                algorithms=[_ALGORITHM],
                audience=PASS_ISSUER,
                issuer=PASS_ISSUER,
                # Time is judged by our own clock, below.
                options={"require": _REQUIRED, "verify_exp": False, "verify_iat": False, "verify_nbf": False},
            )
            payload = msgspec.convert(found["payload"], _Payload)
        except (jwt.PyJWTError, msgspec.ValidationError) as error:
            raise PassRefused from error
        if not is_pass_type(found["header"].get("typ")) or not self._is_in_time(payload):
            raise PassRefused
        return _claims(payload)

    def blinded(self, code: str) -> str:
        """A pairing code as the log keeps it: a hash that only who has the key can make, in hexadecimal.

        A code has 40 bits, and a mere hash of so little is undone by trying all codes.
        """
        return hmac.digest(self._blinding, code.encode(), "sha256").hex()

    def _is_in_time(self, payload: _Payload) -> bool:
        now = self._clock()
        return payload.iat - _LEEWAY_SECONDS <= now < payload.exp <= payload.iat + MAX_PASS_SECONDS

    def _signed(
        self, *, jti: str, topic: str, expires_at: float, restaurant: str | None = None, device: str | None = None
    ) -> str:
        payload = _Payload(
            iss=PASS_ISSUER,
            aud=PASS_ISSUER,
            iat=int(self._clock()),
            exp=expires_at,
            jti=jti,
            topic=topic,
            restaurant=restaurant,
            device=device,
        )
        headers = {"typ": PASS_TYPE, "kid": self._key.verification.kid}
        return jwt.encode(msgspec.to_builtins(payload), self._key.private, algorithm=_ALGORITHM, headers=headers)


def claims_to_be_pass(token: str) -> bool:
    """Whether a bearer token says of itself that it is a pass: decides how it is checked, and nothing else."""
    return len(token) <= _MAX_LENGTH and _header_is_of_pass(token.partition(".")[0])


@lru_cache(1024)  # the tokens of one key share their header, and every connect asks
def _header_is_of_pass(header: str) -> bool:
    try:
        return is_pass_type(jwt.get_unverified_header(f"{header}.e30.").get("typ"))
    except jwt.PyJWTError:
        return False


def is_pass_type(typ: object) -> bool:
    """Whether a header's `typ` is that of passes: a media type, of which letters' case does not count (RFC 7515)."""
    return isinstance(typ, str) and typ.lower().removeprefix("application/") == PASS_TYPE


def _claims(payload: _Payload) -> PassClaims:
    is_device = payload.device is not None
    key = f"device:{payload.restaurant}:{payload.device}" if is_device else f"guest:{payload.jti}"
    return PassClaims(
        issuer=payload.iss,
        subject=key,
        key=key,
        token_id=payload.jti,
        issued_at=payload.iat,
        expires_at=payload.exp,
        scopes=frozenset(),
        restaurants={},
        topic=payload.topic,
        restaurant_id=payload.restaurant,
        device_id=payload.device,
    )
