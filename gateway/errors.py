"""What can go wrong at the HTTP edge."""

from __future__ import annotations


class GatewayError(Exception):
    """Base of everything that `gateway` itself raises."""
