"""What is cut out of the stream of bytes, against nats-py's own parser on the same bytes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import nats.errors
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from nats.protocol.parser import Parser

from streams.intake import RawMessage, TappingParser

TAPPED = b"7"
HEADERS = b"NATS/1.0\r\nNats-Msg-Id: e1\r\n\r\n"


class Operations:
    """Stands for nats-py's client: notes what its parser makes of the bytes. `on_error` is called for an error."""

    def __init__(self) -> None:
        self.noted: list[Any] = []
        self.on_error: Callable[[], object] = bool

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes | None) -> None:
        await asyncio.sleep(0)
        self.noted.append((sid, bytes(subject), bytes(reply), bytes(headers or b""), bytes(data)))

    async def _process_ping(self) -> None:
        self.noted.append("PING")

    async def _process_pong(self) -> None:
        self.noted.append("PONG")

    async def _process_info(self, info: dict[str, Any]) -> None:
        self.noted.append(info)

    async def _process_err(self, message: str) -> None:
        self.noted.append(message)
        self.on_error()


def message(sid: bytes, subject: bytes, reply: bytes, headers: bytes, body: bytes) -> bytes:
    """A message as the server writes it."""
    sizes = b"%d %d" % (len(headers), len(headers) + len(body)) if headers else b"%d" % len(body)
    words = [b"HMSG" if headers else b"MSG", subject, sid, *([reply] if reply else []), sizes]
    return b" ".join(words) + b"\r\n" + headers + body + b"\r\n"


MESSAGES = st.builds(
    message,
    st.sampled_from([TAPPED, TAPPED, b"8", b"77"]),
    st.sampled_from([b"orders.r1.c1.o1.OrderPlaced", b"a", "orders.é".encode(), b"\xff"]),
    st.sampled_from([b"$JS.ACK.EVENTS.c.1.1.1.1.0", b"", b"7"]),
    st.sampled_from([b"", HEADERS, b"NATS/1.0 100 Idle Heartbeat\r\n\r\n", b"NATS/1.0\r\nA: \r\n\r\n"]),
    st.one_of(st.binary(max_size=40), st.sampled_from([b"", b"\r\n", b"MSG a 7 2\r\nxx\r\n", b"PING\r\n", b"{}\r"])),
)
OTHERS = st.sampled_from(
    [b"PING\r\n", b"PONG\r\n", b"+OK\r\n", b"-ERR 'Permissions Violation'\r\n", b'INFO {"server_id":"a b 7"}\r\n']
)
STREAMS = st.lists(st.one_of(MESSAGES, MESSAGES, OTHERS), max_size=12).map(b"".join)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """The data in pieces, cut at these places."""
    ends = sorted({place % (len(data) + 1) for place in places} | {0, len(data)})
    return [data[begin:end] for begin, end in pairwise(ends)]


async def taken_of(pieces: list[bytes]) -> tuple[list[RawMessage], list[Any], TappingParser]:
    """What a tap takes of the pieces, and what is left for nats-py."""
    client, taken = Operations(), list[RawMessage]()
    parser = TappingParser(client)  # type: ignore[arg-type]
    parser.taps[TAPPED] = taken.append
    for piece in pieces:
        await parser.parse(piece)
    return taken, client.noted, parser


@given(STREAMS, st.lists(st.integers(0, 2000), max_size=12))
@example(message(TAPPED, b"a", b"", b"", b"x" * 100_000), [32_768, 65_536, 98_304])
def test_tapped_messages_are_cut_out_and_the_rest_is_nats_pys_wherever_the_bytes_are_cut(
    data: bytes, places: list[int]
) -> None:
    async def run() -> None:
        wanted = Operations()
        await Parser(wanted).parse(data)
        taken, left, parser = await taken_of(cut(data, places))
        tapped = [each for each in wanted.noted if isinstance(each, tuple) and each[0] == int(TAPPED)]
        assert taken == [each[1:] for each in tapped]
        assert left == [each for each in wanted.noted if each not in tapped]
        assert not parser.buf

    asyncio.run(run())


async def test_part_of_an_operation_waits_for_the_rest() -> None:
    whole = message(TAPPED, b"a", b"", HEADERS, b"body")
    for end in range(len(whole)):
        taken, _, parser = await taken_of([whole[:end]])
        assert taken == []
        assert parser.buf == whole[:end]


@pytest.mark.parametrize(
    "line",
    [
        b"MSG a 7 x\r\n",
        b"MSG a\r\n",
        b"MSG\r\n",
        b"HMSG a 7 x 5\r\n",
        b"HMSG 7\r\n",
        b"NONSENSE\r\n",
        b"\r\n",
        b"MSG 7 5\r\n",
    ],
)
async def test_what_is_not_the_protocol_is_an_error(line: bytes) -> None:
    with pytest.raises(nats.errors.ProtocolError):
        await taken_of([line, b"hello\r\n"])


async def test_what_is_left_of_a_former_connection_is_dropped_when_nats_py_begins_anew() -> None:
    client, taken = Operations(), list[RawMessage]()
    parser = TappingParser(client)  # type: ignore[arg-type]
    parser.taps[TAPPED] = taken.append
    client.on_error = parser.reset
    await parser.parse(b"-ERR 'Stale Connection'\r\n" + message(TAPPED, b"a", b"", b"", b"old") + b"MSG a 7 50\r\nhalf")
    await parser.parse(message(TAPPED, b"a", b"", b"", b"new"))
    assert [body for *_, body in taken] == [b"new"]
