"""Whether the hand-over works in this very process, tried out before anything is served.

It rests on uvicorn's internals. The tests hold them, and the version is pinned; but what a process is started with is
the operator's, and a hand-over that half works would lose streams without a word.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import socket
from typing import TYPE_CHECKING, Any, cast

import structlog
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from gateway.errors import GatewayError
from gateway.handover import EXTENSION, HandoverProtocol, StreamConnection, chunk

if TYPE_CHECKING:
    from uvicorn._types import ASGIReceiveCallable, ASGISendCallable, Scope

    from gateway.handover import Handover

CHECK_SECONDS = 5.0
"""For all of it. It takes a few milliseconds."""

_REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
_HANDED_OVER = chunk(b"handed over")
_ON_UVICORNS_OWN = "every stream keeps its request: about ten times the memory, twice the CPU; heads have no limits"

_log = structlog.get_logger()


class HandoverBroken(GatewayError):
    """The hand-over does not work here; the text says what failed."""


async def working_protocol() -> type[HttpToolsProtocol]:
    """`HandoverProtocol`; where that doesn't work, uvicorn's own: then streams go through ASGI, at a higher cost."""
    try:
        await check_handover()
    except HandoverBroken as broken:
        versions = {name: importlib.metadata.version(name) for name in ("uvicorn", "httptools", "uvloop")}
        loop = type(asyncio.get_running_loop()).__module__
        _log.error("handover.broken", reason=str(broken), loop=loop, **versions, costs=_ON_UVICORNS_OWN)
        return HttpToolsProtocol
    return HandoverProtocol


async def check_handover() -> None:
    """Answer a request on a pair of sockets, hand the connection over, write to it, and leave it.

    Raises:
        HandoverBroken
    """
    here, client = socket.socketpair()
    client.setblocking(False)
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            await _try_out(here, client)
    except HandoverBroken:
        raise
    except TimeoutError as error:
        raise HandoverBroken(f"nothing more happened within {CHECK_SECONDS:g} s") from error
    except Exception as error:  # whatever a changed internal may raise
        raise HandoverBroken(f"{type(error).__name__}: {error}") from error
    finally:
        client.close()


async def _try_out(here: socket.socket, client: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    handed_over: asyncio.Future[StreamConnection] = loop.create_future()

    async def app(scope: Scope, _: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        try:
            hand_over: Handover = cast("dict[str, Any]", scope)["extensions"][EXTENSION]
            hand_over.hold_head()
            await send({"type": "http.response.start", "status": 200, "headers": []})
            connection = hand_over()
            connection.write(hand_over.take_head())
            handed_over.set_result(connection)
        except Exception as error:  # raised where it is waited for
            handed_over.set_exception(error)

    config = uvicorn.Config(app, http=HandoverProtocol, ws="none", lifespan="off", log_config=None, access_log=False)
    config.load()
    state = ServerState()
    transport, _ = await loop.connect_accepted_socket(lambda: HandoverProtocol(config, state, {}), here)
    try:
        await loop.sock_sendall(client, _REQUEST)
        connection = await handed_over
        await asyncio.gather(*state.tasks)
        connection.write(_HANDED_OVER)
        await _expect(client, _HANDED_OVER)
        if state.connections != {connection}:
            raise HandoverBroken("the server does not know of the connection")
        client.shutdown(socket.SHUT_WR)
        if await loop.sock_recv(client, 1) or state.connections:
            raise HandoverBroken("that the client has left is not noticed")
    finally:
        transport.abort()


async def _expect(client: socket.socket, body: bytes) -> None:
    """Read the head of a response, and after it just `body`."""
    received = b""
    while not received.endswith(body) and (data := await asyncio.get_running_loop().sock_recv(client, 65536)):
        received += data
    head, _, rest = received.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200 ") or b"transfer-encoding: chunked" not in head or rest != body:
        raise HandoverBroken(f"the client received {received[:300]!r}")
