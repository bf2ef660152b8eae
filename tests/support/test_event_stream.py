"""The parser of the tests' own clients, against the HTML standard's rules and examples."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.sse import block as encode
from tests.support.event_stream import Block, EventStreamParser

# What means something to a parser is frequent, so that short examples get into every corner.
PIECES = (
    *(b"\r", b"\n", b"\r\n", b"\n\n", b": ", b":", b" ", b"\xef\xbb\xbf", "é\u2028".encode(), b"\xc3"),
    *(b"data", b"data: x", b"event: e", b"id: 1", b"id", b"id:\0", b"retry: 7", b"retry: -1", b"other: y"),
    *(b"data: x\n", b"data: x\n\n", b"event: e\r", b"id: 2\r\n", b"data\r", b"\r\n\r\n", b"\ndata: y\n", b"\r\r"),
)
STREAMS = st.lists(st.sampled_from(PIECES), max_size=30).map(b"".join)


def parse(data: bytes, last_event_id: str = "") -> list[tuple[str, str, str]]:
    """What fires in a browser: (type, data, last event id)."""
    parser = EventStreamParser(last_event_id)
    return [(each.type, each.data, each.last_event_id) for each in parser.feed(data) if each.data is not None]


@pytest.mark.parametrize(
    ("data", "events"),
    [
        # The standard's own examples (section 9.2.6).
        (b"data: YHOO\ndata: +2\ndata: 10\n\n", [("message", "YHOO\n+2\n10", "")]),
        (
            b": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n\n",
            [("message", "first event", "1"), ("message", "second event", ""), ("message", " third event", "")],
        ),
        (b"data\n\ndata\ndata\n\ndata:", [("message", "", ""), ("message", "\n", "")]),
        (b"data:test\n\ndata: test\n\n", [("message", "test", ""), ("message", "test", "")]),
        # Line ends.
        (b"data: a\r\rdata: b\r\n\r\ndata: c\n\n", [("message", "a", ""), ("message", "b", ""), ("message", "c", "")]),
        (b"data: a\r\n\rdata: b\n\r\n", [("message", "a", ""), ("message", "b", "")]),
        ("data: a\u2028b\x0bc\x85\n\n".encode(), [("message", "a\u2028b\x0bc\x85", "")]),
        # Names, ids, times.
        (b"event: a\nevent: b\ndata: x\n\ndata: y\n\n", [("b", "x", ""), ("message", "y", "")]),
        (b"event: a\n\ndata: x\n\n", [("message", "x", "")]),
        (b"id: 1\ndata: x\n\nid: 2\0\ndata: y\n\n", [("message", "x", "1"), ("message", "y", "1")]),
        (b"id: 1\n\ndata: x\n\n", [("message", "x", "1")]),
        (b"Data: x\ndata : y\n data: z\n\n", []),
        # One byte order mark at the start is no data; anywhere else it is.
        (b"\xef\xbb\xbfdata: x\n\n", [("message", "x", "")]),
        (b"\xef\xbb\xbf\xef\xbb\xbfdata: x\n\ndata: \xef\xbb\xbfy\n\n", [("message", "\ufeffy", "")]),
        # What is not UTF-8 is replaced.
        (b"data: \xff\xe2\x82\n\n", [("message", "\ufffd\ufffd", "")]),
        # Half a block at the end is dropped.
        (b"data: a\n\nid: 9\ndata: b\n", [("message", "a", "")]),
    ],
)
def test_stream_fires_as_the_standard_says(data: bytes, events: list[tuple[str, str, str]]) -> None:
    assert parse(data) == events


def test_a_block_without_data_moves_the_last_event_id_and_fires_nothing() -> None:
    parser = EventStreamParser()

    assert parser.feed(b"id: k3f9-7\n\n") == [Block("k3f9-7", None, None, None, "k3f9-7")]
    assert parser.last_event_id == "k3f9-7"


def test_an_id_takes_effect_only_with_the_end_of_its_block() -> None:
    parser = EventStreamParser("k3f9-1")
    parser.feed(b"data: x\nid: k3f9-2\n")

    assert parser.last_event_id == "k3f9-1"
    assert parser.inside_block


def test_retry_takes_effect_with_its_line() -> None:
    parser = EventStreamParser()

    assert parser.feed(b"retry: 2500\n") == []
    assert parser.retry_ms == 2500


@pytest.mark.parametrize("retry", [b"", b"-1", b"1.5", b"1e3", b"0x10", "٣".encode(), b"9" * 19])
def test_retry_that_is_no_number_is_ignored(retry: bytes) -> None:
    parser = EventStreamParser()
    parser.feed(b"retry: %b\n\n" % retry)

    assert parser.retry_ms is None


def test_an_event_without_an_id_keeps_the_one_from_before_the_connection() -> None:
    assert parse(b"data: x\n\n", "k3f9-1") == [("message", "x", "k3f9-1")]


def test_comments_are_counted_and_are_no_blocks() -> None:
    parser = EventStreamParser()

    assert parser.feed(b": keep-alive\n\n:\n\n") == []
    assert parser.comments == 2


@given(STREAMS, st.lists(st.integers(0, 200)))
def test_pieces_make_no_difference(data: bytes, cuts: list[int]) -> None:
    whole, pieces = EventStreamParser(), EventStreamParser()
    found: list[Block] = []
    edges = [0, *sorted(cuts), len(data)]
    for begin, end in pairwise(edges):
        found += pieces.feed(data[begin:end])

    assert found == whole.feed(data)
    assert pieces.inside_block == whole.inside_block


@given(
    data=st.text().map(str.encode),
    event=st.none() | st.from_regex(re.compile(r"[!-~]{1,9}"), fullmatch=True),
    cursor=st.none() | st.from_regex(re.compile(r"[!-~]{1,9}"), fullmatch=True),
    retry_ms=st.none() | st.integers(500, 600_000),
)
def test_what_the_gateway_encodes_comes_out_again(
    data: bytes, event: str | None, cursor: str | None, retry_ms: int | None
) -> None:
    encoded = encode(data, event=event, cursor=cursor, retry_ms=retry_ms)

    lines = re.split(r"\r\n|\r|\n", data.decode())
    assert EventStreamParser().feed(encoded) == [Block(cursor, event, "\n".join(lines), retry_ms, cursor or "")]
