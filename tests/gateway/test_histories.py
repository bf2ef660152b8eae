"""A log replaced, restored or shortened under a running gateway: a verdict with its reason, never a silent hole."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from streams.database import open_database
from streams.log import Log
from streams.projection import Projection
from streams.provision import StreamSettings, bump_epoch
from tests.gateway.test_streams import event_ids, opened, said, sequence
from tests.support.logs import SMALL, append_order, append_orders, back_up, replace_by_new_log, restore, stop
from tests.support.nats import client, eventually, publish
from tests.support.sse_client import Ending, open_stream

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.gateway import Passline, RunningGateway


@pytest.fixture
def stream_settings() -> StreamSettings:
    return SMALL


async def bump(passline: Passline) -> None:
    """What `passline epoch bump` does."""
    async with (
        client(passline.server, "admin") as admin,
        client(passline.server, "worker") as nc,
        open_database(passline.settings.sql_url) as engine,
    ):
        epoch = await bump_epoch(admin)
        log = Log(nc)
        last = (await log.state()).last
        stored = await log.get(last)
        await Projection(engine).set_position(epoch, last, stored.time if stored else 0.0)


async def until_ready_again(gateway: RunningGateway, epoch: str) -> None:
    await eventually(lambda: gateway.gateway.readiness.ready and gateway.gateway.hub.frames.epoch != epoch, within=15)


async def test_stream_made_anew_closes_its_readers_and_resets_them_by_epoch(passline: Passline) -> None:
    gateway = await passline.gateway()
    await append_orders(passline.nc, 5)
    epoch = gateway.gateway.hub.frames.epoch
    async with open_stream(gateway.kitchen("r1", query={"since": "1h"})) as stream:
        assert len(await event_ids(stream, 5)) == 5
        await replace_by_new_log(passline.server, SMALL)
        closing = await stream.next_event("stream.closing", within=15)
        assert said(closing) == {"reason": "lagged"}
        assert await stream.read_to_end() is Ending.CUT
    assert not gateway.gateway.readiness.ready
    assert "passline epoch bump" in gateway.gateway.readiness.reason
    async with open_stream(gateway.kitchen("r1", last_event_id=f"{epoch}-5")) as refused:
        assert refused.status == 200
        assert await refused.read_to_end() is Ending.CUT
        assert bytes(refused.body).startswith(b"retry: ")
    await bump(passline)
    await until_ready_again(gateway, epoch)
    async with open_stream(gateway.kitchen("r1", last_event_id=f"{epoch}-5")) as stream:
        told = await opened(stream)
        assert (told["verdict"], told["reason"]) == ("reset", "epoch")
        await eventually(lambda: passline.nc.is_connected)
        await append_order(passline.nc, "new")
        assert await event_ids(stream, 1) == ["new"]


async def test_epoch_that_is_bumped_under_a_healthy_gateway_is_noticed(passline: Passline) -> None:
    gateway = await passline.gateway()
    await append_orders(passline.nc, 3)
    epoch = gateway.gateway.hub.frames.epoch
    async with open_stream(gateway.kitchen("r1", query={"since": "1h"})) as stream:
        assert len(await event_ids(stream, 3)) == 3
        await bump(passline)
        assert said(await stream.next_event("stream.closing")) == {"reason": "lagged"}
    await until_ready_again(gateway, epoch)
    async with open_stream(gateway.kitchen("r1", last_event_id=f"{epoch}-3")) as stream:
        told = await opened(stream)
        assert (told["verdict"], told["reason"]) == ("reset", "epoch")
        await append_order(passline.nc, "new")
        assert await event_ids(stream, 1) == ["new"]


async def test_restored_backup_closes_its_readers_and_resets_them(passline: Passline, tmp_path: Path) -> None:
    gateway = await passline.gateway()
    await append_orders(passline.nc, 5)
    await back_up(passline.server, tmp_path / "backup")
    await eventually(lambda: passline.nc.is_connected)
    await append_orders(passline.nc, 5, prefix="lost")
    epoch = gateway.gateway.hub.frames.epoch
    async with open_stream(gateway.kitchen("r1", query={"since": "1h"})) as stream:
        assert len(await event_ids(stream, 10)) == 10
        await restore(passline.server, tmp_path / "backup")
        assert said(await stream.next_event("stream.closing", within=15)) == {"reason": "lagged"}
    assert not gateway.gateway.readiness.ready
    await bump(passline)
    await until_ready_again(gateway, epoch)
    async with open_stream(gateway.kitchen("r1", last_event_id=f"{epoch}-10")) as stream:
        told = await opened(stream)
        assert (told["verdict"], told["reason"]) == ("reset", "epoch")
        assert sequence(told["from"]) == 5


async def test_log_that_lost_its_end_resets_who_is_ahead_of_it(passline: Passline, tmp_path: Path) -> None:
    """A gateway that starts after the loss has not seen what was lost; only the client knows of it."""
    await append_orders(passline.nc, 5)
    await back_up(passline.server, tmp_path / "backup")
    await eventually(lambda: passline.nc.is_connected)
    await passline.stop_worker()
    await append_orders(passline.nc, 5, prefix="lost")
    await restore(passline.server, tmp_path / "backup")
    passline.start_worker()
    gateway = await passline.gateway()
    epoch = gateway.gateway.hub.frames.epoch
    async with open_stream(gateway.kitchen("r1", last_event_id=f"{epoch}-10")) as stream:
        told = await opened(stream)
        assert (told["verdict"], told["reason"]) == ("reset", "ahead")
        assert "lost" not in told


async def test_position_that_retention_has_passed_is_reset_with_what_was_lost(passline: Passline) -> None:
    gateway = await passline.gateway(window_events=2)
    for _ in range(8):
        await publish(passline.nc, data=b"x" * 60_000)
    await append_order(passline.nc, "kept")
    first = (await Log(passline.nc).state()).first
    assert first > 3
    await eventually(lambda: gateway.gateway.hub.head == 9)
    epoch = gateway.gateway.hub.frames.epoch
    async with open_stream(gateway.kitchen("r1", last_event_id=f"{epoch}-1", query={"snapshot": "false"})) as stream:
        told = await opened(stream)
        assert (told["verdict"], told["reason"]) == ("reset", "expired")
        assert told["lost"] == {"from": f"{epoch}-2", "to": f"{epoch}-{first - 1}"}
        assert await event_ids(stream, 1) == ["kept"]
    async with open_stream(gateway.kitchen("r1", query={"since": "1h", "snapshot": "false"})) as stream:
        told = await opened(stream)
        assert (told["verdict"], told["reason"]) == ("reset", "expired")
    async with open_stream(gateway.kitchen("r1", last_event_id=f"{epoch}-{first - 1}")) as stream:
        assert (await opened(stream))["verdict"] == "resumed"
        assert await event_ids(stream, 1) == ["kept"]


async def test_broker_that_is_away_leaves_streams_open_with_heartbeats(passline: Passline) -> None:
    gateway = await passline.gateway(heartbeat_seconds=0.2)
    await append_orders(passline.nc, 3)
    async with open_stream(gateway.kitchen("r1", query={"since": "1h"})) as stream:
        assert len(await event_ids(stream, 3)) == 3
        await stop(passline.server)
        for _ in range(4):
            block = await stream.next_block()
            assert block is not None
            assert (block.data, block.id) == (None, f"{gateway.gateway.hub.frames.epoch}-3")
        assert gateway.gateway.readiness.ready
        await passline.server.restart()
        await eventually(lambda: passline.nc.is_connected)
        await append_order(passline.nc, "after")
        assert await event_ids(stream, 1) == ["after"]
