"""Facts about access: they are shown to nobody and decide what others are shown."""

from __future__ import annotations

from enum import StrEnum

from msgspec import UNSET, UnsetType

from streams.events.fields import Digest, Event, Id, Identity, Text, UtcTime, check_identity
from streams.subjects import access_subject, identity_key


class Role(StrEnum):
    """What somebody is to a restaurant."""

    OWNER = "owner"
    STAFF = "staff"
    FINANCE = "finance"


class AccessEvent(Event, frozen=True, kw_only=True, gc=False):
    """A fact about access."""


class StaffEvent(AccessEvent, frozen=True, kw_only=True, gc=False):
    """Who belongs to a restaurant."""

    restaurant_id: Id
    subject: Identity

    def __post_init__(self) -> None:
        check_identity("subject", self.subject)

    @property
    def subject_key(self) -> str:
        """The person as grants name them."""
        return identity_key(self.subject)

    def log_subject(self) -> str:
        return access_subject(self.restaurant_id, self.type_name())


class StaffAssigned(StaffEvent, frozen=True, kw_only=True, gc=False, tag="StaffAssigned"):
    role: Role


class StaffRevoked(StaffEvent, frozen=True, kw_only=True, gc=False, tag="StaffRevoked"):
    """Ends one role, or every role of the person in that restaurant if it names none."""

    role: Role | UnsetType | None = UNSET


class TokenRevoked(AccessEvent, frozen=True, kw_only=True, gc=False, tag="TokenRevoked"):
    """Ends one token, by its `jti`, or those of a person that were issued until then, by `subject`: one of the two."""

    jti: Identity | UnsetType = UNSET
    subject: Identity | UnsetType = UNSET

    def __post_init__(self) -> None:
        if isinstance(self.jti, str) == isinstance(self.subject, str):
            raise ValueError("either `jti` or `subject` is required, and not both")
        check_identity("subject" if self.subject else "jti", self._revoked)

    @property
    def _revoked(self) -> str:
        revoked = self.subject or self.jti
        assert isinstance(revoked, str)
        return revoked

    @property
    def subject_key(self) -> str | None:
        """Whose tokens end, None where it is one token."""
        return identity_key(self.subject) if isinstance(self.subject, str) else None

    def log_subject(self) -> str:
        return access_subject(identity_key(self._revoked), self.type_name())


class PassEvent(AccessEvent, frozen=True, kw_only=True, gc=False):
    """A guest's pass for one order."""

    order_id: Id
    pass_id: Id

    def log_subject(self) -> str:
        return access_subject(self.order_id, self.type_name())


class PassIssued(PassEvent, frozen=True, kw_only=True, gc=False, tag="PassIssued"):
    expires_at: UtcTime


class PassRevoked(PassEvent, frozen=True, kw_only=True, gc=False, tag="PassRevoked"):
    """For good: a pass that was revoked is never good again."""


class DeviceEvent(AccessEvent, frozen=True, kw_only=True, gc=False):
    """A device in a restaurant: a screen in the kitchen, a till."""

    restaurant_id: Id

    def log_subject(self) -> str:
        return access_subject(self.restaurant_id, self.type_name())


class PairingOpened(DeviceEvent, frozen=True, kw_only=True, gc=False, tag="PairingOpened"):
    """Whoever shows the code until it expires may register one device. Only the code's hash is kept."""

    pairing_id: Id
    code_hash: Digest
    expires_at: UtcTime


class DeviceRegistered(DeviceEvent, frozen=True, kw_only=True, gc=False, tag="DeviceRegistered"):
    """A device with its key, of which only the hash is kept. Once more for the same device: it has another key."""

    device_id: Id
    name: Text
    key_hash: Digest


class DeviceRevoked(DeviceEvent, frozen=True, kw_only=True, gc=False, tag="DeviceRevoked"):
    """For good: a device that was revoked registers anew, as another one."""

    device_id: Id
