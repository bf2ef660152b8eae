"""Where a stream begins, for everything that a client can ask for and every state that the log can be in."""

from __future__ import annotations

import asyncio
import datetime as dt
from itertools import accumulate

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.opening import Asked, Begin, PositionUnknown, begin, parse_since
from streams.cursor import FRESH, RESUMED, Reset, Verdict
from streams.errors import BrokerUnavailable
from streams.hub import Hub
from streams.log import Log, LogState, Stored
from tests.support.delivery import Delivery, order_entry

NOW = 1_800_000_000.0


class Shelf(Log):
    """A log of entries that stand at the given times, from `first` on, and counts what it is asked."""

    def __init__(self, times: list[float], *, first: int = 1, epoch: str = "e") -> None:
        self.times = times
        self.first = first
        self.epoch = epoch
        self.asked = 0
        self.away_after: int | None = None  # questions
        self.retention: list[int] = []  # the first sequence at each question to come

    async def state(self) -> LogState:
        self._answer()
        return LogState(self.epoch, self.first, len(self.times), None)

    async def get(self, sequence: int) -> Stored | None:
        self._answer()
        if not self.first <= sequence <= len(self.times):
            return None
        return Stored(sequence, "orders.r1.c1.o1.OrderAccepted", b"", {}, int(self.times[sequence - 1] * 1e9))

    def _answer(self) -> None:
        if self.away_after is not None and self.asked >= self.away_after:
            raise BrokerUnavailable("STREAM.INFO.EVENTS", 2.0, "no answer")
        self.asked += 1
        if self.retention:
            self.first = max(self.first, self.retention.pop(0))


class NeverAsked(Shelf):
    """A log that nobody may ask."""

    def __init__(self) -> None:
        super().__init__([])
        self.away_after = 0


def hub_at(times: list[float], *, window: int = 1000) -> Hub:
    """A hub that has read entries that stand at these times, and remembers the last ones."""
    delivery = Delivery(max_entries=window)
    for sequence, time in enumerate(times, 1):
        delivery.dispatch(msgspec.structs.replace(order_entry(sequence), time=time))
    return delivery.hub


def begin_at(asked: Asked, hub: Hub, log: Log, *, lost_upto: int = 0) -> Begin:
    return asyncio.run(begin(asked, hub, log, lost_upto=lost_upto, now=NOW))


def cursor_at(cursor: str, hub: Hub, log: Log, *, lost_upto: int = 0) -> Begin:
    return begin_at(Asked(cursor=cursor), hub, log, lost_upto=lost_upto)


def reset(reason: Reset, *, lost: tuple[int, int] | None = None, after: int | None = None) -> Begin:
    return Begin(Verdict("reset", reason, lost), after)


TEN = [float(second) for second in range(1, 11)]

# -- What a client gives -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("header", [None, "", "e-1"])
@pytest.mark.parametrize("query", [None, "", "e-2"])
@pytest.mark.parametrize("since", [None, "", "15m"])
def test_header_goes_before_the_query_and_a_cursor_before_a_time_and_the_empty_do_not_count(
    header: str | None, query: str | None, since: str | None
) -> None:
    cursor = "e-1" if header else "e-2" if query else None
    assert Asked.of(header, query, since) == Asked(cursor, "15m" if since and not cursor else None)


@pytest.mark.parametrize(
    ("text", "time"),
    [
        *[("0s", NOW), ("90s", NOW - 90), ("15m", NOW - 900), ("2h", NOW - 7200), ("1d", NOW - 86_400)],
        ("999999999d", NOW - 999_999_999 * 86_400),
        *[("2026-11-20T10:00:00Z", 1795168800.0), ("2026-11-20t10:00:00.5z", 1795168800.5)],
        *[("2026-11-20T12:30:00+02:30", 1795168800.0), ("2026-11-20T05:00:00-05:00", 1795168800.0)],
        *[("2026-11-20T11:00:00 01:00", 1795168800.0), ("2026-11-20 10:00:00Z", 1795168800.0)],
        ("2026-11-20 11:00:00 01:00", 1795168800.0),
        ("0001-01-01T00:00:00+23:59", -62135683140.0),
    ],
)
def test_time_is_rfc_3339_or_a_span_before_now(text: str, time: float) -> None:
    assert parse_since(text, NOW) == time


NO_TIMES = [
    *[
        "",
        " ",
        "m",
        "15",
        "15M",
        "15 m",
        " 15m",
        "15m ",
        "15m\n",
        "-15m",
        "+15m",
        "1.5h",
        "1_0s",
        "1h30m",
        "١٥m",
        "１m",
    ],
    *["9999999999d", "now", "yesterday", "1795168800", "NaN", "inf"],
    *["2026-11-20", "2026-11-20Z", "2026-11-20T10:00:00", "2026-11-20T10:00Z", "2026-W47-5T10:00:00Z"],
    *["20261120T100000Z", "2026-11-20x10:00:00Z", "2026-11-20\ud80010:00:00Z", "2026-11-20T10:00:00Z\n", "\0"],
    *["2026-02-30T10:00:00Z", "2026-11-20T24:00:00Z", "2026-11-20T10:00:00+25:00", "２０２６-11-20T10:00:00Z"],
]


@pytest.mark.parametrize("text", NO_TIMES)
def test_text_that_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_since(text, NOW)


@given(
    st.text()
    | st.from_regex(r"\d{4}-\d\d-\d\d.\d\d:\d\d:\d\d(\.\d+)?(Z|[+ -]\d\d:\d\d)|\d{1,12}[smhd]", fullmatch=True)
)
def test_any_text_is_a_time_or_a_value_error(text: str) -> None:
    try:
        time = parse_since(text, NOW)
    except ValueError:
        return
    assert -1e14 < time < 1e12


# -- Without a position ------------------------------------------------------------------------------------------------


def test_new_client_is_fresh_and_the_log_is_not_asked() -> None:
    assert begin_at(Asked(), hub_at(TEN), NeverAsked()) == Begin(FRESH)


# -- From a cursor -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sequence", range(7, 11))
def test_cursor_in_the_window_is_resumed_without_asking_the_log(sequence: int) -> None:
    assert cursor_at(f"e-{sequence}", hub_at(TEN, window=3), NeverAsked()) == Begin(RESUMED, sequence)


def test_cursor_of_an_empty_log_is_resumed() -> None:
    assert cursor_at("e-0", hub_at([]), NeverAsked()) == Begin(RESUMED, 0)


def test_cursor_behind_the_window_is_resumed_from_the_log() -> None:
    log = Shelf(TEN)
    assert cursor_at("e-0", hub_at(TEN, window=3), log) == Begin(RESUMED, 0)
    assert cursor_at("e-6", hub_at(TEN, window=3), log) == Begin(RESUMED, 6)
    assert log.asked == 2


def test_cursor_that_retention_has_passed_is_reset_with_what_was_lost() -> None:
    log = Shelf(TEN, first=5)
    assert cursor_at("e-3", hub_at(TEN, window=3), log) == reset(Reset.EXPIRED, lost=(4, 4), after=4)
    assert cursor_at("e-4", hub_at(TEN, window=3), log) == Begin(RESUMED, 4)


def test_cursor_before_a_hole_that_this_process_met_is_reset_as_expired() -> None:
    hub, log = hub_at(TEN, window=3), Shelf(TEN)
    assert cursor_at("e-2", hub, log, lost_upto=5) == reset(Reset.EXPIRED, lost=(3, 5), after=5)
    assert cursor_at("e-5", hub, log, lost_upto=5) == Begin(RESUMED, 5)


def test_cursor_of_an_emptied_log_is_expired_unless_it_stands_at_the_end() -> None:
    log = Shelf(TEN, first=11)
    assert cursor_at("e-6", hub_at(TEN, window=3), log) == reset(Reset.EXPIRED, lost=(7, 10), after=10)
    assert cursor_at("e-10", hub_at(TEN, window=3), log) == Begin(RESUMED, 10)


def test_cursor_of_another_epoch_is_reset_without_asking_the_log() -> None:
    assert cursor_at("f-3", hub_at(TEN), NeverAsked()) == reset(Reset.EPOCH)
    assert cursor_at("E-3", hub_at(TEN), NeverAsked()) == reset(Reset.EPOCH)


def test_cursor_ahead_of_this_process_only_is_resumed_where_it_stands() -> None:
    assert cursor_at("e-9", hub_at(TEN[:4]), Shelf(TEN)) == Begin(RESUMED, 9)
    assert cursor_at("e-10", hub_at(TEN[:4]), Shelf(TEN)) == Begin(RESUMED, 10)


def test_cursor_ahead_of_the_leader_is_reset() -> None:
    assert cursor_at("e-11", hub_at(TEN), Shelf(TEN)) == reset(Reset.AHEAD)
    assert cursor_at("e-9223372036854775807", hub_at(TEN), Shelf(TEN)) == reset(Reset.AHEAD)


@pytest.mark.parametrize("text", ["x", "e-", "e-1\n", "e-01", "e-9223372036854775808", "*", "é-1", "x" * 300])
def test_cursor_that_does_not_parse_is_reset_without_asking_the_log(text: str) -> None:
    assert cursor_at(text, hub_at(TEN), NeverAsked()) == reset(Reset.INVALID)


def test_log_that_is_away_leaves_the_position_unknown() -> None:
    for cursor in ("e-0", "e-11"):
        with pytest.raises(PositionUnknown):
            cursor_at(cursor, hub_at(TEN, window=3), NeverAsked())


def test_log_of_another_epoch_than_this_process_has_read_leaves_the_position_unknown() -> None:
    for asked in (Asked(cursor="e-0"), Asked(cursor="e-11"), Asked(since="15m")):
        with pytest.raises(PositionUnknown):
            begin_at(asked, hub_at(TEN, window=3), Shelf(TEN, epoch="f"))


# -- From a time -------------------------------------------------------------------------------------------------------


def since(seconds: float, hub: Hub, log: Log, *, lost_upto: int = 0) -> Begin:
    """Begin for a client that asks for a log time, in Unix seconds."""
    text = dt.datetime.fromtimestamp(seconds, dt.UTC).isoformat()
    return begin_at(Asked(since=text), hub, log, lost_upto=lost_upto)


def test_span_is_counted_from_now() -> None:
    hub = hub_at([NOW - 100, NOW - 50, NOW - 10])
    assert begin_at(Asked(since="1m"), hub, NeverAsked()) == Begin(RESUMED, 1)


def test_time_in_the_window_is_resumed_without_asking_the_log() -> None:
    hub = hub_at(TEN, window=3)
    assert since(9.0, hub, NeverAsked()) == Begin(RESUMED, 8)
    assert since(10.0, hub, NeverAsked()) == Begin(RESUMED, 9)


def test_time_before_the_window_is_found_in_the_log() -> None:
    log = Shelf(TEN)
    assert since(4.0, hub_at(TEN, window=3), log) == Begin(RESUMED, 3)
    assert 1 < log.asked <= 6


def test_time_before_everything_begins_at_the_first_entry_of_a_log_that_has_lost_none() -> None:
    assert since(0.0, hub_at(TEN, window=3), Shelf(TEN)) == Begin(RESUMED, 0)


def test_time_that_retention_has_passed_is_reset_and_begins_at_what_there_is() -> None:
    log = Shelf(TEN, first=5)
    assert since(2.0, hub_at(TEN, window=3), log) == reset(Reset.EXPIRED, after=4)
    assert since(5.0, hub_at(TEN, window=3), log) == reset(Reset.EXPIRED, after=4)
    assert since(6.0, hub_at(TEN, window=3), log) == Begin(RESUMED, 5)


def test_time_before_a_hole_that_this_process_met_is_reset() -> None:
    assert since(2.0, hub_at(TEN, window=3), Shelf(TEN), lost_upto=5) == reset(Reset.EXPIRED, after=5)
    assert since(7.0, hub_at(TEN, window=3), Shelf(TEN), lost_upto=5) == Begin(RESUMED, 6)


def test_time_in_the_future_begins_at_the_head_of_this_process() -> None:
    for hub in (hub_at(TEN), hub_at(TEN[:7]), hub_at(TEN[:7], window=2)):
        assert since(99.0, hub, Shelf(TEN)) == Begin(RESUMED, hub.head)


def test_time_in_an_empty_log_begins_at_its_start() -> None:
    assert since(5.0, hub_at([]), Shelf([])) == Begin(RESUMED, 0)


def test_time_in_an_emptied_log_is_reset_since_nobody_can_tell_what_was_lost() -> None:
    assert since(99.0, hub_at(TEN, window=1), Shelf(TEN, first=11)) == reset(Reset.EXPIRED, after=10)


def test_entries_that_retention_takes_during_the_search_are_told_as_lost() -> None:
    log = Shelf(TEN, first=2)
    log.retention = [2, 9]  # asked for the state, and then for entries
    assert since(7.0, hub_at(TEN, window=1), log) == reset(Reset.EXPIRED, after=8)


@pytest.mark.parametrize("text", ["yesterday", "15", "2026-11-20T10:00:00", "15m\n"])
def test_time_that_is_none_is_reset_without_asking_the_log(text: str) -> None:
    assert begin_at(Asked(since=text), hub_at(TEN), NeverAsked()) == reset(Reset.INVALID)


@pytest.mark.parametrize("questions", range(5))
def test_log_that_goes_away_during_the_search_leaves_the_position_unknown(questions: int) -> None:
    log = Shelf(TEN)
    log.away_after = questions
    with pytest.raises(PositionUnknown):
        since(4.0, hub_at(TEN, window=3), log)


@given(
    st.lists(st.sampled_from([0.0, 0.0, 0.5, 3.0]), max_size=40).map(
        lambda steps: list(accumulate(steps, initial=1.0))
    ),
    st.integers(1, 50),
    st.integers(0, 45),
    st.integers(1, 45),
    st.integers(0, 45),
    st.integers(0, 90).map(lambda half: half / 2),
    st.lists(st.integers(1, 45), max_size=8).map(sorted),
)
@example([1.0], 1, 1, 1, 0, 1.0, [])
def test_client_that_asks_for_a_time_gets_all_since_then_or_is_told(
    times: list[float], window: int, read: int, first: int, lost_upto: int, time: float, retention: list[int]
) -> None:
    """Whatever window, tail, retention and holes there are: nothing at or after the time is left out in silence."""
    read = min(read, len(times))
    lost_upto = min(lost_upto, read)
    hub, log = hub_at(times[:read], window=window), Shelf(times, first=min(first, read + 1))
    log.retention = [min(each, read + 1) for each in retention]
    found = since(time, hub, log, lost_upto=lost_upto)
    wanted = next((at for at, each in enumerate(times[:read]) if each >= time), read)
    available = max(log.first - 1, lost_upto)
    assert found.after is not None
    if found.verdict is RESUMED:
        assert found.after == wanted
    else:
        assert found.verdict == Verdict("reset", Reset.EXPIRED)
        assert wanted <= found.after <= available
        assert log.asked > 0
    if not retention and wanted > available:
        assert found.verdict is RESUMED
