"""What no order service has taken in time: given up, and told to whoever sent it.

A command that a service has acknowledged is gone from the work queue COMMANDS. So the oldest one that is still there
and overdue is answered with `CommandExpired`, and removed. That answer has the id that any answer of this command has:
the log takes either it or the service's, whichever comes first, and any number of workers may do this at once.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from typing import TYPE_CHECKING

import structlog

from streams.broker import ApiAnswer, ask_jetstream
from streams.commands import MalformedCommand, OrderCommand, answer_id, decode_command, log_position
from streams.errors import BrokerUnavailable, JetStreamRefused, StreamsError
from streams.events import CommandExpired
from streams.history import OrderHistory, OrderKey
from streams.log import read_message
from streams.provision import COMMANDS
from streams.publisher import ProblemKind, Publisher
from streams.snapshots import OrderOwner
from streams.subjects import COMMAND_SUBJECTS, is_hashed

if TYPE_CHECKING:
    from collections.abc import Callable

    from nats.aio.client import Client

    from streams.log import Log, Stored

MARGIN_SECONDS = 5.0
"""So much later than a command says it is given up: a service that began in time can finish, and clocks may differ."""

_POLL_SECONDS = 1.0

# What this version can't read may be a newer gateway's.
_UNREADABLE_SECONDS = 3_600.0

_NO_SUCH_MESSAGE = frozenset({10037, 10057})  # `err_code`s of JetStream

_log = structlog.get_logger()


class CommandExpiry:
    """Runs over `client`, whose user must be one that may, as `worker`."""

    def __init__(
        self,
        client: Client,
        log: Log,
        *,
        margin_seconds: float = MARGIN_SECONDS,
        now: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
    ) -> None:
        self._client = client
        self._log = log
        self._history = OrderHistory(client, log)
        self._publisher = Publisher(client, log, self._known_owner)
        self._owner: OrderOwner | None = None  # of the order that is dealt with
        self._margin = dt.timedelta(seconds=margin_seconds)
        self._now = now
        self._halted: str | None = None

    async def run(self) -> None:
        """Until cancelled. A broker that is away is waited for."""
        while True:
            try:
                pause = await self.expire_due()
                self._halted = None
            except StreamsError as error:
                pause = _POLL_SECONDS
                if self._halted is None:
                    _log.warning("command_expiry.halted", reason=str(error))
                self._halted = str(error)
            await asyncio.sleep(pause)

    async def expire_due(self) -> float:
        """Give up what is overdue, the oldest first. Returns after how many seconds to look again.

        All commands are given the same time, so behind one that is not due there is none that is; where the setting was
        changed a moment ago, one may wait for another.

        Raises:
            StreamsError: some are left.
        """
        after = 0
        while (found := await self._next(after)) is not None:
            after = found.sequence
            try:
                command = decode_command(found.data)
            except MalformedCommand as error:
                await self._pass_over(found, str(error))
                continue
            left = (command.expires_at + self._margin - self._now()).total_seconds()
            if left > 0:
                return min(left, _POLL_SECONDS)
            await self._expire(command)
            await self._remove(found)
        return _POLL_SECONDS

    async def _expire(self, command: OrderCommand) -> None:
        """See to it that the log has an answer."""
        if await self._is_answered(command):
            return
        customer_id = await self._customer_id(command)
        if customer_id is None:
            _log.error("command.dropped", command_id=command.command_id, reason="the log has nothing of its order")
            return
        expired = CommandExpired(
            event_id=answer_id(command.command_id),
            occurred_on_utc=command.expires_at,  # the same whoever gives it up, and whenever
            order_id=command.order_id,
            restaurant_id=command.restaurant_id,
            customer_id=customer_id,
            command_id=command.command_id,
            command=command.command,
            target=command.target,
        )

        self._owner = OrderOwner(command.restaurant_id, command.customer_key)
        [result] = await self._publisher.publish([expired])
        if result.kind is ProblemKind.UNAVAILABLE:
            raise BrokerUnavailable(expired.log_subject(), 0, result.problem or "no answer")
        if result.problem is None:
            _log.info("command.expired", command_id=command.command_id, command=command.command)
        elif not await self._is_answered(command):  # its service may have been faster by a moment
            _log.error("command.dropped", command_id=command.command_id, reason=result.problem)

    async def _known_owner(self, _: str) -> OrderOwner | None:
        """The gateway has asked for it, when it let the command through."""
        return self._owner

    async def _is_answered(self, command: OrderCommand) -> bool:
        """Whether the log has an answer, which its service has not acknowledged the command for."""
        after = log_position(command, (await self._log.state()).epoch)
        past = await self._history.read(_order(command), after)
        return any(event.command_id == command.command_id for event in past.events)

    async def _customer_id(self, command: OrderCommand) -> str | None:
        """The customer as events name them; where the key is a hash, an event in the log tells."""
        if not is_hashed(command.customer_key):
            return command.customer_key
        past = await self._history.read(_order(command))
        return past.events[0].customer_id if past.events else None

    async def _pass_over(self, found: Stored, reason: str) -> None:
        if self._now().timestamp() - found.time > _UNREADABLE_SECONDS:
            _log.error("command.dropped", sequence=found.sequence, reason=reason)
            await self._remove(found)

    async def _next(self, after: int) -> Stored | None:
        return await read_message(self._client, COMMANDS, {"seq": after + 1, "next_by_subj": COMMAND_SUBJECTS})

    async def _remove(self, found: Stored) -> None:
        """It may have been acknowledged, or removed by another worker, in between."""
        query = {"seq": found.sequence, "no_erase": True}
        try:
            await ask_jetstream(self._client, f"STREAM.MSG.DELETE.{COMMANDS}", query, ApiAnswer)
        except JetStreamRefused as refusal:
            if refusal.err_code not in _NO_SUCH_MESSAGE:
                raise


def _order(command: OrderCommand) -> OrderKey:
    return OrderKey(command.restaurant_id, command.customer_key, command.order_id)
