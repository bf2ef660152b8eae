"""What the benchmark says at its end: a table for people, JSON for programs, Markdown for the README. Pure."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from bench.figures import RATIO, Figure
from bench.network import congestion_control


class Result(msgspec.Struct, frozen=True):
    """What became of a case. `failure` says why it has no figures, or not all; None if it went well."""

    case: str
    figures: tuple[Figure, ...]
    seconds: float
    failure: str | None = None


class Machine(msgspec.Struct, frozen=True):
    """Where it ran."""

    processor: str
    cores: int
    memory_gib: float
    kernel: str
    congestion_control: str
    python: str

    def __str__(self) -> str:
        return (
            f"{self.processor}, {self.cores} cores, {self.memory_gib:.0f} GiB, Linux {self.kernel}, "
            f"TCP {self.congestion_control}, Python {self.python}"
        )


def this_machine() -> Machine:
    """The one that we run on."""
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return Machine(
        processor=names[0].partition(":")[2].strip() if names else platform.machine(),
        cores=os.cpu_count() or 1,
        memory_gib=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30,
        kernel=platform.release(),
        congestion_control=congestion_control(),
        python=platform.python_version(),
    )


_HEADINGS = ("case", "figure", "median", "from – to", "unit", "must reach", "")


def table(results: Sequence[Result]) -> str:
    """For a terminal, in the order of the cases."""
    rows = [_HEADINGS, *(row for result in results for row in _rows(result))]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADINGS))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.insert(1, "  ".join("─" * width for width in widths).rstrip())
    notes = [
        f"{result.case}: {figure.name}: {figure.note}" for result in results for figure in result.figures if figure.note
    ]
    failures = [f"{result.case} FAILED: {result.failure}" for result in results if result.failure]
    return "\n".join([*lines, "", *notes, *failures])


def markdown(results: Sequence[Result], machine: Machine) -> str:
    """A table for a README: ratios first, then what must be reached, then the rest."""
    rows = [(result.case, figure) for result in results for figure in result.figures]
    rows.sort(key=lambda row: (row[1].unit != RATIO, row[1].reached is None))
    lines = ["| figure | median | from – to | must reach | |", "|---|---|---|---|---|"]
    for case, figure in rows:
        value = " ".join([number(figure.median), figure.unit]) if figure.unit != RATIO else number(figure.median)
        cells = (f"{case}: {figure.name}", f"**{value}**", _range(figure), _must(figure), _verdict(figure))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", f"{machine}.", ""])


def document(results: Sequence[Result], machine: Machine, *, quick: bool) -> bytes:
    """All of it as JSON."""
    cases = [msgspec.to_builtins(result) | {"figures": [_told(each) for each in result.figures]} for result in results]
    content = {"machine": msgspec.to_builtins(machine), "quick": quick, "cases": cases}
    return msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n"


def number(value: float) -> str:
    """As many digits as one reads: 12,345 or 123 or 12.3 or 1.23 or 0.012."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    if abs(value) >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if abs(value) >= 0.1 or value == 0 else f"{value:.2g}"


def _rows(result: Result) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [
        (result.case, figure.name, number(figure.median), _range(figure), figure.unit, _must(figure), _verdict(figure))
        for figure in result.figures
    ]
    if result.failure:
        rows.append((result.case, "", "", "", "", "", "FAILED"))
    return rows


def _range(figure: Figure) -> str:
    if len(figure.runs) == 1:
        return ""
    return f"{number(min(figure.runs))} – {number(max(figure.runs))} (±{figure.spread * 50:.0f} %)"


def _must(figure: Figure) -> str:
    bounds = []
    if figure.at_least is not None:
        bounds.append(f"≥ {number(figure.at_least)}")
    if figure.at_most is not None:
        bounds.append(f"≤ {number(figure.at_most)}")
    return ", ".join(bounds)


def _verdict(figure: Figure) -> str:
    return {None: "", True: "reached", False: "MISSED"}[figure.reached]


def _told(figure: Figure) -> dict[str, Any]:
    told: dict[str, Any] = msgspec.to_builtins(figure)
    return told | {"median": figure.median, "spread": figure.spread, "reached": figure.reached}
