"""What the checker says about a run."""

from __future__ import annotations

from collections import Counter
from enum import StrEnum

import msgspec

_SHOWN = 25


class Broken(StrEnum):
    """The part of the promise that a finding is about."""

    MISSING = "an acknowledged event was not delivered"
    UNEVEN = "an event of unknown outcome was delivered to some and not to others"
    TWICE = "an event was delivered twice"
    ORDER = "ids did not increase"
    PLACE = "an event was delivered at another position than it has"
    CLASH = "two events have one position"
    FORBIDDEN = "something was delivered outside of the client's grants"
    TOPIC = "an event was delivered on a topic that it is not for"
    INVENTED = "an event was delivered that nobody published"
    DENIED = "an event was delivered whose publisher was told that it had failed"
    ENTRY = "the blocks of an entry did not end with one id"
    VERDICT = "the opening did not fit what was asked"
    BEHIND = "a client never reached where the run ended"
    CLIENT = "a client's own record contradicts itself"


class Finding(msgspec.Struct, frozen=True):
    """One violation. `where` names the client and connection, or the log."""

    broken: Broken
    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what} ({self.broken})"


class Report(msgspec.Struct):
    """All findings, and how much was checked, so that a run in which nothing happened can't pass for a good one.

    `owed` counts the events that some client had to get, `delivered` those that came, `resets` the reset verdicts by
    reason, `halves` the blocks whose entry was cut before its id, so that they had to come again.
    """

    findings: list[Finding] = []
    clients: int = 0
    events: int = 0
    owed: int = 0
    delivered: int = 0
    resumed: int = 0
    halves: int = 0
    resets: Counter[str] = msgspec.field(default_factory=Counter)

    def add(self, broken: Broken, where: str, what: str) -> None:
        """Note a violation."""
        self.findings.append(Finding(broken, where, what))

    def assert_clean(self) -> None:
        """Fail with the findings, if there are any."""
        assert not self.findings, str(self)

    def __str__(self) -> str:
        counts = (
            f"{self.clients} clients, {self.events} events, {self.owed} deliveries owed, {self.delivered} made, "
            f"{self.resumed} resumed, {self.resets.total()} reset"
        )
        if not self.findings:
            return f"no finding: {counts}"
        kinds = Counter(finding.broken for finding in self.findings)
        lines = [f"{len(self.findings)} findings: {counts}"]
        lines += [f"  {count} x {broken}" for broken, count in kinds.most_common()]
        lines += [f"  - {finding}" for finding in self.findings[:_SHOWN]]
        if len(self.findings) > _SHOWN:
            lines.append(f"  … and {len(self.findings) - _SHOWN} more")
        return "\n".join(lines)
