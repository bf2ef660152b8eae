"""Facts at a position: SQL and the tail's overlay together say what SQL alone will say when it has come as far."""

from __future__ import annotations

import asyncio
import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeAlias

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy.event import listen, listens_for, remove

from streams.changes import staff_fact
from streams.database import open_database
from streams.entry import Entry, judge
from streams.events import Role
from streams.facts import Facts, FactsUnavailable, OrderUnknown
from streams.log import LogState
from streams.overlay import Overlay
from streams.projection import Projection
from streams.snapshots import OrderOwner, States
from streams.staff import STAFF, Standing
from tests.support.delivery import order_entry
from tests.support.nats import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from sqlalchemy.ext.asyncio import AsyncEngine

MEMBERS = (("r1", "ann"), ("r1", "bob"), ("r2", "ann"))
Step: TypeAlias = tuple[tuple[str, str], str | None, bool, int]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(MEMBERS),
        st.sampled_from(["owner", "staff", "finance", None]),
        st.booleans(),
        st.integers(0, 9),  # few ids, so that events are repeated long after
    ),
    max_size=14,
)


@pytest.fixture
def database_kind() -> str:
    return "sqlite"


def staff_entry(sequence: int, member: tuple[str, str], role: str | None, *, assigned: bool, event: int) -> Entry:
    """Somebody is assigned or revoked. An event's id stands for what it says, too."""
    kind = "StaffAssigned" if assigned and role else "StaffRevoked"
    body = {
        "type": kind,
        "eventId": f"{kind}-{'-'.join(member)}-{role}-{event}",
        "occurredOnUtc": "2026-11-20T10:00:00Z",
        "restaurantId": member[0],
        "subject": member[1],
        "role": role,
    }
    return judge(sequence, 1000.0 + sequence, f"access.{member[0]}.{kind}", json.dumps(body).encode())


async def nobody_to_tell(*_: object) -> None:
    raise AssertionError("nothing was to be set aside")


async def apply(engine: AsyncEngine, entries: Sequence[Entry], *, upto: int) -> None:
    """Bring the projection to position `upto`."""
    projection = Projection(engine)
    position = await projection.position()
    after = position.sequence if position else 0
    due = [entry for entry in entries if after < entry.sequence <= upto]
    await projection.apply("e", after, due, (upto, 1000.0 + upto), nobody_to_tell)


class StubLog:
    """A log whose last sequence is what a test says."""

    def __init__(self, last: int) -> None:
        self.last = last

    async def state(self) -> LogState:
        return LogState("e", 1, self.last, None)


def facts_at(engine: AsyncEngine, overlay: Overlay, *, last: int = 0) -> Facts:
    return Facts(States(engine), overlay, StubLog(last), "e")  # type: ignore[arg-type]


async def standings(facts: Facts) -> list[Standing]:
    async with facts.reading() as decision:
        return [await decision.state(STAFF, member) for member in MEMBERS]


@given(steps=STEPS, cut=st.integers(0, 14), floor=st.integers(0, 14))
@settings(max_examples=40, deadline=None)
def test_overlay_says_what_the_projection_will_say(
    tmp_path_factory: pytest.TempPathFactory, migrated_sqlite: Path, steps: list[Step], cut: int, floor: int
) -> None:
    entries = [
        staff_entry(index + 1, member, role, assigned=assigned, event=event)
        for index, (member, role, assigned, event) in enumerate(steps)
    ]
    position = min(cut, len(entries))
    overlay = Overlay(min(floor, position))
    for entry in entries[overlay.floor :]:
        overlay.apply(entry)
    path = tmp_path_factory.mktemp("facts") / "passline.db"
    path.write_bytes(migrated_sqlite.read_bytes())

    async def compare() -> None:
        async with open_database(f"sqlite:///{path}") as engine:
            await apply(engine, entries, upto=position)
            early = await standings(facts_at(engine, overlay))
            await apply(engine, entries, upto=len(entries))
            assert early == await standings(facts_at(engine, Overlay(len(entries))))

    asyncio.run(compare())


async def test_decision_below_the_overlays_floor_is_refused(engine: AsyncEngine) -> None:
    await apply(engine, [], upto=3)
    overlay = Overlay(5)
    with pytest.raises(FactsUnavailable):
        async with facts_at(engine, overlay).reading():
            pass


async def test_floor_that_passes_a_decision_meanwhile_makes_it_void(engine: AsyncEngine) -> None:
    entries = [order_entry(sequence) for sequence in range(1, 6)]
    await apply(engine, entries, upto=3)
    overlay = Overlay(0)
    for entry in entries:
        overlay.apply(entry)
    async with facts_at(engine, overlay).reading() as decision:
        overlay.prune(4)
        with pytest.raises(FactsUnavailable):
            await decision.state(STAFF, ("r1", "ann"))


async def test_projection_of_another_log_says_nothing(engine: AsyncEngine) -> None:
    await apply(engine, [], upto=3)
    facts = facts_at(engine, Overlay(0))
    facts.restart("f", 0)
    with pytest.raises(FactsUnavailable):
        async with facts.reading():
            pass


async def test_decision_is_taken_at_the_further_of_the_two_positions(engine: AsyncEngine) -> None:
    await apply(engine, [], upto=3)
    overlay = Overlay(0)
    for sequence in (1, 2):
        overlay.apply(order_entry(sequence))
    async with facts_at(engine, overlay).reading() as decision:
        assert decision.decided_at == 3
    for sequence in (3, 4, 5):
        overlay.apply(order_entry(sequence))
    async with facts_at(engine, overlay).reading() as decision:
        assert decision.decided_at == 5


async def test_owner_is_who_the_first_event_says_in_either_place(engine: AsyncEngine) -> None:
    entries = [order_entry(1), order_entry(2, customer="thief"), order_entry(3, order="o2", customer="c2")]
    await apply(engine, entries[:1], upto=1)
    overlay = Overlay(0)
    for entry in entries:
        overlay.apply(entry)
    facts = facts_at(engine, overlay, last=3)
    assert (await facts.owner("o1")).customer_key == "c1"
    assert (await facts.owner("o2")).customer_key == "c2"


async def test_unknown_order_is_waited_for(engine: AsyncEngine) -> None:
    await apply(engine, [], upto=0)
    overlay = Overlay(0)
    facts = facts_at(engine, overlay, last=1)
    waiting = asyncio.create_task(facts.owner("o1"))
    await eventually(lambda: "o1" in overlay._waiting)
    overlay.apply(order_entry(1))
    assert (await waiting).customer_key == "c1"
    assert overlay._waiting == {}


async def test_order_is_unknown_only_to_who_has_read_the_log_to_its_end(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streams.facts.WAIT_FOR_ORDER_SECONDS", 0.01)
    await apply(engine, [], upto=0)
    overlay = Overlay(0)
    overlay.apply(order_entry(1))
    with pytest.raises(OrderUnknown):
        await facts_at(engine, overlay, last=1).owner("nobody")
    with pytest.raises(FactsUnavailable):
        await facts_at(engine, overlay, last=2).owner("nobody")


def test_pruned_overlay_forgets_what_the_projection_has() -> None:
    overlay = Overlay(0)
    overlay.apply(order_entry(1))
    overlay.apply(staff_entry(2, ("r1", "ann"), "staff", assigned=True, event=1))
    overlay.apply(order_entry(3, order="o2"))
    overlay.prune(2)
    assert (overlay.floor, overlay.owner("o1")) == (2, None)
    assert overlay.owner("o2") is not None
    assert overlay.changes(staff_fact("r1", "ann"), 0) == []


async def test_standing_is_read_once_and_then_remembered(engine: AsyncEngine) -> None:
    await apply(engine, [staff_entry(1, ("r1", "ann"), "staff", assigned=True, event=1)], upto=1)
    facts = facts_at(engine, Overlay(1))
    with counted_statements(engine) as statements:
        first = await facts.state(STAFF, ("r1", "ann"))
        assert (first.roles, len(statements) > 0) == (frozenset({Role.STAFF}), True)
        statements.clear()
        assert (await facts.state(STAFF, ("r1", "ann")), statements) == (first, [])


async def test_standings_that_many_ask_for_at_once_are_read_together(engine: AsyncEngine) -> None:
    await apply(engine, [staff_entry(1, ("r1", "ann"), "staff", assigned=True, event=1)], upto=1)
    facts = facts_at(engine, Overlay(1))
    with counted_statements(engine) as statements:
        found = await asyncio.gather(*(facts.state(STAFF, ("r1", f"somebody-{number}")) for number in range(200)))
    assert {standing.roles for standing in found} == {frozenset()}
    assert len(statements) < 12  # two transactions at most: who asked first, and the others


@given(steps=STEPS, asked=st.lists(st.integers(0, 14), max_size=6))
@settings(max_examples=40, deadline=None)
def test_remembered_standing_is_that_of_the_log_so_far(
    tmp_path_factory: pytest.TempPathFactory, migrated_sqlite: Path, steps: list[Step], asked: list[int]
) -> None:
    """Whenever it was asked before, and however far the projection is."""
    entries = [
        staff_entry(index + 1, member, role, assigned=assigned, event=event)
        for index, (member, role, assigned, event) in enumerate(steps)
    ]
    path = tmp_path_factory.mktemp("facts") / "passline.db"
    path.write_bytes(migrated_sqlite.read_bytes())

    async def compare() -> None:
        async with open_database(f"sqlite:///{path}") as engine:
            await apply(engine, [], upto=0)
            overlay = Overlay(0)
            facts = facts_at(engine, overlay)
            for position, entry in enumerate(entries, 1):
                overlay.apply(entry)
                if position in asked:
                    remembered = [await facts.state(STAFF, member) for member in MEMBERS]
                    assert remembered == await standings(facts)
                if position % 3 == 0:
                    await apply(engine, entries, upto=position)

    asyncio.run(compare())


async def test_change_while_a_standing_is_read_is_not_overlooked(engine: AsyncEngine) -> None:
    assigned = staff_entry(1, ("r1", "ann"), "staff", assigned=True, event=1)
    revoked = staff_entry(2, ("r1", "ann"), None, assigned=False, event=2)
    await apply(engine, [assigned], upto=1)
    overlay = Overlay(1)
    facts = facts_at(engine, overlay)

    @listens_for(engine.sync_engine, "checkin")
    def tail_goes_on(*_: object) -> None:
        if overlay.head == 1:
            overlay.apply(revoked)

    assert (await facts.state(STAFF, ("r1", "ann"))).roles == frozenset()


async def test_recent_owner_outlives_the_projections_catching_up_as_long_as_the_window(engine: AsyncEngine) -> None:
    overlay = Overlay(0)
    for sequence in (1, 2, 3):
        overlay.apply(order_entry(sequence, order=f"o{sequence}"))
    facts = facts_at(engine, overlay)
    overlay.prune(3, window_floor=1)
    assert (overlay.floor, facts.recent_owner("o1")) == (3, None)
    assert facts.recent_owner("o2") == OrderOwner("r1", "c1")
    overlay.prune(3, window_floor=2)
    assert facts.recent_owner("o2") is None
    assert facts.recent_owner("o3") is not None


@contextmanager
def counted_statements(engine: AsyncEngine) -> Iterator[list[str]]:
    """The statements that are executed meanwhile."""
    statements: list[str] = []

    def note(*arguments: object) -> None:
        statements.append(str(arguments[2]))

    listen(engine.sync_engine, "before_cursor_execute", note)
    try:
        yield statements
    finally:
        remove(engine.sync_engine, "before_cursor_execute", note)
