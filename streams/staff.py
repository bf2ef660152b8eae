"""Who belongs to a restaurant: the fact, read from the projection and moved on by what the tail has seen since."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import msgspec
from sqlalchemy import select, tuple_

from streams.changes import staff_fact
from streams.events import Role, StaffAssigned
from streams.tables import LIVE

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from streams.changes import Change
    from streams.snapshots import Reading

Member: TypeAlias = tuple[str, str]
"""A restaurant's id and somebody's identity key."""


class Standing(msgspec.Struct, frozen=True, gc=False):
    """What somebody is to a restaurant.

    `revoked_at` is the log's time (Unix seconds) of the last revocation there, of one role or of all, and
    `revoked_sequence` where it stands in the log; both are None if there was none. A sequence below 1 is from a
    former log.
    """

    roles: frozenset[Role]
    revoked_at: float | None = None
    revoked_sequence: int | None = None


_STRANGER = Standing(frozenset())
"""What almost everybody is to almost every restaurant, once for all who are remembered."""


class StaffFacts:
    """The `streams.facts.FactKind` of `Standing`."""

    def name(self, key: Member) -> str:
        return staff_fact(*key)

    async def read(self, sql: Reading, keys: Collection[Member]) -> dict[Member, Standing]:
        """What each of the people is to the restaurant beside them, and when somebody last ended that."""
        held, revoked = LIVE.staff_roles.c, LIVE.staff_revocations.c
        roles: dict[Member, set[Role]] = {}
        for row in await sql.rows(
            select(held.restaurant_id, held.subject_key, held.role).where(
                tuple_(held.restaurant_id, held.subject_key).in_(keys)
            )
        ):
            roles.setdefault((row["restaurant_id"], row["subject_key"]), set()).add(Role(row["role"]))
        last = {
            (row["restaurant_id"], row["subject_key"]): (row["revoked_at"], row["sequence"])
            for row in await sql.rows(
                select(revoked.restaurant_id, revoked.subject_key, revoked.revoked_at, revoked.sequence).where(
                    tuple_(revoked.restaurant_id, revoked.subject_key).in_(keys)
                )
            )
        }
        return {key: _standing(roles.get(key, ()), last.get(key)) for key in keys}

    async def applied(self, sql: Reading, key: Member, event_ids: Collection[str]) -> frozenset[str]:
        """Which of the events were applied for this person: what repeats one of them changes nothing."""
        seen = LIVE.staff_events.c
        rows = await sql.rows(
            select(seen.event_id).where(
                seen.event_id.in_(event_ids), seen.restaurant_id == key[0], seen.subject_key == key[1]
            )
        )
        return frozenset(row["event_id"] for row in rows)

    def moved_on(self, state: Standing, changes: Iterable[Change], applied: Collection[str]) -> Standing:
        """So an assignment that its publisher sends again, long after a revocation, gives no role back."""
        roles, revoked_at, revoked_sequence = set(state.roles), state.revoked_at, state.revoked_sequence
        seen = set(applied)
        for change in changes:
            event = change.event
            if event.event_id in seen:
                continue
            seen.add(event.event_id)
            if isinstance(event, StaffAssigned):
                roles.add(event.role)
            else:
                roles -= {event.role} if event.role else set(Role)
                revoked_at, revoked_sequence = change.time, change.sequence
        return Standing(frozenset(roles), revoked_at, revoked_sequence)


STAFF = StaffFacts()


def _standing(roles: Collection[Role], revoked: tuple[float, int] | None) -> Standing:
    if revoked is None:
        return Standing(frozenset(roles)) if roles else _STRANGER
    return Standing(frozenset(roles), *revoked)
