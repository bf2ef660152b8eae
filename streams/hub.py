"""Topics and their subscribers: what the tail read goes out to everyone who may see it, in the log's order. Pure.

The hub knows one position, `head`: the window covers it, and no subscriber is written anything beyond it. Both move
before the first byte of an entry is written, so one who becomes live in the middle of a fan-out takes the entry from
the window, and the fan-out passes it by.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence, Set

import msgspec
import structlog

from streams.departures import Departures
from streams.entry import Entry
from streams.errors import SubscriptionRefused
from streams.frames import Broadcast, Frames
from streams.index import Index, Tally
from streams.limits import Limits, OverLimit, TokenBucket, check_room
from streams.subscriber import End, Grant, Subscriber
from streams.wheel import TimerWheel
from streams.window import Window

HEARTBEAT_SECONDS = 15.0
"""A stream that was silent for so long gets a heartbeat: proxies cut idle responses at 60 s, and a cursor must move."""

EXPIRING_SECONDS = 60.0
"""About so long before its token ends a client is told, half as long more or less."""

STALL_SECONDS = 30.0
"""A client that takes nothing for so long, though there is something to take, is given up."""

FAN_OUT_PAUSE = 1000
"""After so many subscribers a fan-out lets the event loop do something else."""

REVOCATIONS_REMEMBERED = 16_384
"""Revocations are kept for who is being decided on at the moment, which takes milliseconds, or seconds at worst."""

LIMITS_REMEMBERED = 4096
"""Ends that the log has told last are kept for who is being decided on at the moment, which takes milliseconds."""

_LOOKS = 4  # for progress, within the time that a client may go without
_log = structlog.get_logger()


class Draining(SubscriptionRefused):
    """This process is stopping."""

    def __init__(self) -> None:
        super().__init__("draining", "this process is stopping")


class DecisionOutdated(SubscriptionRefused):
    """What allowed the subscription was taken back after it was decided, or too long ago to tell."""

    def __init__(self, reason: str) -> None:
        super().__init__("outdated", reason)


class Hub:
    """The subscribers of one process.

    `behind` is called with a subscriber that needs a replay; it must not call back before it returns. `clock` is
    monotonic, in seconds. `refused` counts whom it did not take, by the limit that was in the way, or `draining` or
    `outdated`.
    """

    def __init__(
        self,
        window: Window,
        behind: Callable[[Subscriber], None],
        *,
        clock: Callable[[], float] = time.monotonic,
        limits: Limits = Limits(),  # noqa: B008 - frozen
        heartbeat_seconds: float = HEARTBEAT_SECONDS,
        stall_seconds: float = STALL_SECONDS,
        expiring_seconds: float = EXPIRING_SECONDS,
        fan_out_pause: int = FAN_OUT_PAUSE,
    ) -> None:
        self.window = window
        self.behind = behind
        self.clock = clock
        self.limits = limits
        self.heartbeat_seconds = heartbeat_seconds
        self.stall_seconds = stall_seconds
        self.expiring_seconds = expiring_seconds
        self.fan_out_pause = fan_out_pause
        self.completed = window.head
        self.draining = False
        self.ended: dict[End, int] = dict.fromkeys(End, 0)
        self.refused: dict[str, int] = dict.fromkeys((*Limits.__struct_fields__, "draining", "outdated"), 0)
        self.departures = Departures()
        self._subscribers: dict[Subscriber, None] = {}
        self._by_lane = Index()
        self._by_grant = Index()
        self._by_subject = Index()
        self._by_address = Tally()
        self._revoked: dict[str, int] = {}  # the last ones, and what of them stands up to the floor was forgotten
        self._revoked_floor = 0
        self._spared: dict[str, str] = {}  # whom the last revocation of a fact has spared, if anybody
        self._limits: dict[str, tuple[int, float]] = {}  # where the log said it, and when that is; by first appearance
        self._limits_floor = 0
        self._wheel: TimerWheel[Subscriber] = TimerWheel(clock())
        self._arrivals = TokenBucket(limits.new_per_second, clock())

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

    def arrive(self, address: str) -> None:
        """Somebody at `address` asks for a stream: say at once if there is no room, before it costs anything.

        That there is room is no promise, since others may be on their way: `subscribe` has the last word.

        Raises:
            Draining
            OverLimit: of new streams in a second, or of streams in the process or of the address.
        """
        try:
            if self.draining:
                raise Draining
            self._check_process_and_address(address)
            # Last, so that who is refused anyway takes nobody's turn.
            if not self._arrivals.take(self.clock()):
                raise OverLimit("new_per_second", self.limits.new_per_second)
        except SubscriptionRefused as refusal:
            self.refused[refusal.kind] += 1
            raise

    def subscribe(self, subscriber: Subscriber, opening: bytes) -> None:
        """Take a subscriber in: its opening blocks, then all that it missed, then live, without a gap between.

        Raises:
            Draining: nothing was written.
            DecisionOutdated: nothing was written; the decision should be taken again.
            OverLimit: nothing was written; there are as many streams as may be.
        """
        try:
            self._check_decision(subscriber.grant)
            self._check_room(subscriber)
        except SubscriptionRefused as refusal:
            self.refused[refusal.kind] += 1
            raise
        subscriber.hub = self
        self._take_limits(subscriber)
        self._share(subscriber)
        self._subscribers[subscriber] = None
        for lane in subscriber.lanes:
            self._by_lane.add(lane, subscriber)
        for fact in subscriber.grant.revocable_by:
            self._by_grant.add(fact, subscriber)
        for ending in subscriber.grant.endings:
            self._by_grant.add(ending.fact, subscriber)
        if subscriber.grant.subject:
            self._by_subject.add(subscriber.grant.subject, subscriber)
        self._by_address.add(subscriber.address)
        now = self.clock()
        subscriber.opened_at = subscriber.written_at = subscriber.progressed_at = now
        subscriber.connection.write(opening)
        self._wheel.schedule(subscriber, self._deadline(subscriber, now))
        subscriber.catch_up()

    def detach(self, subscriber: Subscriber) -> None:
        """Forget a subscriber that has closed. Its `close` calls this; nobody else should."""
        del self._subscribers[subscriber]
        for lane in subscriber.lanes:
            self._by_lane.discard(lane, subscriber)
            self.departures.note(lane, self.clock())
        for fact in subscriber.grant.revocable_by:
            self._by_grant.discard(fact, subscriber)
        for ending in subscriber.grant.endings:
            self._by_grant.discard(ending.fact, subscriber)
        self._by_subject.discard(subscriber.grant.subject, subscriber)
        self._by_address.discard(subscriber.address)
        if subscriber.closed:
            self.ended[subscriber.closed] += 1

    def _share(self, subscriber: Subscriber) -> None:
        """Let it hold the very texts that another one of its topic holds: 290 bytes of a stream that has none."""
        twin = self._by_lane.newest(subscriber.lanes[0])
        if twin is None:
            return
        if twin.keys == subscriber.keys and twin.filters == subscriber.filters:
            subscriber.keys, subscriber.lanes, subscriber.filters = twin.keys, twin.lanes, twin.filters
        if twin.address == subscriber.address:
            subscriber.address = twin.address

    def _check_decision(self, grant: Grant) -> None:
        if self.draining:
            raise Draining
        if grant.epoch != self.frames.epoch:
            raise DecisionOutdated("the log is another one than when it was decided")
        if grant.decided_at < max(self.window.floor, self._revoked_floor) or any(
            self._revoked.get(fact, 0) > grant.decided_at and self._spared.get(fact, "") != (grant.subject or None)
            for fact in (*grant.revocable_by, *_token_facts(grant))
        ):
            raise DecisionOutdated("what allowed the subscription may have changed since it was decided")
        if grant.endings and grant.decided_at < self._limits_floor:
            raise DecisionOutdated("it may be over by now what the subscription is for")

    def _check_process_and_address(self, address: str) -> None:
        check_room("per_process", self.limits.per_process, len(self._subscribers))
        check_room("per_address", self.limits.per_address, self._by_address.count(address))

    def _check_room(self, subscriber: Subscriber) -> None:
        limits, subject = self.limits, subscriber.grant.subject
        self._check_process_and_address(subscriber.address)
        for lane in subscriber.lanes:
            check_room("per_topic", limits.per_topic, self._by_lane.count(lane))
        if subject:
            check_room("per_subject", limits.per_subject, self._by_subject.count(subject))
            check_room("per_subject_topic", limits.per_subject_topic, self._alike(subject, subscriber.lanes))

    def _alike(self, subject: str, lanes: tuple[str, ...]) -> int:
        """How many streams the subject has on that one of `lanes` where it has most; 0 where the cap can't be reached.

        Found by looking at the subject's streams or at the topics', whichever are fewer: no count is kept for each
        pair. A subject has few where it is capped. Where it is not, one with thousands on thousands of topics meets few
        others on each.
        """
        cap = self.limits.per_subject_topic
        own = self._by_subject.count(subject)
        crowded = [lane for lane in lanes if self._by_lane.count(lane) >= cap] if 0 < cap <= own else []
        if not crowded:
            return 0
        if own <= sum(self._by_lane.count(lane) for lane in crowded):
            tally = Counter(lane for each in self._by_subject.at(subject) for lane in set(each.lanes))
            return max(tally[lane] for lane in crowded)
        return max(sum(each.grant.subject == subject for each in self._by_lane.at(lane)) for lane in crowded)

    def is_watched(self, lane: str) -> bool:
        """Whether somebody watches what goes to `lane`."""
        return lane in self._by_lane.texts

    def watching(self, lane: str) -> tuple[Subscriber, ...]:
        """Who watches what goes to `lane`."""
        return self._by_lane.at(lane)

    # -- the log moves -------------------------------------------------------------------------------------------------

    def dispatch(self, entries: Iterable[Entry]) -> Iterator[None]:
        """Take the next entries of the log and write each to everyone whom it is for.

        A generator: run it to its end before the next call, and let others run whenever it yields.
        """
        self.tick()
        previous = self.head
        broadcasts = self.window.extend(entries)
        head, pause, asked = self.head, self.fan_out_pause, 0
        for lane, own in self._watched(broadcasts).items():
            # Nearly always all of them have the same keys; a lane with several audiences has bytes for each.
            keys: tuple[str, ...] | None = None
            made: dict[tuple[str, ...], bytes] = {}
            shared = b""
            everyone = self._by_lane.at(lane)
            for begin in range(0, len(everyone), pause):
                now = self.clock()
                some = everyone[begin : begin + pause]
                # What is done for each delivery is done here, without a further call: the less, the better.
                for subscriber in some:
                    if subscriber.cursor <= previous and subscriber.live and len(subscriber.keys) == 1:
                        if subscriber.keys is not keys:
                            keys = subscriber.keys
                            if keys not in made:
                                made[keys] = self._shared(own, keys)
                            shared = made[keys]
                        subscriber.cursor = head
                        if shared:
                            subscriber.written_at = now
                            subscriber.connection.write(shared)
                    elif subscriber.live and subscriber.cursor < head:
                        subscriber.cursor = max(subscriber.cursor, previous)
                        subscriber.catch_up()
                asked += len(some)
                if asked >= pause:
                    asked = 0
                    yield
        self.completed = head

    def signal(self, lane: str, keys: Set[str], block: bytes) -> Iterator[None]:
        """Write `block` to those on `lane` who have one of `keys` and are live at this moment; nobody gets it later.

        It carries no id: no cursor moves by it, and no heartbeat is put off, or a stream that has signals only would
        keep its old position. A generator like `dispatch`; both may be under way at once.
        """
        for number, subscriber in enumerate(self._by_lane.at(lane), 1):
            if subscriber.live and not keys.isdisjoint(subscriber.keys):
                subscriber.connection.write(block)
            if number % self.fan_out_pause == 0:
                yield

    def revoke(self, fact: str, sequence: int, *, spared: str = "") -> None:
        """The log took back, at `sequence`, what `fact` had allowed: end what was decided before, and remember it.

        The streams of the subject `spared` go on, and for good: it was said that the fact is theirs.
        """
        self._remember_revocation(fact, sequence)
        self._spared.pop(fact, None)
        if spared:
            self._spared[fact] = spared
        for subscriber in self._by_grant.at(fact):
            if subscriber.grant.decided_at >= sequence:
                continue
            if spared and subscriber.grant.subject == spared:
                self._by_grant.discard(fact, subscriber)
            else:
                subscriber.close(End.REVOKED)

    def rests_on(self, fact: str) -> bool:
        """Whether anybody's stream rests on `fact`, so that its revocation would end one."""
        return self._by_grant.count(fact) > 0

    def revoke_tokens(self, subject: str | None, token_id: str | None, sequence: int, time: float) -> None:
        """The log revoked, at `sequence` and its own `time` (Unix seconds), the token `token_id`, or all tokens of
        `subject` that were issued until then.
        """
        if subject is not None:
            self._remember_revocation(_subject_fact(subject), sequence)
            ending = [each for each in self._by_subject.at(subject) if each.grant.issued_at <= time]
        else:
            self._remember_revocation(_token_fact(token_id), sequence)
            # Rare enough to look at everybody: an index would cost each stream a hundred bytes.
            ending = [each for each in self._subscribers if each.grant.token_id == token_id]
        for subscriber in ending:
            subscriber.close(End.REVOKED)

    def outlived(self, subject: str, expires_at: float) -> list[Subscriber]:
        """The subject's streams whose token ends before `expires_at`, on the hub's clock, by a second at least."""
        until = expires_at - 1.0
        return [each for each in self._by_subject.at(subject) if (each.grant.expires_at or until) < until]

    def renew(self, subscriber: Subscriber, grant: Grant) -> bool:
        """Let a stream go on by what a newer token allows. False where that was taken back since it was decided."""
        if subscriber.closed:
            return False
        try:
            self._check_decision(grant)
        except SubscriptionRefused:
            return False
        subscriber.grant = msgspec.structs.replace(
            subscriber.grant, expires_at=grant.expires_at, token_id=grant.token_id, issued_at=grant.issued_at
        )
        subscriber.warned = False
        return True

    def _remember_revocation(self, fact: str, sequence: int) -> None:
        """For who is being decided on at the moment."""
        self._revoked.pop(fact, None)
        self._revoked[fact] = sequence
        if len(self._revoked) > REVOCATIONS_REMEMBERED:
            oldest = next(iter(self._revoked))
            self._revoked_floor = self._revoked.pop(oldest)
            self._spared.pop(oldest, None)

    def limit(self, fact: str, sequence: int, at: float) -> None:
        """The log said, at `sequence`, that what rests on `fact` goes on until `at`, on the hub's clock."""
        self._limits.pop(fact, None)
        self._limits[fact] = (sequence, at)
        if len(self._limits) > LIMITS_REMEMBERED:
            self._limits_floor, _ = self._limits.pop(next(iter(self._limits)))
        for subscriber in self._by_grant.at(fact):
            _move(subscriber, fact, at)
            # Everybody is looked at within that time anyway.
            if at <= self.clock() + self.stall_seconds:
                self._wheel.schedule(subscriber, at)

    def _take_limits(self, subscriber: Subscriber) -> None:
        """What the log has said since the decision."""
        for ending in subscriber.grant.endings:
            sequence, at = self._limits.get(ending.fact, (0, 0.0))
            if sequence > subscriber.grant.decided_at:
                _move(subscriber, ending.fact, at)

    def restart(self, window: Window) -> None:
        """The log is another one, or the place in it is lost: every stream ends, and each client gets a verdict."""
        for subscriber in tuple(self._subscribers):
            subscriber.close(End.LAGGED)
        self.window = window
        self.completed = window.head
        self._revoked.clear()
        self._revoked_floor = 0
        self._spared.clear()
        self._limits.clear()
        self._limits_floor = 0

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
            elif (over := subscriber.grant.over(now)) is not None:
                subscriber.close(over)
            elif subscriber.has_stalled(now):
                _log.info("stream.stalled", keys=subscriber.keys, seconds=self.stall_seconds)
                subscriber.close(End.STALLED)
            elif not subscriber.paused:
                if (warned_at := subscriber.warned_at) is not None and now >= warned_at:
                    subscriber.warn()
                if now >= subscriber.written_at + self.heartbeat_seconds:
                    subscriber.heartbeat()
            if not subscriber.closed:
                self._wheel.schedule(subscriber, self._deadline(subscriber, now))

    def drain(self) -> Sequence[Subscriber]:
        """Take nobody in any more. Those who are here are the caller's to close, at its own pace."""
        self.draining = True
        return tuple(self._subscribers)

    def _deadline(self, subscriber: Subscriber, now: float) -> float:
        # Whoever has bytes waiting is looked at more often; and a client may stop reading at any moment from now on.
        looks = _LOOKS if subscriber.paused or subscriber.progress is not None else 1
        deadline = now + self.stall_seconds / looks
        if not subscriber.paused:
            deadline = min(deadline, subscriber.written_at + self.heartbeat_seconds)
            if (warned_at := subscriber.warned_at) is not None:
                deadline = min(deadline, warned_at)
        expires_at = subscriber.grant.expires_at
        for ending in subscriber.grant.endings:
            deadline = deadline if ending.at is None else min(deadline, ending.at)
        return deadline if expires_at is None else min(deadline, expires_at)

    def _watched(self, broadcasts: Iterable[Broadcast]) -> dict[str, list[Broadcast]]:
        """Those that somebody watches, by lane."""
        by_lane: dict[str, list[Broadcast]] = {}
        watched = self._by_lane.texts
        for broadcast in broadcasts if watched else ():
            if not watched.isdisjoint(broadcast.lanes):
                for lane in broadcast.lanes:
                    if lane in watched:
                        by_lane.setdefault(lane, []).append(broadcast)
        return by_lane

    def _shared(self, broadcasts: Sequence[Broadcast], keys: tuple[str, ...]) -> bytes:
        if len(broadcasts) == 1:
            return self.frames.of(broadcasts[0], keys)
        return b"".join([self.frames.of(broadcast, keys) for broadcast in broadcasts])


def _token_facts(grant: Grant) -> tuple[str, str]:
    return _subject_fact(grant.subject), _token_fact(grant.token_id)


def _subject_fact(subject: str) -> str:
    return f"subject:{subject}"


def _token_fact(token_id: str | None) -> str:
    return f"token:{token_id}"


def _move(subscriber: Subscriber, fact: str, at: float) -> None:
    grant = subscriber.grant
    endings = tuple([each.moved(at) if each.fact == fact else each for each in grant.endings])
    subscriber.grant = msgspec.structs.replace(grant, endings=endings)
