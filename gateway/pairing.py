"""How a device comes to its key: a code for one device, which its restaurant's owner sees once, and a few guesses."""

from __future__ import annotations

import datetime as dt
import secrets
import time
from typing import TYPE_CHECKING, Final

import msgspec

from auth.devices import key_digest, new_device_key, new_pairing_code, read_pairing_code
from auth.errors import PairingRefused
from gateway.recording import RecordedOtherwise, new_event_id, now_utc, record
from streams.devices import DEVICE, PAIRING, UNKNOWN_DEVICE, UNKNOWN_PAIRING
from streams.events import DeviceRegistered, PairingOpened
from streams.limits import Rates
from streams.tables import from_microseconds

if TYPE_CHECKING:
    from auth.passes import Passes
    from streams.devices import Pairing
    from streams.facts import Facts
    from streams.publisher import Publisher

PAIRING_SECONDS: Final = 300
"""The life of a code. It must be shorter than the window in which the broker tells duplicates, which is 10 minutes."""

ATTEMPTS_PER_SECOND: Final = 1
"""Codes that may be tried from one address, in a process."""

ATTEMPTS_OF_ALL_PER_SECOND: Final = 20
"""The same from all addresses together. In a code's life that is one guess in 180 million codes, for each process."""

DEVICE_REQUESTS_PER_SECOND: Final = 20
"""Requests with a device's key from one address, in a process: each wrong one asks the database and the broker."""


class OpenedPairing(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A code that pairs one device. It is not told again."""

    code: str
    expires_at: dt.datetime


class RegisteredDevice(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A device with its key. It is not told again."""

    device_id: str
    restaurant_id: str
    key: str


class Attempts:
    """How often codes may be tried. Whoever tries too often keeps others from it as well, for as long as they go on."""

    def __init__(self) -> None:
        self._of_address = Rates(ATTEMPTS_PER_SECOND)
        self._of_all = Rates(ATTEMPTS_OF_ALL_PER_SECOND)

    def take(self, address: str, now: float) -> None:
        """`now` is on a monotonic clock. Raises RateExceeded."""
        self._of_address.take(address, now)
        self._of_all.take("", now)


async def open_pairing(publisher: Publisher, passes: Passes, restaurant_id: str) -> OpenedPairing:
    """A new code for one device of the restaurant. Raises BrokerUnavailable."""
    code, now = new_pairing_code(), now_utc()
    meant = read_pairing_code(code)
    assert meant is not None
    event = PairingOpened(
        event_id=new_event_id(),
        occurred_on_utc=now,
        restaurant_id=restaurant_id,
        pairing_id=secrets.token_hex(16),
        code_hash=passes.blinded(meant),
        expires_at=now + dt.timedelta(seconds=PAIRING_SECONDS),
    )
    await record(publisher, event)
    return OpenedPairing(code=code, expires_at=event.expires_at)


async def register_device(facts: Facts, publisher: Publisher, passes: Passes, code: str, name: str) -> RegisteredDevice:
    """Trade a code for a device's key.

    The device has the pairing's id, and its registration an event id that is made of it: of several registrations with
    one code, wherever they are asked for, the broker stores the first one only.

    Raises:
        PairingRefused: a wrong code, a used one, or one whose time is up.
        FactsUnavailable, BrokerUnavailable: the code may be used up; then the device is paired anew, by another one.
    """
    pairing = await _open(facts, passes, code)
    restaurant_id, device_id = pairing.restaurant_id, pairing.pairing_id
    if await facts.state(DEVICE, (restaurant_id, device_id)) != UNKNOWN_DEVICE:
        raise PairingRefused
    key = new_device_key(restaurant_id, device_id)
    event = DeviceRegistered(
        event_id=f"pairing-{device_id}",
        occurred_on_utc=now_utc(),
        restaurant_id=restaurant_id,
        device_id=device_id,
        name=name,
        key_hash=key_digest(key),
    )
    try:
        await record(publisher, event)
    except RecordedOtherwise as error:
        raise PairingRefused from error
    return RegisteredDevice(device_id=device_id, restaurant_id=restaurant_id, key=key)


async def _open(facts: Facts, passes: Passes, code: str) -> Pairing:
    meant = read_pairing_code(code)
    if meant is None:
        raise PairingRefused
    pairing = await facts.settled(PAIRING, passes.blinded(meant), lambda found: found != UNKNOWN_PAIRING)
    if pairing == UNKNOWN_PAIRING or from_microseconds(pairing.expires_at).timestamp() <= time.time():
        raise PairingRefused
    return pairing
