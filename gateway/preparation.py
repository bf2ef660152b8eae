"""What has to be there before gateways and worker start: a key, the streams, the tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from gateway.alarm_times import alarm_times
from gateway.forwarded import forwarded_identity
from gateway.issuers import known_issuers
from gateway.passes import prepare_passes
from streams.broker import connect
from streams.credentials import inbox_prefix
from streams.database import DatabaseUnavailable, open_database
from streams.errors import DataDirectoryNotUsable
from streams.migrations import check_schema, migrate
from streams.provision import StreamSettings, provision

if TYPE_CHECKING:
    from gateway.settings import Settings

_log = structlog.get_logger()


async def prepare(settings: Settings, admin_url: str, *, is_alone: bool) -> None:
    """Make what is missing, as far as that is ours to make. Any number of processes may do so at once.

    `admin_url` is where the broker is, for its user `admin`. With `is_alone` the broker and the database are this
    machine's own.

    Raises:
        SettingsInvalid, KeyUnusable, IssuersCollide: the settings of an issuer or of alarms can't be used.
        StreamsError: the broker, the database or the data directory can't be used.
    """
    try:
        settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise DataDirectoryNotUsable(settings.data_dir, error.strerror or str(error)) from error
    # The other processes make their own; what is wrong with the settings is told here, once.
    alarm_times(settings)
    forwarded_identity(settings, known_issuers(settings).issuers)
    prepare_passes(settings)
    if settings.takes_development_tokens:
        _log.info("tokens.development_key", data_dir=str(settings.data_dir))
    if is_alone or "admin" in settings.nats_passwords or not settings.nats_passwords:
        await _provision(settings, admin_url)
    else:
        _log.info("broker.not_provisioned", reason="the password of its user `admin` is not set")
    await _prepare_database(settings, is_alone=is_alone)


async def _provision(settings: Settings, admin_url: str) -> None:
    async with connect(
        admin_url,
        name="passline-admin",
        inbox_prefix=inbox_prefix("admin"),
        on_closed=lambda: None,  # what is asked then fails by itself
    ) as client:
        wanted = StreamSettings(
            max_age_seconds=settings.stream_max_age_seconds,
            max_bytes=settings.stream_max_bytes,
            replicas=settings.stream_replicas,
        )
        await provision(client, wanted)


async def _prepare_database(settings: Settings, *, is_alone: bool) -> None:
    """Who is alone with the database takes it to this version's tables; elsewhere that is a deployment's step."""
    if is_alone or settings.sql_url.startswith("sqlite"):
        await migrate(settings.sql_url)
        return
    async with open_database(settings.sql_url, statement_seconds=settings.statement_seconds) as engine:
        try:
            await check_schema(engine)
        except DatabaseUnavailable as error:
            _log.warning("database.away", reason=str(error))  # streams are refused softly until it is there
