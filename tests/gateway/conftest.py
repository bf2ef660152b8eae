"""A running gateway as REST clients see it: a real socket, broker, database and worker."""

from __future__ import annotations

import itertools
import os
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway.handover import HandoverProtocol
from tests.gateway.ways import USUAL, Way, ways_of
from tests.support.nats import eventually
from tests.support.pausing import pause

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping

    from tests.support.gateway import HttpProtocol, Passline, RunningGateway

TIME = "2026-11-20T18:00:00Z"


class Rest:
    """A client of `gateway` that can be anybody. Paths are below `/api/v1`."""

    def __init__(self, passline: Passline, gateway: RunningGateway, http: httpx.AsyncClient) -> None:
        self.passline = passline
        self.gateway = gateway
        self.http = http
        self._numbers = itertools.count(1)

    def bearer(self, subject: str, **claims: Any) -> dict[str, str]:
        """The header of somebody's token."""
        return {"authorization": f"Bearer {self.gateway.token(subject, **claims)}"}

    @property
    def order_service(self) -> dict[str, str]:
        """The header of who may publish everything."""
        return self.bearer("order-service", scopes=["events:publish", "access:publish"])

    async def get(self, path: str, headers: dict[str, str], **query: Any) -> httpx.Response:
        return await self.http.get(f"/api/v1{path}", headers=headers, params=query)

    async def post(self, events: Any, headers: dict[str, str] | None = None) -> httpx.Response:
        """Publish as JSON."""
        return await self.http.post("/api/v1/events", json=events, headers=headers or self.order_service)

    def event(self, kind: str, order: str = "o1", restaurant: str = "r1", customer: str = "c1", **more: Any) -> Any:
        """The next event of an order."""
        number = next(self._numbers)
        identity = {"orderId": order, "restaurantId": restaurant, "customerId": customer}
        return {"type": kind, "eventId": f"e{number}", "occurredOnUtc": TIME, **identity, **more}

    def staff_event(self, kind: str, subject: str, restaurant: str = "r1", **more: Any) -> Any:
        """The next event of a restaurant's staff."""
        fact = {"restaurantId": restaurant, "subject": subject, **more}
        return {"type": kind, "eventId": f"e{next(self._numbers)}", "occurredOnUtc": TIME, **fact}

    @contextmanager
    def hung_broker(self) -> Iterator[None]:
        """The broker takes connections and answers nothing."""
        pause(self.passline.server.pid)
        try:
            yield
        finally:
            os.kill(self.passline.server.pid, signal.SIGCONT)

    async def happened(self, *events: Any) -> str:
        """Publish `events` and wait until the tail and the projection have them. Returns the last one's cursor."""
        response = await self.post(list(events))
        assert response.status_code == 200, response.text
        cursor: str = response.json()["results"][-1]["cursor"]
        sequence = int(cursor.rpartition("-")[2])
        facts = self.gateway.gateway.facts

        async def applied() -> bool:
            async with facts.reading() as decision:
                return decision.sql.position.sequence >= sequence and facts.overlay.head >= sequence

        await eventually(applied)
        return cursor


def pytest_asyncio_loop_factories(item: pytest.Item) -> Mapping[str, Way]:
    """Each test runs in the usual way, and in those that it asks for."""
    return ways_of(item)


def pytest_itemcollected(item: pytest.Item) -> None:
    """uvloop loses what the handler of a signal raises, which is how a test's time limit ends it elsewhere."""
    item.add_marker(pytest.mark.timeout(method="thread"))


@pytest.fixture
def way(request: pytest.FixtureRequest) -> Way:
    """The one in which this test runs now."""
    return next((each for each in request.node.callspec.params.values() if isinstance(each, Way)), USUAL)


@pytest.fixture
def database_kind(way: Way) -> str:
    return way.database


@pytest.fixture
def http_protocol(way: Way, request: pytest.FixtureRequest) -> HttpProtocol:
    path = getattr(request, "param", way.path)
    return HandoverProtocol if path == "handover" else HttpToolsProtocol


@pytest.fixture
async def rest(passline: Passline) -> AsyncIterator[Rest]:
    """A ready gateway and its client."""
    gateway = await passline.gateway()
    async with httpx.AsyncClient(base_url=gateway.url, timeout=10) as http:
        yield Rest(passline, gateway, http)
