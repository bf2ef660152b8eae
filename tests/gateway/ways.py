"""The ways in which the gateway of a test can run: on which event loop, over which path, with which database.

Every test runs once in the usual way, which is that of the processes. `CORE` marks the stream tests that run in each of
the others as well, and `pytest.mark.ways` asks for single ones.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
import uvloop

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True)
class Way:
    """One of them. It is a factory of its event loop."""

    loop: Callable[[], asyncio.AbstractEventLoop]
    path: str
    database: str

    def __call__(self) -> asyncio.AbstractEventLoop:
        return self.loop()


USUAL = Way(uvloop.new_event_loop, "handover", "sqlite")
WAYS = {
    "asgi": Way(asyncio.new_event_loop, "asgi", "sqlite"),
    "asyncio": Way(asyncio.new_event_loop, "handover", "sqlite"),
    "postgresql": Way(uvloop.new_event_loop, "handover", "postgresql"),
}

CORE = pytest.mark.ways("asgi", "postgresql")
"""On a connection that can't be handed over, with the standard library's loop; and on the database of many machines."""

ON_BOTH_LOOPS = pytest.mark.ways("asyncio")


def ways_of(item: pytest.Item) -> dict[str, Way]:
    """By name, those in which a test runs."""
    marker = item.get_closest_marker("ways")
    return {"usual": USUAL, **{name: WAYS[name] for name in (marker.args if marker else ())}}
