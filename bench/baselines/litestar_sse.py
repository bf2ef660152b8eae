"""The ordinary way: a Litestar application with a `ServerSentEvent` response and a queue for each client.

It has no log, no authorization and no resuming: it is the least that delivers an event to everybody who listens.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator
from typing import Any

from litestar import Litestar, Request, get, post
from litestar.response import ServerSentEvent, ServerSentEventMessage

_queues: set[asyncio.Queue[ServerSentEventMessage]] = set()
_ids = itertools.count(1)


async def _events() -> AsyncGenerator[ServerSentEventMessage, None]:
    queue: asyncio.Queue[ServerSentEventMessage] = asyncio.Queue()
    _queues.add(queue)
    try:
        yield ServerSentEventMessage(event="stream.opened", data="{}")
        while True:
            yield await queue.get()
    finally:
        _queues.discard(queue)


@get("/events")
async def listen() -> ServerSentEvent:
    """One client's stream."""
    return ServerSentEvent(_events())


@post("/publish")
async def publish(request: Request[Any, Any, Any]) -> dict[str, int]:
    """The body, JSON on one line, for everybody who listens now."""
    data = (await request.body()).decode()
    message = ServerSentEventMessage(data=data, event="ReceiveOrderStatusChanged", id=f"k3f9x2ab-{next(_ids)}")
    for queue in _queues:
        queue.put_nowait(message)
    return {"listeners": len(_queues)}


app = Litestar([listen, publish], openapi_config=None, logging_config=None)
