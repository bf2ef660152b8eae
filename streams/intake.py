"""Messages as they come off the connection, past what nats-py does for each of them.

nats-py matches each message against two expressions, copies its body twice, parses its headers, and hands it on through
a coroutine, a queue and a task: about 10 µs, more than all that a tail does with an event. Here its parser gives way
to one that cuts the messages of tapped subscriptions out of what was read, and leaves everything else to nats-py.

What this needs of nats-py's internals is pinned by tests/streams/test_intake_contract.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

import nats.errors
from nats.protocol.parser import Parser

if TYPE_CHECKING:
    from nats.aio.client import Client
    from nats.aio.subscription import Subscription

RawMessage: TypeAlias = tuple[bytes, bytes, bytes, bytes]
"""Subject, reply subject, block of headers, body. What is not there is empty."""

Take: TypeAlias = Callable[[RawMessage], None]


class TappingParser(Parser):
    """nats-py's parser, given whole operations only. Messages of a subscription in `taps`, by its id, it never sees."""

    def __init__(self, client: Client) -> None:
        super().__init__(client)
        self.taps: dict[bytes, Take] = {}

    async def parse(self, data: bytes = b"") -> None:
        """Take what was read from the socket.

        Raises:
            nats.errors.ProtocolError: it is not NATS; nats-py connects again.
        """
        buffer = self.buf
        if buffer:
            data = bytes(buffer) + data
            buffer.clear()
        taps, find, at, size = self.taps, data.find, 0, len(data)
        while (line_end := find(b"\r", at)) >= 0:
            words = data[at:line_end].split()
            body = end = line_end + 2
            op = words[0] if words else b""
            take = None
            try:
                if op == b"HMSG":  # <subject> <sid> [reply] <size of the headers> <size>
                    take, others = taps.get(words[2]), 5
                    end += int(words[-1]) + 2
                    body += int(words[-2])
                elif op == b"MSG":  # <subject> <sid> [reply] <size>
                    take, others = taps.get(words[2]), 4
                    end += int(words[-1]) + 2
            except (ValueError, IndexError) as error:
                raise nats.errors.ProtocolError("malformed message") from error
            if end > size:
                break
            if take is not None:
                reply = words[3] if len(words) > others else b""
                take((words[1], reply, data[line_end + 2 : body], data[body : end - 2]))
            else:
                await super().parse(data[at:end])
                if self.buf is not buffer:
                    return  # nats-py has begun anew: what is left is of the former connection
            at = end
        buffer.extend(data[at:])


def tap(client: Client, subscription: Subscription, take: Take) -> None:
    """Have the messages of `subscription` go to `take` as they are cut out; it must neither wait nor raise.

    `client` is one of `broker.connect`.
    """
    _parser(client).taps[_id(subscription)] = take


def untap(client: Client, subscription: Subscription) -> None:
    """Harmless where there is no tap."""
    _parser(client).taps.pop(_id(subscription), None)


def _parser(client: Client) -> TappingParser:
    parser = client._ps  # noqa: SLF001
    if not isinstance(parser, TappingParser):
        raise TypeError("this connection has nats-py's own parser")
    return parser


def _id(subscription: Subscription) -> bytes:
    return b"%d" % subscription._id  # noqa: SLF001
