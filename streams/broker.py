"""The broker as Passline uses it: a connection, requests over it, and questions to JetStream.

JetStream's API is spoken as JSON over requests: nats-py's own configuration types know fewer fields than the server,
and a drift is found only in what the server says. Durations are its nanoseconds. No nats-py error leaves this module.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import SplitResult, unquote, urlsplit

import msgspec
import nats.errors
import structlog
from nats.aio.client import Client
from nats.aio.transport import TcpTransport

from streams.errors import (
    AnswerNotUnderstood,
    BrokerRefusedCredentials,
    BrokerUnavailable,
    BrokerUnreachable,
    BrokerUrlInvalid,
    JetStreamRefused,
    MessageNotSendable,
    StreamMissing,
)
from streams.intake import TappingParser

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from nats.aio.msg import Msg

# What a request may take in all, its retries included, and one attempt of it: what a dying server or a hung replica
# swallowed is asked again while there is time.
REQUEST_SECONDS = 2.0
ATTEMPT_SECONDS = 1.0
CONNECT_SECONDS = 5.0

# A hung server is noticed after three of these; by nats-py's default after six minutes.
PING_SECONDS = 2
RECONNECT_WAIT_SECONDS = 0.25
# Unsent bytes from which on a publish waits for the socket, and how long it then does.
PENDING_BYTES = 8 * 1024 * 1024
FLUSH_SECONDS = 1
CLOSE_SECONDS = 2.0

_POLL_SECONDS = 0.02

# An `err_code` of JetStream's API.
STREAM_NOT_FOUND = 10059

log = structlog.get_logger()

R = TypeVar("R")


# -- Connection ------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def connect(
    url: str,
    *,
    name: str,
    inbox_prefix: str,
    on_closed: Callable[[], None],
    timeout_seconds: float = CONNECT_SECONDS,
) -> AsyncIterator[Client]:
    """A connection that comes back by itself, however long that takes.

    `url` may name several servers of one cluster, separated by commas; user and password stand in the first one.
    `inbox_prefix` is the one that the user may subscribe to (`credentials.inbox_prefix`). `on_closed` is called when
    the connection ends for good and we didn't end it, as after a breach of the protocol: the process should end, too.

    Raises BrokerUrlInvalid, BrokerUnreachable (after `timeout_seconds`), BrokerRefusedCredentials.
    """
    servers = [_parse(server) for server in url.split(",")]
    addresses = tuple(_address(server) for server in servers)
    client = _Client()
    watch = _Watch(name, on_closed)
    try:
        try:
            async with asyncio.timeout(timeout_seconds) as watch.first_connect:
                await client.connect(
                    # User and password apart: servers that the cluster tells us of would be tried without them.
                    servers=list(addresses),
                    **_login(servers[0]),
                    name=name,
                    inbox_prefix=inbox_prefix,
                    error_cb=watch.on_error,
                    disconnected_cb=watch.on_disconnected,
                    reconnected_cb=watch.on_reconnected,
                    closed_cb=watch.on_closed,
                    max_reconnect_attempts=-1,
                    reconnect_time_wait=RECONNECT_WAIT_SECONDS,  # type: ignore[arg-type]  # it is only slept on
                    ping_interval=PING_SECONDS,
                    max_outstanding_pings=2,
                    pending_size=PENDING_BYTES,
                    flush_timeout=FLUSH_SECONDS,
                )
        except (OSError, nats.errors.Error) as error:  # TimeoutError is an OSError
            if watch.is_refused:
                raise BrokerRefusedCredentials(addresses, servers[0].username) from error
            raise BrokerUnreachable(addresses, watch.last_error or str(error)) from error
        watch.first_connect = None
        yield client
    finally:
        watch.is_closing = True
        await _close(client, name)


class _Client(Client):
    def __init__(self) -> None:
        super().__init__()
        self._ps = TappingParser(self)

    def abort(self) -> None:
        """Drop the socket and what is unsent. nats-py itself waits for a peer that does not read, and leaves the
        socket open where its own close was cancelled."""
        if isinstance(self._transport, TcpTransport) and (writer := self._transport._io_writer) is not None:  # noqa: SLF001
            writer.transport.abort()


class _Watch:
    """What nats-py calls back. Nothing here may raise: its reader would end while `is_connected` stays true."""

    def __init__(self, name: str, on_closed: Callable[[], None]) -> None:
        self.first_connect: asyncio.Timeout | None = None
        self.is_refused = False
        self.is_closing = False
        self.last_error = ""
        self._log = log.bind(connection=name)
        self._on_closed = on_closed

    async def on_error(self, error: Exception) -> None:
        reason = str(error) or type(error).__name__
        # A reconnect reports the same refusal four times a second.
        level = "debug" if reason == self.last_error or self.is_closing else "warning"
        self.last_error = reason
        if self.first_connect is not None and "authorization violation" in reason.lower():
            self.is_refused = True
            self.first_connect.reschedule(asyncio.get_running_loop().time())
        self._tell(level, "broker.error", reason=reason)

    async def on_disconnected(self) -> None:
        if not self.is_closing:
            self._tell("warning", "broker.disconnected", reason=self.last_error)

    async def on_reconnected(self) -> None:
        self.last_error = ""
        self._tell("info", "broker.reconnected")

    async def on_closed(self) -> None:
        if not self.is_closing:
            self._tell("error", "broker.closed", reason=self.last_error)
            self._on_closed()

    def _tell(self, level: str, event: str, **fields: str) -> None:
        with suppress(Exception):  # a full disk or a closed pipe behind the log
            getattr(self._log, level)(event, **fields)


async def _close(client: _Client, name: str) -> None:
    """A server that does not read must not hold us up at the end."""
    try:
        async with asyncio.timeout(CLOSE_SECONDS):
            await heeding_cancellation(client.close())
    except (OSError, nats.errors.Error) as error:
        log.warning("broker.not_closed", connection=name, reason=str(error) or type(error).__name__)
    finally:
        client.abort()


def _parse(server: str) -> SplitResult:
    server = server.strip()
    try:
        parts = urlsplit(server if "://" in server else f"nats://{server}")
        # A password with an unescaped '/', '?' or '#' ends up as port or path, and in no message.
        if not parts.hostname or parts.port == 0 or parts.path.strip("/") or parts.query or parts.fragment:
            raise BrokerUrlInvalid
    except ValueError:
        raise BrokerUrlInvalid from None
    return parts


def _address(server: SplitResult) -> str:
    host = f"[{server.hostname}]" if ":" in (server.hostname or "") else server.hostname
    return f"{server.scheme}://{host}:{server.port or 4222}"


def _login(server: SplitResult) -> dict[str, Any]:
    if server.username is None:
        return {}
    if server.password is None:
        return {"token": unquote(server.username)}
    return {"user": unquote(server.username), "password": unquote(server.password)}


# -- Requests --------------------------------------------------------------------------------------------------------


async def heeding_cancellation(call: Awaitable[R]) -> R:
    """Await a call of nats-py's that may lose a cancellation, and heed it afterwards.

    It is lost where nats-py passes it over while flushing, and where `asyncio.wait_for` has its result at the same
    moment (before Python 3.12). Who was cancelled in vain would go on for ever, and `asyncio.timeout` never end.
    """
    task = asyncio.current_task()
    before = task.cancelling() if task is not None else 0
    result = await call
    if task is not None and task.cancelling() > before:
        raise asyncio.CancelledError
    return result


def _never(_: Msg) -> None:
    return None


async def request(
    client: Client,
    subject: str,
    payload: bytes = b"",
    *,
    headers: dict[str, str] | None = None,
    budget_seconds: float = REQUEST_SECONDS,
    attempt_seconds: float = ATTEMPT_SECONDS,
    why_again: Callable[[Msg], str | None] = _never,
) -> Msg:
    """The answer to a request, asked again until there is one or `budget_seconds` are over.

    What is asked must bear being asked twice. `why_again` tells of an answer why it is none yet, or None. While the
    connection is down nothing is handed to nats-py, which would send it long after we have given up.

    Raises BrokerUnavailable, MessageNotSendable.
    """
    clock = asyncio.get_running_loop().time
    deadline = clock() + budget_seconds
    reason = "no time"
    while (left := deadline - clock()) > 0 and not client.is_closed:
        if client.is_connected:
            try:
                answer = await heeding_cancellation(
                    client.request(subject, payload, min(left, attempt_seconds), headers=headers)
                )
                if (again := why_again(answer)) is None:
                    return answer
                reason = again
            except nats.errors.TimeoutError:
                reason = "no answer"
                continue
            except (nats.errors.MaxPayloadError, nats.errors.BadSubjectError, nats.errors.BadHeaderError) as error:
                raise MessageNotSendable(subject, str(error)) from error
            except (OSError, nats.errors.Error) as error:
                reason = str(error)
        else:
            reason = "not connected"
        await asyncio.sleep(min(_POLL_SECONDS, max(0.0, deadline - clock())))
    if client.is_closed:
        raise BrokerUnavailable(subject, budget_seconds, "the connection is closed")
    raise BrokerUnavailable(subject, budget_seconds, reason)


# -- JetStream -------------------------------------------------------------------------------------------------------


class ApiError(msgspec.Struct):
    """Why JetStream's API refused; 404 and the like in `code`, the precise reason in `err_code`."""

    code: int
    err_code: int = 0
    description: str = ""


class ApiAnswer(msgspec.Struct):
    """What every answer of JetStream's API may carry; a subclass adds what is wanted of one operation's."""

    error: ApiError | None = None


class StreamState(msgspec.Struct):
    first_seq: int
    last_seq: int


class Cluster(msgspec.Struct):
    leader: str = ""


class StreamInfo(ApiAnswer):
    """The answer to STREAM.INFO, .CREATE and .UPDATE. `config` is in the server's own terms."""

    config: dict[str, Any] = {}
    state: StreamState | None = None
    cluster: Cluster | None = None


A = TypeVar("A", bound=ApiAnswer)


async def ask_jetstream(
    client: Client, operation: str, body: object, kind: type[A], *, budget_seconds: float = REQUEST_SECONDS
) -> A:
    """The answer of JetStream's API to `operation`, as "STREAM.INFO.EVENTS"; `body` is sent as JSON, None as nothing.

    Like a request it is asked again, also while the stream has no leader. Raises JetStreamRefused,
    AnswerNotUnderstood, BrokerUnavailable.
    """

    def understand(message: Msg, wanted: type[A]) -> A:
        try:
            return msgspec.json.decode(message.data, type=wanted)
        except msgspec.MsgspecError as error:
            raise AnswerNotUnderstood(operation, str(error)) from error

    def why_again(message: Msg) -> str | None:
        error = understand(message, kind).error
        return error.description if error is not None and error.code == 503 else None  # no leader, or not yet

    message = await request(
        client,
        f"$JS.API.{operation}",
        b"" if body is None else msgspec.json.encode(body),
        budget_seconds=budget_seconds,
        attempt_seconds=max(ATTEMPT_SECONDS, budget_seconds / 2),
        why_again=why_again,
    )
    answer = understand(message, kind)
    if answer.error is not None:
        raise JetStreamRefused(operation, answer.error.code, answer.error.err_code, answer.error.description)
    return answer


async def stream_info(client: Client, stream: str) -> StreamInfo:
    """Raises StreamMissing besides what `ask_jetstream` raises."""
    try:
        return await ask_jetstream(client, f"STREAM.INFO.{stream}", None, StreamInfo)
    except JetStreamRefused as refusal:
        if refusal.err_code == STREAM_NOT_FOUND:
            raise StreamMissing(stream) from refusal
        raise
