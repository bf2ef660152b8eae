"""The HTTP application: the only place that wires."""

from __future__ import annotations

import signal
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from litestar import Litestar, Router
from litestar.datastructures import State
from litestar.di import Provide
from litestar.middleware import DefineMiddleware

from auth.passes import Passes
from gateway.authentication import Authentication, cors_config
from gateway.background import background
from gateway.forwarded import forwarded_identity
from gateway.issuers import known_issuers
from gateway.openapi import openapi_config
from gateway.passes import passes_of
from gateway.problems import EXCEPTION_HANDLERS
from gateway.process import Gateway, open_gateway
from gateway.routes import (
    commands,
    devices,
    health,
    orders,
    presence,
    publish,
    schema,
    session,
    signals,
    streams,
    workflows,
)
from gateway.routes import passes as passes_routes
from gateway.soft_refusal import STREAM_EXCEPTION_HANDLERS
from streams.discovery import find_running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from gateway.settings import Settings

__all__ = ["Gateway", "create_app"]


def create_app(
    settings: Settings,
    on_death: Callable[[str], None] | None = None,
    before_serving: Callable[[Gateway], Awaitable[None]] | None = None,
) -> Litestar:
    """The application of one gateway process. While its lifespan runs, `app.state.gateway` is its `Gateway`.

    `on_death` is called with a reason where the process can't do its work any more; by default it ends the process as
    SIGTERM does, so that its clients move on and whoever started it starts it anew. The lifespan's start is complete
    only when `before_serving` has returned.

    Raises:
        SettingsInvalid, KeyUnusable, IssuersCollide: nothing was opened yet.
    """
    known = known_issuers(settings)
    forwarded = forwarded_identity(settings, known.issuers)
    passes = passes_of(settings)
    died = on_death or _terminate

    @asynccontextmanager
    async def lifespan(app: Litestar) -> AsyncIterator[None]:
        nats_url = settings.external_nats_url("gateway") or find_running(settings.data_dir).url("gateway")
        async with (
            background(*(keys.run() for keys in known.published), on_death=died),
            open_gateway(settings, nats_url, died) as gateway,
        ):
            app.state.gateway = gateway
            app.state.passes = passes
            if before_serving is not None:
                await before_serving(gateway)
            yield

    return Litestar(
        route_handlers=[
            Router(
                "/api/v1",
                route_handlers=[
                    Router("/", route_handlers=[*streams.HANDLERS], exception_handlers=STREAM_EXCEPTION_HANDLERS),
                    *commands.HANDLERS,
                    *devices.HANDLERS,
                    *orders.HANDLERS,
                    *passes_routes.HANDLERS,
                    *presence.HANDLERS,
                    *publish.HANDLERS,
                    *session.HANDLERS,
                    *workflows.HANDLERS,
                    *signals.HANDLERS,
                ],
            ),
            *health.HANDLERS,
            *schema.HANDLERS,
        ],
        dependencies={
            "gateway": Provide(_gateway, sync_to_thread=False),
            "passes": Provide(_passes, sync_to_thread=False),
            **{name: _part(name) for name in ("facts", "publisher", "settings")},
        },
        lifespan=[lifespan],
        middleware=[
            DefineMiddleware(
                Authentication, verifier=known.verifier, settings=settings, forwarded=forwarded, passes=passes
            )
        ],
        exception_handlers=EXCEPTION_HANDLERS,
        cors_config=cors_config(settings),
        openapi_config=openapi_config(settings),
        logging_config=None,  # the process configures it, for workers and commands alike
    )


def _gateway(state: State) -> Gateway:
    gateway: Gateway = state.gateway
    return gateway


def _passes(state: State) -> Passes:
    passes: Passes = state.passes
    return passes


def _part(name: str) -> Provide:
    def part(state: State) -> Any:
        return getattr(state.gateway, name)

    return Provide(part, sync_to_thread=False)


def _terminate(_: str) -> None:
    signal.raise_signal(signal.SIGTERM)
