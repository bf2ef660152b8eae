"""The promise, from outside: every acknowledged event reaches every client that may see it, once and in order.

Real processes, real kills; what publishers and clients wrote down is judged by the checker afterwards.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import AsyncExitStack
from random import Random
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from auth.keys import development_key
from auth.tokens import mint
from streams.topics import TopicKind
from tests.e2e.district import District
from tests.e2e.losses import Losses
from tests.support.checker import check
from tests.support.nats import eventually
from tests.support.processes import PasslineProcess
from tests.support.publishing import RecordingPublisher
from tests.support.reconnecting import ReconnectingClient, random_cuts
from tests.support.records import Grant, History, Position
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
        self._passline = passline
        self._key = development_key(passline.data_dir)
        token = self.token("order-service", scopes=["events:publish"])
        self._publisher = RecordingPublisher(lambda: passline.url, token, topics_of)
        self.published = self._publisher.published

    async def __aenter__(self) -> Town:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._publisher.__aexit__()

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
        """Until each is acknowledged."""
        await self._publisher.publish(events)

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
        return self._publisher.last_acknowledged


def topics_of(event: dict[str, Any]) -> tuple[str, ...]:
    """Those of the two kinds that are watched here."""
    return f"restaurants/{event['restaurantId']}", f"orders/{event['orderId']}"


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


NO_ALARMS = dict.fromkeys(("ACCEPT_WITHIN", "READY_WITHIN", "DELIVER_WITHIN", "UNATTENDED"), "0")
"""They would stand in the log, and nobody here has published them."""


@pytest.mark.timeout(120)
async def test_every_audience_gets_its_own_once_while_all_come_and_go_and_some_lose_it(tmp_path: Path) -> None:
    """Every kind of topic, alone and with others on a stream, over two processes.

    Another seed each time: `PROMISE_SEED` gives one again.
    """
    seed = int(os.environ.get("PROMISE_SEED") or Random().randrange(2**32))
    sys.stdout.write(f"PROMISE_SEED={seed}\n")
    environment = ENVIRONMENT | {f"PASSLINE_{name}_SECONDS": value for name, value in NO_ALARMS.items()}
    environment["PASSLINE_TEAM_CARTS"] = "1"
    async with (
        PasslineProcess("serve", "--workers", "2", data_dir=tmp_path / "data", environment=environment) as passline,
        District(passline, seed) as district,
        AsyncExitStack() as stack,
    ):
        await district.begin()
        losses = Losses(district, passline.url)
        await losses.prepare()
        district.watch()
        for client in district.clients:
            await stack.enter_async_context(client)
        for loss in losses.due:
            await district.live(steps=40)
            await loss()
        await district.live(steps=40)
        history = await district.history()
        report = check(history)
        sys.stdout.write(f"{report}\n")
        (tmp_path / "history.json").write_bytes(msgspec.json.encode(history))
        report.assert_clean()
        assert not district.stuck
        assert report.resumed > 300, "hardly anybody came back"
        assert report.halves > 10, "hardly anybody was cut between two blocks of an entry"
        assert _kinds_seen(history) == {*TopicKind, "guests"}


def _kinds_seen(history: History) -> set[str]:
    """Of which kinds of topic anything came."""
    return {
        str(block.topic).partition("/")[0]
        for client in history.clients
        for connection in client.connections
        for block in connection.blocks
        if block.event_id is not None
    }


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
