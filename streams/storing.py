"""One message into a stream, with JetStream's acknowledgement."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from streams.broker import REQUEST_SECONDS, request
from streams.errors import AnswerNotUnderstood, JetStreamRefused
from streams.flights import Acknowledgement

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nats.aio.client import Client
    from nats.aio.msg import Msg

WRONG_LAST_SEQUENCE = 10071
"""An `err_code` of JetStream: on the subjects that were named there is something newer than was expected."""

# The same message, or another one of those subjects, is not on all of a cluster's replicas yet.
_IN_PROCESS = frozenset({10158, 10164})


async def store(
    client: Client,
    stream: str,
    subject: str,
    body: bytes,
    *,
    message_id: str,
    after: tuple[str, int] | None = None,
    budget_seconds: float = REQUEST_SECONDS,
) -> Acknowledgement:
    """Returns when `stream` has it on the disk. What has no answer is sent again with the same `message_id`.

    `after` are subjects and the sequence of the last message on them: where there is a newer one, it is refused.

    Raises:
        JetStreamRefused: with WRONG_LAST_SEQUENCE for that, and for other reasons, as where the stream is full.
        BrokerUnavailable, AnswerNotUnderstood, MessageNotSendable
    """
    headers = {"Nats-Msg-Id": message_id, "Nats-Expected-Stream": stream, **_expectation(after)}

    def why_again(message: Msg) -> str | None:
        error = _understood(message, subject).error
        if error is not None and (error.code == 503 or error.err_code in _IN_PROCESS):
            return error.description
        return None

    message = await request(client, subject, body, headers=headers, budget_seconds=budget_seconds, why_again=why_again)
    answer = _understood(message, subject)
    if answer.error is not None:
        raise JetStreamRefused(subject, answer.error.code, answer.error.err_code, answer.error.description)
    return answer


def _expectation(after: tuple[str, int] | None) -> Mapping[str, str]:
    if after is None:
        return {}
    subjects, sequence = after
    return {
        "Nats-Expected-Last-Subject-Sequence": str(sequence),
        "Nats-Expected-Last-Subject-Sequence-Subject": subjects,
    }


def _understood(message: Msg, subject: str) -> Acknowledgement:
    try:
        return msgspec.json.decode(message.data, type=Acknowledgement)
    except msgspec.MsgspecError as error:
        raise AnswerNotUnderstood(subject, str(error)) from error
