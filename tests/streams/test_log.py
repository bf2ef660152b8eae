"""The state of the log and single entries of it, on real servers."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.errors import BrokerUnavailable, StreamMissing
from streams.log import Log, _nanoseconds
from streams.provision import provision
from tests.support.nats import PLACED, SETTINGS, client, eventually, publish
from tests.support.pausing import pause

if TYPE_CHECKING:
    from streams.embedded import EmbeddedNats

SECOND = 1_000_000_000


async def test_new_log_is_empty_before_its_first_sequence(log_server: EmbeddedNats) -> None:
    async with client(log_server, "gateway") as gateway:
        state = await Log(gateway).state()
    assert (state.first, state.last) == (1, 0)
    assert state.leader


async def test_emptied_log_begins_after_its_last_entry(nats_server: EmbeddedNats) -> None:
    async with client(nats_server, "admin") as admin, client(nats_server, "gateway") as gateway:
        assert (await provision(admin, replace(SETTINGS, max_age_seconds=1))).drift == ()
        await publish(gateway)
        log = Log(gateway)

        async def emptied() -> bool:
            state = await log.state()
            return (state.first, state.last) == (2, 1)

        await eventually(emptied, within=10)
        assert await log.get(1) is None


async def test_entry_is_told_as_it_was_stored(log_server: EmbeddedNats) -> None:
    async with client(log_server, "gateway") as gateway:
        await publish(gateway, "access.r1.StaffAssigned", b"first")
        await publish(gateway, PLACED, b'{"a":"\xc3\xa9"}', {"Nats-Msg-Id": "e-1", "X-Note": "a: b"})
        entry = await Log(gateway).get(2)
    assert entry is not None
    assert (entry.sequence, entry.subject, entry.data) == (2, PLACED, b'{"a":"\xc3\xa9"}')
    assert entry.headers == {"Nats-Msg-Id": "e-1", "X-Note": "a: b"}
    assert abs(time.time() - entry.time) < 60
    assert abs(entry.time * SECOND - entry.time_ns) < 1000


async def test_last_match_is_the_newest_one_or_none(log_server: EmbeddedNats) -> None:
    async with client(log_server, "gateway") as gateway:
        for order in ("o1", "o2", "o1", "o3"):
            await publish(gateway, f"orders.r1.c1.{order}.OrderAccepted")
        log = Log(gateway)
        found = [await log.last_match(f"orders.r1.c1.{order}.>") for order in ("o1", "o2", "o9")]
    assert [each.sequence if each else None for each in found] == [3, 2, None]


async def test_next_match_is_the_first_one_beyond_a_position(log_server: EmbeddedNats) -> None:
    subjects = ["orders.r1.c1.o1.A", "orders.r1.c2.o2.A", "carts.c.A", "orders.r1.c1.o1.B"]
    async with client(log_server, "gateway") as gateway:
        for subject in subjects:
            await publish(gateway, subject)
        log = Log(gateway)
        found = [await log.next_match(after, "orders.*.*.o1.>") for after in range(6)]
        missing = await log.get(5)
    assert [entry and (entry.sequence, entry.subject) for entry in found] == [
        (1, "orders.r1.c1.o1.A"),
        *[(4, "orders.r1.c1.o1.B")] * 3,
        None,
        None,
    ]
    assert missing is None


async def test_missing_stream_is_told(nats_server: EmbeddedNats) -> None:
    async with client(nats_server, "gateway") as gateway:
        for question in (Log(gateway).state(), Log(gateway).get(1), Log(gateway).next_match(0, ">")):
            with pytest.raises(StreamMissing):
                await question


async def test_hung_broker_costs_two_seconds_and_no_more(log_server: EmbeddedNats) -> None:
    async with client(log_server, "gateway") as gateway:
        log = Log(gateway)
        await log.state()
        pause(log_server.pid)
        started = time.monotonic()
        answers = await asyncio.gather(log.state(), log.get(1), log.next_match(0, ">"), return_exceptions=True)
        assert 1.9 < time.monotonic() - started < 3
        assert [type(answer) for answer in answers] == [BrokerUnavailable] * 3


@given(st.integers(min_value=0, max_value=4_000_000_000), st.integers(min_value=0, max_value=999_999_999))
def test_time_is_exact_to_the_nanosecond(seconds: int, nanoseconds: int) -> None:
    # As the server writes it: without trailing zeros, without a point where nothing follows.
    whole = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    text = f"{whole}.{nanoseconds:09}".rstrip("0").rstrip(".") if nanoseconds else whole
    assert _nanoseconds(text + "Z") == seconds * SECOND + nanoseconds


async def test_before_the_first_entry_there_is_nothing(log_server: EmbeddedNats) -> None:
    async with client(log_server, "gateway") as nc:
        assert await Log(nc).get(0) is None
