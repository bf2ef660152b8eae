"""What `streams.intake` needs of nats-py's internals. If one of these fails, a new nats-py has changed them: read its
`protocol.parser` again before the pin in pyproject.toml moves.
"""

from __future__ import annotations

import inspect
from importlib.metadata import version
from typing import TYPE_CHECKING

import pytest
from nats.aio.client import Client
from nats.protocol.parser import Parser

from streams.intake import RawMessage, TappingParser, tap, untap
from tests.support.logs import stop
from tests.support.nats import client, eventually

if TYPE_CHECKING:
    from streams.embedded import EmbeddedNats


def test_nats_py_is_of_the_line_that_this_was_written_for() -> None:
    assert version("nats-py").startswith("2.16.")


def test_client_reads_with_the_parser_that_it_was_made_with() -> None:
    source = inspect.getsource(Client)
    assert source.count("self._ps") == source.count("self._ps.reset()") + source.count("self._ps.parse(b)") + 1
    assert "self._ps: Parser = Parser(self)" in inspect.getsource(Client.__init__)


def test_parser_keeps_what_is_not_whole_in_a_buffer_and_begins_anew_with_another_one() -> None:
    parser = Parser(None)
    buffer = parser.buf
    assert isinstance(buffer, bytearray)
    parser.reset()
    assert parser.buf is not buffer
    assert "self.buf =" not in inspect.getsource(Parser.parse)


async def test_taps_go_on_after_a_reconnect_until_they_are_taken_off(nats_server: EmbeddedNats) -> None:
    async with client(nats_server, "gateway") as nc:
        assert isinstance(nc._ps, TappingParser)
        taken: list[RawMessage] = []
        subject = "passline.test"
        subscription = await nc.subscribe(subject)
        tap(nc, subscription, taken.append)
        await nc.publish(subject, b"one", reply="passline.reply", headers={"A": "b"})
        await eventually(lambda: len(taken) == 1)
        assert taken == [(subject.encode(), b"passline.reply", b"NATS/1.0\r\nA: b\r\n\r\n", b"one")]
        assert subscription.pending_msgs == 0

        await stop(nats_server)
        await nats_server.restart()
        await eventually(lambda: nc.is_connected)
        await nc.publish(subject, b"two")
        await eventually(lambda: len(taken) == 2)

        untap(nc, subscription)
        untap(nc, subscription)
        await nc.publish(subject, b"three")
        assert (await subscription.next_msg()).data == b"three"
        assert len(taken) == 2


async def test_connection_of_another_making_can_not_be_tapped(nats_server: EmbeddedNats) -> None:
    async with client(nats_server, "gateway") as nc:
        subscription = await nc.subscribe(nc.new_inbox())
        with pytest.raises(TypeError):
            tap(Client(), subscription, list[RawMessage]().append)
