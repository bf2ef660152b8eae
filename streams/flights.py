"""Messages on their way into the log: sent over one connection in their order, sent again where no answer came.

The broker handles the messages of one connection in their order, and so answers them. So several may be on their way at
once and stand in the log in their order all the same, if two rules are kept: what is sent again is sent together with
all that followed it, before anything new; and what had no answer is not sent again once something that followed it is
stored.
"""

from __future__ import annotations

import asyncio
from collections import deque
from itertools import takewhile
from typing import TYPE_CHECKING, Generic, TypeVar

import msgspec
import nats.errors
import structlog

from streams.broker import ATTEMPT_SECONDS, PENDING_BYTES, REQUEST_SECONDS, ApiAnswer, ApiError, heeding_cancellation
from streams.log import EVENTS

if TYPE_CHECKING:
    from nats.aio.client import Client
    from nats.aio.msg import Msg

# From here on more at once brings nothing: the time is the disk's.
WINDOW = 64

# With so many unsent bytes nothing more is handed to nats-py, which at twice as many would wait with each message.
_MOST_UNSENT_BYTES = PENDING_BYTES // 2

_POLL_SECONDS = 0.02

# `err_code`s of JetStream about a message that is not on all of a cluster's replicas yet: of the same id, or of the
# subjects whose last sequence is expected.
_IN_PROCESS = frozenset({10158, 10164})

log = structlog.get_logger()


class Acknowledgement(ApiAnswer):
    """JetStream's answer to a message: where it stands in the log, or why it does not."""

    stream: str = ""
    seq: int = 0
    duplicate: bool = False


class Acknowledgements:
    """Where the answers come in: one subscription for all that is published over a connection."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._inbox = client.new_inbox()
        self._opening: asyncio.Task[object] | None = None
        self._replies = 0
        self._waiting: dict[str, asyncio.Future[Acknowledgement]] = {}

    async def open(self) -> None:
        """Needed before anything is sent; once is enough. Raises what nats-py raises."""
        if self._opening is None:
            self._opening = asyncio.create_task(self._client.subscribe(f"{self._inbox}.*", cb=self._on_message))
        await asyncio.shield(self._opening)

    def expect(self) -> tuple[str, asyncio.Future[Acknowledgement]]:
        """A reply subject, and what will have come there."""
        self._replies += 1
        reply = f"{self._inbox}.{self._replies}"
        answer = self._waiting[reply] = asyncio.get_running_loop().create_future()
        return reply, answer

    def forget(self, reply: str) -> None:
        """Nobody waits for that one any more."""
        self._waiting.pop(reply, None)

    async def _on_message(self, message: Msg) -> None:
        answer = self._waiting.get(message.subject)
        if answer is not None and not answer.done() and (read := _read(message)) is not None:
            answer.set_result(read)


_decoder = msgspec.json.Decoder(Acknowledgement)


def _read(message: Msg) -> Acknowledgement | None:
    """None is no answer of JetStream's: anybody who listens to the subjects of events may answer, too."""
    if message.headers and message.headers.get("Status") == "503":
        return Acknowledgement(error=ApiError(503, 0, "no stream takes it"))
    try:
        read = _decoder.decode(message.data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return read if read.error is not None or (read.stream == EVENTS and read.seq > 0) else None


class Flight:
    """One message on its way, from when it is first to be sent until its answer."""

    def __init__(self, subject: str, body: bytes) -> None:
        self.subject = subject
        self.body = body
        self.headers: dict[str, str] = {}
        self.is_sent = False
        self.is_uncertain = False  # whether it was sent again because there was no answer

        self.begun_at = 0.0
        self.sent_at = 0.0
        self.connection: int | None = None  # how often there had been a reconnect
        self.reply = ""
        self.answer: asyncio.Future[Acknowledgement] | None = None

    @property
    def acknowledgement(self) -> Acknowledgement | None:
        """What has come back, be it an error."""
        return self.answer.result() if self.answer is not None and self.answer.done() else None

    @property
    def is_over(self) -> bool:
        """Whether there is an answer, and asking again would bring no other."""
        answer = self.acknowledgement
        return answer is not None and not (answer.error and is_temporary(answer.error))

    @property
    def is_stored(self) -> bool:
        """Whether it stands in the log because of these sends, as far as can be told."""
        answer = self.acknowledgement
        return answer is not None and answer.error is None and (not answer.duplicate or self.is_uncertain)


def is_temporary(error: ApiError) -> bool:
    """Whether the same message, sent again, may have another answer."""
    return error.code in (429, 503) or error.err_code in _IN_PROCESS


def connection_of(client: Client) -> int:
    """Which one it is now of all the connections that this client makes, one after the other."""
    return client.stats["reconnects"]


F = TypeVar("F", bound=Flight)


class Flights(Generic[F]):
    """What is on its way, oldest first, until `deadline` of the loop's clock.

    With `only_over`, as `connection_of` told it, nothing is sent over another connection: when that one is gone, the
    broker is lost. `lost` says why the broker was given up, if it was.
    """

    def __init__(
        self, client: Client, acknowledgements: Acknowledgements, deadline: float, *, only_over: int | None = None
    ) -> None:
        self._client = client
        self._acknowledgements = acknowledgements
        self._clock = asyncio.get_running_loop().time
        self._deadline = deadline
        self._only_over = only_over
        self._open: deque[F] = deque()
        self._landed_at = 0.0
        self.lost: str | None = None

    def __len__(self) -> int:
        return len(self._open)

    async def send(self, flight: F) -> None:
        """Send it after all that is on its way; later, if that can't be just now."""
        flight.begun_at = self._clock()
        flight.is_uncertain, flight.connection = False, None
        # After a reconnect what is on its way goes again first.
        is_next = all(each.connection == self._connection for each in self._open)
        self._open.append(flight)
        if is_next and self._can_send:
            await self._transmit(flight)

    async def landed(self) -> list[F]:
        """Wait for the oldest one; it, and those behind it that have their answers as well. Empty only if `lost`.

        Lost is the broker when the oldest one had no answer within REQUEST_SECONDS of its turn.
        """
        oldest = self._open[0]
        while not oldest.is_over:
            if self.lost is not None:
                return []
            await self._tend(oldest)
        over = list(takewhile(lambda each: each.is_over, self._open))
        for flight in over:
            self._open.popleft()
            self._acknowledgements.forget(flight.reply)
        self._landed_at = self._clock()
        return over

    def give_up(self, reason: str) -> None:
        """The broker is lost: wait for nothing any more."""
        if self.lost is None:
            self.lost = reason
            log.warning(
                "publisher.broker_lost", reason=reason, unanswered=len(self), connected=self._client.is_connected
            )

    def close(self) -> None:
        """What comes now comes too late."""
        for flight in self._open:
            self._acknowledgements.forget(flight.reply)

    @property
    def _connection(self) -> int:
        return connection_of(self._client)

    @property
    def _is_cut(self) -> bool:
        return self._only_over is not None and self._connection != self._only_over

    @property
    def _can_send(self) -> bool:
        is_ready = self._client.is_connected and self._client.pending_data_size < _MOST_UNSENT_BYTES
        return is_ready and not self._is_cut

    async def _tend(self, oldest: F) -> None:
        """One step of waiting for it."""
        now = self._clock()
        silence = now - max(self._landed_at, oldest.begun_at)
        if silence >= REQUEST_SECONDS or now >= self._deadline or self._client.is_closed or self._is_cut:
            self._lose(oldest)
        elif self._must_go_again(oldest):
            if any(each.is_stored for each in self._open):
                self._lose(oldest)
            else:
                await self._send_again()
        elif oldest.answer is None or oldest.answer.done():
            await asyncio.sleep(_POLL_SECONDS)
        else:
            await asyncio.wait({oldest.answer}, timeout=_POLL_SECONDS)

    def _must_go_again(self, oldest: F) -> bool:
        if not self._can_send:
            return False
        if oldest.connection != self._connection:
            return True
        silence = self._clock() - max(self._landed_at, oldest.sent_at)
        if oldest.acknowledgement is not None and silence >= _POLL_SECONDS:  # it is one that bids us wait
            return silence >= ATTEMPT_SECONDS or all(each.acknowledgement for each in self._open)
        return silence >= ATTEMPT_SECONDS

    async def _send_again(self) -> None:
        connection = self._connection
        for flight in self._open:
            if flight.is_over:
                continue
            if not self._can_send or self._connection != connection:
                return
            await self._transmit(flight)

    async def _transmit(self, flight: F) -> None:
        if flight.answer is None or flight.answer.done():
            self._acknowledgements.forget(flight.reply)
            flight.reply, flight.answer = self._acknowledgements.expect()
        else:
            flight.is_uncertain = True
        flight.is_sent = True
        flight.sent_at = self._clock()
        flight.connection = self._connection
        try:
            await heeding_cancellation(self._client.publish(flight.subject, flight.body, flight.reply, flight.headers))
        except (nats.errors.MaxPayloadError, nats.errors.BadSubjectError, nats.errors.BadHeaderError) as error:
            if not flight.answer.done():
                flight.answer.set_result(Acknowledgement(error=ApiError(400, 0, str(error))))
        except (OSError, nats.errors.Error) as error:
            log.warning("publisher.not_sent", reason=str(error) or type(error).__name__)

    def _lose(self, oldest: F) -> None:
        answer = oldest.acknowledgement
        self.give_up(answer.error.description if answer and answer.error else "no answer")
