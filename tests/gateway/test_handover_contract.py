"""What `gateway.handover` needs of uvicorn's internals. If one of these fails, a new uvicorn has changed them: read its
`httptools_impl` again before the pin in pyproject.toml moves.
"""

from __future__ import annotations

import inspect

import pytest
import uvicorn
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import Server, ServerState


def test_uvicorn_is_of_the_line_that_this_was_written_for() -> None:
    assert uvicorn.__version__.startswith("0.54.")


@pytest.mark.parametrize(
    "method",
    [
        "connection_made",
        "connection_lost",
        "data_received",
        "on_message_begin",
        "on_headers_complete",
        "_start_asgi_task",
        "_unset_keepalive_if_required",
    ],
)
def test_protocol_has_the_method(method: str) -> None:
    assert callable(getattr(HttpToolsProtocol, method))


def test_each_cycle_is_started_by_the_method_that_is_overridden() -> None:
    assert list(inspect.signature(HttpToolsProtocol._start_asgi_task).parameters) == ["self", "cycle", "app"]
    for starts in (HttpToolsProtocol.on_headers_complete, HttpToolsProtocol.on_response_complete):
        assert "self._start_asgi_task(" in inspect.getsource(starts)


@pytest.mark.parametrize(
    "attribute",
    [
        "disconnected",
        "response_started",
        "response_complete",
        "chunked_encoding",
        "message_event",
        "on_response",
        "scope",
    ],
)
def test_cycle_has_the_attribute(attribute: str) -> None:
    assert f"self.{attribute}" in inspect.getsource(RequestResponseCycle.__init__)


def test_cycle_is_content_with_a_response_that_is_complete() -> None:
    source = inspect.getsource(RequestResponseCycle.run_asgi)
    assert "elif not self.response_complete and not self.disconnected:" in source


@pytest.mark.parametrize("attribute", ["transport", "flow", "pipeline", "cycle", "parser", "server_state"])
def test_protocol_has_the_attribute(attribute: str) -> None:
    assert f"self.{attribute}" in inspect.getsource(HttpToolsProtocol.__init__)


def test_flow_control_tells_whether_the_transport_is_full() -> None:
    source = inspect.getsource(FlowControl)
    assert "self.write_paused" in source
    assert "def resume_reading" in source


def test_server_shuts_down_what_is_among_its_connections_and_waits_for_it() -> None:
    assert "for connection in list(self.server_state.connections):" in inspect.getsource(Server.shutdown)
    assert "connection.shutdown()" in inspect.getsource(Server.shutdown)
    assert "while self.server_state.connections" in inspect.getsource(Server._wait_tasks_to_complete)
    assert isinstance(ServerState().connections, set)
