"""Whose a workflow is before the order service has said so: whoever claims it first. The broker decides who that is."""

from __future__ import annotations

import datetime as dt
import hashlib
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from streams.broker import request
from streams.entry import judge
from streams.errors import AnswerNotUnderstood, JetStreamRefused
from streams.events import WorkflowBound, encode
from streams.flights import Acknowledgement, is_temporary
from streams.subjects import identity_key, workflow_filter

if TYPE_CHECKING:
    from nats.aio.client import Client
    from nats.aio.msg import Msg

    from streams.log import Log

_OPERATION = "a workflow's claim"
_WRONG_LAST_SEQUENCE = 10071  # an `err_code` of JetStream
_answer = msgspec.json.Decoder(Acknowledgement)


class Claim(NamedTuple):
    """Where a workflow's first claim stands in the log, and whether it was made just now."""

    sequence: int
    is_new: bool


class Bindings:
    """Claims over `client`, whose user must be one that may publish them and read the log.

    Each call raises BrokerUnavailable, if it has no answer within 2 s, and StreamMissing.
    """

    def __init__(self, client: Client, log: Log) -> None:
        self._client = client
        self._log = log

    async def claim(self, correlation_id: str, user_id: str) -> Claim:
        """Bind a workflow to a user, unless somebody has bound it before: then that stays as it is.

        The claim of one user is one event however often it is made, so that the broker knows it again.

        Raises:
            JetStreamRefused: the stream takes no events.
        """
        event = WorkflowBound(
            event_id=_event_id(correlation_id, identity_key(user_id)),
            occurred_on_utc=dt.datetime.now(dt.UTC),
            correlation_id=correlation_id,
            user_id=user_id,
        )
        subject = event.log_subject()
        headers = {"Nats-Msg-Id": event.event_id, "Nats-Expected-Last-Subject-Sequence": "0"}
        message = await request(self._client, subject, encode(event), headers=headers, why_again=_why_again)
        answer = _understood(message)
        if answer.error is None:
            return Claim(answer.seq, is_new=not answer.duplicate)
        if answer.error.err_code == _WRONG_LAST_SEQUENCE:
            first = await self._log.next_match(0, subject)
            if first is not None:
                return Claim(first.sequence, is_new=False)
        raise JetStreamRefused(_OPERATION, answer.error.code, answer.error.err_code, answer.error.description)

    async def first_heard_of(self, correlation_id: str) -> int | None:
        """Where the workflow's first event stands in the log, None if there is none."""
        after, subjects = 0, workflow_filter(correlation_id)
        while (found := await self._log.next_match(after, subjects)) is not None:
            if judge(found.sequence, found.time, found.subject, found.data).kind is not None:
                return found.sequence
            after = found.sequence
        return None


def _event_id(correlation_id: str, user_key: str) -> str:
    return "WorkflowBound-" + hashlib.sha256(f"{correlation_id}/{user_key}".encode()).hexdigest()[:40]


def _understood(message: Msg) -> Acknowledgement:
    try:
        return _answer.decode(message.data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise AnswerNotUnderstood(_OPERATION, str(error)) from error


def _why_again(message: Msg) -> str | None:
    error = _understood(message).error
    return error.description if error is not None and is_temporary(error) else None
