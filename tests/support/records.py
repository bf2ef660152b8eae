"""What publishers and clients write down during a run: all that the checker knows of it.

They are plain data, so a run of several processes can write them as JSON lines and be judged afterwards.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import msgspec

OUTSIDE_THE_LOG = frozenset({"stream.opened", "stream.closing", "stream.expiring", "ReceiveSignal"})
"""Events that stand for no entry of the log: they carry no id, except where an opening one tells where it begins."""


class Position(NamedTuple):
    """A place in a log. Those of different epochs have no order between them."""

    epoch: str
    sequence: int

    @classmethod
    def parse(cls, text: str) -> Position | None:
        """`<epoch>-<sequence>`; None if it is anything else."""
        epoch, _, sequence = text.rpartition("-")
        if not epoch or not sequence.isdecimal() or not sequence.isascii():
            return None
        return cls(epoch, int(sequence))

    def __str__(self) -> str:
        return f"{self.epoch}-{self.sequence}"


class Published(msgspec.Struct, frozen=True):
    """One attempt to publish one event.

    `topics` are those that it is for. `ok`: it was acknowledged, as stored or as a duplicate, at `cursor`. `failed`:
    the publisher was told that it is not in the log. `unknown`: anything else, a time-out for example.
    """

    event_id: str
    topics: tuple[str, ...]
    outcome: Literal["ok", "failed", "unknown"]
    cursor: str | None = None

    def __post_init__(self) -> None:
        if (self.outcome == "ok") is (self.cursor is None):
            raise ValueError(f"{self.event_id}: a position belongs to what was acknowledged, and to nothing else")


class Grant(msgspec.Struct, frozen=True):
    """That a client may see a topic: what stands in the log after `after` and up to `upto`.

    A grant with a bound holds in that bound's epoch alone; None is no bound. Of several for one topic, a connection has
    the one that began last before it was opened: who comes back to a cart sees it from their latest joining on.
    """

    topic: str
    after: str | None = None
    upto: str | None = None


class Lost(msgspec.Struct, frozen=True):
    """The cursors of the first and the last entry that a client was told it did not get."""

    from_: str = msgspec.field(name="from")
    to: str


class Opened(msgspec.Struct, frozen=True):
    """The data of `stream.opened`. `id` is the block's own, None where it had none."""

    verdict: str
    id: str | None = None
    from_: str | None = msgspec.field(default=None, name="from")
    head: str | None = None
    reason: str | None = None
    lost: Lost | None = None


class Received(msgspec.Struct, frozen=True):
    """A whole block as it came; one that was cut half is none. `id` is what the block itself said.

    `event` is None for a block without data: a heartbeat, or a time to come back. `event_id` and `topic` are from the
    data.
    """

    id: str | None
    event: str | None = None
    event_id: str | None = None
    topic: str | None = None


class Connection(msgspec.Struct):
    """One connection of a client, and what came on it after `opened`, in order.

    `asked` is the position that the client said it had reached (None: it gave none), `since` that it asked by time.
    `topics` are those that it asked for, None for all that it has grants for. A refusal, hard or soft, is a connection
    without `opened`.
    """

    number: int
    asked: str | None = None
    since: bool = False
    topics: tuple[str, ...] | None = None
    status: int | None = None
    opened: Opened | None = None
    blocks: list[Received] = []


class ClientLog(msgspec.Struct):
    """One client's life. `grants` are for the topics of its streams.

    `until` is a position that the run waited for it to reach. Without it, it owes what lies up to the last id it got.
    """

    client: str
    grants: tuple[Grant, ...]
    connections: list[Connection] = []
    until: str | None = None


class History(msgspec.Struct):
    """A whole run."""

    published: list[Published] = []
    clients: list[ClientLog] = []
