"""What the benchmark says at its end."""

from __future__ import annotations

import json

import pytest

from bench.figures import RATIO, Figure
from bench.report import Machine, Result, document, markdown, number, table

MACHINE = Machine(
    processor="Some CPU", cores=2, memory_gib=24.0, kernel="6.1", congestion_control="cubic", python="3.11.7"
)
PLAIN = Figure(name="CPU per delivery", unit="µs", runs=(5.0, 6.0, 7.0), note="300 bytes each")
RATIO_MISSED = Figure(name="CPU, ours / theirs", unit=RATIO, runs=(1.3, 1.2, 1.4), at_most=1.25)
RESULTS = [
    Result("fan-out", (PLAIN, RATIO_MISSED), 12.0),
    Result("flood", (), 1.0, failure="DeliveryMissing: 3 events"),
]


@pytest.mark.parametrize(
    ("value", "text"),
    [(123456.7, "123,457"), (99.96, "100.0"), (12.34, "12.3"), (1.256, "1.26"), (0.0123, "0.012"), (0.0, "0.00")],
)
def test_numbers_have_as_many_digits_as_one_reads(value: float, text: str) -> None:
    assert number(value) == text


def test_table_shows_median_range_bound_and_verdict() -> None:
    [line] = [line for line in table(RESULTS).splitlines() if "ours / theirs" in line]
    assert " ".join(line.split()) == "fan-out CPU, ours / theirs 1.30 1.20 – 1.40 (±8 %) × ≤ 1.25 MISSED"


def test_table_tells_notes_and_failures_in_full() -> None:
    lines = table(RESULTS).splitlines()
    assert "fan-out: CPU per delivery: 300 bytes each" in lines
    assert lines[-1] == "flood FAILED: DeliveryMissing: 3 events"


def test_markdown_has_ratios_first() -> None:
    rows = markdown(RESULTS, MACHINE).splitlines()
    assert rows[2] == "| fan-out: CPU, ours / theirs | **1.30** | 1.20 – 1.40 (±8 %) | ≤ 1.25 | MISSED |"
    assert rows[3].startswith("| fan-out: CPU per delivery | **6.00 µs** |")


def test_document_has_every_run_and_the_failures() -> None:
    told = json.loads(document(RESULTS, MACHINE, quick=True))
    assert told["quick"] is True
    assert told["machine"]["processor"] == "Some CPU"
    assert told["cases"][0]["figures"][1] == {
        "name": "CPU, ours / theirs",
        "unit": "×",
        "runs": [1.3, 1.2, 1.4],
        "at_most": 1.25,
        "at_least": None,
        "note": "",
        "median": 1.3,
        "spread": pytest.approx(0.1538, abs=1e-4),
        "reached": False,
    }
    assert told["cases"][1]["failure"] == "DeliveryMissing: 3 events"
