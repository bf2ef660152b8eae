"""Commands: what somebody wants done with an order, on its way to the service that owns the order.

A command waits in the work queue COMMANDS until an order service has taken it and acknowledged it, or until the worker
gives it up (`streams.expiry`). What the service has decided it publishes as an event of the order.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from enum import StrEnum
from typing import TYPE_CHECKING

import msgspec
import structlog
from msgspec import UNSET, UnsetType

from streams.broker import REQUEST_SECONDS
from streams.cursor import Cursor, InvalidCursor
from streams.errors import BrokerUnavailable, JetStreamRefused, StreamsError
from streams.events import Command, EventId, Id, NotificationTarget, Text, UtcTime
from streams.log import read_message
from streams.provision import COMMANDS, IDEMPOTENCY
from streams.storing import WRONG_LAST_SEQUENCE, store
from streams.subjects import command_subject, idempotency_subject

if TYPE_CHECKING:
    from collections.abc import Callable

    from nats.aio.client import Client

_log = structlog.get_logger()


class KeyReused(StreamsError):
    """The same caller has asked for something else under this idempotency key."""

    def __init__(self) -> None:
        super().__init__("this Idempotency-Key was used for another command; take a new one for each")


class MalformedCommand(StreamsError, ValueError):
    """A message that is no command, or of a kind that this version does not know."""


class Capacity(StrEnum):
    """As what somebody sends a command."""

    STAFF = "staff"
    DEVICE = "device"
    CUSTOMER = "customer"
    COURIER = "courier"
    SERVICE = "service"


class SentBy(msgspec.Struct, frozen=True, gc=False, rename={"capacity": "as"}):
    """Who sends a command: the identity that the token or the pass says, and as what."""

    identity: str
    capacity: Capacity


class OrderCommand(msgspec.Struct, frozen=True, kw_only=True, gc=False, rename="camel"):
    """What stands in COMMANDS: the contract with order services (docs/commands.md).

    Attributes:
        command_id: the answer's `commandId`.
        customer_key: the customer as subjects name them.
        target: the side that is told if the command is refused or expires: `target` of that event.
        expires_at: who has not published an answer by then must not begin.
        cursor: where the gateway was in the log when it let the command through: who keeps orders from the log has to
            have read so far to know what the sender knew.
    """

    command_id: EventId
    command: Command
    order_id: Id
    restaurant_id: Id
    customer_key: Id
    sent_by: SentBy
    target: NotificationTarget
    sent_at: UtcTime
    expires_at: UtcTime
    cursor: str
    reason: Text | UnsetType = UNSET
    estimated_delivery_time: UtcTime | UnsetType = UNSET
    schema_version: int = 1

    @property
    def subject(self) -> str:
        """Where it stands in COMMANDS."""
        return command_subject(self.restaurant_id, self.order_id, self.command)

    def asks_the_same(self, other: OrderCommand) -> bool:
        """Whether it is the same request again, apart from id and times."""
        return _asked(self) == _asked(other)


_command_decoder = msgspec.json.Decoder(OrderCommand)


def decode_command(body: bytes) -> OrderCommand:
    """Raises MalformedCommand."""
    try:
        return _command_decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedCommand(str(error)) from error


def answer_id(command_id: str) -> str:
    """The `eventId` of a command's answer, whoever gives it: so the log takes one answer and no second."""
    return f"answer-{command_id}"


def log_position(command: OrderCommand, epoch: str) -> int:
    """The sequence in the log called `epoch` beyond which the command's answer stands; 0 where that is not known."""
    try:
        cursor = Cursor.parse(command.cursor)
    except InvalidCursor:
        return 0
    return cursor.sequence if cursor.epoch == epoch else 0


class Commands:
    """Sends commands over `client`, whose user must be one that may, as `gateway`."""

    def __init__(self, client: Client, now: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC)) -> None:
        self._client = client
        self._now = now

    async def send(self, command: OrderCommand, *, caller_key: str, idempotency_key: str | None = None) -> OrderCommand:
        """Put the command into the work queue, within 2 s. Returns what was sent.

        Under an `idempotency_key` that is the command that `caller_key` has sent under it before, if it did: with that
        one's id and times. It is not sent again, unless it may have been lost on its way. Keys are remembered for
        `streams.provision.IDEMPOTENCY_SECONDS`.

        Raises:
            KeyReused: what was sent under this key is another command.
            BrokerUnavailable, JetStreamRefused: it may have been sent, and may be sent again under the same key.
        """
        clock = asyncio.get_running_loop().time
        deadline = clock() + REQUEST_SECONDS
        if idempotency_key is not None:
            remembered = await self._remembered(command, idempotency_subject(caller_key, idempotency_key), deadline)
            if remembered is not command and remembered.expires_at <= self._now():
                return remembered
            command = remembered
        await store(
            self._client,
            COMMANDS,
            command.subject,
            msgspec.json.encode(command),
            message_id=command.command_id,
            budget_seconds=deadline - clock(),
        )
        _log.debug("command.sent", command_id=command.command_id, command=command.command)
        return command

    async def _remembered(self, command: OrderCommand, subject: str, deadline: float) -> OrderCommand:
        """The command that stands under an idempotency key: `command` itself, where it is the first one."""
        clock = asyncio.get_running_loop().time
        body = msgspec.json.encode(command)
        while (left := deadline - clock()) > 0:
            try:
                await store(
                    self._client,
                    IDEMPOTENCY,
                    subject,
                    body,
                    message_id=command.command_id,
                    after=(subject, 0),
                    budget_seconds=left,
                )
            except JetStreamRefused as refusal:
                if refusal.err_code != WRONG_LAST_SEQUENCE:
                    raise
            else:
                return command
            left = deadline - clock()
            found = await read_message(self._client, IDEMPOTENCY, {"last_by_subj": subject}, budget_seconds=left)
            if found is None:  # it was just old enough to be forgotten
                continue
            first = decode_command(found.data)
            if not first.asks_the_same(command):
                raise KeyReused
            return command if first.command_id == command.command_id else first
        raise BrokerUnavailable(subject, REQUEST_SECONDS, "no time")


def _asked(command: OrderCommand) -> tuple[object, ...]:
    return (
        command.command,
        *(command.order_id, command.restaurant_id, command.customer_key),
        *(command.reason, command.estimated_delivery_time),
    )
