"""Carts as a fact and as a state: the same by the tail, by the projection, and made anew."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import update

from streams.carts import CartFacts, cart_snapshot
from streams.database import writing
from streams.overlay import Overlay
from streams.projection import Projection
from streams.snapshots import States
from streams.tables import LIVE
from streams.views import member_ref
from tests.streams.living import LIFE, LIVES, apply, check_overlay, emptied, entry, known, rebuilt, rows

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy.ext.asyncio import AsyncEngine

    from streams.entry import Entry

KIND = CartFacts(LIFE)
MONEY = {"amount": "9.50", "currency": "EUR"}


def item(item_id: str, quantity: int = 1) -> dict[str, Any]:
    return {"itemId": item_id, "name": item_id, "quantity": quantity, "unitPrice": MONEY}


_members = st.sampled_from(["ada", "bob", "auth0|cem"])
_items = st.builds(item, st.sampled_from(["i1", "i2", "i3"]), st.integers(1, 3))
_names = st.sampled_from([{}, {"memberName": "Ada L"}, {"memberName": None}])
_events = st.one_of(
    st.builds(
        lambda kind, member, name: (f"TeamCart{kind}", {"memberId": member, **name}),
        st.sampled_from(["Created", "MemberJoined", "MemberJoined", "MemberLeft", "MemberRemoved"]),
        _members,
        _names,
    ),
    st.builds(
        lambda kind, it, member: (f"TeamCart{kind}", {"item": it, "memberId": member}),
        st.sampled_from(["ItemAdded", "ItemUpdated"]),
        _items,
        _members | st.none(),
    ),
    st.builds(lambda it: ("TeamCartItemRemoved", {"itemId": it}), st.sampled_from(["i1", "i2", "i3"])),
    st.builds(lambda total: ("TeamCartQuoteUpdated", {"total": total}), st.sampled_from([None, MONEY])),
    st.sampled_from(["LockedForPayment", "Converted", "Expired"]).map(lambda kind: (f"TeamCart{kind}", {})),
)
_gaps = st.sampled_from([0.0, 0.5, 0.5, 1.0, LIFE, LIFE + 1])


def _log(steps: list[tuple[tuple[str, dict[str, Any]], str, float, int]]) -> list[Entry]:
    """Few event ids, so that some are repeated long after."""
    time = 1000.0
    entries: list[Entry] = []
    for (name, fields), cart, gap, event in steps:
        time += gap
        said = {**fields, "teamCartId": cart, "eventId": f"{name}-{event}"}
        entries.append(entry(len(entries) + 1, time, name, **said))
    return entries


logs = st.lists(
    st.tuples(_events, st.sampled_from(["t1", "t1", "t1", "t2"]), _gaps, st.integers(0, 5)), min_size=1, max_size=18
).map(_log)


@given(entries=logs, cut=st.integers(0, 18), floor=st.integers(0, 18))
@settings(max_examples=30, deadline=None)
def test_overlay_says_what_the_projection_will_say(
    tmp_path_factory: pytest.TempPathFactory, migrated_sqlite: Path, entries: list[Entry], cut: int, floor: int
) -> None:
    path = tmp_path_factory.mktemp("carts") / "passline.db"
    shutil.copyfile(migrated_sqlite, path)
    check_overlay(path, entries, min(cut, len(entries)), floor, KIND, "t1")


@given(entries=logs, forgotten=st.integers(0, 18), batch=st.integers(1, 19), again=st.integers(1, 19))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_rebuilding_changes_nothing_that_is_right(
    engine: AsyncEngine, entries: list[Entry], forgotten: int, batch: int, again: int
) -> None:
    await emptied(engine)
    await apply(engine, entries, batch=batch)
    before = await rows(engine)
    await rebuilt(engine, entries, 1 + min(forgotten, len(entries)), again)
    assert await rows(engine) == before


def told(*events: tuple[str, str, dict[str, Any]], gap: float = 0.0) -> list[Entry]:
    """A log of these events of t1, each with its id, `gap` seconds apart."""
    return [
        entry(number, 1000.0 + gap * number, f"TeamCart{name}", eventId=event_id, **fields)
        for number, (name, event_id, fields) in enumerate(events, 1)
    ]


JOINED, LEFT = ("MemberJoined", "j", {"memberId": "ada"}), ("MemberLeft", "l", {"memberId": "ada"})
TWISTED = {
    "joined, left, joined by a repetition": told(JOINED, LEFT, JOINED),
    "joined, over, joined by a repetition": told(JOINED, LEFT, JOINED, gap=LIFE),
    "joined, left, joined": told(JOINED, LEFT, ("MemberJoined", "j2", {"memberId": "ada"})),
    "added, removed, added, and another": told(
        ("ItemAdded", "a", {"item": item("i2")}),
        ("ItemRemoved", "r", {"itemId": "i2"}),
        ("ItemAdded", "b", {"item": item("i2")}),
        ("ItemAdded", "c", {"item": item("i1")}),
    ),
}


@pytest.mark.parametrize("position", range(5))
@pytest.mark.parametrize("twisted", TWISTED)
def test_overlay_says_so_of_what_is_twisted(tmp_path: Path, migrated_sqlite: Path, twisted: str, position: int) -> None:
    shutil.copyfile(migrated_sqlite, tmp_path / "passline.db")
    entries = TWISTED[twisted]
    check_overlay(tmp_path / "passline.db", entries, min(position, len(entries)), 0, KIND, "t1")


@pytest.mark.parametrize("twisted", TWISTED)
async def test_rebuilding_from_any_entry_on_changes_nothing_of_what_is_twisted(
    engine: AsyncEngine, twisted: str
) -> None:
    entries = TWISTED[twisted]
    await apply(engine, entries, batch=1)
    before = await rows(engine)
    for first in range(1, len(entries) + 2):
        await rebuilt(engine, entries, first, 2)
        assert await rows(engine) == before


async def test_rebuilding_puts_a_wrong_cart_right(engine: AsyncEngine) -> None:
    entries = told(JOINED, ("LockedForPayment", "k", {}), LEFT)
    await apply(engine, entries)
    before = await rows(engine)
    async with writing(engine) as connection:
        await connection.execute(update(LIVE.team_carts).values(status="Nonsense", members="[]"))
    await rebuilt(engine, entries, 2, 10)
    assert await rows(engine) == before


async def shown(engine: AsyncEngine, viewer: str, *events: tuple[str, dict[str, Any]]) -> Any:
    """The cart t1 after these, as JSON shows it to `viewer`."""
    await apply(engine, [entry(n, 1000.0, f"TeamCart{name}", **said) for n, (name, said) in enumerate(events, 1)])
    async with States(engine).read() as sql:
        found = await cart_snapshot(sql, "t1", viewer)
    return msgspec.json.decode(msgspec.json.encode(found))


ADA, BOB = {"memberId": "ada", "memberName": "Ada Lovelace"}, {"memberId": "bob"}


async def test_member_sees_the_whole_cart_and_nobodys_identity(engine: AsyncEngine) -> None:
    state = await shown(
        engine,
        "bob",
        ("Created", ADA | {"expiresAt": "2026-11-20T12:00:00Z"}),
        ("MemberJoined", BOB),
        ("ItemAdded", BOB | {"item": item("i1")}),
        ("ItemAdded", ADA | {"item": item("i2")}),
        ("ItemUpdated", {"item": item("i1", 3)}),
        ("ItemRemoved", {"itemId": "i2"}),
        ("QuoteUpdated", {"total": MONEY}),
        ("LockedForPayment", {}),
        ("PaymentFailed", BOB),
    )
    assert state == {
        "teamCartId": "t1",
        "status": "LockedForPayment",
        "members": [
            {"memberRef": member_ref("t1", "ada"), "memberName": "Ada L.", "isHost": True},
            {"memberRef": member_ref("t1", "bob"), "memberName": None, "isHost": False},
        ],
        "items": [item("i1", 3) | {"memberRef": member_ref("t1", "bob")}],
        "total": MONEY,
        "expiresAt": "2026-11-20T12:00:00Z",
        "orderId": None,
        "restaurantId": None,
        "you": member_ref("t1", "bob"),
    }


async def test_conversion_tells_the_order_and_who_is_no_member_sees_nothing(engine: AsyncEngine) -> None:
    state = await shown(engine, "ada", ("Created", ADA), ("Converted", {"orderId": "o1", "restaurantId": "r1"}))
    assert (state["status"], state["orderId"], state["restaurantId"]) == ("Converted", "o1", "r1")
    assert await shown(engine, "bob") is None


async def members(engine: AsyncEngine, entries: list[Entry]) -> dict[str, int]:
    await apply(engine, entries)
    cart = await known(engine, Overlay(len(entries)), KIND, "t1")
    return dict(cart.members)


async def test_membership_begins_with_the_latest_joining_after_the_latest_leaving(engine: AsyncEngine) -> None:
    log = [
        entry(1, 1000.0, "TeamCartMemberJoined", memberId="ada"),
        entry(2, 1000.0, "TeamCartMemberLeft", memberId="ada"),
        entry(3, 1000.0, "TeamCartMemberJoined", memberId="ada", eventId="again"),
        entry(4, 1000.0, "TeamCartMemberJoined", memberId="ada", eventId="and-again"),
    ]
    assert await members(engine, log) == {"ada": 3}


async def test_joining_that_is_repeated_after_the_leaving_gives_nothing_back(engine: AsyncEngine) -> None:
    log = [
        entry(1, 1000.0, "TeamCartMemberJoined", memberId="ada", eventId="joined"),
        entry(2, 1000.0, "TeamCartMemberLeft", memberId="ada"),
    ]
    await apply(engine, log)
    log.append(entry(3, 1000.0, "TeamCartMemberJoined", memberId="ada", eventId="joined"))
    assert await members(engine, log) == {}


async def test_members_stay_when_the_log_is_made_anew(engine: AsyncEngine) -> None:
    """In the new log they have always been there."""
    log = [entry(n, 1000.0, "TeamCartMemberJoined", memberId=who) for n, who in enumerate(["ada", "bob"], 1)]
    await apply(engine, log)
    await Projection(engine, LIVES).set_position("e", 2, 0.0)
    await Projection(engine, LIVES).set_position("f", 0, 0.0)
    async with States(engine).read() as sql:
        cart = (await KIND.read(sql, ["t1"]))["t1"]
    assert set(cart.members) == {"ada", "bob"}
    assert all(since < 1 for since in cart.members.values())
