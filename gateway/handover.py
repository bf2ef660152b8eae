"""The connection after its request: once the head of a stream is out, only a small object stays behind it.

uvicorn's HTTP protocol, with one scope extension. The request goes through the whole application and the head of the
response goes out in the ordinary way; then the response calls the extension and returns. The task, the request and the
parser are freed, and a `StreamConnection` takes their place at the transport, as a WebSocket protocol would after an
upgrade. On the way to that, the protocol is given the limits on request heads that uvicorn does not have.

What this needs of uvicorn's internals is pinned by tests/gateway/test_handover_contract.py.
"""

from __future__ import annotations

import asyncio
import math
import socket
import struct
import sys
import weakref
from fcntl import ioctl
from termios import TIOCOUTQ
from typing import TYPE_CHECKING, Any

import structlog
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway.descriptors import connection_room
from streams.subscriber import End, Subscriber

if TYPE_CHECKING:
    from uvicorn._types import ASGI3Application
    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle
    from uvicorn.server import ServerState

EXTENSION = "passline.handover"
"""The key in `scope["extensions"]`. Its value is a `Handover`; it is missing on other servers."""

HEAD_SECONDS = 10.0
"""For a request's head, from its first byte, or the connection's, to its end. uvicorn has no limit."""

HEAD_BYTES = 32 * 1024
"""The longest head of a request: 8 KB of token, cookies, and what proxies add. The parser itself takes any length."""

KERNEL_BUFFER_BYTES = 64 * 1024
"""What waits in the kernel for a client that does not read; the kernel counts twice that, with its own overhead.

By itself it would take 4 MB before it says that it is full. What it does not take of one write waits in this process,
and from there on the subscriber is paused: nothing else is kept for it.
"""

UNASKED_BYTES = 16 * 1024
"""What a client may send on a connection that has become a stream: pipelined requests, of which none is answered."""

LAST_WORDS_SECONDS = 0.05
"""Between the last bytes and the cut: Chromium loses a block that arrives together with the end of a cut body.

Measured with Chromium 156: lost in 17 of 200 cuts without a pause, in 1 of 200 with 2 ms, in none of 200 with 5 ms.
"""

LAST_BYTES_SECONDS = 10.0
"""For a client that does not read to take its last bytes; a returning one gets what it missed."""

FULL_TOLD_SECONDS = 10.0
"""Between two lines in the log about connections that are turned away: in a flood there are thousands."""

_NO_LINGERING = struct.pack("ii", 1, 0)
_BYTES_ACKED = slice(120, 128)  # `tcpi_bytes_acked` of the kernel's `struct tcp_info`, since Linux 4.1

_log = structlog.get_logger()


class HandoverRefused(Exception):
    """The response is not at the one point at which it can be handed over."""


class ClientGone(Exception):
    """The client left while its request was answered."""


class Handover:
    """What the extension offers to the one response that it is made for.

    Bound to that response's cycle: with a pipelined request behind it the protocol's own is already that one's. Weakly,
    or protocol, cycle, scope and extension would hold one another until the garbage collector comes.
    """

    __slots__ = ("_cycle", "_held", "_protocol")

    def __init__(self, protocol: HandoverProtocol, cycle: RequestResponseCycle) -> None:
        self._protocol = weakref.ref(protocol)
        self._cycle = weakref.ref(cycle)
        self._held: _HeldHead | None = None

    def hold_head(self) -> None:
        """Keep the response's head back, to be sent together with the first blocks: one system call less, and a packet.

        Whoever does this takes it with `take_head` after the call.
        """
        cycle = self._cycle()
        if cycle is not None and not cycle.response_started:
            self._held = _HeldHead(cycle.transport)
            cycle.transport = self._held  # type: ignore[assignment]  # it has what a response's head needs

    def __call__(self) -> StreamConnection:
        """Give the started response away and get the connection that stays.

        Raises:
            HandoverRefused: the head is not out, or the body is not open and chunked. What was held has been sent.
            ClientGone
        """
        protocol, cycle = self._protocol(), self._cycle()
        if protocol is None or cycle is None:
            raise HandoverRefused("the request has ended")
        try:
            return protocol.hand_over(cycle)
        except HandoverRefused:
            if self._held is not None:
                cycle.transport = self._held.transport
                cycle.transport.write(self.take_head())
            raise

    def take_head(self) -> bytes:
        """The head that was held, if it was; it must be the first that is sent."""
        held, self._held = self._held, None
        return b"" if held is None else held.head


class _HeldHead:
    """Stands in for a response's transport while its head is made."""

    __slots__ = ("head", "transport")

    def __init__(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        self.head = b""

    def write(self, data: bytes) -> None:
        self.head += data

    def close(self) -> None:
        self.transport.close()


def chunk(payload: bytes) -> bytes:
    """One HTTP/1.1 chunk (RFC 9112, section 7.1). Several in a row are a valid body, too."""
    return b"%x\r\n%b\r\n" % (len(payload), payload)


def unchunked(data: bytes) -> bytes:
    """What stood in whole chunks of ours."""
    payloads: list[bytes] = []
    at = 0
    while at < len(data):
        end = data.index(b"\r\n", at)
        size = int(data[at:end], 16)
        payloads.append(data[end + 2 : end + 2 + size])
        at = end + size + 4
    return b"".join(payloads)


class HandoverProtocol(HttpToolsProtocol):
    """For `uvicorn.Config(http=…)`."""

    _full_told_at = -math.inf  # of the whole process

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # While a request's head is not complete:
        self._head_timer: asyncio.TimerHandle | None = None
        self._head_bytes = 0
        # While a response is made:
        self._running: weakref.ref[RequestResponseCycle] | None = None

    # -- The limits on a request's head --------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """What uvicorn's does, and from here on the first head is waited for.

        Beyond what descriptors allow, connections are closed at once: without any left nobody could be answered at all.
        """
        self.transport = transport
        if len(self.connections) >= connection_room():
            self._turn_away()
            return
        self.connections.add(self)
        self.flow = FlowControl(transport)
        # uvicorn's asks the socket for its addresses. uvloop would keep the answers: 300 bytes with every stream.
        self.server = _address(transport, "sockname")
        self.client = _address(transport, "peername")
        self.scheme = "http"
        self._await_head()

    def _turn_away(self) -> None:
        now = self.loop.time()
        if now >= HandoverProtocol._full_told_at + FULL_TOLD_SECONDS:
            HandoverProtocol._full_told_at = now
            _log.warning("connections.full", connections=len(self.connections))
        self.transport.abort()

    def data_received(self, data: bytes) -> None:
        """uvicorn's, unless the head grows too long."""
        if self._head_timer is not None:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._head_timer is not None and self._head_bytes > HEAD_BYTES:
            self.transport.abort()

    def on_message_begin(self) -> None:
        """uvicorn's, for the second and later requests of a connection, too."""
        super().on_message_begin()
        if self._head_timer is None:
            self._await_head()

    def on_headers_complete(self) -> None:
        """uvicorn's."""
        self._forget_head()
        super().on_headers_complete()

    def _await_head(self) -> None:
        self._head_bytes = 0
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self.transport.abort)

    def _forget_head(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    # -- The response that is being made -------------------------------------------------------------------------------

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._running = weakref.ref(cycle)
        hand_over = Handover(self, cycle)
        cycle.scope["extensions"] = {EXTENSION: hand_over}  # type: ignore[dict-item]  # ASGI's say what they are: dicts
        super()._start_asgi_task(cycle, app)

    def connection_lost(self, exc: Exception | None) -> None:
        """uvicorn's, which tells only the newest request; the one that is being answered must hear of it, too."""
        self._forget_head()
        for queued, _ in self.pipeline:
            queued.disconnected = True
        running = self._running() if self._running is not None else None
        super().connection_lost(exc)
        if running is not None and not running.response_complete:
            running.disconnected = True
            running.message_event.set()

    def hand_over(self, cycle: RequestResponseCycle) -> StreamConnection:
        """What the extension does for the response of `cycle`; see `Handover`."""
        if cycle.disconnected or self.transport.is_closing():  # first: uvicorn makes no head for who has left
            cycle.disconnected = True  # or uvicorn would complain of an incomplete response
            raise ClientGone
        if not cycle.response_started or cycle.response_complete:
            raise HandoverRefused("the response's head is not out: does a middleware hold it back?")
        if cycle.chunked_encoding is not True or cycle.scope["method"] == "HEAD":
            raise HandoverRefused("the response's body is not open and chunked")
        transport = self.transport
        if transport.get_extra_info("ssl_object") is not None:
            raise HandoverRefused("the connection is encrypted in this process")
        self.flow.resume_reading()  # who does not read doesn't hear that the client has left
        self._unset_keepalive_if_required()
        connection = StreamConnection(transport, self.server_state)
        # For uvicorn the response is complete, but `on_response_complete`, which would wait for the next request or
        # begin with a pipelined one, must not run.
        cycle.response_complete = True
        cycle.on_response = lambda: None
        cycle.message_event.set()
        self.pipeline.clear()
        self.server_state.total_requests += 1
        self.server_state.connections.discard(self)
        self.server_state.connections.add(connection)  # type: ignore[arg-type]  # it has the `shutdown` that is called
        transport.set_protocol(connection)
        self.parser = None  # type: ignore[assignment]
        self.cycle = None  # type: ignore[assignment]
        return connection


class StreamConnection(asyncio.Protocol):
    """What is left of a connection: a `streams.subscriber.Connection` whose bytes go to the socket as they are.

    What it is given to write must be framed as chunks already, once for all connections. It is sent by the bare system
    call: that is most of what a delivery costs, and the transport would add a third. The transport gets what the socket
    does not take, and says when that is gone.
    """

    __slots__ = ("_server_state", "_socket", "_transport", "_unasked", "is_full", "subscriber")

    def __init__(self, transport: asyncio.Transport, server_state: ServerState) -> None:
        self._transport = transport
        self._server_state = server_state
        self._unasked = 0
        self._socket = _socket_of(transport)
        transport.set_write_buffer_limits(high=0)
        self.is_full = transport.get_write_buffer_size() > 0
        self.subscriber: Subscriber | None = None

    def __del__(self) -> None:
        self._socket.detach()  # however we are forgotten: only the transport closes what is its own

    # -- For the hub ---------------------------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Send the chunks. Never raises: one bad socket must not stop a fan-out."""
        try:
            # Nothing may overtake what waits in the transport.
            sent = 0 if self.is_full else self._socket.send(data)
        except BlockingIOError:
            sent = 0
        except OSError as error:  # the event loop will see that it is broken, too
            _log.debug("stream.not_written", reason=str(error))
            return
        if sent != len(data):
            self._leave_to_transport(data[sent:])

    def finish(self, data: bytes) -> None:
        """The last chunks, and then the cut: without the last, empty chunk."""
        self.write(data)
        asyncio.get_running_loop().call_later(LAST_WORDS_SECONDS, self._cut)

    def abort(self) -> None:
        """Reset the connection; what was not sent is dropped, and the kernel keeps none of it either."""
        if not self._is_lost:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGERING)
        self._transport.abort()

    def progress(self) -> int | None:
        """Bytes that the client's kernel has acknowledged, None while it has acknowledged all: one or two system calls.

        So progress is what a slow reader makes of the kernel's buffers as well, and none is what both a closed window
        and a peer that has vanished look like.
        """
        if self._is_lost or not any(ioctl(self._socket.fileno(), TIOCOUTQ, bytes(4))):
            return None
        info = self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_ACKED.stop)
        return int.from_bytes(info[_BYTES_ACKED], sys.byteorder)

    @property
    def _is_lost(self) -> bool:
        return self._socket.fileno() == -1

    def _leave_to_transport(self, rest: bytes) -> None:
        """What the socket does not take now; the transport calls `pause_writing` before it returns."""
        try:
            self._transport.write(rest)
        except (OSError, RuntimeError) as error:  # uvloop's word for a transport that has closed meanwhile
            _log.debug("stream.not_written", reason=str(error))

    def _cut(self) -> None:
        self._transport.close()
        if self._transport.get_write_buffer_size():  # waits for a client that does not read
            asyncio.get_running_loop().call_later(LAST_BYTES_SECONDS, self.abort)

    # -- For the transport ---------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """What a client sends now is answered by nobody. It is read all the same: that is how its end is seen."""
        self._unasked += len(data)
        if self._unasked > UNASKED_BYTES:
            self._transport.abort()

    def pause_writing(self) -> None:
        """The buffer is full. Called from inside `write`, too."""
        self.is_full = True
        if self.subscriber is not None and not self.subscriber.closed:
            self.subscriber.pause()

    def resume_writing(self) -> None:
        """The client has read."""
        self.is_full = False
        if self.subscriber is not None and not self.subscriber.closed:
            self.subscriber.resume()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """The client has left, or we have closed."""
        self._socket.detach()  # the descriptor may be somebody else's soon
        self._server_state.connections.discard(self)
        if self.subscriber is not None:
            self.subscriber.close(End.GONE)

    # -- For uvicorn ---------------------------------------------------------------------------------------------------

    def shutdown(self) -> None:
        """The server ends. A gateway has drained before; this is for what came in between."""
        if self.subscriber is not None and not self.subscriber.closed:
            self.subscriber.close(End.DRAIN)
        else:
            self._transport.close()


def _socket_of(transport: asyncio.Transport) -> socket.SocketType:
    """The transport's own socket, beside the transport: what is given out by that can't send.

    It must be detached in the end, and never close what is the transport's.
    """
    shown = transport.get_extra_info("socket")
    sock = socket.SocketType(shown.family, shown.type, shown.proto, shown.fileno())
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, KERNEL_BUFFER_BYTES)
    return sock


def _address(transport: asyncio.Transport, name: str) -> Any:
    """Host and port; an IPv6 address has more to it. None where there are none, as at a Unix socket."""
    address = transport.get_extra_info(name)
    return (address[0], address[1]) if isinstance(address, tuple) else None
