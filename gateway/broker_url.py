"""Where the broker is, for a process that did not start it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from streams.discovery import find_running

if TYPE_CHECKING:
    from gateway.settings import Settings
    from streams.credentials import Role


def broker_url(settings: Settings, role: Role) -> str:
    """Of the existing broker if one is set, else of the embedded one on the data directory; never to be logged.

    Raises:
        BrokerNotRunning, CredentialsUnreadable, DataDirectoryNotUsable
    """
    return settings.external_nats_url(role) or find_running(settings.data_dir).url(role)
