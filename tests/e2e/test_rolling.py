"""SIGHUP: every process is replaced by a new one, and clients notice no more of it than a reconnect."""

from __future__ import annotations

import asyncio
import itertools
import json
import signal
from contextlib import AsyncExitStack, asynccontextmanager
from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from auth.keys import DEVELOPMENT_KEY_FILE
from tests.e2e.commands import event, is_applied, kitchen, publish
from tests.e2e.test_promise import Town
from tests.support.checker import check
from tests.support.nats import eventually
from tests.support.processes import PasslineProcess
from tests.support.reconnecting import ReconnectingClient
from tests.support.records import Grant, History, Position
from tests.support.sse_client import NoResponse, StreamRequest, open_stream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from tests.support.process_table import Role

ORDERS = 24
VISITORS = 3
ROLL_SECONDS = 25.0
HEARTBEATS = {"PASSLINE_HEARTBEAT_SECONDS": "0.3"}
QUICK = {"PASSLINE_DRAIN_SECONDS": "0.2"}


def hang_up(passline: PasslineProcess) -> None:
    [supervisor] = passline.processes("supervisor")
    supervisor.send(signal.SIGHUP)


def pids(passline: PasslineProcess, role: Role) -> set[int]:
    return {each.pid for each in passline.processes(role)}


def logged(passline: PasslineProcess, name: str) -> list[dict[str, Any]]:
    """The lines of an event in the log."""
    lines = [json.loads(line) for line in passline.output.splitlines() if line.startswith("{") and line.endswith("}")]
    return [line for line in lines if line["event"] == name]


async def has_rolled(passline: PasslineProcess, times: int = 1) -> None:
    await eventually(lambda: len(logged(passline, "roll.ended")) == times, within=ROLL_SECONDS)


class Watchers:
    """Kitchens and customers who stay, come back, and are told apart from those who were not let in."""

    def __init__(self, town: Town, url: str) -> None:
        self.clients = [self._kitchen(town, url, index) for index in range(ORDERS // 2)]
        self.clients += [self._customer(town, url, index) for index in range(ORDERS // 2)]

    @property
    def turned_away(self) -> list[str]:
        """Every connection that did not become a stream."""
        return [
            f"{client.log.client}, connection {connection.number}: {connection.status}"
            for client in self.clients
            for connection in client.log.connections
            if connection.opened is None
        ]

    @staticmethod
    def _kitchen(town: Town, url: str, index: int) -> ReconnectingClient:
        topic = f"restaurants/restaurant-{index}"
        token = town.token(f"chef-{index}", restaurants={f"restaurant-{index}": "staff"})
        return ReconnectingClient(f"kitchen-{index}", _stream(url, topic, token), [Grant(topic)])

    @staticmethod
    def _customer(town: Town, url: str, index: int) -> ReconnectingClient:
        topic, token = f"orders/order-{index}", town.token(f"auth0|customer-{index}")
        return ReconnectingClient(f"customer-{index}", _stream(url, topic, token), [Grant(topic)])


def _stream(url: str, topic: str, token: str) -> StreamRequest:
    return StreamRequest(f"{url}/api/v1/{topic}/events", token=token)


async def visit(town: Town, url: str, met: list[str], name: str) -> None:
    """Open a stream, each time as somebody else, and leave it as soon as it has begun; note down what it was met by."""
    for number in itertools.count():
        token = town.token(f"{name}-{number}", restaurants={"restaurant-0": "staff"})
        try:
            async with open_stream(_stream(url, "restaurants/restaurant-0", token)) as stream:
                block = await stream.next_block()
                met.append("no event" if block is None or block.data is None else block.type)
        except (OSError, NoResponse) as error:
            met.append(repr(error))


@asynccontextmanager
async def visited(town: Town, url: str) -> AsyncIterator[list[str]]:
    met: list[str] = []
    visitors = [asyncio.create_task(visit(town, url, met, f"visitor-{number}")) for number in range(VISITORS)]
    try:
        yield met
    finally:
        for visitor in visitors:
            visitor.cancel()
        await asyncio.wait(visitors)
        for visitor in visitors:
            assert visitor.cancelled(), visitor.exception()


async def publish_until(ended: asyncio.Task[None], town: Town) -> None:
    """The next step of every order, a few orders at a time, until the task has ended."""
    steps = _steps(town)
    while not ended.done():
        await town.publish(next(steps))
        await asyncio.sleep(0.02)
    await ended


def _steps(town: Town) -> Iterator[list[dict[str, Any]]]:
    for step in itertools.count(1):
        for begin in range(0, ORDERS, 6):
            yield [town.event(order, step) for order in range(begin, begin + 6)]


@pytest.mark.timeout(60)
async def test_roll_replaces_all_and_turns_nobody_away_and_costs_nobody_an_event(tmp_path: Path) -> None:
    async with (
        PasslineProcess("serve", "--workers", "2", data_dir=tmp_path / "data", environment=HEARTBEATS) as passline,
        Town(passline, Random(20261123)) as town,
        AsyncExitStack() as stack,
    ):
        gateways, workers = pids(passline, "gateway"), pids(passline, "worker")
        await town.publish([town.event(order, 0) for order in range(ORDERS)])
        watchers = Watchers(town, passline.url)
        for client in watchers.clients:
            await stack.enter_async_context(client)
            await client.until(lambda client=client: client.connected)  # type: ignore[misc]
        async with visited(town, passline.url) as met:
            hang_up(passline)
            await publish_until(asyncio.create_task(has_rolled(passline)), town)
        end = town.last_acknowledged
        for client in watchers.clients:
            await client.until(lambda client=client: _has_reached(client, end))  # type: ignore[misc]
            client.log.until = str(end)
        assert len(pids(passline, "gateway")) == 2
        assert pids(passline, "gateway").isdisjoint(gateways)
        assert len(pids(passline, "worker")) == 1
        assert pids(passline, "worker").isdisjoint(workers)
        assert watchers.turned_away == []
        assert all(len(client.log.connections) > 1 for client in watchers.clients), "somebody was never drained"
        assert set(met) == {"stream.opened"}
        check(History(town.published, [client.log for client in watchers.clients])).assert_clean()
        await eventually(lambda: is_applied(passline, str(end)), within=10)
        assert logged(passline, "process.died") == logged(passline, "process.killed") == []
        assert "Traceback" not in passline.output


async def test_asked_again_during_a_roll_it_rolls_once_more_after_it(tmp_path: Path) -> None:
    async with PasslineProcess("serve", data_dir=tmp_path / "data", environment=QUICK) as passline:
        hang_up(passline)
        await eventually(lambda: len(logged(passline, "roll.began")) == 1)
        hang_up(passline)
        await has_rolled(passline, times=2)
        assert len(logged(passline, "roll.began")) == 2
        replaced = [each["process"] for each in logged(passline, "process.replaced")]
        assert replaced == ["gateway-1", "worker"] * 2


async def test_process_that_can_not_start_leaves_the_others_in_their_places(tmp_path: Path) -> None:
    async with PasslineProcess("serve", data_dir=tmp_path / "data", environment=QUICK) as passline:
        before = {each.pid for each in passline.processes()}
        request = await kitchen(passline)
        key = passline.data_dir / DEVELOPMENT_KEY_FILE
        pem = key.read_bytes()
        async with open_stream(request) as stream:
            await stream.next_event("snapshot")
            key.write_bytes(b"this is no key")
            hang_up(passline)
            await eventually(lambda: logged(passline, "roll.stopped") != [], within=ROLL_SECONDS)
            assert {each.pid for each in passline.processes()} == before
            key.write_bytes(pem)
            await publish(passline, event(1, "OrderPlaced"))
            await stream.next_event("ReceiveOrderPlaced")
        [stopped] = logged(passline, "roll.stopped")
        assert stopped["reason"] == "the new gateway-1 did not become ready: ended with code 1"
        [failed] = logged(passline, "process.failed")
        assert DEVELOPMENT_KEY_FILE in failed["reason"]
        hang_up(passline)  # the key is whole again
        await has_rolled(passline)
        supervisor_and_broker = before & {each.pid for each in passline.processes()}
        assert len(supervisor_and_broker) == 2


@pytest.mark.parametrize("moment", ["process.started", "drain.began"])
async def test_signal_to_end_during_a_roll_ends_old_and_new_in_good_order(tmp_path: Path, moment: str) -> None:
    async with PasslineProcess("serve", data_dir=tmp_path / "data") as passline:
        async with open_stream(await kitchen(passline)) as stream:
            await stream.next_event("snapshot")
            so_far = len(logged(passline, moment))
            hang_up(passline)
            await eventually(lambda: len(logged(passline, moment)) > so_far, within=ROLL_SECONDS)
            passline.terminate()
            await stream.next_event("stream.closing")
        assert await passline.exited() == 0
        assert passline.processes() == []
        assert logged(passline, "process.killed") == logged(passline, "roll.ended") == []
        assert "Traceback" not in passline.output


def _has_reached(client: ReconnectingClient, end: Position) -> bool:
    position = Position.parse(client.last_event_id)
    return position is not None and position.sequence >= end.sequence
