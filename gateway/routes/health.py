"""Whether this process lives, and whether it should be sent clients. Nobody needs a token to ask."""

from __future__ import annotations

import msgspec
from litestar import Response, get
from litestar.di import NamedDependency
from litestar.openapi.datastructures import ResponseSpec

from gateway.authentication import PUBLIC
from gateway.openapi import refusals
from gateway.problems import NEVER_KEPT
from gateway.process import Gateway


class Life(msgspec.Struct, frozen=True):
    """This process answers."""

    live: bool


class Health(msgspec.Struct, frozen=True, rename="camel"):
    """Whether this process should be sent clients, and why, in words for an operator.

    `worst_lag_seconds` is how late its event loop was at most in the last minute: healthy is below a tenth.
    """

    ready: bool
    reason: str
    worst_lag_seconds: float


@get("/health/live", summary="Does this process answer?", tags=["health"], opt=dict(PUBLIC), responses=refusals())
async def live() -> Response[Life]:
    """If not, start it anew."""
    return Response(Life(live=True), headers=NEVER_KEPT)


@get(
    "/health/ready",
    summary="Should this process be sent clients?",
    tags=["health"],
    opt=dict(PUBLIC),
    responses=refusals() | {503: ResponseSpec(Health, generate_examples=False, description="Not now.")},
)
async def ready(gateway: NamedDependency[Gateway]) -> Response[Health]:
    """Red before the first catch-up, while draining, and while the log is not the one that was read before."""
    health = Health(
        ready=gateway.readiness.ready,
        reason=gateway.readiness.reason,
        worst_lag_seconds=round(gateway.loop_lag.worst_seconds, 3),
    )
    return Response(health, status_code=200 if health.ready else 503, headers=NEVER_KEPT)


HANDLERS = [live, ready]
