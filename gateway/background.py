"""Tasks that run beside the requests, each with an owner that notices its death."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import structlog

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

_CANCEL_AGAIN_SECONDS = 1.0

_log = structlog.get_logger()


@asynccontextmanager
async def background(*coroutines: Coroutine[Any, Any, None], on_death: Callable[[str], None]) -> AsyncIterator[None]:
    """Run `coroutines` for as long as the context lasts.

    None of them should end by itself. Where one does, it is logged, and `on_death` is called with its name: the process
    can't do its work any more.
    """

    def ended(task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if stopping and error is None:
            return
        _log.critical("background_task_died", task=task.get_name(), exc_info=error)
        if not stopping:
            on_death(task.get_name())

    stopping = False
    tasks = [asyncio.create_task(each, name=getattr(each, "__qualname__", None)) for each in coroutines]
    for task in tasks:
        task.add_done_callback(ended)
    try:
        yield
    finally:
        stopping = True
        while left := [task for task in tasks if not task.done()]:
            # Again and again: a library that lost the first cancellation would keep us here for ever.
            for task in left:
                task.cancel()
            await asyncio.wait(left, timeout=_CANCEL_AGAIN_SECONDS)
