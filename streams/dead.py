"""Dead letters: what of the log can't be applied, set aside on the bounded stream DEAD with the reason."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

import msgspec
import structlog

from streams.broker import ApiAnswer, request
from streams.cursor import Cursor
from streams.errors import AnswerNotUnderstood, JetStreamRefused
from streams.provision import DEAD

if TYPE_CHECKING:
    from nats.aio.client import Client

    from streams.entry import Entry
    from streams.log import Log

_log = structlog.get_logger()


class DeadLetter(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """What stands on DEAD: where the entry stands in the log, why it was set aside, and its body.

    `body` is its text; a body that is not UTF-8 is in `body_base64` instead. Neither, where the log has lost it since.
    """

    cursor: str
    subject: str
    time: float
    reason: str
    body: str | None = None
    body_base64: str | None = None


class DeadLetters:
    """Publishes to DEAD. The message id is the entry's cursor, so that one set aside again is stored once."""

    def __init__(self, client: Client, log: Log, epoch: str) -> None:
        self._client = client
        self._log = log
        self._epoch = epoch

    async def set_aside(self, entry: Entry, reason: str) -> None:
        """Returns when JetStream has stored it.

        Raises:
            BrokerUnavailable, JetStreamRefused
        """
        cursor = str(Cursor(self._epoch, entry.sequence))
        stored = await self._log.get(entry.sequence)
        text, binary = _readable(stored.data) if stored is not None else (None, None)
        letter = DeadLetter(cursor, entry.subject, entry.time, reason, text, binary)
        operation = f"dead.{entry.subject.split('.')[0]}"
        message = await request(self._client, operation, msgspec.json.encode(letter), headers={"Nats-Msg-Id": cursor})
        try:
            answer = msgspec.json.decode(message.data, type=ApiAnswer)
        except msgspec.MsgspecError as error:
            raise AnswerNotUnderstood(f"a publish to {DEAD}", str(error)) from error
        if answer.error is not None:
            raise JetStreamRefused(operation, answer.error.code, answer.error.err_code, answer.error.description)
        _log.warning("dead_letter", cursor=cursor, subject=entry.subject, reason=reason)


def _readable(body: bytes) -> tuple[str | None, str | None]:
    try:
        return body.decode(), None
    except UnicodeDecodeError:
        return None, base64.b64encode(body).decode()
