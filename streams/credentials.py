"""The broker's users, as nats.conf names them, and the passwords of an embedded broker."""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, get_args

import msgspec

from streams.errors import CredentialsUnreadable

if TYPE_CHECKING:
    from pathlib import Path

Role = Literal["publisher", "access", "orders", "gateway", "worker", "admin"]
ROLES: tuple[Role, ...] = get_args(Role)

# By user. What a later version wrote for users of its own is kept.
Passwords = dict[str, str]


@dataclass(frozen=True)
class BrokerAddress:
    """Where a broker listens, and how each user gets in."""

    host: str
    port: int
    passwords: Passwords = field(repr=False)

    def url(self, role: Role) -> str:
        """With user and password: never to be logged."""
        return f"nats://{role}:{self.passwords[role]}@{self.host}:{self.port}"


def inbox_prefix(role: Role) -> str:
    """The only inboxes that nats.conf lets this user subscribe to."""
    return f"_INBOX_{role}"


def password_variable(role: Role) -> str:
    """The environment variable that nats.conf takes this user's password from."""
    return f"PASSLINE_NATS_PASSWORD_{role.upper()}"


def read(path: Path) -> Passwords:
    """The passwords in `path`. Raises CredentialsUnreadable, also if a user of this version has none."""
    passwords = _read(path)
    if missing := [role for role in ROLES if role not in passwords]:
        raise CredentialsUnreadable(path, f"no password for {', '.join(missing)}")
    return passwords


def ensure(path: Path) -> Passwords:
    """The passwords in `path`, made on the first start; a user that came with a later version gets one, too.

    Not for two processes at once: the caller holds the store's lock. Raises CredentialsUnreadable, OSError.
    """
    passwords = _read(path) if path.exists() else {}
    if missing := [role for role in ROLES if role not in passwords]:
        passwords |= {role: _new_password() for role in missing}
        _write(path, passwords)
    return passwords


def _new_password() -> str:
    # A letter first: nats-server reads a value that begins with a digit as a number.
    return f"p{secrets.token_hex(24)}"


def _read(path: Path) -> Passwords:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Passwords)
    except OSError as error:
        raise CredentialsUnreadable(path, error.strerror or str(error)) from error
    except msgspec.MsgspecError as error:
        raise CredentialsUnreadable(path, "not the JSON that was written") from error


def _write(path: Path, passwords: Passwords) -> None:
    """Whole or not at all, and never readable by others, not even for a moment."""
    draft = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(passwords), indent=2))
            file.flush()
            os.fsync(descriptor)
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
