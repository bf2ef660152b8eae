"""The clients that people use, on a real stream: each reads it, is cut, comes back, and has everything once."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from streams.subscriber import End
from tests.interop.clients import httpx_sse_events, node_reader
from tests.support.logs import append_order
from tests.support.nats import eventually

if TYPE_CHECKING:
    from tests.interop.clients import Event, NpmClient
    from tests.support.gateway import Passline, RunningGateway


@pytest.fixture
def database_kind() -> str:
    return "sqlite"


def cut_all(gateway: RunningGateway) -> None:
    """End every stream, as a process does that has lost its place: all come back to it."""
    for subscriber in tuple(gateway.gateway.hub._subscribers):
        subscriber.close(End.LAGGED)


def event_ids(events: list[Event]) -> list[str]:
    return [json.loads(event.data)["eventId"] for event in events if event.type.startswith("Receive")]


@pytest.mark.parametrize("npm_client", ["eventsource", "fetch-event-source"])
async def test_npm_client_reads_a_stream_and_resumes_it(passline: Passline, npm_client: NpmClient) -> None:
    gateway = await passline.gateway()
    token = gateway.token("chef", restaurants={"r1": "staff"})
    async with node_reader(npm_client, f"{gateway.url}/api/v1/restaurants/r1/events", token=token) as reader:
        await reader.event("snapshot")
        await append_order(passline.nc, "first", kind="OrderPlaced")
        await reader.event("ReceiveOrderPlaced")
        cut_all(gateway)
        await append_order(passline.nc, "missed")
        await reader.event("stream.closing")
        await reader.event("ReceiveOrderStatusChanged")
        await append_order(passline.nc, "live")
        await reader.until(lambda: len(event_ids(reader.events)) == 3)
    assert event_ids(reader.events) == ["first", "missed", "live"]
    assert [json.loads(e.data)["verdict"] for e in reader.events if e.type == "stream.opened"] == ["fresh", "resumed"]
    assert [state.state for state in reader.states][:3] == ["open", "connecting", "open"]


@pytest.mark.parametrize("npm_client", ["eventsource", "fetch-event-source"])
async def test_npm_client_comes_back_after_a_soft_refusal(passline: Passline, npm_client: NpmClient) -> None:
    draining, other = await passline.gateway(), await passline.gateway()
    await draining.gateway.drain(0)
    token = other.token("chef", restaurants={"r1": "staff"})
    async with node_reader(npm_client, f"{draining.url}/api/v1/restaurants/r1/events", token=token) as reader:
        await reader.until(lambda: [state.state for state in reader.states].count("open") >= 2)
        assert not any(event.data for event in reader.events)  # one of them fires for a block without data, too
        assert {state.state for state in reader.states} == {"open", "connecting"}


async def test_httpx_sse_reads_a_stream_and_resumes_it(passline: Passline) -> None:
    gateway = await passline.gateway()
    url = f"{gateway.url}/api/v1/orders/o1/events"
    token = gateway.token("c1")
    await append_order(passline.nc, "first", kind="OrderPlaced")
    await eventually(lambda: gateway.gateway.hub.head == 1)
    seen: list[Event] = []
    async with httpx_sse_events(f"{url}?since=1h", token=token) as events:
        async for event in events:
            seen.append(event)
            if event.type == "ReceiveOrderPlaced":
                cut_all(gateway)
    await append_order(passline.nc, "missed")
    async with httpx_sse_events(url, token=token, last_event_id=seen[-1].id) as events:
        async for event in events:
            seen.append(event)
            if event.type == "ReceiveOrderStatusChanged":
                break
    assert event_ids(seen) == ["first", "missed"]
