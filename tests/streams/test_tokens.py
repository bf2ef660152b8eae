"""Revoked tokens: what is remembered of them, and that the tail and the projection say the same."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

from hypothesis import given, settings
from hypothesis import strategies as st

from streams.changes import Change
from streams.database import open_database
from streams.entry import Entry, judge
from streams.events import TokenRevoked, decode
from streams.overlay import Overlay
from streams.tokens import REMEMBERED_SECONDS, TOKENS, RevokedTokens
from tests.streams.test_facts import apply, facts_at
from tests.support.samples import sample

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

STEPS = st.lists(st.tuples(st.sampled_from(["jti", "subject"]), st.sampled_from(["a", "b", "auth0|5f"])), max_size=8)


def revocation(sequence: int, field: str, name: str) -> Entry:
    body = {key: value for key, value in sample("TokenRevoked", eventId=f"e{sequence}").items() if key != "jti"}
    event = decode(json.dumps(body | {field: name}).encode())
    return judge(sequence, 1000.0 + sequence, event.log_subject(), json.dumps(body | {field: name}).encode())


def change(time: float, **who: str) -> Change:
    event = decode(json.dumps({k: v for k, v in sample("TokenRevoked").items() if k != "jti"} | who).encode())
    assert isinstance(event, TokenRevoked)
    return Change(1, time, event)


def test_token_is_revoked_by_its_own_id_and_no_other_token_is() -> None:
    revoked = RevokedTokens()
    revoked.take(change(100.0, jti="t1"))
    assert revoked.holds("t1", "ann", 200.0)
    assert not revoked.holds("t2", "ann", 50.0)
    assert not revoked.holds(None, "ann", 50.0)
    assert not revoked.holds(None, "t1", 50.0)


def test_persons_tokens_are_revoked_that_were_issued_until_then() -> None:
    revoked = RevokedTokens()
    revoked.take(change(100.5, subject="ann"))
    assert revoked.holds("any", "ann", 100.0)
    assert not revoked.holds("any", "ann", 101.0)
    assert not revoked.holds("ann", "bob", 50.0)
    revoked.take(change(90.0, subject="ann"))  # an older one takes nothing back
    assert revoked.holds(None, "ann", 95.0)


def test_revocations_that_no_token_can_outlive_are_forgotten_where_there_are_many() -> None:
    revoked = RevokedTokens()
    for number in range(5000):
        revoked.take(change(float(number), jti=f"t{number}"))
    assert revoked.holds("t0", "x", 0.0)
    revoked.take(change(REMEMBERED_SECONDS + 2500.0, jti="last"))
    assert not revoked.holds("t2500", "x", 0.0)
    assert revoked.holds("t2501", "x", 0.0)


@given(steps=STEPS, cut=st.integers(0, 8), asked=st.integers(0, 8))
@settings(max_examples=30, deadline=None)
def test_what_the_tail_knows_is_what_the_projection_will_say(
    tmp_path_factory: pytest.TempPathFactory,
    migrated_sqlite: Path,
    steps: list[tuple[str, str]],
    cut: int,
    asked: int,
) -> None:
    """Whenever it was read first, and however far the projection was then."""
    entries = [revocation(index + 1, *step) for index, step in enumerate(steps)]
    position = min(cut, len(entries))
    path = tmp_path_factory.mktemp("tokens") / "passline.db"
    path.write_bytes(migrated_sqlite.read_bytes())

    async def compare() -> None:
        async with open_database(f"sqlite:///{path}") as engine:
            await apply(engine, entries, upto=position)
            overlay = Overlay(position)
            facts = facts_at(engine, overlay)
            for entry in entries[position:]:
                if entry.sequence > asked:
                    await facts.state(TOKENS, ())
                overlay.apply(entry)
            known = await facts.state(TOKENS, ())
            await apply(engine, entries, upto=len(entries))
            assert known == await facts_at(engine, Overlay(len(entries))).state(TOKENS, ())

    asyncio.run(compare())
