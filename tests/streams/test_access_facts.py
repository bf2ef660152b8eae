"""What the log says of passes, deliveries, pairings and devices: the same in memory as in the database, and after a
rebuild.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, select

from streams.changes import taken_back_by
from streams.database import open_database, reading, writing
from streams.devices import DEVICE, PAIRING, REPLACED_KEY_SECONDS, UNKNOWN_PAIRING, Device, registered_devices
from streams.events import (
    DeviceRegistered,
    DeviceRevoked,
    OrderDelivered,
    OrderPlaced,
    PairingOpened,
    PassIssued,
    PassRevoked,
)
from streams.facts import Facts, FactsUnavailable
from streams.log import LogState
from streams.overlay import Overlay
from streams.passes import DELIVERY, GUEST_PASS, GuestPass
from streams.projection import Projection
from streams.rebuild import rebuild
from streams.snapshots import States
from streams.tables import LIVE, metadata, to_microseconds
from tests.streams.histories import EPOCH, NOON, History, log_time
from tests.support.nats import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from sqlalchemy.ext.asyncio import AsyncEngine

    from streams.entry import Entry
    from streams.events import Event

PASSES = (("o1", "p1"), ("o1", "p2"), ("o2", "p1"))
DEVICES = (("r1", "d1"), ("r1", "d2"), ("r2", "d1"))
HASHES = tuple(letter * 64 for letter in "abc")
DELIVERIES = (("o1", "r1", "c1"), ("o1", "r1", "c2"), ("o2", "r2", "c1"))

Make: TypeAlias = "st.SearchStrategy[Event]"

# Few of everything, so that what is said is repeated, contradicted and taken back often.
_number = st.integers(1, 3)


def _said(**fields: Any) -> dict[str, Any]:
    return {"occurred_on_utc": NOON, **fields}


def _issued(key: tuple[str, str], number: int) -> Event:
    order_id, pass_id = key
    ends = NOON + dt.timedelta(hours=number)
    return PassIssued(**_said(event_id=f"i{number}", order_id=order_id, pass_id=pass_id, expires_at=ends))


def _pass_revoked(key: tuple[str, str], number: int) -> Event:
    return PassRevoked(**_said(event_id=f"v{number}", order_id=key[0], pass_id=key[1]))


def _registered(key: tuple[str, str], digest: str, number: int) -> Event:
    fields = {"restaurant_id": key[0], "device_id": key[1], "key_hash": digest, "name": f"till {number}"}
    return DeviceRegistered(**_said(event_id=f"g{number}{digest[0]}", **fields))


def _device_revoked(key: tuple[str, str], number: int) -> Event:
    return DeviceRevoked(**_said(event_id=f"x{number}", restaurant_id=key[0], device_id=key[1]))


def _opened(digest: str, number: int) -> Event:
    fields = {"restaurant_id": f"r{number}", "pairing_id": f"q{number}", "code_hash": digest}
    return PairingOpened(**_said(event_id=f"q{number}", expires_at=NOON + dt.timedelta(minutes=5), **fields))


def _order(kind: type[OrderPlaced | OrderDelivered], key: tuple[str, str, str], number: int) -> Event:
    order_id, restaurant_id, customer_id = key
    ids = {"order_id": order_id, "restaurant_id": restaurant_id, "customer_id": customer_id}
    return kind(**_said(event_id=f"{kind.__name__}-{number}", **ids))


EVENTS: Make = st.one_of(
    st.builds(_issued, st.sampled_from(PASSES), _number),
    st.builds(_pass_revoked, st.sampled_from(PASSES), _number),
    st.builds(_registered, st.sampled_from(DEVICES), st.sampled_from(HASHES), _number),
    st.builds(_registered, st.sampled_from(DEVICES), st.sampled_from(HASHES), _number),
    st.builds(_device_revoked, st.sampled_from(DEVICES), _number),
    st.builds(_opened, st.sampled_from(HASHES), _number),
    # Each order is its own restaurant's and customer's, but for one that somebody else contradicts.
    st.builds(_order, st.sampled_from((OrderPlaced, OrderDelivered)), st.sampled_from(DELIVERIES), _number),
)
HISTORIES = st.lists(EVENTS, max_size=16)


def history_of(events: Sequence[Event]) -> History:
    history = History()
    for event in events:
        history.add(event)
    return history


async def ignore(entry: Entry, reason: str) -> None: ...


async def apply(engine: AsyncEngine, history: History, *, upto: int) -> None:
    """Bring the projection to position `upto`."""
    projection = Projection(engine)
    position = await projection.position()
    after = position.sequence if position else 0
    due = [entry for entry in history.entries if after < entry.sequence <= upto]
    await projection.apply(EPOCH, after, due, (upto, log_time(upto)), ignore)


class StubLog:
    """A log whose last sequence is what a test says."""

    def __init__(self, last: int) -> None:
        self.last = last

    async def state(self) -> LogState:
        return LogState(EPOCH, 1, self.last, None)


def facts_at(engine: AsyncEngine, overlay: Overlay, *, last: int = 0) -> Facts:
    return Facts(States(engine), overlay, StubLog(last), EPOCH)  # type: ignore[arg-type]


async def everything(facts: Facts) -> list[object]:
    async with facts.reading() as decision:
        return [
            await decision.states(GUEST_PASS, PASSES),
            await decision.states(DELIVERY, DELIVERIES),
            await decision.states(DEVICE, DEVICES),
            await decision.states(PAIRING, HASHES),
        ]


@given(events=HISTORIES, cut=st.integers(0, 16), floor=st.integers(0, 16))
@settings(max_examples=60, deadline=None)
def test_overlay_says_what_the_projection_will_say(
    tmp_path_factory: pytest.TempPathFactory, migrated_sqlite: Path, events: list[Event], cut: int, floor: int
) -> None:
    history = history_of(events)
    position = min(cut, history.last)
    overlay = Overlay(min(floor, position))
    for entry in history.entries[overlay.floor :]:
        overlay.apply(entry)
    path = tmp_path_factory.mktemp("access") / "passline.db"
    path.write_bytes(migrated_sqlite.read_bytes())

    async def compare() -> None:
        async with open_database(f"sqlite:///{path}") as engine:
            await apply(engine, history, upto=position)
            early = await everything(facts_at(engine, overlay))
            await apply(engine, history, upto=history.last)
            assert early == await everything(facts_at(engine, Overlay(history.last)))

    asyncio.run(compare())


async def rows(engine: AsyncEngine) -> list[list[tuple[object, ...]]]:
    """What the tables say of it all."""
    async with reading(engine) as connection:
        return [
            [tuple(row) for row in await connection.execute(select(table).order_by(*table.primary_key))]
            for table in (LIVE.guest_passes, LIVE.pairings, LIVE.devices, LIVE.orders)
        ]


@given(events=HISTORIES, first=st.integers(1, 16))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_rebuild_makes_what_was_there_also_where_the_log_has_lost_its_beginning(
    engine: AsyncEngine, events: list[Event], first: int
) -> None:
    async with writing(engine) as connection:
        for table in metadata.tables.values():
            await connection.execute(delete(table))
    history = history_of(events)
    await apply(engine, history, upto=history.last)
    before = await rows(engine)

    async def read(after: int) -> AsyncIterator[Sequence[Entry]]:
        if entries := history.after(after):
            yield entries

    await rebuild(engine, epoch=EPOCH, first=min(first, history.last + 1), read=read, progress=lambda _: None)
    assert await rows(engine) == before


async def test_both_databases_say_the_same_of_each_kind(engine: AsyncEngine) -> None:
    history = History()
    for event in (
        _issued(("o1", "p1"), 2),
        _issued(("o1", "p2"), 1),
        _pass_revoked(("o1", "p2"), 1),
        _order(OrderPlaced, ("o1", "r1", "c1"), 1),
        _order(OrderDelivered, ("o1", "r1", "c1"), 1),
        _order(OrderDelivered, ("o1", "r1", "c1"), 2),
        _opened(HASHES[0], 1),
        _registered(("r1", "d1"), HASHES[0], 1),
        _registered(("r1", "d2"), HASHES[1], 2),
        _registered(("r1", "d1"), HASHES[2], 3),
        _device_revoked(("r1", "d2"), 1),
    ):
        history.add(event)
    await apply(engine, history, upto=history.last)
    facts = facts_at(engine, Overlay(history.last))
    assert await facts.state(GUEST_PASS, ("o1", "p1")) == GuestPass(to_microseconds(NOON + dt.timedelta(hours=2)))
    assert not (await facts.state(GUEST_PASS, ("o1", "p2"))).is_good
    assert not (await facts.state(GUEST_PASS, ("o2", "p1"))).is_issued
    assert await facts.state(DELIVERY, ("o1", "r1", "c1")) == log_time(5)
    assert await facts.state(DELIVERY, ("o1", "r1", "c2")) == 0
    assert (await facts.state(PAIRING, HASHES[0])).pairing_id == "q1"
    assert await facts.state(PAIRING, HASHES[1]) == UNKNOWN_PAIRING
    first, second = [await facts.state(DEVICE, key) for key in DEVICES[:2]]
    assert (first.name, first.registered_at, first.key_since) == ("till 3", log_time(8), log_time(10))
    assert (second.is_registered, second.has_key(HASHES[1], 0)) == (False, False)
    async with facts.reading() as decision:
        assert await registered_devices(decision.sql, "r1") == {"d1": first}


def test_replaced_key_is_good_for_ten_minutes_of_log_time_and_the_new_one_on() -> None:
    device = Device()
    for time, digest in ((0.0, "a" * 64), (1000.0, "b" * 64)):
        event = _registered(("r1", "d1"), digest, 1)
        assert isinstance(event, DeviceRegistered)
        device = device.after(event, time)
    assert device.has_key("a" * 64, 1000.0 + REPLACED_KEY_SECONDS - 1)
    assert not device.has_key("a" * 64, 1000.0 + REPLACED_KEY_SECONDS)
    assert device.has_key("b" * 64, 1e9)
    assert not device.has_key("c" * 64, 1000.0)


def test_device_that_asks_again_with_its_old_key_is_not_locked_out() -> None:
    """Its first new key was lost on the way, and the second one may be, too."""
    device = Device()
    for time, digest in ((0.0, "a" * 64), (1000.0, "b" * 64), (1100.0, "c" * 64)):
        event = _registered(("r1", "d1"), digest, 1)
        assert isinstance(event, DeviceRegistered)
        device = device.after(event, time)
    assert [device.has_key(each * 64, 1200.0) for each in "abc"] == [True, True, True]


def test_repeated_registration_makes_no_old_key_good_again() -> None:
    old, new = _registered(("r1", "d1"), "a" * 64, 1), _registered(("r1", "d1"), "b" * 64, 2)
    assert isinstance(old, DeviceRegistered)
    assert isinstance(new, DeviceRegistered)
    device = Device().after(old, 0.0).after(new, 10.0)
    assert device.after(old, 20.0) == device
    assert not device.after(old, 5000.0).has_key("a" * 64, 5000.0)


def test_revoked_is_for_good() -> None:
    issued, revoked = _issued(("o1", "p1"), 1), _pass_revoked(("o1", "p1"), 1)
    assert isinstance(issued, PassIssued)
    assert isinstance(revoked, PassRevoked)
    assert not GuestPass().after(revoked).after(issued).is_good
    registered, ended = _registered(("r1", "d1"), "a" * 64, 1), _device_revoked(("r1", "d1"), 1)
    assert isinstance(registered, DeviceRegistered)
    assert isinstance(ended, DeviceRevoked)
    assert not Device().after(ended, 1.0).after(registered, 2.0).is_registered


def test_another_key_takes_no_stream_back() -> None:
    assert taken_back_by(_registered(("r1", "d1"), "a" * 64, 1)) is None
    assert taken_back_by(_device_revoked(("r1", "d1"), 1)) is not None


async def test_what_is_not_known_is_asked_for_at_the_logs_end(engine: AsyncEngine) -> None:
    """It was published by way of another process a moment ago."""
    history = history_of([_issued(("o1", "p1"), 1)])
    await apply(engine, history, upto=0)
    overlay = Overlay(0)
    facts = facts_at(engine, overlay, last=1)
    asking = asyncio.create_task(facts.settled(GUEST_PASS, ("o1", "p1"), lambda state: state.is_issued))
    await eventually(lambda: overlay.known(GUEST_PASS.name(("o1", "p1"))) is not None)
    assert not asking.done()
    overlay.apply(history.entries[0])
    assert (await asking).is_good


async def test_what_the_log_has_not_is_unknown_and_where_it_may_have_it_that_is_said(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streams.facts.WAIT_FOR_TAIL_SECONDS", 0.05)
    await apply(engine, History(), upto=0)
    known = await facts_at(engine, Overlay(0)).settled(GUEST_PASS, ("o1", "p1"), lambda state: state.is_issued)
    assert not known.is_issued
    with pytest.raises(FactsUnavailable):
        await facts_at(engine, Overlay(0), last=7).settled(GUEST_PASS, ("o1", "p1"), lambda state: state.is_issued)
