"""The soft refusal of a stream for what fails before its handler runs: never a status, which ends an EventSource."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

import structlog
from litestar import Response

from auth.errors import KeysUnavailable
from gateway.response import StreamResponse
from streams.facts import FactsUnavailable

if TYPE_CHECKING:
    from litestar import Request
    from litestar.response.base import ASGIResponse
    from litestar.types import ExceptionHandlersMap

    from gateway.process import Gateway

_log = structlog.get_logger()


class SoftRefusal(Response[bytes]):
    """A stream that ends at once with a time to come back, in the form in which an exception handler answers."""

    def __init__(self, stream: StreamResponse) -> None:
        super().__init__(b"")
        self._stream = stream

    def to_asgi_response(self, *_: Any, **__: Any) -> ASGIResponse:
        """The stream itself, which is an ASGI application as well."""
        return cast("ASGIResponse", self._stream)


def refuse_softly(request: Request[Any, Any, Any], error: Exception) -> SoftRefusal:
    """The answer to a request for a stream that ended in `error`, which will pass."""
    gateway: Gateway = request.app.state.gateway
    _log.info("stream.refused_softly", reason=str(error))
    return SoftRefusal(StreamResponse(gateway.hub, gateway.encoder))


STREAM_EXCEPTION_HANDLERS: Final[ExceptionHandlersMap] = {
    KeysUnavailable: refuse_softly,
    FactsUnavailable: refuse_softly,
}
"""For the handlers of streams: what may be raised by whom a request passes before it reaches them."""
