"""One stream's life: a cursor over the log, and every way it ends. Pure: bytes go to a `Connection` that never waits.

A subscriber has no buffer of its own. New, returning, slow and moved clients are the same thing: a subscriber whose
cursor is behind. It catches up from the window, else from a replay, and becomes live in the same synchronous step in
which its cursor reaches the dispatched position.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

import msgspec

from streams.frames import Broadcast

if TYPE_CHECKING:
    from streams.hub import Hub
    from streams.topics import Feed

WRITE_BYTES = 16 * 1024
"""While it catches up, a subscriber writes about this much at a time, and looks whether its client still reads.

So much more than its limit a connection may hold for a client that does not: these bytes are for that one alone.
"""

PAGE = 256
"""Broadcasts taken from the window at a time while catching up."""


class End(StrEnum):
    """Every way a stream ends. Those with a word on the wire are told in `stream.closing`, where that can be."""

    DRAIN = "drain"  # this process is stopping; any other one serves the same position
    EXPIRED = "expired"  # the token that opened it has ended
    REVOKED = "revoked"  # what allowed it was taken back in the log
    LIMIT = "limit"  # over a cap
    LAGGED = "lagged"  # this process lost its place in the log; the reconnect gets a verdict
    ENDED = "ended"  # the topic itself is over
    STALLED = "stalled"  # the client stopped reading: it can't be told
    GONE = "gone"  # the client left


class Connection(Protocol):
    """Where a subscriber's bytes go. None of these waits or raises."""

    def write(self, data: bytes) -> None:
        """Take the bytes; may call the subscriber's `pause` before it returns."""
        ...

    def finish(self, data: bytes) -> None:
        """Take the last bytes, send all that was taken, and cut the body."""
        ...

    def abort(self) -> None:
        """Drop what was not sent, and cut at once."""
        ...

    def progress(self) -> int | None:
        """How many bytes the client's side has taken so far, None while nothing waits for it to take.

        For looking now and then whether a slow client makes progress; this may cost a system call.
        """
        ...


class Ending(msgspec.Struct, frozen=True, gc=False):
    """Until when a stream goes on by what the log says of `fact`: `at` is on the hub's clock, None where nothing was
    said yet. `end` is how it ends then: a topic is over (`ENDED`), or what allowed the stream is (`EXPIRED`).
    """

    fact: str
    at: float | None
    end: End

    def moved(self, at: float) -> Ending:
        """After the log has said another time. A topic may go on longer; what allowed a stream only ends sooner."""
        sooner = at if self.at is None or self.end is End.ENDED else min(at, self.at)
        return Ending(self.fact, sooner, self.end)


class Grant(msgspec.Struct, frozen=True, gc=False):
    """What allowed a subscription, and to whom: `subject` is their identity's key, empty for nobody in particular.

    `decided_at`, in the log called `epoch`, is the position of the facts that it was decided by; `revocable_by` names
    the facts that would end it; `expires_at` is on the hub's clock (seconds), None for never. `endings` are what else
    ends it in time; their facts need not stand in `revocable_by`. `token_id` and `issued_at` (Unix seconds) are of the
    token that it was decided for.
    """

    epoch: str
    decided_at: int
    revocable_by: tuple[str, ...] = ()
    expires_at: float | None = None
    subject: str = ""
    endings: tuple[Ending, ...] = ()
    token_id: str | None = None
    issued_at: float = 0.0

    def over(self, now: float) -> End | None:
        """How a stream that rests on this ends now, None while it goes on; its `expires_at` is not looked at."""
        return next((each.end for each in self.endings if each.at is not None and now >= each.at), None)


class Subscriber:
    """A cursor over the log for a set of feeds.

    `cursor` is what was written for it while it catches up; while it is `live` its `position` moves with the hub's.
    `address` is its client's, as the caps count it; an empty one is nobody's. `since` holds, for each of several feeds,
    the position past which it may be shown, None where that is the same for all.
    """

    __slots__ = (
        "address",
        "closed",
        "connection",
        "cursor",
        "filters",
        "grant",
        "hub",
        "keys",
        "lanes",
        "live",
        "opened_at",
        "paused",
        "progress",
        "progressed_at",
        "since",
        "warned",
        "written_at",
    )

    def __init__(
        self,
        connection: Connection,
        feeds: Sequence[Feed],
        cursor: int,
        grant: Grant,
        address: str = "",
        since: tuple[int, ...] | None = None,
    ) -> None:
        self.connection = connection
        self.keys = tuple([feed.key for feed in feeds])
        lanes = tuple([feed.lane for feed in feeds])
        self.lanes = self.keys if lanes == self.keys else lanes
        self.filters = tuple([feed.filter for feed in feeds])
        self.cursor = cursor
        self.grant = grant
        self.address = address
        self.since = since
        self.warned = False
        self.live = False
        self.paused = False
        self.closed: End | None = None
        self.opened_at = 0.0
        self.written_at = 0.0
        self.progressed_at = 0.0
        self.progress: int | None = None
        self.hub: Hub

    @property
    def position(self) -> int:
        """All up to here has been written for it, or was not for it."""
        return max(self.cursor, self.hub.completed) if self.live else self.cursor

    def catch_up(self) -> None:
        """Write from the window until live, paused, or in need of a replay."""
        hub = self.hub
        while not (self.paused or self.closed):
            if not hub.window.covers(self.cursor):
                self.live = False
                hub.behind(self)
                return
            broadcasts = hub.window.after(self.lanes, self.cursor, PAGE)
            if not broadcasts:
                self.cursor = max(self.cursor, hub.head)
                self.live = True
                return
            self.take(broadcasts)

    def take(self, broadcasts: Sequence[Broadcast]) -> None:
        """Write those past the cursor and up to the dispatched position; stop where the client stops reading.

        Every byte of event that a subscriber is sent goes through here, or through `Hub.dispatch` when it is live.
        """
        hub = self.hub
        index = 0
        while index < len(broadcasts) and not (self.paused or self.closed):
            blocks: list[bytes] = []
            size = 0
            while index < len(broadcasts) and size < WRITE_BYTES:
                broadcast = broadcasts[index]
                if broadcast.sequence > hub.head:
                    index = len(broadcasts)
                    break
                index += 1
                if broadcast.sequence <= self.cursor:
                    continue
                block = hub.frames.of(broadcast, self._keys_for(broadcast))
                blocks.append(block)
                size += len(block)
                self.cursor = broadcast.sequence
            if size:
                self._write(b"".join(blocks))

    def accept(self, broadcasts: Sequence[Broadcast], upto: int) -> None:
        """Take a page of a replay: all that its filters found past the cursor and up to `upto`.

        A subject holds events that are not for every topic fed by it, so the page is sifted here.
        """
        self.take([each for each in broadcasts if any(lane in each.lanes for lane in self.lanes)])
        if not (self.paused or self.closed):
            self.cursor = max(self.cursor, min(upto, self.hub.head))
            self.catch_up()

    @property
    def warned_at(self) -> float | None:
        """When it is told that its token ends soon, None for never: half as long before as the hub says, or up to half
        as long again, since those who came together should not renew together.
        """
        expires_at = self.grant.expires_at
        if expires_at is None or self.warned:
            return None
        jitter = 0.5 + (id(self) >> 4) % 1024 / 1024  # the same for all of its life, and it takes no room
        return expires_at - self.hub.expiring_seconds * jitter

    def warn(self) -> None:
        """Say that the token ends soon: a newer one of the same subject lets the stream go on."""
        self.warned = True
        expires_at = self.grant.expires_at
        if expires_at is not None:
            self._write(self.hub.frames.encoder.expiring(max(0.0, expires_at - self.hub.clock())))

    def heartbeat(self) -> None:
        """Move the client's last event id to where it stands, firing no event."""
        self._write(self.hub.frames.encoder.heartbeat(self.hub.frames.cursor(self.position)))

    def pause(self) -> None:
        """The client's socket is full. Called from inside `Connection.write` too: only the state changes."""
        self.cursor = self.position
        self.live = False
        self.paused = True

    def resume(self) -> None:
        """The client reads again: what it missed comes from the window or the log."""
        self.paused = False
        self.catch_up()

    def has_stalled(self, now: float) -> bool:
        """Whether bytes have waited for the client, and it has taken none, for as long as the hub allows.

        Looks at the connection: progress shows at the first look after it, so ask several times within that span.
        """
        progress = self.connection.progress()
        if progress is None or progress != self.progress:
            self.progress = progress
            self.progressed_at = now
        return now >= self.progressed_at + self.hub.stall_seconds

    def close(self, end: End) -> None:
        """End the stream: tell the client why where it can be told, and forget it. Harmless when closed already."""
        if self.closed:
            return
        self.cursor = self.position
        self.live = False
        self.closed = end
        self.hub.detach(self)
        if end is End.GONE:
            return
        if end is End.STALLED:
            self.connection.abort()
        else:
            self.connection.finish(self.hub.frames.encoder.closing(end))

    def _keys_for(self, broadcast: Broadcast) -> Sequence[str]:
        """The keys that may be shown it."""
        if self.since is None:
            return self.keys
        feeds = zip(self.keys, self.lanes, self.since, strict=True)
        return [key for key, lane, since in feeds if broadcast.sequence > since and lane in broadcast.lanes]

    def _write(self, data: bytes) -> None:
        self.written_at = self.hub.clock()
        self.connection.write(data)
