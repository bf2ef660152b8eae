"""File descriptors: a stream is one, and a process that has none left can't even refuse a client.

The limit is the kernel's, per process (RLIMIT_NOFILE). It is raised once, by the supervisor, and children inherit it.
"""

from __future__ import annotations

import resource
from typing import TYPE_CHECKING

import msgspec
import structlog

from streams.limits import Limits

if TYPE_CHECKING:
    from gateway.settings import Settings

MAX_DESCRIPTORS = 1 << 20
"""The soft limit is raised no higher: it is the kernel's own ceiling (fs.nr_open) where nobody has changed that."""

OWN_DESCRIPTORS = 64
"""What a gateway process opens beside its clients' connections: about 20, and with a busy SQLite database 12 more
(four connections of three files each).
"""

REQUEST_DESCRIPTORS = 192
"""Kept for connections that are no streams: health probes, ordinary requests, and clients that are being refused."""

_log = structlog.get_logger()


def raise_descriptor_limit() -> None:
    """Raise the soft limit to what is allowed; it is often 1,024, for the sake of programs that use select()."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MAX_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError) as error:
            _log.warning("descriptors.limited", soft=soft, reason=str(error))


def descriptor_limit() -> int:
    """How many this process may have open now: the soft limit."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MAX_DESCRIPTORS if soft == resource.RLIM_INFINITY else soft


def connection_room(limit: int | None = None) -> int:
    """How many connections of clients, streams or not, a process may hold under `limit`, by default its own.

    One that comes beyond it is to be closed at once, before it is answered.
    """
    limit = descriptor_limit() if limit is None else limit
    return limit - min(OWN_DESCRIPTORS, limit // 4)


def stream_room(limit: int | None = None) -> int:
    """How many of those may be streams. At least half of the descriptors, however few there are."""
    limit = descriptor_limit() if limit is None else limit
    return limit - min(OWN_DESCRIPTORS + REQUEST_DESCRIPTORS, limit // 2)


def stream_limits(settings: Settings) -> Limits:
    """As they are set, but no more streams in the process than its descriptors allow; which is told, if it is less."""
    limits = Limits(
        per_subject_topic=settings.max_per_subject_topic,
        per_subject=settings.max_per_subject,
        per_address=settings.max_per_address,
        per_topic=settings.max_per_topic,
        per_process=settings.max_per_process,
        new_per_second=settings.max_new_per_second,
    )
    allowed, room = descriptor_limit(), stream_room()
    if 0 < limits.per_process <= room:
        return limits
    _log.warning("streams.limited_by_descriptors", streams=room, wanted=limits.per_process or None, limit=allowed)
    return msgspec.structs.replace(limits, per_process=room)
