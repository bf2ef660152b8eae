"""Topics and their subscribers: what the tail read goes out to everyone who may see it, in the log's order. Pure.

The hub knows one position, `head`: the window covers it, and no subscriber is written anything beyond it. Both move
before the first byte of an entry is written, so one who becomes live in the middle of a fan-out takes the entry from
the window, and the fan-out passes it by.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence

from streams.entry import Entry
from streams.errors import StreamsError
from streams.frames import Broadcast, Frames
from streams.subscriber import End, Subscriber
from streams.wheel import TimerWheel
from streams.window import Window

HEARTBEAT_SECONDS = 15.0
"""A stream that was silent for so long gets a heartbeat: proxies cut idle responses at 60 s, and a cursor must move."""

STALL_SECONDS = 30.0
"""A client whose socket took nothing for so long is given up."""

FAN_OUT_PAUSE = 1000
"""After so many writes a fan-out lets the event loop do something else."""


class SubscriptionRefused(StreamsError):
    """The hub does not take a subscriber now. The client should come back soon."""


class Draining(SubscriptionRefused):
    """This process is stopping."""


class DecisionOutdated(SubscriptionRefused):
    """What allowed the subscription was taken back after it was decided, or too long ago to tell."""


class _Index:
    """Subscribers by a text. Most texts have one subscriber only, which then stands for itself."""

    def __init__(self) -> None:
        self._of: dict[str, Subscriber | dict[Subscriber, None]] = {}

    def __len__(self) -> int:
        return len(self._of)

    def add(self, key: str, subscriber: Subscriber) -> None:
        present = self._of.get(key)
        if present is None:
            self._of[key] = subscriber
        elif isinstance(present, dict):
            present[subscriber] = None
        else:
            self._of[key] = {present: None, subscriber: None}

    def discard(self, key: str, subscriber: Subscriber) -> None:
        present = self._of.get(key)
        if isinstance(present, dict):
            present.pop(subscriber, None)
            if len(present) == 1:
                self._of[key] = next(iter(present))
        elif present is subscriber:
            del self._of[key]

    def at(self, key: str) -> tuple[Subscriber, ...]:
        """Those at `key` now; later changes don't show in it."""
        present = self._of.get(key)
        if present is None:
            return ()
        return tuple(present) if isinstance(present, dict) else (present,)


class Hub:
    """The subscribers of one process.

    `behind` is called with a subscriber that needs a replay; it must not call back before it returns. `clock` is
    monotonic, in seconds.
    """

    def __init__(
        self,
        window: Window,
        behind: Callable[[Subscriber], None],
        *,
        clock: Callable[[], float] = time.monotonic,
        heartbeat_seconds: float = HEARTBEAT_SECONDS,
        stall_seconds: float = STALL_SECONDS,
        fan_out_pause: int = FAN_OUT_PAUSE,
    ) -> None:
        self.window = window
        self.behind = behind
        self.clock = clock
        self.heartbeat_seconds = heartbeat_seconds
        self.stall_seconds = stall_seconds
        self.fan_out_pause = fan_out_pause
        self.completed = window.head
        self.draining = False
        self.ended: dict[End, int] = dict.fromkeys(End, 0)
        self._subscribers: dict[Subscriber, None] = {}
        self._by_key = _Index()
        self._by_grant = _Index()
        self._revoked: dict[str, int] = {}
        self._wheel: TimerWheel[Subscriber] = TimerWheel(clock())

    def __len__(self) -> int:
        return len(self._subscribers)

    @property
    def head(self) -> int:
        """The dispatched position: the window covers it, and nothing beyond it is ever written."""
        return self.window.head

    @property
    def frames(self) -> Frames:
        """What renders for the present epoch."""
        return self.window.frames

    # -- subscribers come and go ---------------------------------------------------------------------------------------

    def subscribe(self, subscriber: Subscriber, opening: bytes) -> None:
        """Take a subscriber in: its opening blocks, then all that it missed, then live, without a gap between.

        Raises:
            Draining: nothing was written.
            DecisionOutdated: nothing was written; the decision should be taken again.
        """
        if self.draining:
            raise Draining("this process is stopping")
        grant = subscriber.grant
        if grant.epoch != self.frames.epoch:
            raise DecisionOutdated("the log is another one than when it was decided")
        if grant.decided_at < self.window.floor or any(
            self._revoked.get(fact, 0) > grant.decided_at for fact in grant.revocable_by
        ):
            raise DecisionOutdated("what allowed the subscription may have changed since it was decided")
        subscriber.hub = self
        self._subscribers[subscriber] = None
        for key in subscriber.keys:
            self._by_key.add(key, subscriber)
        for fact in grant.revocable_by:
            self._by_grant.add(fact, subscriber)
        subscriber.written_at = subscriber.progressed_at = self.clock()
        subscriber.connection.write(opening)
        self._wheel.schedule(subscriber, self._deadline(subscriber))
        subscriber.catch_up()

    def detach(self, subscriber: Subscriber) -> None:
        """Forget a subscriber that has closed. Its `close` calls this; nobody else should."""
        del self._subscribers[subscriber]
        for key in subscriber.keys:
            self._by_key.discard(key, subscriber)
        for fact in subscriber.grant.revocable_by:
            self._by_grant.discard(fact, subscriber)
        if subscriber.closed:
            self.ended[subscriber.closed] += 1

    # -- the log moves -------------------------------------------------------------------------------------------------

    def dispatch(self, entries: Iterable[Entry]) -> Iterator[None]:
        """Take the next entries of the log and write each to everyone whom it is for.

        A generator: run it to its end before the next call, and let others run whenever it yields.
        """
        self.tick()
        previous = self.head
        by_key: dict[str, list[Broadcast]] = {}
        for entry in entries:
            broadcast = self.window.append(entry)
            for notification in broadcast.notifications:
                by_key.setdefault(notification.key, []).append(broadcast)
        written = 0
        for key, broadcasts in by_key.items():
            shared: bytes | None = None
            for subscriber in self._by_key.at(key):
                if not subscriber.live or subscriber.cursor >= self.head:
                    continue
                if len(subscriber.keys) == 1 and subscriber.cursor <= previous:
                    if shared is None:
                        shared = self._shared(broadcasts, subscriber.keys)
                    subscriber.offer(shared, self.head)
                else:
                    subscriber.cursor = max(subscriber.cursor, previous)
                    subscriber.catch_up()
                written += 1
                if written % self.fan_out_pause == 0:
                    yield
        self.completed = self.head

    def revoke(self, fact: str, sequence: int) -> None:
        """The log took back, at `sequence`, what `fact` had allowed: end what was decided before, and remember it."""
        self._revoked[fact] = sequence
        for subscriber in self._by_grant.at(fact):
            if subscriber.grant.decided_at < sequence:
                subscriber.close(End.REVOKED)
        if len(self._revoked) > 1024:
            self._revoked = {each: at for each, at in self._revoked.items() if at > self.window.floor}

    def restart(self, window: Window) -> None:
        """The log is another one, or the place in it is lost: every stream ends, and each client gets a verdict."""
        for subscriber in tuple(self._subscribers):
            subscriber.close(End.LAGGED)
        self.window = window
        self.completed = window.head
        self._revoked.clear()

    # -- time passes ---------------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """End what has expired or stalled, write the heartbeats that are due. Cheap: call it several times a second."""
        now = self.clock()
        for subscriber in self._wheel.due(now):
            if subscriber.closed:
                continue
            expires_at = subscriber.grant.expires_at
            if expires_at is not None and now >= expires_at:
                subscriber.close(End.EXPIRED)
            elif subscriber.paused:
                if now >= subscriber.progressed_at + self.stall_seconds:
                    subscriber.close(End.STALLED)
            elif now >= subscriber.written_at + self.heartbeat_seconds:
                subscriber.heartbeat()
            if not subscriber.closed:
                self._wheel.schedule(subscriber, self._deadline(subscriber))

    def drain(self) -> Sequence[Subscriber]:
        """Take nobody in any more. Those who are here are the caller's to close, at its own pace."""
        self.draining = True
        return tuple(self._subscribers)

    def _deadline(self, subscriber: Subscriber) -> float:
        deadline = (
            subscriber.progressed_at + self.stall_seconds
            if subscriber.paused
            else subscriber.written_at + self.heartbeat_seconds
        )
        # A client may stop reading at any moment from now on.
        deadline = min(deadline, self.clock() + self.stall_seconds)
        expires_at = subscriber.grant.expires_at
        return deadline if expires_at is None else min(deadline, expires_at)

    def _shared(self, broadcasts: Sequence[Broadcast], keys: tuple[str, ...]) -> bytes:
        if len(broadcasts) == 1:
            return self.frames.of(broadcasts[0], keys)
        return b"".join([self.frames.of(broadcast, keys) for broadcast in broadcasts])
