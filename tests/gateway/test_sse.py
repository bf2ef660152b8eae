"""The wire format, byte by byte, and as a client reads it."""

from __future__ import annotations

import random
import re

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from gateway.sse import CONTENT_TYPE, MAX_RETRY_MS, MIN_RETRY_MS, InvalidField, SseEncoder, block
from tests.support.event_stream import EventStreamParser

FIELD_VALUES = st.text(st.characters(max_codepoint=126, exclude_characters="\r\n\0"), min_size=1, max_size=40)
DATA = st.text(max_size=60) | st.lists(
    st.sampled_from(["\r", "\n", "\r\n", " ", ":", "data: x", "id: 1", "\u2028", "\u2029", "\x85", "\x0b", "\x0c", "a"])
).map("".join)


def lines_joined(data: str) -> str:
    """Data as a client gets it: its line ends are all line feeds."""
    return data.replace("\r\n", "\n").replace("\r", "\n")


# -- Exact bytes -------------------------------------------------------------------------------------------------------


def test_event_has_its_name_its_data_and_last_its_id() -> None:
    assert SseEncoder().event("ReceiveOrderPlaced", b'{"a":1}', "k3f9-1042") == (
        b'event: ReceiveOrderPlaced\ndata: {"a":1}\nid: k3f9-1042\n\n'
    )


def test_event_that_must_not_move_a_client_has_no_id() -> None:
    assert SseEncoder().event("snapshot", b"{}", None) == b"event: snapshot\ndata: {}\n\n"


def test_heartbeat_is_an_id_and_nothing_else() -> None:
    assert SseEncoder().heartbeat("k3f9-1042") == b"id: k3f9-1042\n\n"


def test_opening_begins_with_the_time_to_come_back() -> None:
    encoder = SseEncoder(2000, Steady())
    assert encoder.opened(b'{"verdict":"fresh"}', "e-7") == (
        b'retry: 2000\nevent: stream.opened\ndata: {"verdict":"fresh"}\nid: e-7\n\n'
    )
    assert encoder.opened(b"{}", None) == b"retry: 2000\nevent: stream.opened\ndata: {}\n\n"


def test_closing_says_why_and_when_to_come_back_and_leaves_the_id_alone() -> None:
    closing = SseEncoder(2000, Steady()).closing("drain")
    assert closing == b'retry: 2000\nevent: stream.closing\ndata: {"reason":"drain"}\n\n'


def test_body_of_a_soft_refusal_is_a_time_to_come_back() -> None:
    assert SseEncoder(2000, Steady()).retry() == b"retry: 2000\n\n"


def test_data_of_several_lines_has_a_field_for_each() -> None:
    assert block(b"a\nb\r\nc\rd\n") == b"data: a\ndata: b\ndata: c\ndata: d\ndata: \n\n"
    assert block(b"\r\n\r\n") == b"data: \ndata: \ndata: \n\n"
    assert block(b"") == b"data: \n\n"
    assert block(b" a") == b"data:  a\n\n"


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\0"])
def test_only_the_standards_line_ends_end_a_line(separator: str) -> None:
    data = f'"a{separator}b"'.encode()
    assert block(data, cursor="e-1") == b"data: " + data + b"\nid: e-1\n\n"


def test_content_type_is_what_an_event_source_accepts() -> None:
    assert CONTENT_TYPE == b"text/event-stream; charset=utf-8"


# -- As a client reads it ----------------------------------------------------------------------------------------------


@given(
    DATA.map(str.encode) | st.none(),
    FIELD_VALUES | st.none(),
    FIELD_VALUES | st.none(),
    st.integers(-(10**9), 10**9) | st.none(),
)
@example(b"", None, None, None)
@example(None, " leading", " leading", None)
@example(None, ": x", "data: x", 0)
def test_client_reads_back_what_was_written(
    data: bytes | None, event: str | None, cursor: str | None, retry_ms: int | None
) -> None:
    assume((data, event, cursor, retry_ms) != (None, None, None, None))
    written = block(data, event=event, cursor=cursor, retry_ms=retry_ms)
    parser = EventStreamParser("before")
    (read,) = parser.feed(written)
    assert not parser.inside_block
    assert read.data == (None if data is None else lines_joined(data.decode()))
    assert (read.event, read.id, read.last_event_id) == (event, cursor, cursor or "before")
    assert read.retry_ms == (None if retry_ms is None else min(max(retry_ms, MIN_RETRY_MS), MAX_RETRY_MS))


@given(
    st.lists(st.tuples(DATA, FIELD_VALUES, st.integers(0, 10**9) | st.none()), min_size=1, max_size=4), st.integers(0)
)
def test_client_that_is_cut_inside_a_block_has_not_moved_past_it(
    events: list[tuple[str, str, int | None]], cut: int
) -> None:
    encoder = SseEncoder()
    blocks = [
        encoder.event(name, data.encode(), None if sequence is None else f"e-{sequence}")
        for data, name, sequence in events
    ]
    body = b"".join(blocks)
    received = body[: cut % (len(body) + 1)]
    whole = 0
    while len(b"".join(blocks[: whole + 1])) <= len(received) and whole < len(blocks):
        whole += 1
    parser = EventStreamParser("e-0")
    fired = [(each.data, each.type) for each in parser.feed(received)]
    assert fired == [(lines_joined(data), name) for data, name, _ in events[:whole]]
    marked = [sequence for _, _, sequence in events[:whole] if sequence is not None]
    assert parser.last_event_id == f"e-{marked[-1] if marked else 0}"


# -- What can't be written ---------------------------------------------------------------------------------------------

REFUSED = ["", "a\nb", "a\r", "\n", "a\r\nid: 1", "\0", "a\0b", "é", "a\u2028", "\ud800", "a\x80"]


@pytest.mark.parametrize("value", REFUSED)
def test_name_or_id_with_a_line_end_nul_or_beyond_ascii_is_refused(value: str) -> None:
    with pytest.raises(InvalidField) as refusal:
        block(b"{}", event=value)
    assert refusal.value.field == "event"
    with pytest.raises(InvalidField) as refusal:
        block(b"{}", cursor=value)
    assert refusal.value.field == "id"
    with pytest.raises(InvalidField):
        SseEncoder().heartbeat(value)


@given(st.text())
def test_name_is_written_on_one_line_or_refused(name: str) -> None:
    try:
        written = block(event=name)
    except InvalidField:
        assert not re.fullmatch(r"[^\0\r\n\x80-\U0010ffff]+", name)
    else:
        assert written == b"event: " + name.encode() + b"\n\n"


def test_block_that_says_nothing_is_refused() -> None:
    with pytest.raises(InvalidField, match="a block says something"):
        block()


# -- When to come back -------------------------------------------------------------------------------------------------


class Steady(random.Random):
    """No jitter."""

    def uniform(self, a: float, b: float) -> float:
        return (a + b) / 2


@pytest.mark.parametrize(
    ("asked", "told"),
    [(-1, 500), (0, 500), (499, 500), (500, 500), (2000, 2000), (600_000, 600_000), (10**12, 600_000)],
)
def test_time_to_come_back_is_between_half_a_second_and_ten_minutes(asked: int, told: int) -> None:
    assert block(retry_ms=asked) == b"retry: %d\n\n" % told


@given(st.integers(1000, 400_000), st.randoms(use_true_random=False))
def test_time_to_come_back_is_half_of_it_more_or_less(middle: int, jitter: random.Random) -> None:
    assert middle // 2 <= SseEncoder(middle, jitter).jittered_retry_ms() <= middle * 3 // 2


def test_clients_are_told_different_times_over_the_whole_range() -> None:
    encoder = SseEncoder(2000, random.Random(1))
    told = [int(encoder.retry().removeprefix(b"retry: ")) for _ in range(1000)]
    assert 1000 <= min(told) < 1050
    assert 2950 < max(told) <= 3000
    assert 1950 < sum(told) / len(told) < 2050
    assert len(set(told)) > 500
