"""The promise, from outside: every acknowledged event reaches every client that may see it, once and in order.

Real processes, real kills; what publishers and clients wrote down is judged by the checker afterwards.
"""

from __future__ import annotations

import signal
from contextlib import AsyncExitStack
from random import Random
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from auth.keys import development_key
from auth.tokens import mint
from tests.support.checker import check
from tests.support.nats import eventually
from tests.support.processes import PasslineProcess
from tests.support.reconnecting import ReconnectingClient, random_cuts
from tests.support.records import Grant, History, Position, Published
from tests.support.sse_client import StreamRequest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

RESTAURANTS = 50
ORDERS = 300
EVENTS = 3000
STEPS = ("OrderPaymentSucceeded", "OrderAccepted", "OrderPreparing", "OrderReadyForDelivery", "OrderDelivered")


class Town:
    """Publishes the life of many orders, and keeps on trying until each event is acknowledged."""

    def __init__(self, passline: PasslineProcess, random: Random) -> None:
        self.random = random
        self.published: list[Published] = []
        self._passline = passline
        self._key = development_key(passline.data_dir)
        self._http = httpx.AsyncClient(
            headers={"authorization": f"Bearer {self.token('order-service', scopes=['events:publish'])}"},
            timeout=6,
            trust_env=False,
        )

    async def __aenter__(self) -> Town:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    def token(self, subject: str, **claims: Any) -> str:
        return mint(
            signing_key=self._key,
            issuer="passline",
            audience="passline",
            subject=subject,
            life_seconds=3600,
            **claims,
        )

    def event(self, order: int, step: int) -> dict[str, Any]:
        """The `step`th event of an order."""
        return {
            "type": "OrderPlaced" if step == 0 else STEPS[step % len(STEPS)],
            "eventId": f"order-{order}-{step}",
            "occurredOnUtc": "2026-11-20T10:00:00Z",
            "orderId": f"order-{order}",
            "restaurantId": f"restaurant-{order % RESTAURANTS}",
            "customerId": f"auth0|customer-{order}",
        }

    def placed(self) -> Iterator[list[dict[str, Any]]]:
        """Every order's first event."""
        for begin in range(0, ORDERS, 50):
            yield [self.event(order, 0) for order in range(begin, begin + 50)]

    def lives(self) -> Iterator[list[dict[str, Any]]]:
        """All that follows, a few orders' next steps at a time, in a random order of orders."""
        following = [(order, step) for step in range(1, EVENTS // ORDERS) for order in range(ORDERS)]
        chunks = [following[begin : begin + ORDERS] for begin in range(0, len(following), ORDERS)]
        for chunk in chunks:
            self.random.shuffle(chunk)
            for begin in range(0, ORDERS, 20):
                yield [self.event(order, step) for order, step in chunk[begin : begin + 20]]

    async def publish(self, events: list[dict[str, Any]]) -> None:
        """Until each is acknowledged; who retries uses the same event id."""
        left = events
        while left:
            results = await self._attempt(left)
            for event, result in zip(left, results, strict=True):
                topics = (f"restaurants/{event['restaurantId']}", f"orders/{event['orderId']}")
                is_stored = result is not None and result["status"] in ("stored", "duplicate")
                self.published.append(
                    Published(
                        event["eventId"],
                        topics,
                        "ok" if is_stored else "unknown",
                        result["cursor"] if is_stored and result is not None else None,
                    )
                )
            left = [
                event
                for event, result in zip(left, results, strict=True)
                if result is None or result["status"] not in ("stored", "duplicate")
            ]

    async def _attempt(self, events: list[dict[str, Any]]) -> list[dict[str, Any] | None]:
        try:
            response = await self._http.post(f"{self._passline.url}/api/v1/events", json=events)
        except httpx.TransportError:
            return [None] * len(events)
        if response.status_code not in (200, 207, 503) or "results" not in response.json():
            assert response.status_code == 503, response.text
            return [None] * len(events)
        results: list[dict[str, Any] | None] = response.json()["results"]
        return results

    def clients(self) -> Iterator[ReconnectingClient]:
        """Fifty kitchens and fifty customers, each of whom is cut again and again."""
        for index in range(50):
            yield self._client(
                f"kitchen-{index}",
                f"restaurants/restaurant-{index}",
                self.token(f"chef-{index}", restaurants={f"restaurant-{index}": "staff"}),
            )
            yield self._client(f"customer-{index}", f"orders/order-{index}", self.token(f"auth0|customer-{index}"))

    def _client(self, name: str, topic: str, token: str) -> ReconnectingClient:
        return ReconnectingClient(
            name,
            StreamRequest(f"{self._passline.url}/api/v1/{topic}/events", token=token),
            [Grant(topic)],
            pause_seconds=lambda _: self.random.uniform(0, 0.3),
            cuts=random_cuts(self.random, probability=0.9, upto=4_000),
        )

    @property
    def last_acknowledged(self) -> Position:
        positions = [Position.parse(each.cursor) for each in self.published if each.cursor is not None]
        return max(position for position in positions if position is not None)


async def run_town(passline: PasslineProcess, seed: int, nemesis: Any = None) -> None:
    """Publish everything while everybody watches and comes and goes; then judge."""
    async with Town(passline, Random(seed)) as town, AsyncExitStack() as stack:
        for events in town.placed():
            await town.publish(events)
        clients = [await stack.enter_async_context(client) for client in town.clients()]
        for number, events in enumerate(town.lives()):
            if nemesis is not None:
                await nemesis(number)
            await town.publish(events)
        end = town.last_acknowledged
        for client in clients:
            await client.until(lambda client=client: _has_reached(client, end), within=60)  # type: ignore[misc]
            client.log.until = str(end)
        report = check(History(town.published, [client.log for client in clients]))
        report.assert_clean()
        assert len({each.event_id for each in town.published}) == EVENTS
        assert sum(len(client.log.connections) for client in clients) > 400, "hardly anybody came back"


def _has_reached(client: ReconnectingClient, end: Position) -> bool:
    position = Position.parse(client.last_event_id)
    return position is not None and position.epoch == end.epoch and position.sequence >= end.sequence


ENVIRONMENT = {"PASSLINE_HEARTBEAT_SECONDS": "0.3", "PASSLINE_WINDOW_EVENTS": "400"}


@pytest.mark.timeout(120)
async def test_each_client_gets_each_event_once_while_all_come_and_go(tmp_path: Path) -> None:
    """Two processes share the port, so most returns are to the other one."""
    async with PasslineProcess(
        "serve", "--workers", "2", data_dir=tmp_path / "data", environment=ENVIRONMENT
    ) as passline:
        await run_town(passline, seed=20261120)
        assert len(passline.processes("gateway")) == 2


@pytest.mark.timeout(150)
async def test_killed_gateways_worker_and_broker_cost_nobody_an_event(tmp_path: Path) -> None:
    async with PasslineProcess(
        "serve", "--workers", "2", data_dir=tmp_path / "data", environment=ENVIRONMENT
    ) as passline:
        kills = {20: "gateway", 45: "broker", 70: "worker", 90: "broker", 110: "gateway"}

        async def nemesis(number: int) -> None:
            if number in kills:
                for process in passline.processes(kills[number]):  # type: ignore[arg-type]
                    process.send(signal.SIGKILL)

        await run_town(passline, seed=20261121, nemesis=nemesis)


@pytest.mark.timeout(150)
async def test_everything_killed_at_once_and_started_again_costs_nobody_an_event(tmp_path: Path) -> None:
    async with PasslineProcess("serve", data_dir=tmp_path / "data", environment=ENVIRONMENT) as passline:

        async def nemesis(number: int) -> None:
            if number in (40, 80):
                passline.kill()
                for process in passline.processes():
                    process.send(signal.SIGKILL)
                await passline.restart()

        await run_town(passline, seed=20261122, nemesis=nemesis)


async def test_client_resumes_on_the_other_process(tmp_path: Path) -> None:
    """Killed again and again, one process after the other, a client is served by whoever is there."""
    async with (
        PasslineProcess("serve", "--workers", "2", data_dir=tmp_path / "data", environment=ENVIRONMENT) as passline,
        Town(passline, Random(7)) as town,
    ):
        for events in town.placed():
            await town.publish(events)
        async with next(town.clients()) as kitchen:
            await kitchen.until(lambda: kitchen.connected)
            for round_ in range(1, 5):
                victim = passline.processes("gateway")[round_ % 2]
                victim.send(signal.SIGKILL)
                await town.publish([town.event(0, round_)])
                await kitchen.until(lambda round_=round_: f"order-0-{round_}" in kitchen.seen, within=20)  # type: ignore[misc]
                await eventually(lambda: len(passline.processes("gateway")) == 2, within=10)
            end = town.last_acknowledged
            await kitchen.until(lambda: _has_reached(kitchen, end))
            kitchen.log.until = str(end)
        check(History(town.published, [kitchen.log])).assert_clean()
