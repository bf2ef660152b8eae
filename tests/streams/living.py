"""Logs of workflows and carts that are over now and then, and what tests of both do with them."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, select

from streams.database import open_database, reading, writing
from streams.entry import Entry, judge
from streams.events import decode
from streams.facts import Facts
from streams.lives import Lives
from streams.log import LogState
from streams.overlay import Overlay
from streams.projection import Projection
from streams.rebuild import rebuild
from streams.snapshots import States
from streams.tables import LIVE, metadata
from tests.support.samples import sample

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from sqlalchemy.ext.asyncio import AsyncEngine

    from streams.facts import FactKind

EPOCH = "e"
LIFE = 5.0
LIVES = Lives(workflow_seconds=LIFE, cart_seconds=LIFE)


def entry(sequence: int, time: float, name: str, **fields: Any) -> Entry:
    """An event of the type `name`, by default with an id of its own."""
    body = json.dumps(sample(name, **{"eventId": f"e-{sequence}", **fields})).encode()
    return judge(sequence, time, decode(body).log_subject(), body)


class Aside:
    """What was set aside: sequence and reason."""

    def __init__(self) -> None:
        self.found: list[tuple[int, str]] = []

    async def __call__(self, found: Entry, reason: str) -> None:
        self.found.append((found.sequence, reason))


async def apply(
    engine: AsyncEngine, entries: Sequence[Entry], *, upto: int | None = None, batch: int = 1000
) -> list[tuple[int, str]]:
    """Bring the projection to `upto`, by default to the last entry; returns what was set aside."""
    aside = Aside()
    projection = Projection(engine, LIVES)
    position = await projection.position()
    after = position.sequence if position else 0
    due = [each for each in entries if after < each.sequence and (upto is None or each.sequence <= upto)]
    if position is None and not due:
        await projection.apply(EPOCH, 0, [], (0, 0.0), aside)
    for begin in range(0, len(due), batch):
        some = due[begin : begin + batch]
        await projection.apply(EPOCH, after, some, (some[-1].sequence, some[-1].time), aside)
        after = some[-1].sequence
    return aside.found


async def emptied(engine: AsyncEngine) -> None:
    """A database of which nothing is left."""
    async with writing(engine) as connection:
        for table in metadata.tables.values():
            await connection.execute(delete(table))


async def rows(engine: AsyncEngine) -> dict[str, list[tuple[object, ...]]]:
    """The workflows and the carts as they are in the tables."""
    found = {}
    async with reading(engine) as connection:
        for table in (LIVE.workflows, LIVE.team_carts):
            result = await connection.execute(select(table).order_by(*table.primary_key))
            found[table.name] = [tuple(row) for row in result]
    return found


async def rebuilt(engine: AsyncEngine, entries: Sequence[Entry], first: int, batch: int) -> None:
    """Make the projection anew from a log that begins at `first`."""

    async def read(after: int) -> AsyncIterator[Sequence[Entry]]:
        left = [each for each in entries if each.sequence > after]
        for begin in range(0, len(left), batch):
            yield left[begin : begin + batch]

    await rebuild(engine, epoch=EPOCH, first=first, read=read, progress=lambda _: None, lives=LIVES)


class _StubLog:
    async def state(self) -> LogState:
        return LogState(EPOCH, 1, 0, None)


async def known(engine: AsyncEngine, overlay: Overlay, kind: FactKind[str, Any], key: str) -> Any:
    """A fact by the projection as it is and what `overlay` has seen since."""
    facts = Facts(States(engine), overlay, _StubLog(), EPOCH)  # type: ignore[arg-type]
    async with facts.reading() as decision:
        return await decision.state(kind, key)


def check_overlay(path: Path, entries: Sequence[Entry], position: int, floor: int, kind: Any, key: str) -> None:
    """What the tail knows past `position` is what the projection will say at the end; what is over is unknown."""
    overlay = Overlay(min(floor, position))
    for each in entries[overlay.floor :]:
        overlay.apply(each)

    async def compare() -> None:
        async with open_database(f"sqlite:///{path}") as engine:
            await apply(engine, entries, upto=position)
            early = await known(engine, overlay, kind, key)
            await apply(engine, entries)
            late = await known(engine, Overlay(len(entries)), kind, key)
            now = entries[-1].time
            assert kind.is_over(early, now) or early.last_time is None if late.last_time is None else early == late

    asyncio.run(compare())
