"""The log, which is the stream EVENTS: its state, and single entries of it."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from streams.broker import REQUEST_SECONDS, STREAM_NOT_FOUND, ApiAnswer, ask_jetstream, stream_info
from streams.errors import AnswerNotUnderstood, EpochMissing, JetStreamRefused, StreamMissing

if TYPE_CHECKING:
    from nats.aio.client import Client

EVENTS = "EVENTS"

_SECOND = 1_000_000_000

# An `err_code` of JetStream's API.
_NO_MESSAGE_FOUND = 10037


class LogState(NamedTuple):
    """What the leader of EVENTS says of it at one moment.

    `first` is the sequence of the oldest entry; in an empty log the one that the next entry will get, so that
    `first == last + 1`. `leader` is the server's name, None while there is none.
    """

    epoch: str
    first: int
    last: int
    leader: str | None


class Stored(msgspec.Struct, frozen=True):
    """One entry as the stream holds it. `time_ns` is the log's own time in Unix nanoseconds."""

    sequence: int
    subject: str
    data: bytes
    headers: dict[str, str]
    time_ns: int

    @property
    def time(self) -> float:
        """The same in Unix seconds, which a float holds to the microsecond."""
        return self.time_ns / _SECOND


class _Message(msgspec.Struct):
    subject: str
    seq: int
    time: str
    hdrs: bytes = b""
    data: bytes = b""


class _MessageAnswer(ApiAnswer):
    message: _Message | None = None


class Log:
    """EVENTS as one connection sees it, asked of the stream's leader, so that no answer is behind it.

    Each call takes 2 s at most, its retries included, and raises BrokerUnavailable after that; StreamMissing if there
    is no such stream.
    """

    def __init__(self, client: Client) -> None:
        self._client = client

    async def state(self) -> LogState:
        """Raises EpochMissing besides."""
        info = await stream_info(self._client, EVENTS)
        if info.state is None:
            raise AnswerNotUnderstood(f"STREAM.INFO.{EVENTS}", "no state")
        leader = info.cluster.leader if info.cluster else ""
        # A stream that never held anything says 0 and 0.
        return LogState(epoch_of(info.config), max(1, info.state.first_seq), info.state.last_seq, leader or None)

    async def next_match(self, after: int, filter_subject: str) -> Stored | None:
        """The first entry beyond `after` whose subject matches; None if there is none up to the log's end."""
        return await self._message({"seq": after + 1, "next_by_subj": filter_subject})

    async def last_match(self, filter_subject: str) -> Stored | None:
        """The last entry whose subject matches; None if there is none."""
        return await self._message({"last_by_subj": filter_subject})

    async def get(self, sequence: int) -> Stored | None:
        """The entry at `sequence`; None if the log does not hold it, or does not yet."""
        return await self._message({"seq": sequence}) if sequence > 0 else None

    async def _message(self, query: dict[str, object]) -> Stored | None:
        return await read_message(self._client, EVENTS, query)


async def read_message(
    client: Client, stream: str, query: dict[str, object], *, budget_seconds: float = REQUEST_SECONDS
) -> Stored | None:
    """The message of a stream that `query` asks its leader for, as STREAM.MSG.GET has it; None if there is none.

    Raises StreamMissing besides what `ask_jetstream` raises.
    """
    operation = f"STREAM.MSG.GET.{stream}"
    try:
        answer = await ask_jetstream(client, operation, query, _MessageAnswer, budget_seconds=budget_seconds)
    except JetStreamRefused as refusal:
        if refusal.err_code == _NO_MESSAGE_FOUND:
            return None
        if refusal.err_code == STREAM_NOT_FOUND:
            raise StreamMissing(stream) from refusal
        raise
    if (message := answer.message) is None:
        raise AnswerNotUnderstood(operation, "no message")
    return Stored(message.seq, message.subject, message.data, _headers(message.hdrs), _nanoseconds(message.time))


def epoch_of(configuration: dict[str, Any]) -> str:
    """The epoch that a stream's configuration carries. Raises EpochMissing."""
    epoch = configuration.get("metadata", {}).get("epoch", "")
    # What a cursor's text can carry.
    if re.fullmatch(r"[A-Za-z0-9]{1,32}", epoch) is None:
        raise EpochMissing(configuration.get("name", EVENTS))
    return str(epoch)


def _headers(block: bytes) -> dict[str, str]:
    r"""The headers in `NATS/1.0\r\nName: value\r\n…\r\n` (NATS ADR-4). Of a repeated name the first, as the server."""
    headers: dict[str, str] = {}
    for line in block.split(b"\r\n")[1:]:
        name, colon, value = line.partition(b":")
        if colon:
            headers.setdefault(name.decode(errors="replace"), value.strip().decode(errors="replace"))
    return headers


def _nanoseconds(moment: str) -> int:
    """Unix time of what the server writes: RFC 3339 in UTC with up to nine digits of a second."""
    seconds, _, fraction = moment.removesuffix("Z").partition(".")
    whole = int(datetime.fromisoformat(seconds).replace(tzinfo=UTC).timestamp())
    return whole * _SECOND + int(fraction.ljust(9, "0"))
