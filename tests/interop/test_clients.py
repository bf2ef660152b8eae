"""The clients that people use, before a server that says exactly what a test wants: they work, and their drivers do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx
import pytest

from tests.interop.clients import Event, httpx_sse_events, node_reader
from tests.support.scripted_server import STREAM_HEAD, answer, chunk, serving

if TYPE_CHECKING:
    from tests.interop.clients import NpmClient
    from tests.support.scripted_server import Exchange

NPM_CLIENTS: tuple[NpmClient, ...] = ("eventsource", "fetch-event-source")
FIRST = chunk(b'retry: 500\nevent: stream.opened\ndata: {"verdict":"fresh"}\nid: k-1\n\nid: k-2\n\nevent: cut\ndata: 1')
SECOND = chunk('event: ReceiveOrderPlaced\ndata: {"name":"Zoë\u2028"}\nid: k-3\n\n'.encode())


async def twice(exchange: Exchange) -> None:
    """A stream that is cut inside a block, and the stream after it."""
    await exchange.send(STREAM_HEAD + (FIRST if exchange.request.number == 1 else SECOND))
    if exchange.request.number > 1:
        await exchange.gone()


@pytest.mark.parametrize("client", NPM_CLIENTS)
async def test_npm_client_reads_and_resumes_after_a_cut(client: NpmClient) -> None:
    async with serving(twice) as server:
        async with node_reader(client, server.url, token="a.b.c", last_event_id="k-0") as reader:
            assert await reader.event("ReceiveOrderPlaced") == Event(
                "ReceiveOrderPlaced", "k-3", '{"name":"Zoë\u2028"}'
            )
        assert reader.events[0] == Event("stream.opened", "k-1", '{"verdict":"fresh"}')
        assert "cut" not in {event.type for event in reader.events}
        assert [state.state for state in reader.states] == ["open", "connecting", "open"]

    assert [request.last_event_id for request in server.requests] == ["k-0", "k-2"]
    assert {request.headers["authorization"] for request in server.requests} == {"Bearer a.b.c"}


@pytest.mark.parametrize("client", NPM_CLIENTS)
async def test_npm_client_gives_up_when_it_is_forbidden(client: NpmClient) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.send(answer("403 Forbidden", b"{}", "application/problem+json"))

    async with serving(script) as server, node_reader(client, server.url) as reader:
        await reader.until(lambda: bool(reader.states))
        assert (reader.states[0].state, reader.states[0].status) == ("closed", 403)
    assert len(server.requests) == 1


@pytest.mark.parametrize("client", NPM_CLIENTS)
async def test_npm_client_comes_back_after_a_soft_refusal(client: NpmClient) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.send(STREAM_HEAD + (chunk(b"retry: 500\n\n") if exchange.request.number == 1 else SECOND))
        if exchange.request.number > 1:
            await exchange.gone()

    async with serving(script) as server, node_reader(client, server.url) as reader:
        await reader.event("ReceiveOrderPlaced")
    assert len(server.requests) == 2


async def test_node_reader_tells_why_node_ended() -> None:
    async with node_reader("eventsource", "not a url") as reader:
        with pytest.raises(AssertionError, match=r"Node has ended: (?s:.*)SyntaxError"):
            await reader.until(lambda: False)


async def test_httpx_sse_reads_until_the_cut_and_resumes() -> None:
    async with serving(twice) as server:
        async with httpx_sse_events(server.url, token="a.b.c", last_event_id="k-0") as events:
            first = [event async for event in events]
        async with httpx_sse_events(server.url, last_event_id=first[-1].id) as events:
            second = await anext(events)

    assert first == [Event("stream.opened", "k-1", '{"verdict":"fresh"}'), Event("message", "k-2", "")]
    assert second == Event("ReceiveOrderPlaced", "k-3", '{"name":"Zoë\u2028"}')
    assert [request.last_event_id for request in server.requests] == ["k-0", "k-2"]
    assert server.requests[0].headers["authorization"] == "Bearer a.b.c"


async def test_httpx_sse_raises_when_it_is_forbidden() -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.send(answer("403 Forbidden"))

    async with serving(script) as server:
        with pytest.raises(httpx.HTTPStatusError):
            async with httpx_sse_events(server.url):
                pass
