"""How long a workflow and a cart are known after the last that was heard of them. Pure."""

from __future__ import annotations

import msgspec

WORKFLOW_SECONDS = 3600.0
CART_SECONDS = 86_400.0


class Lives(msgspec.Struct, frozen=True):
    """Each begins anew with every event, in seconds of the log's time. The worker and all gateways must agree."""

    workflow_seconds: float = WORKFLOW_SECONDS
    cart_seconds: float = CART_SECONDS


def is_over(last: float | None, life_seconds: float, now: float) -> bool:
    """Whether what was last heard of at `last` is gone at `now`, both in Unix seconds of the log. Never, if it never
    was.
    """
    return last is not None and last <= now - life_seconds
