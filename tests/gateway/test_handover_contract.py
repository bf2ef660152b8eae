"""What `gateway.handover` needs of uvicorn's internals. If one of these fails, a new uvicorn has changed them: read its
`httptools_impl` again before the pin in pyproject.toml moves. That the whole works is for `test_handover_check`.
"""

from __future__ import annotations

import inspect
import re
from typing import Any

import pytest
import uvicorn
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import Server, ServerState


def expect(holds: bool, owner: Any, what: str) -> None:
    """Fail with a sentence that says what to look at, not with a page of uvicorn's source."""
    if not holds:
        pytest.fail(f"uvicorn {uvicorn.__version__}: {owner.__qualname__} {what}", pytrace=False)


def expect_in_source(owner: Any, text: str, meaning: str) -> None:
    expect(text in inspect.getsource(owner), owner, f"{meaning} (its source has no {text!r})")


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
    expect(callable(getattr(HttpToolsProtocol, method, None)), HttpToolsProtocol, f"has no method {method}")


@pytest.mark.parametrize(
    "attribute", ["transport", "flow", "pipeline", "cycle", "parser", "server_state", "connections"]
)
def test_protocol_has_the_attribute(attribute: str) -> None:
    expect_in_source(HttpToolsProtocol.__init__, f"self.{attribute}", f"no longer sets {attribute}")


def test_protocol_learns_of_its_connection_what_ours_sets() -> None:
    """Ours takes its place, since uvicorn's way to ask for the addresses costs memory as long as a stream lives."""
    source = inspect.getsource(HttpToolsProtocol.connection_made)
    known = {"connections", "transport", "flow", "server", "client", "scheme", "logger"}
    touched = set(re.findall(r"self\.(\w+)", source))
    expect(touched == known, HttpToolsProtocol.connection_made, f"now touches {sorted(touched ^ known)} otherwise")
    expect_in_source(HttpToolsProtocol.connection_made, "FlowControl(transport)", "makes its flow control otherwise")


def test_each_cycle_is_started_by_the_method_that_is_overridden() -> None:
    parameters = list(inspect.signature(HttpToolsProtocol._start_asgi_task).parameters)
    expect(parameters == ["self", "cycle", "app"], HttpToolsProtocol._start_asgi_task, f"now takes {parameters}")
    for starts in (HttpToolsProtocol.on_headers_complete, HttpToolsProtocol.on_response_complete):
        expect_in_source(starts, "self._start_asgi_task(", "starts a cycle otherwise")


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
        "transport",
    ],
)
def test_cycle_has_the_attribute(attribute: str) -> None:
    expect_in_source(RequestResponseCycle.__init__, f"self.{attribute}", f"no longer sets {attribute}")


def test_cycle_is_content_with_a_response_that_is_complete() -> None:
    condition = "elif not self.response_complete and not self.disconnected:"
    expect_in_source(RequestResponseCycle.run_asgi, condition, "judges the end of a response otherwise")


def test_flow_control_can_make_a_paused_connection_read_again() -> None:
    expect(callable(getattr(FlowControl, "resume_reading", None)), FlowControl, "has no method resume_reading")


def test_server_shuts_down_what_is_among_its_connections_and_waits_for_it() -> None:
    each = "for connection in list(self.server_state.connections):"
    expect_in_source(Server.shutdown, each, "ends connections otherwise")
    expect_in_source(Server.shutdown, "connection.shutdown()", "ends connections otherwise")
    expect_in_source(Server._wait_tasks_to_complete, "while self.server_state.connections", "does not wait for them")
    expect(isinstance(ServerState().connections, set), ServerState, "keeps connections otherwise")


def test_server_asks_for_its_protocol_at_each_connection() -> None:
    """So one that does not work in this process can be exchanged before the first one."""
    expect_in_source(Server.startup, "config.http_protocol_class(", "makes its protocols otherwise")
