"""The hand-over is tried out when a process starts, and done without where it would not work."""

from __future__ import annotations

from typing import Any

import pytest
from structlog.testing import capture_logs
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from gateway import handover_check
from gateway.handover import HandoverProtocol, StreamConnection
from gateway.handover_check import HandoverBroken, check_handover, working_protocol
from tests.gateway.ways import ON_BOTH_LOOPS

pytestmark = ON_BOTH_LOOPS

Break = tuple[type, str, Any]
_run_asgi = RequestResponseCycle.run_asgi


async def _run_and_close(self: RequestResponseCycle, app: Any) -> None:
    await _run_asgi(self, app)
    self.transport.close()


def _without_framing(self: StreamConnection, data: bytes) -> None:
    self._transport.write(data[3:])


CHANGES: dict[str, tuple[Break, str]] = {
    "a method that is called is gone": (
        (FlowControl, "resume_reading", property()),
        "AttributeError",
    ),
    "cycles are started otherwise": (
        (HandoverProtocol, "_start_asgi_task", HttpToolsProtocol._start_asgi_task),
        "KeyError: 'extensions'",
    ),
    "the connection of a response that ends so is closed": (
        (RequestResponseCycle, "run_asgi", _run_and_close),
        "the client received",
    ),
    "a body is framed otherwise": (
        (StreamConnection, "write", _without_framing),
        "nothing more happened",
    ),
    "the loss of a connection is not told": (
        (StreamConnection, "connection_lost", lambda self, exc: None),
        "that the client has left is not noticed",
    ),
    "a connection stays when its client has left": (
        (StreamConnection, "eof_received", lambda self: True),
        "nothing more happened",
    ),
}


@pytest.fixture
def broken(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Something has changed. Returns what is told of it."""
    (owner, name, instead), told = CHANGES[request.param]
    monkeypatch.setattr(owner, name, instead, raising=False)
    monkeypatch.setattr(handover_check, "CHECK_SECONDS", 0.3)
    return told


async def test_handover_works_with_this_uvicorn_and_on_this_loop() -> None:
    await check_handover()
    assert await working_protocol() is HandoverProtocol


@pytest.mark.parametrize("broken", CHANGES, indirect=True)
async def test_change_under_the_handover_is_noticed_and_told(broken: str) -> None:
    with pytest.raises(HandoverBroken, match=broken):
        await check_handover()


@pytest.mark.parametrize("broken", ["cycles are started otherwise"], indirect=True)
async def test_process_without_a_working_handover_says_so_and_uses_uvicorns_protocol(broken: str) -> None:
    with capture_logs() as logs:
        assert await working_protocol() is HttpToolsProtocol
    (line,) = logs
    assert (line["event"], line["log_level"]) == ("handover.broken", "error")
    assert broken in line["reason"]
    assert line["uvicorn"].startswith("0.54.")
    assert {"httptools", "uvloop", "loop", "costs"} <= line.keys()
