"""One ordered push consumer on the log, for as long as it lives; `reader` makes another one where it ends.

AckNone, one replica in memory, flow control and heartbeats (NATS ADR-17). Nothing is bounded on our side: the server
pauses at a flow control message until what came before it was taken.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any

import nats.errors
from nats.nuid import NUID

from streams.broker import ApiAnswer, ask_jetstream, heeding_cancellation
from streams.entry import Entry, judge
from streams.errors import StreamsError
from streams.intake import RawMessage, tap, untap
from streams.log import EVENTS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from nats.aio.client import Client
    from nats.aio.subscription import Subscription

HEARTBEAT_SECONDS = 1.0
"""The server says so often that it has nothing to say."""

SILENCE_SECONDS = 3.0
"""After so long without a word the consumer is taken for gone."""

MAX_BATCH = 512
"""Entries handed on at a time, so that the event loop gets its turn."""

_INACTIVE_SECONDS = 10  # the server removes a consumer that nobody listens to
_POLL_SECONDS = 0.25
_SECOND = 1_000_000_000
_names = NUID()


class ConsumerLost(StreamsError):
    """The consumer is gone, or what it delivered is not contiguous. Another one goes on from the last position."""


class _Created(ApiAnswer):
    num_pending: int = 0


class Consumer:
    """An async context manager: the consumer exists within it.

    `after` is the position from which it starts, `filters` the subjects that it reads, all if there are none.
    `pending` is how many messages were waiting when it was made, and when the last one that was taken was sent.
    """

    def __init__(self, client: Client, after: int, filters: Sequence[str]) -> None:
        self._client = client
        self._after = after
        self._filters = filters
        self._name = _names.next().decode()
        self._arrived: deque[RawMessage] = deque()
        self._wake = asyncio.Event()
        self._is_waiting = False
        self._poller: asyncio.TimerHandle | None = None
        self._consumer_sequence = 0
        self._reconnects = 0
        self._abandoned: str | None = None
        self._subscription: Subscription | None = None
        self.pending = 0

    async def __aenter__(self) -> Consumer:
        """Raises BrokerUnavailable, JetStreamRefused, StreamMissing, ConsumerLost."""
        self._reconnects = self._client.stats["reconnects"]
        inbox = self._client.new_inbox()
        try:
            self._subscription = await heeding_cancellation(self._client.subscribe(inbox))
            tap(self._client, self._subscription, self._arrive)
            created = await ask_jetstream(
                self._client,
                f"CONSUMER.CREATE.{EVENTS}.{self._name}",
                {"stream_name": EVENTS, "config": self._configuration(inbox)},
                _Created,
            )
        except (OSError, nats.errors.Error) as error:
            await self._leave()
            raise ConsumerLost(f"no subscription: {error}") from error
        except BaseException:
            await self._leave()
            raise
        self.pending = created.num_pending
        self._poll()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._leave()

    def abandon(self, reason: str) -> None:
        """Have who waits for messages lose the consumer, as if the server had ended it."""
        self._abandoned = reason
        self._wake.set()

    async def next_entries(self) -> list[Entry]:
        """What has arrived, judged: at least one entry and at most MAX_BATCH; waits for it.

        What the last call gave is taken as done with: flow control is answered when it is passed.

        Raises:
            ConsumerLost: no heartbeat, a connection that was replaced, or a message missing between two others.
        """
        while True:
            if self._abandoned is not None:
                raise ConsumerLost(self._abandoned)
            entries = await self._take()
            if entries:
                return entries
            await self._wait()

    async def _take(self) -> list[Entry]:
        # Written out in one loop: this is done for each event in the log.
        arrived, entries, sequence_of_consumer = self._arrived, list[Entry](), self._consumer_sequence
        pending = b""
        try:
            while arrived and len(entries) < MAX_BATCH:
                subject, reply, _, body = message = arrived.popleft()
                # $JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<time>.<pending>, or the longer
                # form of NATS ADR-15 with domain and account before the stream and a random token at the end.
                tokens = reply.split(b".")
                if len(tokens) < 9:
                    if entries:  # a control message speaks of what came before it, which is not done with yet
                        arrived.appendleft(message)
                        break
                    await self._control(message)
                    continue
                at = 5 if len(tokens) == 9 else 7
                sequence_of_consumer += 1
                if int(tokens[at + 1]) != sequence_of_consumer:
                    raise ConsumerLost(f"message {sequence_of_consumer} is missing before {int(tokens[at + 1])}")
                sequence, time, pending = int(tokens[at]), int(tokens[at + 2]) / _SECOND, tokens[at + 3]
                entries.append(judge(sequence, time, subject.decode("utf-8", "replace"), body))
            if entries:
                self._consumer_sequence, self.pending = sequence_of_consumer, int(pending)
        except ValueError as error:
            raise ConsumerLost("an acknowledgement subject that can't be read") from error
        return entries

    async def _control(self, message: RawMessage) -> None:
        _, reply, block, _ = message
        status, description, headers = _read_control(block)
        if status != "100":
            raise ConsumerLost(f"the server ended it: {description or 'no reason given'}")
        if reply:  # flow control: the server waits for this answer
            await self._publish(reply.decode())
            return
        if stalled := headers.get("Nats-Consumer-Stalled"):
            await self._publish(stalled)
        last = headers.get("Nats-Last-Consumer", "")
        if last.isdigit() and int(last) != self._consumer_sequence:
            raise ConsumerLost(f"the server has sent {last} messages, {self._consumer_sequence} came")

    async def _wait(self) -> None:
        clock = asyncio.get_running_loop().time
        deadline = clock() + SILENCE_SECONDS
        while not (self._arrived or self._abandoned):
            if self._client.stats["reconnects"] != self._reconnects:
                raise ConsumerLost("the connection was replaced")
            if clock() >= deadline:
                raise ConsumerLost(f"not a word for {SILENCE_SECONDS:g} s")
            self._wake.clear()
            self._is_waiting = True
            await self._wake.wait()

    def _poll(self) -> None:
        """Have who waits look around now and then. One timer is cheaper than a time limit for each wait."""
        self._wake.set()
        self._poller = asyncio.get_running_loop().call_later(_POLL_SECONDS, self._poll)

    def _arrive(self, message: RawMessage) -> None:
        self._arrived.append(message)
        if self._is_waiting:
            self._is_waiting = False
            self._wake.set()

    async def _publish(self, subject: str) -> None:
        try:
            await heeding_cancellation(self._client.publish(subject))
        except (OSError, nats.errors.Error) as error:
            raise ConsumerLost(f"flow control could not be answered: {error}") from error

    async def _leave(self) -> None:
        """Remove it at the server if that is easy; an orphan is removed there after a while."""
        if self._poller is not None:
            self._poller.cancel()
        if self._subscription is not None:
            untap(self._client, self._subscription)
        if self._subscription is None or self._client.is_closed or self._client.is_draining:
            return
        try:
            await heeding_cancellation(self._subscription.unsubscribe())
            if self._client.is_connected:
                delete = f"$JS.API.CONSUMER.DELETE.{EVENTS}.{self._name}"
                await heeding_cancellation(self._client.publish(delete))
        except (OSError, nats.errors.Error):
            self._subscription = None

    def _configuration(self, inbox: str) -> dict[str, Any]:
        return {
            "name": self._name,
            "deliver_subject": inbox,
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": self._after + 1,
            "ack_policy": "none",
            "max_deliver": 1,
            "replay_policy": "instant",
            "flow_control": True,
            "idle_heartbeat": int(HEARTBEAT_SECONDS * _SECOND),
            "inactive_threshold": _INACTIVE_SECONDS * _SECOND,
            "mem_storage": True,
            "num_replicas": 1,
            "filter_subjects": list(self._filters),
        }


def _read_control(block: bytes) -> tuple[str, str, dict[str, str]]:
    r"""Status, description and headers of `NATS/1.0 100 Idle Heartbeat\r\nName: value\r\n\r\n` (NATS ADR-4, ADR-9)."""
    first, *lines = block.decode(errors="replace").split("\r\n")
    _, _, said = first.partition(" ")
    status, _, description = said.strip().partition(" ")
    headers = (line.partition(":") for line in lines if ":" in line)
    return status, description.strip(), {name: value.strip() for name, _, value in headers}
