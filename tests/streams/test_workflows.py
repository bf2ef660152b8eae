"""Workflows as a fact: the same by the tail, by the projection, and made anew."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streams.overlay import Overlay
from streams.snapshots import States
from streams.workflows import STATUSES, Workflow, WorkflowFacts, WorkflowState, workflow_snapshot
from tests.streams.living import LIFE, apply, check_overlay, emptied, entry, known, rebuilt, rows

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy.ext.asyncio import AsyncEngine

    from streams.entry import Entry

KIND = WorkflowFacts(LIFE)

_steps: st.SearchStrategy[tuple[str, dict[str, Any]]] = st.one_of(
    st.builds(lambda user: ("WorkflowBound", {"userId": user}), st.sampled_from(["ada", "auth0|bob"])),
    st.builds(
        lambda user, order: ("WorkflowAccepted", {"userId": user, "orderId": order}),
        st.sampled_from(["ada", "auth0|bob"]),
        st.sampled_from([None, "o-1", 7]),
    ),
    st.builds(lambda order: ("WorkflowProcessing", {"orderId": order}), st.sampled_from([None, "o-1", 7])),
    st.builds(lambda order: ("OrderProcessed", {"orderId": order}), st.sampled_from(["o-1", 7])),
    st.just(("OrderAccepted", {})),
)
# Mostly close to one another, and at times a life apart.
_gaps = st.sampled_from([0.0, 0.5, 1.0, 1.0, LIFE, LIFE + 1])


def _log(steps: list[tuple[tuple[str, dict[str, Any]], str, float]]) -> list[Entry]:
    time = 1000.0
    entries: list[Entry] = []
    for (name, fields), workflow, gap in steps:
        time += gap
        said = fields if name == "OrderAccepted" else {**fields, "correlationId": workflow}
        entries.append(entry(len(entries) + 1, time, name, **said))
    return entries


logs = st.lists(st.tuples(_steps, st.sampled_from(["w1", "w1", "w2"]), _gaps), min_size=1, max_size=14).map(_log)


@given(entries=logs, cut=st.integers(0, 14), floor=st.integers(0, 14))
@settings(max_examples=30, deadline=None)
def test_overlay_says_what_the_projection_will_say(
    tmp_path_factory: pytest.TempPathFactory, migrated_sqlite: Path, entries: list[Entry], cut: int, floor: int
) -> None:
    path = tmp_path_factory.mktemp("workflows") / "passline.db"
    shutil.copyfile(migrated_sqlite, path)
    check_overlay(path, entries, min(cut, len(entries)), floor, KIND, "w1")


@given(entries=logs, forgotten=st.integers(0, 14), batch=st.integers(1, 15), again=st.integers(1, 15))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_rebuilding_changes_nothing_that_is_right(
    engine: AsyncEngine, entries: list[Entry], forgotten: int, batch: int, again: int
) -> None:
    await emptied(engine)
    await apply(engine, entries, batch=batch)
    before = await rows(engine)
    await rebuilt(engine, entries, 1 + min(forgotten, len(entries)), again)
    assert await rows(engine) == before


async def state_after(engine: AsyncEngine, *steps: tuple[str, dict[str, Any]]) -> tuple[Workflow, list[int]]:
    """The workflow w1 after these, all at one moment, and which were set aside."""
    entries = [entry(number, 1000.0, name, **fields) for number, (name, fields) in enumerate(steps, 1)]
    aside = await apply(engine, entries)
    return await known(engine, Overlay(len(entries)), KIND, "w1"), [sequence for sequence, _ in aside]


ADA, BOB = {"userId": "ada"}, {"userId": "bob"}


async def test_first_claim_holds_until_the_order_service_says_whose_it_is(engine: AsyncEngine) -> None:
    state, aside = await state_after(engine, ("WorkflowBound", ADA), ("WorkflowBound", BOB), ("WorkflowAccepted", BOB))
    assert (state.bound_to, state.accepted_for, state.user_key, aside) == ("ada", "bob", "bob", [2])


async def test_first_accepted_event_holds_and_a_contradiction_is_set_aside(engine: AsyncEngine) -> None:
    state, aside = await state_after(
        engine, ("WorkflowAccepted", ADA), ("WorkflowAccepted", BOB | {"orderId": 9}), ("WorkflowAccepted", ADA)
    )
    assert (state.user_key, state.order_id, aside) == ("ada", None, [2])


async def test_workflow_only_goes_forward(engine: AsyncEngine) -> None:
    done = ("OrderProcessed", {"orderId": 7})
    state, _ = await state_after(engine, done, ("WorkflowAccepted", ADA | {"orderId": "o-1"}), done)
    assert (state.status, state.order_id, state.user_key) == (STATUSES[-1], 7, "ada")


async def test_snapshot_is_what_its_user_may_see_while_it_is_not_over(engine: AsyncEngine) -> None:
    await apply(engine, [entry(1, 1000.0, "WorkflowProcessing", orderId="o-1")])
    async with States(engine).read() as sql:
        found = await workflow_snapshot(sql, KIND, "w1", 1000.0 + LIFE - 1)
        assert found == WorkflowState(correlation_id="w1", status="PROCESSING", order_id="o-1")
        assert await workflow_snapshot(sql, KIND, "w1", 1000.0 + LIFE) is None
        assert await workflow_snapshot(sql, KIND, "w2", 1000.0) is None


async def test_what_is_over_is_forgotten_as_the_log_goes_on_and_comes_back_as_another(engine: AsyncEngine) -> None:
    log = [
        entry(1, 1000.0, "WorkflowAccepted", **ADA),
        entry(2, 1000.0 + LIFE, "WorkflowProcessing", correlationId="w2"),
        entry(3, 1001.0 + LIFE, "WorkflowProcessing"),
    ]
    await apply(engine, log, upto=2)
    assert [row[0] for row in (await rows(engine))["workflows"]] == ["w2"]
    await apply(engine, log)
    assert (await known(engine, Overlay(3), KIND, "w1")).user_key is None
