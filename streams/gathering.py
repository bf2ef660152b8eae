"""Scatter-gather over core NATS: one question to every gateway process, and their answers for a bounded time.

Nobody keeps a list of the processes. Each announces itself now and then, and says in every answer which ones it has
heard of (`Roster`). So whoever asks knows from the first answer on whose are missing, and is done when none is.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Generic, TypeVar

import msgspec
import nats.errors
import structlog

from streams.broker import heeding_cancellation
from streams.errors import StreamsError
from streams.intake import RawMessage, tap, untap

if TYPE_CHECKING:
    from nats.aio.client import Client
    from nats.aio.subscription import Subscription

FORGOTTEN_AFTER = 3
"""A process is forgotten when we have heard ourselves so many times, and it not once."""

ANSWERS = "passline.answers"
"""Below it, by the asker's user, stands what answers are sent to."""

_log = structlog.get_logger()


class NobodyAnswered(StreamsError):
    """No gateway process answered: there is none, or the broker is away. Temporary, and nothing is known by it."""

    def __init__(self, subject: str, waited_seconds: float, reason: str) -> None:
        self.subject, self.waited_seconds, self.reason = subject, waited_seconds, reason
        super().__init__(f"no gateway answered {subject} within {waited_seconds:g} s ({reason})")


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What one process answers; a subclass adds what it was asked for.

    `process` is its name, and `alive` are the processes that it has heard of, itself among them.
    """

    process: str
    alive: tuple[str, ...]


A = TypeVar("A", bound=Answer)


class Gathered(msgspec.Struct, Generic[A], frozen=True):
    """Answers, one of each process. `is_complete` says that every process answered that any of these had heard of."""

    answers: tuple[A, ...]
    is_complete: bool


class Roster:
    """The processes that one of them has heard of.

    What counts is not time but how often it has heard itself, by the same broker: while that is away nobody is heard,
    and nobody is forgotten.
    """

    def __init__(self, itself: str) -> None:
        self._itself = itself
        self._round = 0
        self._heard = {itself: 0}

    @property
    def alive(self) -> tuple[str, ...]:
        """Itself among them."""
        return tuple(self._heard)

    def heard(self, process: str) -> None:
        """A process has announced itself."""
        if process == self._itself:
            self._round += 1
        self._heard[process] = self._round
        if process == self._itself:
            since = self._round - FORGOTTEN_AFTER
            self._heard = {each: at for each, at in self._heard.items() if at > since or each == self._itself}

    def left(self, process: str) -> None:
        """A process has said that it ends."""
        if process != self._itself:
            self._heard.pop(process, None)


async def gather(client: Client, subject: str, question: bytes, kind: type[A], *, seconds: float) -> Gathered[A]:
    """Ask every process, and wait until all have answered, but for `seconds` at most.

    `client` is one of `broker.connect`.

    Raises:
        NobodyAnswered
    """
    if not client.is_connected:  # nats-py would keep the question and send it much later
        raise NobodyAnswered(subject, 0, "not connected")
    answers = _Answers(kind)
    subscription: Subscription | None = None
    reason = "no answer"
    try:
        async with asyncio.timeout(seconds):
            reply = _reply_subject(client)
            subscription = await heeding_cancellation(client.subscribe(reply))
            tap(client, subscription, answers.take)
            await heeding_cancellation(client.publish(subject, question, reply=reply))
            await answers.done.wait()
    except TimeoutError:
        pass
    except (OSError, nats.errors.Error) as error:
        reason = str(error) or type(error).__name__
    finally:
        if subscription is not None:
            await _leave(client, subscription)
    if not answers.by_process:
        raise NobodyAnswered(subject, seconds, "nobody listens" if answers.done.is_set() else reason)
    return Gathered(tuple(answers.by_process.values()), answers.done.is_set())


class _Answers(Generic[A]):
    """Those that have come. `done` is set when no further one is due."""

    def __init__(self, kind: type[A]) -> None:
        self._decoder = msgspec.json.Decoder(kind)
        self._expected: set[str] = set()
        self.by_process: dict[str, A] = {}
        self.done = asyncio.Event()

    def take(self, message: RawMessage) -> None:
        _, _, headers, body = message
        if headers:  # the server's own word (503): nobody listens to what was asked
            self.done.set()
            return
        try:
            answer = self._decoder.decode(body)
        except msgspec.MsgspecError as error:
            _log.warning("presence.answer_not_understood", reason=str(error))
            return
        self.by_process[answer.process] = answer
        self._expected.update(answer.alive)
        if self._expected <= self.by_process.keys():
            self.done.set()


def _reply_subject(client: Client) -> str:
    """One that a gateway may publish to: another user's inbox is none. The other way, `allow_responses` in nats.conf,
    would have the server note every message of the log that it delivers to a gateway.
    """
    return f"{ANSWERS}.{client.new_inbox().removeprefix('_INBOX_')}"


async def _leave(client: Client, subscription: Subscription) -> None:
    untap(client, subscription)
    if client.is_closed or client.is_draining:
        return
    with suppress(OSError, nats.errors.Error):  # the connection went away, and the subscription with it
        await heeding_cancellation(subscription.unsubscribe())
