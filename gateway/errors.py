"""What can go wrong at the HTTP edge."""

from __future__ import annotations


class GatewayError(Exception):
    """Base of everything that `gateway` itself raises."""


class ProcessUnfit(GatewayError):
    """This process can't do its work any more and should be started anew. `reason` says what failed."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
