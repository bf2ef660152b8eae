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
from streams.errors import StreamsError
from streams.log import EVENTS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from nats.aio.client import Client
    from nats.aio.msg import Msg
    from nats.aio.subscription import Subscription

HEARTBEAT_SECONDS = 1.0
"""The server says so often that it has nothing to say."""

SILENCE_SECONDS = 3.0
"""After so long without a word the consumer is taken for gone."""

MAX_BATCH = 512
"""Messages handed on at a time, so that the event loop gets its turn."""

_INACTIVE_SECONDS = 10  # the server removes a consumer that nobody listens to
_POLL_SECONDS = 0.25
_SECOND = 1_000_000_000
_ACK_PREFIX = "$JS.ACK."
_names = NUID()


class ConsumerLost(StreamsError):
    """The consumer is gone, or what it delivered is not contiguous. Another one goes on from the last position."""


class _Created(ApiAnswer):
    num_pending: int = 0


class Delivered:
    """A message of the log with what its acknowledgement subject says of it."""

    __slots__ = ("message", "pending", "sequence", "time")

    def __init__(self, message: Msg, sequence: int, time_ns: int, pending: int) -> None:
        self.message = message
        self.sequence = sequence
        self.time = time_ns / _SECOND
        self.pending = pending


class Consumer:
    """An async context manager: the consumer exists within it.

    `after` is the position from which it starts, `filters` the subjects that it reads, all if there are none.
    `pending` is how many messages were waiting when it was made.
    """

    def __init__(self, client: Client, after: int, filters: Sequence[str]) -> None:
        self._client = client
        self._after = after
        self._filters = filters
        self._name = _names.next().decode()
        self._arrived: deque[Msg] = deque()
        self._wake = asyncio.Event()
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
            # Limits off: what nats-py drops at a limit is lost without a word.
            self._subscription = await heeding_cancellation(
                self._client.subscribe(inbox, cb=self._on_message, pending_msgs_limit=0, pending_bytes_limit=0)
            )
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
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._leave()

    def abandon(self, reason: str) -> None:
        """Have who waits for messages lose the consumer, as if the server had ended it."""
        self._abandoned = reason
        self._wake.set()

    async def next_messages(self) -> list[Delivered]:
        """What has arrived, at least one message and at most MAX_BATCH; waits for it.

        What the last call gave is taken as done with: flow control is answered when it is passed.

        Raises:
            ConsumerLost: no heartbeat, a connection that was replaced, or a message missing between two others.
        """
        while True:
            if self._abandoned is not None:
                raise ConsumerLost(self._abandoned)
            delivered = await self._take()
            if delivered:
                return delivered
            await self._wait()

    async def _take(self) -> list[Delivered]:
        delivered: list[Delivered] = []
        while self._arrived and len(delivered) < MAX_BATCH:
            message = self._arrived[0]
            if message.reply.startswith(_ACK_PREFIX):
                delivered.append(self._judged(self._arrived.popleft()))
            elif delivered:
                break  # a control message speaks of what came before it, which is not done with yet
            else:
                await self._control(self._arrived.popleft())
        return delivered

    def _judged(self, message: Msg) -> Delivered:
        # $JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<time>.<pending>, or the longer form of
        # NATS ADR-15 with domain and account before the stream and a random token at the end.
        tokens = message.reply.split(".")
        at = 5 if len(tokens) == 9 else 7
        try:
            sequence, consumer_sequence, time_ns, pending = map(int, tokens[at : at + 4])
        except ValueError as error:
            raise ConsumerLost("an acknowledgement subject that can't be read") from error
        if consumer_sequence != self._consumer_sequence + 1:
            raise ConsumerLost(f"message {self._consumer_sequence + 1} is missing before {consumer_sequence}")
        self._consumer_sequence = consumer_sequence
        return Delivered(message, sequence, time_ns, pending)

    async def _control(self, message: Msg) -> None:
        headers = message.headers or {}
        if headers.get("Status") != "100":
            raise ConsumerLost(f"the server ended it: {headers.get('Description', 'no reason given')}")
        if message.reply:  # flow control: the server waits for this answer
            await self._publish(message.reply)
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
            try:
                async with asyncio.timeout(_POLL_SECONDS):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def _on_message(self, message: Msg) -> None:
        self._arrived.append(message)
        self._wake.set()

    async def _publish(self, subject: str) -> None:
        try:
            await heeding_cancellation(self._client.publish(subject))
        except (OSError, nats.errors.Error) as error:
            raise ConsumerLost(f"flow control could not be answered: {error}") from error

    async def _leave(self) -> None:
        """Remove it at the server if that is easy; an orphan is removed there after a while."""
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
