"""An application in the test's own event loop, and a client for it."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, cast

import httpx

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from litestar import Litestar

HOST = "gate.example"


@asynccontextmanager
async def client_of(app: Litestar) -> AsyncIterator[httpx.AsyncClient]:
    """Requests to `app`, its lifespan around them. An error that the application lets through fails the test."""
    transport = httpx.ASGITransport(app=cast("Any", app))
    async with _lifespan(app), httpx.AsyncClient(transport=transport, base_url=f"http://{HOST}") as client:
        yield client


@asynccontextmanager
async def _lifespan(app: Litestar) -> AsyncIterator[None]:
    """In a task of its own, because a fixture's begin and end are not in the same one."""
    started, stop = asyncio.Event(), asyncio.Event()

    async def live() -> None:
        async with app.lifespan():
            started.set()
            await stop.wait()

    life = asyncio.create_task(live())
    starting = asyncio.create_task(started.wait())
    await asyncio.wait({life, starting}, return_when=asyncio.FIRST_COMPLETED)
    starting.cancel()
    try:
        if not life.done():
            yield
    finally:
        stop.set()
        await life


def problem(response: httpx.Response) -> dict[str, Any]:
    """The problem document in an answer."""
    assert response.headers["content-type"] == "application/problem+json", response.text
    assert response.headers["cache-control"] == "no-store"
    document = response.json()
    assert isinstance(document, dict)
    assert document["status"] == response.status_code
    return document
