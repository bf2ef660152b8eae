"""Who is asking, where an API gateway in front has verified the token and says so in headers."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from auth.errors import WrongIssuer
from auth.forwarded import forwarded_claims, read_forwarded
from gateway.peers import Peers, read_networks
from gateway.settings import SettingsInvalid

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from auth.claims import Claims
    from auth.issuers import Issuer, Issuers
    from gateway.settings import Settings


class ForwardedIdentity:
    """Believes the proxies among `peers` who is asking; from anybody else these headers are not even looked at.

    What they say counts as said by `issuer`: with its prefix, its limits, and its trust.
    """

    def __init__(
        self,
        issuers: Issuers,
        issuer: Issuer,
        peers: Peers,
        life_seconds: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._issuers = issuers
        self._issuer = issuer
        self._peers = peers
        self._life_seconds = life_seconds
        self._clock = clock

    def claims(self, scope: Mapping[str, Any]) -> Claims | None:
        """Who a request is from, None where its socket's peer says nothing, or nothing that is believed.

        Raises:
            Unauthorized: a named proxy says what can't be used.
        """
        if not self._peers.is_named_proxy(scope):
            return None
        values = read_forwarded(scope["headers"])
        if values is None:
            return None
        return forwarded_claims(self._issuers, self._issuer, values, life_seconds=self._life_seconds, now=self._clock())


def forwarded_identity(settings: Settings, issuers: Issuers) -> ForwardedIdentity | None:
    """As the settings say; None where no proxy is believed who is asking.

    Raises:
        SettingsInvalid: the issuer is not known.
    """
    if settings.forwarded_identity is None:
        return None
    try:
        issuer = issuers.named(settings.forwarded_identity)
    except WrongIssuer as error:
        reason = (
            f"PASSLINE_FORWARDED_IDENTITY: {settings.forwarded_identity!r} is no issuer here; "
            f"the issuers are {', '.join(map(repr, error.expected))}"
        )
        raise SettingsInvalid([reason]) from error
    peers = Peers(read_networks(",".join(settings.trusted_proxies)))
    return ForwardedIdentity(issuers, issuer, peers, settings.forwarded_life_seconds)
