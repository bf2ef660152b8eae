"""The streams: made where they are missing, and what differs told where they exist."""

from __future__ import annotations

import secrets
import string
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import structlog

from streams.broker import StreamInfo, ask_jetstream, stream_info
from streams.errors import JetStreamRefused, StreamMissing
from streams.log import EVENTS, epoch_of
from streams.subjects import COMMAND_SUBJECTS, EVENT_SUBJECTS, IDEMPOTENCY_SUBJECTS

if TYPE_CHECKING:
    from nats.aio.client import Client

DEAD = "DEAD"
COMMANDS = "COMMANDS"
IDEMPOTENCY = "IDEMPOTENCY"

# Making a stream moves files about and in a cluster elects a leader.
PROVISION_SECONDS = 10.0

# An event of 64 KB and 8 KB of headers; a dead letter carries that and the reason as JSON.
MAX_EVENT_MESSAGE_BYTES = (64 + 8) * 1024
MAX_DEAD_MESSAGE_BYTES = 192 * 1024
MAX_COMMAND_MESSAGE_BYTES = 16 * 1024

# What the worker was away for longer than this is not told any more.
_COMMAND_MAX_AGE_SECONDS = 86_400
# JetStream holds the ids of commands in memory for so long. Longer than a key is remembered, and a command may live.
_COMMAND_WINDOW_SECONDS = 7_200

MAX_COMMANDS_WAITING = 64
"""So often one command may wait for one order, so that nobody fills the queue for all others."""

IDEMPOTENCY_SECONDS = 3_600
"""An idempotency key is remembered for so long."""

_SECOND = 1_000_000_000

# An `err_code` of JetStream's API.
_STREAM_NAME_IN_USE = 10058

log = structlog.get_logger()


@dataclass(frozen=True, kw_only=True)
class StreamSettings:
    """What an operator may choose about the streams. Bytes are reserved on the disk when a stream is made."""

    max_age_seconds: int = 7 * 86_400
    max_bytes: int = 4 * 1024**3
    replicas: int = 1
    dead_max_age_seconds: int = 30 * 86_400
    dead_max_bytes: int = 256 * 1024**2
    commands_max_bytes: int = 64 * 1024**2
    idempotency_max_bytes: int = 64 * 1024**2


class Drift(NamedTuple):
    """A field of a stream's configuration that is not as it should be, in the server's own terms."""

    stream: str
    field: str
    wanted: object
    found: object


class Provisioned(NamedTuple):
    epoch: str
    drift: tuple[Drift, ...]


# Each of these makes holes inside the log, changes its subjects, or acknowledges what is not on the disk.
_MUST_BE_OFF = (
    *("allow_rollup_hdrs", "allow_msg_ttl", "allow_msg_schedules", "allow_msg_counter", "subject_delete_marker_ttl"),
    *("mirror", "sources", "subject_transform", "discard_new_per_subject", "no_ack", "sealed"),
)


async def provision(client: Client, settings: StreamSettings) -> Provisioned:
    """Make the streams where they are missing; leave as they are where they exist, and tell what differs.

    Any number of processes may do so at once. The user is `admin`. Raises EpochMissing, JetStreamRefused (as when
    the disk has no room for `max_bytes`), BrokerUnavailable.
    """
    events = {**_events_configuration(settings), "metadata": {"epoch": _new_epoch()}}
    found_events = await _ensure(client, events)
    drift = _drift(events, found_events)
    for wanted in (_dead_configuration(settings), *_command_configurations(settings)):
        drift += _drift(wanted, await _ensure(client, wanted))
    for difference in drift:
        log.warning("broker.drift", **difference._asdict())
    return Provisioned(epoch_of(found_events), tuple(drift))


async def bump_epoch(client: Client) -> str:
    """Give EVENTS a new epoch, so that every position in it from before is told from one after; change nothing else.

    The user is `admin`. Raises StreamMissing, JetStreamRefused, BrokerUnavailable.
    """
    configuration = (await stream_info(client, EVENTS)).config
    epoch = _new_epoch()
    configuration["metadata"] = {**configuration.get("metadata", {}), "epoch": epoch}
    await ask_jetstream(client, f"STREAM.UPDATE.{EVENTS}", configuration, StreamInfo, budget_seconds=PROVISION_SECONDS)
    log.info("broker.epoch_bumped", epoch=epoch)
    return epoch


def _events_configuration(settings: StreamSettings) -> dict[str, Any]:
    """Append-only and without holes inside, so that a reader can prove sequence + 1."""
    return {
        **_bounded(EVENTS, EVENT_SUBJECTS, settings.max_age_seconds, settings.max_bytes, settings.replicas),
        "max_msg_size": MAX_EVENT_MESSAGE_BYTES,
        "duplicate_window": min(600, settings.max_age_seconds) * _SECOND,
        "deny_delete": True,
        "deny_purge": True,
        "allow_direct": True,
    }


def _dead_configuration(settings: StreamSettings) -> dict[str, Any]:
    age = settings.dead_max_age_seconds
    return {
        **_bounded(DEAD, ("dead.>",), age, settings.dead_max_bytes, settings.replicas),
        "max_msg_size": MAX_DEAD_MESSAGE_BYTES,
        # A worker publishes before it commits, and may try again for as long as its database is away.
        "duplicate_window": min(86_400, age) * _SECOND,
    }


def _command_configurations(settings: StreamSettings) -> tuple[dict[str, Any], ...]:
    """COMMANDS is a work queue: what an order service has acknowledged, or the worker has given up, is gone. A full one
    takes no more, as what waits there was promised an answer. IDEMPOTENCY remembers for a while who asked for what.
    """
    commands_bytes, keys_bytes = settings.commands_max_bytes, settings.idempotency_max_bytes
    commands = _bounded(COMMANDS, (COMMAND_SUBJECTS,), _COMMAND_MAX_AGE_SECONDS, commands_bytes, settings.replicas)
    keys = _bounded(IDEMPOTENCY, (IDEMPOTENCY_SUBJECTS,), IDEMPOTENCY_SECONDS, keys_bytes, settings.replicas)
    return (
        {
            **commands,
            "retention": "workqueue",
            "discard": "new",
            "discard_new_per_subject": True,
            "max_msgs_per_subject": MAX_COMMANDS_WAITING,
            "max_msg_size": MAX_COMMAND_MESSAGE_BYTES,
            "duplicate_window": _COMMAND_WINDOW_SECONDS * _SECOND,
            "deny_delete": False,
        },
        {**keys, "max_msg_size": MAX_COMMAND_MESSAGE_BYTES},
    )


def _bounded(name: str, subjects: tuple[str, ...], age: int, size: int, replicas: int) -> dict[str, Any]:
    return {
        "name": name,
        "subjects": list(subjects),
        "storage": "file",
        "retention": "limits",
        "discard": "old",
        "max_age": age * _SECOND,
        "max_bytes": size,
        "max_msgs": -1,
        "max_msgs_per_subject": -1,
        "max_consumers": -1,
        "num_replicas": replicas,
    }


async def _ensure(client: Client, wanted: dict[str, Any]) -> dict[str, Any]:
    """The configuration of a stream that was there or that we made."""
    name = wanted["name"]
    try:
        return (await stream_info(client, name)).config
    except StreamMissing:
        pass
    try:
        made = await ask_jetstream(
            client, f"STREAM.CREATE.{name}", wanted, StreamInfo, budget_seconds=PROVISION_SECONDS
        )
        log.info("broker.stream_made", stream=name)
    except JetStreamRefused as refusal:
        if refusal.err_code != _STREAM_NAME_IN_USE:
            raise
        # Another process was faster, with an epoch of its own.
        made = await stream_info(client, name)
    return made.config


def _drift(wanted: dict[str, Any], found: dict[str, Any]) -> list[Drift]:
    """Compared as the server tells it, which leaves out what is off. The epoch is the stream's own."""
    name = wanted["name"]
    drift = [
        Drift(name, key, value, found.get(key))
        for key, value in wanted.items()
        if key != "metadata" and _comparable(value) != _comparable(found.get(key))
    ]
    drift += [Drift(name, key, None, found[key]) for key in _MUST_BE_OFF if found.get(key) and key not in wanted]
    if found.get("persist_mode", "default") != "default":
        drift.append(Drift(name, "persist_mode", "default", found["persist_mode"]))
    return drift


def _comparable(value: object) -> object:
    return sorted(value) if isinstance(value, list) else value


def _new_epoch() -> str:
    return "".join(secrets.choice(string.ascii_lowercase + string.digits) for _ in range(8))
