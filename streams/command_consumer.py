"""The order service's side of the work queue COMMANDS: commands, each kept by the broker until it is done with."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import nats.errors
import structlog

from streams.broker import ApiAnswer, ask_jetstream, heeding_cancellation
from streams.commands import MalformedCommand, OrderCommand, decode_command
from streams.errors import BrokerUnavailable
from streams.provision import COMMANDS
from streams.subjects import COMMAND_SUBJECTS

if TYPE_CHECKING:
    from nats.aio.client import Client
    from nats.aio.msg import Msg
    from nats.js.client import JetStreamContext

DURABLE = "order-service"

ACK_WAIT_SECONDS = 10.0
"""What was taken and not done with in this time is given out again, to any of those who take."""

_LATER_SECONDS = 5.0
_ACKNOWLEDGE_SECONDS = 2.0
_MAX_TAKEN = 1_000  # at once, by all who take
_SECOND = 1_000_000_000

_log = structlog.get_logger()


class TakenCommand:
    """A command that this process has taken: `done` or `later`, or it is given out again after ACK_WAIT_SECONDS."""

    def __init__(self, command: OrderCommand, message: Msg) -> None:
        self.command = command
        self._message = message

    async def done(self) -> None:
        """Its answer is in the log: returns when the broker has taken it out of the queue. Raises BrokerUnavailable."""
        try:
            await heeding_cancellation(self._message.ack_sync(_ACKNOWLEDGE_SECONDS))
        except (OSError, nats.errors.Error) as error:
            raise BrokerUnavailable("an acknowledgement", _ACKNOWLEDGE_SECONDS, _reason(error)) from error

    async def later(self) -> None:
        """Not now: it is given out again in 5 s, to this or another process."""
        try:
            await heeding_cancellation(self._message.nak(_LATER_SECONDS))
        except (OSError, nats.errors.Error) as error:
            _log.debug("command.not_put_back", reason=_reason(error))  # it is given out again all the same


class CommandConsumer:
    """Takes commands over `client`, whose user must be one that may, as `orders`.

    All processes that name the same `durable` share the work. A queue has one consumer for each subject: services that
    own different restaurants' orders each name a durable and filters of their own, which must not overlap.
    """

    def __init__(
        self,
        client: Client,
        *,
        durable: str = DURABLE,
        filters: tuple[str, ...] = (COMMAND_SUBJECTS,),
        ack_wait_seconds: float = ACK_WAIT_SECONDS,
    ) -> None:
        self._client = client
        self._durable = durable
        self._name = f"{COMMANDS}.{durable}"
        self._filters = filters
        self._ack_wait_seconds = ack_wait_seconds
        self._subscription: JetStreamContext.PullSubscription | None = None

    async def take(self, most: int, within_seconds: float) -> list[TakenCommand]:
        """The oldest commands that nobody has taken, `most` at most; none, if there are none `within_seconds`.

        Raises:
            BrokerUnavailable, JetStreamRefused: as when another consumer has these subjects.
        """
        if not self._client.is_connected:  # nats-py would ask when nobody waits for the answer any more
            raise BrokerUnavailable(self._name, 0, "not connected")
        subscription = self._subscription or await self._open()
        try:
            messages = await heeding_cancellation(subscription.fetch(most, within_seconds))
        except TimeoutError:  # nats-py's own is one, too
            return []
        except (OSError, nats.errors.Error) as error:  # as where the consumer was removed
            await self._close(subscription)
            raise BrokerUnavailable(self._name, within_seconds, _reason(error)) from error
        return [taken for message in messages if (taken := await _taken(message)) is not None]

    async def _open(self) -> JetStreamContext.PullSubscription:
        """The durable consumer, made where it is missing."""
        configuration = {
            "durable_name": self._durable,
            "filter_subjects": list(self._filters),
            "ack_policy": "explicit",
            "ack_wait": int(self._ack_wait_seconds * _SECOND),
            "deliver_policy": "all",
            "max_deliver": -1,
            "max_ack_pending": _MAX_TAKEN,
        }
        await ask_jetstream(
            self._client,
            f"CONSUMER.DURABLE.CREATE.{COMMANDS}.{self._durable}",
            {"stream_name": COMMANDS, "config": configuration},
            ApiAnswer,
        )
        try:
            bound = await self._client.jetstream().pull_subscribe_bind(consumer=self._durable, stream=COMMANDS)
        except (OSError, nats.errors.Error) as error:
            raise BrokerUnavailable(self._name, 0, _reason(error)) from error
        self._subscription = bound
        return bound

    async def _close(self, subscription: JetStreamContext.PullSubscription) -> None:
        self._subscription = None
        with suppress(OSError, nats.errors.Error):  # then it was gone before
            await heeding_cancellation(subscription.unsubscribe())


async def _taken(message: Msg) -> TakenCommand | None:
    """None where it can't be read: it may be for a newer version of this service; in the end the worker drops it."""
    try:
        return TakenCommand(decode_command(message.data), message)
    except MalformedCommand as error:
        _log.warning("command.unreadable", subject=message.subject, reason=str(error))
        return None


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__
