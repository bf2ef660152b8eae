"""The HTTP/1.1 of the tests' own clients: above all, how a body ended."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.http_wire import BodyDecoder, MalformedResponse, ResponseHead, parse_head
from tests.support.scripted_server import LAST_CHUNK, chunk

CHUNKED = ResponseHead(200, (("transfer-encoding", "chunked"),))


def _feed(decoder: BodyDecoder, data: bytes) -> tuple[bytes, bool]:
    return decoder.feed(data), decoder.complete


def test_head_is_parsed_once_it_is_whole() -> None:
    data = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nX-A:  b \r\nx-a: c\r\n\r\nrest"

    assert parse_head(data[:40]) is None
    parsed = parse_head(data)
    assert parsed is not None
    head, rest = parsed
    assert (head.status, rest) == (200, b"rest")
    assert head.header("content-type") == "text/event-stream"
    assert head.header("X-A") == "b, c"
    assert head.header("absent") is None


@pytest.mark.parametrize(
    "data", [b"220 ready\r\n\r\n", b"HTTP/1.1 abc\r\n\r\n", b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n"]
)
def test_what_is_no_response_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedResponse):
        parse_head(data)


def test_a_head_without_end_is_refused() -> None:
    with pytest.raises(MalformedResponse):
        parse_head(b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 20_000)


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=8), st.lists(st.integers(0, 300)))
def test_chunks_in_any_pieces_are_the_body(parts: list[bytes], cuts: list[int]) -> None:
    wire = b"".join(map(chunk, parts)) + LAST_CHUNK
    decoder = BodyDecoder(CHUNKED)
    edges = [0, *sorted(cuts), len(wire)]
    found = b"".join(decoder.feed(wire[begin:end]) for begin, end in pairwise(edges))

    assert found == b"".join(parts)
    assert decoder.complete


def test_a_body_is_complete_with_its_last_chunk_and_not_before() -> None:
    decoder = BodyDecoder(CHUNKED)

    assert _feed(decoder, b"3;ext=1\r\nabc\r\n0\r\nTrailer: x\r\n") == (b"abc", False)
    assert _feed(decoder, b"\r\nHTTP/1.1 ") == (b"", True)
    assert decoder.excess == b"HTTP/1.1 "


@pytest.mark.parametrize("wire", [b"x\r\n", b"-1\r\n", b"0x1\r\n", b"1_0\r\n", b"3\r\nabcd\r\n", b"1" * 70_000])
def test_broken_chunks_are_refused(wire: bytes) -> None:
    with pytest.raises(MalformedResponse):
        BodyDecoder(CHUNKED).feed(wire)


def test_a_body_with_a_length_is_complete_with_its_last_byte() -> None:
    decoder = BodyDecoder(ResponseHead(200, (("content-length", "3"),)))

    assert _feed(decoder, b"ab") == (b"ab", False)
    assert _feed(decoder, b"cd") == (b"c", True)
    assert decoder.excess == b"d"


def test_a_body_without_framing_lasts_until_close() -> None:
    decoder = BodyDecoder(ResponseHead(200, ()))

    assert decoder.until_close
    assert _feed(decoder, b"abc") == (b"abc", False)


@pytest.mark.parametrize("head", [ResponseHead(204, ()), ResponseHead(200, (("content-length", "0"),))])
def test_no_body_is_a_complete_one(head: ResponseHead) -> None:
    assert BodyDecoder(head).complete


@pytest.mark.parametrize(
    "headers",
    [(("transfer-encoding", "gzip"),), (("transfer-encoding", "chunked"), ("content-length", "3"))],
)
def test_framing_that_is_not_sure_is_refused(headers: tuple[tuple[str, str], ...]) -> None:
    with pytest.raises(MalformedResponse):
        BodyDecoder(ResponseHead(200, headers))
