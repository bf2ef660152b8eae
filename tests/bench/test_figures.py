"""What the benchmark makes of its runs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.figures import Figure, flatness, ratios

some_runs = st.lists(st.floats(min_value=0.001, max_value=1e9), min_size=1, max_size=9)


def _figure(*runs: float, at_most: float | None = None, at_least: float | None = None) -> Figure:
    return Figure(name="f", unit="µs", runs=runs, at_most=at_most, at_least=at_least)


def test_median_is_the_run_in_the_middle() -> None:
    assert _figure(9.0, 1.0, 2.0).median == 2.0


def test_median_of_an_even_number_is_between_the_two_in_the_middle() -> None:
    assert _figure(4.0, 1.0, 3.0, 9.0).median == 3.5


def test_spread_is_from_the_least_to_the_greatest_as_a_share_of_the_median() -> None:
    assert _figure(9.0, 10.0, 12.0).spread == pytest.approx(0.3)


def test_spread_of_nothing_measured_is_nothing() -> None:
    assert _figure(0.0, 0.0).spread == 0.0


def test_a_figure_has_a_run() -> None:
    with pytest.raises(ValueError, match="no run"):
        _figure()


def test_nothing_is_said_of_a_figure_of_which_nothing_is_asked() -> None:
    assert _figure(1.0).reached is None


@pytest.mark.parametrize(("median", "reached"), [(1.24, True), (1.25, True), (1.26, False)])
def test_at_most_holds_for_the_median_and_includes_the_bound(median: float, reached: bool) -> None:
    assert _figure(0.1, median, 99.0, at_most=1.25).reached is reached


@pytest.mark.parametrize(("median", "reached"), [(14.9, False), (15.0, True), (15.1, True)])
def test_at_least_holds_for_the_median_and_includes_the_bound(median: float, reached: bool) -> None:
    assert _figure(0.1, median, 99.0, at_least=15.0).reached is reached


@pytest.mark.parametrize(("value", "reached"), [(0.9, False), (1.0, True), (2.0, True), (2.1, False)])
def test_both_bounds_must_hold(value: float, reached: bool) -> None:
    assert _figure(value, at_least=1.0, at_most=2.0).reached is reached


def test_ratios_are_taken_run_by_run() -> None:
    assert ratios([6.0, 20.0], [5.0, 10.0]) == (1.2, 2.0)


def test_runs_that_are_not_paired_have_no_ratio() -> None:
    with pytest.raises(ValueError, match="2 runs can't be compared with 1"):
        ratios([1.0, 2.0], [1.0])


def test_nothing_is_compared_with_zero() -> None:
    with pytest.raises(ValueError, match="run of 0"):
        ratios([1.0], [0.0])


@given(some_runs)
def test_a_slow_minute_that_hits_both_changes_no_ratio(runs: list[float]) -> None:
    assert ratios([each * 3 for each in runs], [each * 2 for each in runs]) == pytest.approx([1.5] * len(runs))


@given(some_runs)
def test_the_median_is_within_the_runs(runs: list[float]) -> None:
    assert min(runs) <= _figure(*runs).median <= max(runs)


def test_flatness_is_the_greatest_over_the_least() -> None:
    assert flatness([5.0, 6.0, 5.5]) == 1.2


@pytest.mark.parametrize("values", [[], [1.0, 0.0], [-1.0, 1.0]])
def test_flatness_needs_values_above_zero(values: list[float]) -> None:
    with pytest.raises(ValueError, match="no flatness"):
        flatness(values)
