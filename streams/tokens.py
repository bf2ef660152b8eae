"""Tokens that were revoked: one fact for all of them, since each decision asks for it and few are revoked at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sqlalchemy import select

from streams.changes import TOKENS_FACT
from streams.events import TokenRevoked
from streams.tables import LIVE

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from streams.changes import Change
    from streams.snapshots import Reading

REMEMBERED_SECONDS: Final = 86_400 + 60
"""So long a revocation is remembered, by the log's time: no token lives for longer than a day."""

_FORGET_ABOVE = 4096  # then those are looked for that no token can outlive


class RevokedTokens:
    """What was revoked, and when by the log's time (Unix seconds): single tokens, and those of a person until then.

    It moves on in place: it is asked for at every decision, and there may be thousands.
    """

    def __init__(self, tokens: Mapping[str, float] | None = None, subjects: Mapping[str, float] | None = None) -> None:
        self._tokens = dict(tokens or {})
        self._subjects = dict(subjects or {})

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RevokedTokens) and (self._tokens, self._subjects) == (other._tokens, other._subjects)

    __hash__ = None  # type: ignore[assignment]  # it changes

    def holds(self, token_id: str | None, subject_key: str, issued_at: float) -> bool:
        """Whether a token is revoked: by its `jti`, or because it was issued before its subject's were.

        One that was issued in the very second of the revocation is: a token tells whole seconds only.
        """
        if token_id is not None and token_id in self._tokens:
            return True
        return issued_at <= self._subjects.get(subject_key, -1.0)

    def take(self, change: Change) -> None:
        """One more revocation."""
        event: TokenRevoked = change.event
        subject_key = event.subject_key
        if subject_key is not None:
            self._subjects[subject_key] = max(change.time, self._subjects.get(subject_key, change.time))
        elif isinstance(event.jti, str):
            self._tokens[event.jti] = change.time
        if len(self._tokens) + len(self._subjects) > _FORGET_ABOVE:
            oldest = change.time - REMEMBERED_SECONDS
            self._tokens = {token: time for token, time in self._tokens.items() if time > oldest}
            self._subjects = {subject: time for subject, time in self._subjects.items() if time > oldest}


class TokenFacts:
    """The `streams.facts.FactKind` of `RevokedTokens`: there is one of them."""

    def name(self, _: tuple[()]) -> str:
        return TOKENS_FACT

    async def read(self, sql: Reading, keys: Collection[tuple[()]]) -> dict[tuple[()], RevokedTokens]:
        """All that are remembered."""
        table = LIVE.token_revocations.c
        found: dict[bool, dict[str, float]] = {True: {}, False: {}}
        for row in await sql.rows(select(table.name, table.is_subject, table.revoked_at)):
            found[row["is_subject"]][row["name"]] = row["revoked_at"]
        return {key: RevokedTokens(found[False], found[True]) for key in keys}

    async def applied(self, *_: object) -> Collection[str]:
        """A revocation that is repeated revokes nothing more; a later one of the same person does."""
        return ()

    def moved_on(self, state: RevokedTokens, changes: Iterable[Change], _: Collection[str]) -> RevokedTokens:
        for change in changes:
            state.take(change)
        return state


TOKENS = TokenFacts()
