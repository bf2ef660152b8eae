"""Figures: what was measured, run by run, and what it must reach. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import msgspec

RATIO = "×"
"""The unit of a ratio."""


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was measured, once or several times, in the unit `unit`.

    `at_most` and `at_least` are what its median must reach, None where nothing is asked. `note` says what else must be
    known to read it.
    """

    name: str
    unit: str
    runs: tuple[float, ...]
    at_most: float | None = None
    at_least: float | None = None
    note: str = ""

    def __post_init__(self) -> None:
        if not self.runs:
            raise ValueError(f"{self.name}: no run")

    @property
    def median(self) -> float:
        return statistics.median(self.runs)

    @property
    def spread(self) -> float:
        """How far the runs are apart: (most - least) / median. 0.1 is 10 %; 0 for a median of 0."""
        return (max(self.runs) - min(self.runs)) / abs(self.median) if self.median else 0.0

    @property
    def reached(self) -> bool | None:
        """Whether the median is within what it must reach; None where nothing is asked."""
        if self.at_most is None and self.at_least is None:
            return None
        return (self.at_most is None or self.median <= self.at_most) and (
            self.at_least is None or self.median >= self.at_least
        )


def ratios(of: Sequence[float], to: Sequence[float]) -> tuple[float, ...]:
    """Run by run, since runs that stood side by side met the same machine: a busy minute slows both.

    Raises ValueError: not as many of the one as of the other, or a run of 0 to divide by.
    """
    if len(of) != len(to):
        raise ValueError(f"{len(of)} runs can't be compared with {len(to)}")
    if 0 in to:
        raise ValueError("a run of 0 can't be compared with")
    return tuple(one / other for one, other in zip(of, to, strict=True))


def flatness(values: Sequence[float]) -> float:
    """The greatest of several values over the least: 1.0 is flat, 1.2 is flat within 20 %.

    Raises ValueError: there are none, or one is not above 0.
    """
    if not values or min(values) <= 0:
        raise ValueError(f"no flatness of {list(values)}")
    return max(values) / min(values)
