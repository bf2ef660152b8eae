"""Which events are in a row of the projection: 16 bytes each, so that one that comes again changes nothing. Pure.

For each event: how far behind the row's first event it stands in the log, and 64 bits of a hash of its id.
"""

from __future__ import annotations

import hashlib
import struct

_APPLIED = struct.Struct(">q8s")


def is_applied(applied: bytes, event_id: str) -> bool:
    """Whether the event is among them."""
    digest = _digest(event_id)
    return any(seen == digest for _, seen in _APPLIED.iter_unpack(applied))


def with_applied(applied: bytes, event_id: str, behind: int) -> bytes:
    """The same with one more, which stands `behind` entries behind the row's first one."""
    return applied + _APPLIED.pack(behind, _digest(event_id))


def seen_before(first: int, applied: bytes, first_sequence: int) -> bytes:
    """Those that stood in the log before `first`; the row's first event stood at `first_sequence`."""
    return b"".join(_APPLIED.pack(*each) for each in _APPLIED.iter_unpack(applied) if each[0] + first_sequence < first)


def _digest(event_id: str) -> bytes:
    return hashlib.blake2b(event_id.encode(), digest_size=8).digest()
