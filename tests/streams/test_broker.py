"""The connection and requests over it, on real servers."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from nats.aio.msg import Msg

from streams import broker
from streams.broker import connect, request
from streams.errors import BrokerRefusedCredentials, BrokerUnavailable, BrokerUnreachable, BrokerUrlInvalid
from streams.log import Log
from tests.support.nats import PLACED, client, eventually, publish
from tests.support.pausing import pause

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from nats.aio.client import Client

    from streams.embedded import EmbeddedNats


@asynccontextmanager
async def attempt(url: str, **options: Any) -> AsyncIterator[Client]:
    async with connect(url, name="test", inbox_prefix="_INBOX_gateway", on_closed=lambda: None, **options) as nc:
        yield nc


# -- Connection ------------------------------------------------------------------------------------------------------


async def test_absent_broker_is_told_in_time_and_without_the_password() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    started = time.monotonic()
    with pytest.raises(BrokerUnreachable, match=f"nats://127.0.0.1:{port}") as refusal:
        async with attempt(f"nats://gateway:psecret@127.0.0.1:{port}", timeout_seconds=0.4):
            pass
    assert time.monotonic() - started < 2
    assert "psecret" not in str(refusal.value) + repr(refusal.value) + repr(refusal.value.__cause__)


async def test_hung_broker_is_told_in_time(nats_server: EmbeddedNats) -> None:
    pause(nats_server.pid)
    with pytest.raises(BrokerUnreachable):
        async with attempt(nats_server.url("gateway"), timeout_seconds=0.4):
            pass


@pytest.mark.parametrize("login", ["gateway:pwrong@", "nobody:pwrong@", ""])
async def test_wrong_credentials_are_told_at_once(nats_server: EmbeddedNats, login: str) -> None:
    started = time.monotonic()
    with pytest.raises(BrokerRefusedCredentials) as refusal:
        async with attempt(f"nats://{login}127.0.0.1:{nats_server.port}", timeout_seconds=20):
            pass
    assert time.monotonic() - started < 5
    assert refusal.value.user == (login.partition(":")[0] or None)
    assert "pwrong" not in str(refusal.value)


@pytest.mark.parametrize(
    "url", ["nats://u:psec/ret@h", "nats://u:psec#ret@h:4222", "nats://u:psec?ret@h", "nats://u:p[@h", "nats://", ""]
)
async def test_unreadable_url_is_told_without_repeating_it(url: str) -> None:
    with pytest.raises(BrokerUrlInvalid) as refusal:
        async with attempt(url):
            pass
    assert "psec" not in str(refusal.value)


async def test_escaped_password_and_several_servers_are_understood(nats_server: EmbeddedNats) -> None:
    password = nats_server.address.passwords["gateway"]
    escaped = "".join(f"%{byte:02X}" for byte in password.encode())
    async with attempt(f"gateway:{escaped}@127.0.0.1:{nats_server.port}, 127.0.0.1:{nats_server.port}") as nc:
        assert nc.is_connected


async def test_connection_that_ends_for_good_is_told(nats_server: EmbeddedNats) -> None:
    ended = asyncio.Event()
    async with connect(
        nats_server.url("gateway"), name="test", inbox_prefix="_INBOX_gateway", on_closed=ended.set
    ) as nc:
        await nc.publish("orders." + "x" * 5000)
        async with asyncio.timeout(5):
            await ended.wait()
        with pytest.raises(BrokerUnavailable, match="closed"):
            await Log(nc).state()


async def test_our_own_close_is_not_told_as_an_end(nats_server: EmbeddedNats) -> None:
    ended = asyncio.Event()
    async with connect(nats_server.url("gateway"), name="test", inbox_prefix="_INBOX_gateway", on_closed=ended.set):
        pass
    assert not ended.is_set()


async def test_close_does_not_wait_for_a_hung_broker(nats_server: EmbeddedNats) -> None:
    async with attempt(nats_server.url("gateway")) as nc:
        pause(nats_server.pid)
        for _ in range(100):
            await nc.publish(PLACED, b"x" * 65_536)
        started = time.monotonic()
    assert time.monotonic() - started < broker.CLOSE_SECONDS + 1


class FullDisk:
    """A log that can't be written to."""

    def __init__(self) -> None:
        self.refused = 0

    def bind(self, **_: object) -> FullDisk:
        return self

    def __getattr__(self, level: str) -> Any:
        def refuse(*_: object, **__: object) -> None:
            self.refused += 1
            raise OSError("No space left on device")

        return refuse


async def test_reader_survives_an_error_that_can_not_be_logged(
    log_server: EmbeddedNats, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = FullDisk()
    monkeypatch.setattr(broker, "log", disk)
    async with attempt(log_server.url("gateway")) as nc:
        await nc.publish("dead.forbidden")
        await eventually(lambda: disk.refused > 0)
        assert (await publish(nc))["seq"] == 1


# -- Requests --------------------------------------------------------------------------------------------------------


async def test_absent_broker_costs_two_seconds_and_nothing_is_sent_later(log_server: EmbeddedNats) -> None:
    async with client(log_server, "gateway") as gateway:
        log = Log(gateway)
        os.kill(log_server.pid, signal.SIGKILL)
        await log_server.wait_exited()
        await eventually(lambda: not gateway.is_connected)
        started = time.monotonic()
        with pytest.raises(BrokerUnavailable, match="not connected"):
            await publish(gateway)
        assert 1.9 < time.monotonic() - started < 3
        await log_server.restart()
        assert (await log.state()).last == 0


async def test_request_made_during_a_restart_is_answered_after_it(log_server: EmbeddedNats) -> None:
    async with client(log_server, "gateway") as gateway:
        await publish(gateway)
        os.kill(log_server.pid, signal.SIGKILL)
        state, _ = await asyncio.gather(Log(gateway).state(), log_server.restart())
    assert state.last == 1


async def test_hung_broker_is_noticed_and_the_connection_comes_back(
    log_server: EmbeddedNats, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker, "PING_SECONDS", 0.2)
    async with client(log_server, "gateway") as gateway:
        pause(log_server.pid)
        await eventually(lambda: not gateway.is_connected)
        os.kill(log_server.pid, signal.SIGCONT)
        await eventually(lambda: gateway.is_connected, within=10)
        assert (await publish(gateway))["seq"] == 1


async def test_cancellation_is_heeded_even_where_the_answer_comes_at_the_same_moment(nats_server: EmbeddedNats) -> None:
    """nats-py takes the answer then, and loses the cancellation (as `asyncio.wait_for` does before Python 3.12)."""

    async def say_nothing(_: Msg) -> None:
        pass

    async with client(nats_server, "gateway") as nc:
        await nc.subscribe("passline.silent", cb=say_nothing)
        asking = asyncio.create_task(request(nc, "passline.silent"))
        await eventually(lambda: bool(nc._resp_map))
        (answer,) = nc._resp_map.values()
        answer.set_result(Msg(nc, "answer"))
        asking.cancel()
        await asyncio.wait({asking})
        assert asking.cancelled()
