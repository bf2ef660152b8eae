"""A restaurant's devices as the log knows them: pairings that are open, and devices with their keys. Of codes and keys
there are hashes only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias

import msgspec
from sqlalchemy import select, tuple_

from streams.changes import device_fact, pairing_fact
from streams.errors import TopicUnknown
from streams.events import DeviceEvent, DeviceRegistered
from streams.tables import LIVE, to_microseconds

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from sqlalchemy import RowMapping

    from streams.changes import Change
    from streams.events import PairingOpened
    from streams.snapshots import Reading

REPLACED_KEY_SECONDS: Final = 600
"""So long after it was replaced a key is still good, by the log's time: a device whose new key was lost on the way can
ask for another one.
"""

DeviceName: TypeAlias = tuple[str, str]
"""A restaurant's id and a device's."""


class DeviceUnknown(TopicUnknown):
    """The restaurant has no such device."""

    def __init__(self, device_id: str) -> None:
        super().__init__(f"there is no device {device_id}")
        self.device_id = device_id


class KnownKey(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A key that a device has or had: its SHA-256 in hexadecimal, and when it was replaced, by the log's time in Unix
    seconds; None while it is the present one.
    """

    digest: str
    replaced_at: float | None = None


class Device(msgspec.Struct, frozen=True, gc=False):
    """What is known of a device.

    `registered_at` is the log's time (Unix seconds) of its registration, None where there was none. `keys` are all that
    it ever had, so that a registration which is repeated long after makes no old key good again.
    """

    name: str = ""
    registered_at: float | None = None
    keys: tuple[KnownKey, ...] = ()
    is_revoked: bool = False

    @property
    def is_registered(self) -> bool:
        """Whether it is one of the restaurant's devices now."""
        return self.registered_at is not None and not self.is_revoked

    @property
    def key_since(self) -> float | None:
        """The log's time (Unix seconds) since which it has its present key, None where there is none."""
        return max((key.replaced_at for key in self.keys if key.replaced_at is not None), default=self.registered_at)

    def knows(self, digest: str) -> bool:
        """Whether that is a key that it has or had."""
        return any(key.digest == digest for key in self.keys)

    def has_key(self, digest: str, now: float) -> bool:
        """Whether that key is good. `now` is in Unix seconds."""
        return self.is_registered and any(
            key.digest == digest and (key.replaced_at is None or now < key.replaced_at + REPLACED_KEY_SECONDS)
            for key in self.keys
        )

    def after(self, event: DeviceEvent, time: float) -> Device:
        """The device after one more event, at the log's time. One that repeats another changes nothing."""
        if not isinstance(event, DeviceRegistered):
            return msgspec.structs.replace(self, is_revoked=True)
        if self.knows(event.key_hash):
            return self
        replaced = (KnownKey(key.digest, time if key.replaced_at is None else key.replaced_at) for key in self.keys)
        keys = (*replaced, KnownKey(event.key_hash))
        registered_at = time if self.registered_at is None else self.registered_at
        return Device(event.name, registered_at, keys, self.is_revoked)


class Pairing(msgspec.Struct, frozen=True, gc=False):
    """A pairing that was opened. `expires_at` is in microseconds, as the tables hold times."""

    restaurant_id: str = ""
    pairing_id: str = ""
    expires_at: int = 0


UNKNOWN_DEVICE: Final = Device()
UNKNOWN_PAIRING: Final = Pairing()

_keys = msgspec.json.Decoder(tuple[KnownKey, ...])


def device_of(row: RowMapping) -> Device:
    """The device in a row of the table."""
    return Device(row["name"], row["registered_at"], _keys.decode(row["keys"]), row["is_revoked"])


class DeviceFacts:
    """The `streams.facts.FactKind` of `Device`."""

    def name(self, key: DeviceName) -> str:
        return device_fact(*key)

    async def read(self, sql: Reading, keys: Collection[DeviceName]) -> dict[DeviceName, Device]:
        """What is known of each; of one that nobody has heard of, nothing."""
        table = LIVE.devices
        rows = await sql.rows(select(table).where(tuple_(table.c.restaurant_id, table.c.device_id).in_(keys)))
        found = {(row["restaurant_id"], row["device_id"]): device_of(row) for row in rows}
        return {key: found.get(key, UNKNOWN_DEVICE) for key in keys}

    async def applied(self, _: Reading, __: DeviceName, ___: Collection[str]) -> tuple[str, ...]:
        """A repetition changes nothing anyway."""
        return ()

    def moved_on(self, state: Device, changes: Iterable[Change], _: Collection[str]) -> Device:
        for change in changes:
            state = state.after(change.event, change.time)
        return state


class PairingFacts:
    """The `streams.facts.FactKind` of `Pairing`, by the hash of its code."""

    def name(self, key: str) -> str:
        return pairing_fact(key)

    async def read(self, sql: Reading, keys: Collection[str]) -> dict[str, Pairing]:
        table = LIVE.pairings.c
        rows = await sql.rows(
            select(table.code_hash, table.restaurant_id, table.pairing_id, table.expires_at).where(
                table.code_hash.in_(keys)
            )
        )
        found = {row["code_hash"]: Pairing(row["restaurant_id"], row["pairing_id"], row["expires_at"]) for row in rows}
        return {key: found.get(key, UNKNOWN_PAIRING) for key in keys}

    async def applied(self, _: Reading, __: str, ___: Collection[str]) -> tuple[str, ...]:
        """A repetition says the same."""
        return ()

    def moved_on(self, state: Pairing, changes: Iterable[Change], _: Collection[str]) -> Pairing:
        for change in changes:
            state = opened(change.event)
        return state


def opened(event: PairingOpened) -> Pairing:
    """The pairing that an event opens."""
    return Pairing(event.restaurant_id, event.pairing_id, to_microseconds(event.expires_at))


DEVICE = DeviceFacts()
PAIRING = PairingFacts()


async def registered_devices(sql: Reading, restaurant_id: str) -> dict[str, Device]:
    """The restaurant's devices by their ids, oldest first; without those that were revoked."""
    table = LIVE.devices
    rows = await sql.rows(
        select(table)
        .where(table.c.restaurant_id == restaurant_id, table.c.registered_at.is_not(None), ~table.c.is_revoked)
        .order_by(table.c.registered_at, table.c.device_id)
    )
    return {row["device_id"]: device_of(row) for row in rows}
