"""The bytes of an event, made once for each topic and shared by every connection.

How a block looks on the wire is the gateway's business: it hands an `Encoder` in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import msgspec
import structlog

from streams.cursor import Cursor
from streams.entry import Entry
from streams.events import decode
from streams.matrix import notification
from streams.topics import lane_of, topic_of

if TYPE_CHECKING:
    from collections.abc import Sequence

_log = structlog.get_logger()
_json = msgspec.json.Encoder()

# What an entry costs beside its body's length: 360 to 500 bytes of objects and index by tracemalloc, over 20,000 events
# of 350 bytes, of one order and of an order each; and what a frame costs beside its own.
ENTRY_COST = 440
_FRAME_COST = 290
GAP = "stream.gap"
"""The event that stands in for one whose view failed to render."""


class Encoder(Protocol):
    """The wire format, handed in by the gateway."""

    def event(self, name: str, data: bytes, cursor: str | None) -> bytes:
        """One block. `data` is JSON on one line; `cursor` is its id, None for a block that must not move a client."""
        ...

    def heartbeat(self, cursor: str) -> bytes:
        """A block that moves a client's last event id and fires no event."""
        ...

    def expiring(self, seconds: float) -> bytes:
        """A block that says in how many seconds the stream's token ends. It must not move a client."""
        ...

    def closing(self, reason: str) -> bytes:
        """The last block of a stream that the server ends, with a jittered time to come back."""
        ...


class Broadcast(msgspec.Struct, eq=False, gc=False):
    """An entry of the log on its way to subscribers: `lanes` say whom it is for, `blocks` are the frames made of it.

    It holds the body, which takes half as much memory as the event: few events are ever shown.
    """

    sequence: int
    time: float
    body: bytes
    lanes: tuple[str, ...]
    held: bool = False
    rendered: int = 0
    blocks: dict[str, bytes] | None = None

    @classmethod
    def of(cls, entry: Entry) -> Broadcast:
        """One that no window holds."""
        return cls(entry.sequence, entry.time, entry.body, entry.lanes)

    @property
    def size(self) -> int:
        """What it takes in memory, in bytes, `rendered` of them for the frames."""
        return ENTRY_COST + len(self.body) + self.rendered


class Frames:
    """Renders broadcasts for one epoch of the log. `held_bytes` counts all that was taken and not released.

    `shows_fee` says whether customers are shown the platform's fee.
    """

    def __init__(self, epoch: str, encoder: Encoder, *, shows_fee: bool = False) -> None:
        self.epoch = epoch
        self.encoder = encoder
        self.held_bytes = 0
        self._shows_fee = shows_fee

    def take(self, entry: Entry) -> Broadcast:
        """An entry made ready for the window."""
        body = entry.body
        self.held_bytes += ENTRY_COST + len(body)
        return Broadcast(entry.sequence, entry.time, body, entry.lanes, True)

    def release(self, broadcast: Broadcast) -> None:
        """The window has forgotten it."""
        broadcast.held = False
        self.held_bytes -= broadcast.size

    def cursor(self, sequence: int) -> str:
        """A position's text."""
        return str(Cursor(self.epoch, sequence))

    def of(self, broadcast: Broadcast, keys: Sequence[str]) -> bytes:
        """All blocks of one entry for a subscriber of `keys`: one write, and only the last block carries the id.

        A client that is cut between two blocks of an entry has not moved past it, and gets both again. Empty where the
        entry has nothing for any of the keys.
        """
        if len(keys) == 1:
            return self._block(broadcast, keys[0])
        lanes = broadcast.lanes
        matching = [key for key in keys if lane_of(key) in lanes and self._block(broadcast, key)]
        if not matching:
            return b""
        unmarked = [self._render(broadcast, key, None) for key in matching[:-1]]
        return b"".join([*unmarked, self._block(broadcast, matching[-1])])

    def _block(self, broadcast: Broadcast, key: str) -> bytes:
        """The block for one key, with its id; empty where the entry has nothing for its audience."""
        blocks = broadcast.blocks
        if blocks is None:
            blocks = broadcast.blocks = {}
        block = blocks.get(key)
        if block is None:
            block = blocks[key] = self._render(broadcast, key, self.cursor(broadcast.sequence))
            if broadcast.held:
                broadcast.rendered += _FRAME_COST + len(block)
                self.held_bytes += _FRAME_COST + len(block)
        return block

    def _render(self, broadcast: Broadcast, key: str, cursor: str | None) -> bytes:
        if lane_of(key) not in broadcast.lanes:
            raise ValueError(f"entry {broadcast.sequence} has nothing for {key}")
        event = decode(broadcast.body)
        told = notification(event, key)
        if told is None:
            return b""
        try:
            data = _json.encode(told.render(event, shows_fee=self._shows_fee))
            name = told.name
        except Exception:
            # One faulty view must harm no other topic and no other event.
            _log.exception("view_failed", event_id=event.event_id, topic=topic_of(key), type=event.type_name())
            data = _json.encode({"eventId": event.event_id, "topic": topic_of(key)})
            name = GAP
        return self.encoder.event(name, data, cursor)
