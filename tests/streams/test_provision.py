"""How the streams are made, what differs, and what they refuse, on real servers."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from streams.errors import EpochMissing, JetStreamRefused, MessageNotSendable, StreamMissing
from streams.log import EVENTS, Log
from streams.provision import COMMANDS, DEAD, Drift, Provisioned, bump_epoch, provision
from streams.subjects import EVENT_SUBJECTS
from tests.support.nats import SETTINGS, api, client, publish

if TYPE_CHECKING:
    from streams.embedded import EmbeddedNats

SECOND = 1_000_000_000


async def test_events_is_made_as_designed(nats_server: EmbeddedNats) -> None:
    async with client(nats_server, "admin") as admin:
        provisioned = await provision(admin, SETTINGS)
        found = (await api(admin, "STREAM.INFO.EVENTS"))["config"]
    assert {key: value for key, value in found["metadata"].items() if not key.startswith("_nats.")} == {
        "epoch": provisioned.epoch
    }
    del found["metadata"]
    assert found == {
        "name": "EVENTS",
        "subjects": ["orders.>", "carts.>", "workflows.>", "finance.>", "coupons.>", "access.>"],
        "storage": "file",
        "retention": "limits",
        "discard": "old",
        "max_age": 7 * 24 * 3600 * SECOND,
        "max_bytes": SETTINGS.max_bytes,
        "max_msgs": -1,
        "max_msgs_per_subject": -1,
        "max_consumers": -1,
        "max_msg_size": 72 * 1024,
        "num_replicas": 1,
        "duplicate_window": 600 * SECOND,
        "deny_delete": True,
        "deny_purge": True,
        "allow_direct": True,
        # What the server adds of itself:
        "allow_rollup_hdrs": False,
        "allow_msg_ttl": False,
        "mirror_direct": False,
        "sealed": False,
        "compression": "none",
        "consumer_limits": {},
    }
    assert provisioned.drift == ()
    assert len(provisioned.epoch) == 8
    assert provisioned.epoch.isalnum()
    assert provisioned.epoch == provisioned.epoch.lower()


async def test_dead_is_bounded_by_age_and_bytes(nats_server: EmbeddedNats) -> None:
    async with client(nats_server, "admin") as admin:
        await provision(admin, SETTINGS)
        found = (await api(admin, "STREAM.INFO.DEAD"))["config"]
    assert found["subjects"] == ["dead.>"]
    assert found["max_age"] == 30 * 24 * 3600 * SECOND
    assert found["max_bytes"] == SETTINGS.dead_max_bytes
    assert found["duplicate_window"] == 24 * 3600 * SECOND


async def test_commands_is_a_work_queue_that_refuses_rather_than_forgets(nats_server: EmbeddedNats) -> None:
    async with client(nats_server, "admin") as admin:
        await provision(admin, SETTINGS)
        found = (await api(admin, "STREAM.INFO.COMMANDS"))["config"]
    assert (found["subjects"], found["retention"], found["discard"]) == (["commands.>"], "workqueue", "new")
    assert (found["discard_new_per_subject"], found["max_msgs_per_subject"]) == (True, 64)
    assert (found["storage"], found["max_bytes"]) == ("file", SETTINGS.commands_max_bytes)
    assert found["max_age"] == 24 * 3600 * SECOND
    assert found["duplicate_window"] == 2 * 3600 * SECOND
    assert not found["deny_delete"]


async def test_keys_are_kept_for_an_hour_and_no_longer_than_commands_are_told_apart(nats_server: EmbeddedNats) -> None:
    async with client(nats_server, "admin") as admin:
        await provision(admin, SETTINGS)
        found = (await api(admin, "STREAM.INFO.IDEMPOTENCY"))["config"]
        commands = (await api(admin, "STREAM.INFO.COMMANDS"))["config"]
    assert (found["subjects"], found["retention"], found["discard"]) == (["idempotency.>"], "limits", "old")
    assert found["max_age"] == 3600 * SECOND < commands["duplicate_window"]


async def test_provisioning_again_changes_nothing(nats_server: EmbeddedNats) -> None:
    async with client(nats_server, "admin") as admin:
        first = await provision(admin, SETTINGS)
        assert await provision(admin, SETTINGS) == first


async def test_processes_that_provision_at_once_agree(nats_server: EmbeddedNats) -> None:
    async def one_process() -> Provisioned:
        async with client(nats_server, "admin") as admin:
            return await provision(admin, SETTINGS)

    results = await asyncio.gather(*(one_process() for _ in range(8)))
    assert len(set(results)) == 1


async def test_drift_is_told_and_not_overwritten(log_server: EmbeddedNats) -> None:
    async with client(log_server, "admin") as admin:
        before = await provision(admin, SETTINGS)
        other = replace(SETTINGS, max_age_seconds=3600, dead_max_bytes=1024**2, commands_max_bytes=4096)
        assert await provision(admin, other) == Provisioned(
            before.epoch,
            (
                Drift(EVENTS, "max_age", 3600 * SECOND, 7 * 24 * 3600 * SECOND),
                Drift(DEAD, "max_bytes", 1024**2, SETTINGS.dead_max_bytes),
                Drift(COMMANDS, "max_bytes", 4096, SETTINGS.commands_max_bytes),
            ),
        )
        assert await provision(admin, SETTINGS) == before


async def test_stream_that_allows_holes_is_told(nats_server: EmbeddedNats) -> None:
    async with client(nats_server, "admin") as admin:
        await api(
            admin,
            "STREAM.CREATE.EVENTS",
            {"name": EVENTS, "subjects": ["orders.>"], "allow_msg_schedules": True, "metadata": {"epoch": "abc"}},
        )
        drift = {difference.field: difference for difference in (await provision(admin, SETTINGS)).drift}
    assert drift["subjects"] == Drift(EVENTS, "subjects", list(EVENT_SUBJECTS), ["orders.>"])
    assert drift["allow_msg_schedules"] == Drift(EVENTS, "allow_msg_schedules", None, True)
    assert drift["allow_rollup_hdrs"] == Drift(EVENTS, "allow_rollup_hdrs", None, True)
    assert {"deny_delete", "deny_purge", "max_age", "max_bytes", "duplicate_window"} <= set(drift)


async def test_log_without_an_epoch_is_refused_until_the_epoch_is_bumped(nats_server: EmbeddedNats) -> None:
    async with client(nats_server, "admin") as admin, client(nats_server, "gateway") as gateway:
        await api(admin, "STREAM.CREATE.EVENTS", {"name": EVENTS, "subjects": list(EVENT_SUBJECTS)})
        with pytest.raises(EpochMissing, match="passline epoch bump"):
            await provision(admin, SETTINGS)
        with pytest.raises(EpochMissing):
            await Log(gateway).state()
        epoch = await bump_epoch(admin)
        assert (await provision(admin, SETTINGS)).epoch == epoch
        assert (await Log(gateway).state()).epoch == epoch


async def test_bump_changes_the_epoch_and_nothing_else(log_server: EmbeddedNats) -> None:
    async with client(log_server, "admin") as admin:
        before = await api(admin, "STREAM.INFO.EVENTS")
        epoch = await bump_epoch(admin)
        after = await api(admin, "STREAM.INFO.EVENTS")
    assert after["config"]["metadata"].pop("epoch") == epoch != before["config"]["metadata"].pop("epoch")
    assert after["config"] == before["config"]
    assert after["created"] == before["created"]


async def test_bump_without_a_log_is_refused(nats_server: EmbeddedNats) -> None:
    async with client(nats_server, "admin") as admin:
        with pytest.raises(StreamMissing):
            await bump_epoch(admin)


async def test_disk_without_room_is_told(nats_server: EmbeddedNats) -> None:
    async with client(nats_server, "admin") as admin:
        with pytest.raises(JetStreamRefused, match="insufficient storage"):
            await provision(admin, replace(SETTINGS, max_bytes=1 << 60))


@pytest.mark.parametrize(
    "headers",
    [
        {"Nats-TTL": "1s"},
        {"Nats-Rollup": "all"},
        {"Nats-Rollup": "sub"},
        {"Nats-Schedule": "@at 2030-01-01T00:00:00Z", "Nats-Schedule-Target": "orders.r.c.o.OrderPlaced"},
    ],
)
async def test_events_refuses_what_would_make_a_hole(log_server: EmbeddedNats, headers: dict[str, str]) -> None:
    async with client(log_server, "gateway") as gateway:
        await publish(gateway)
        answer = await publish(gateway, headers=headers)
        assert answer["error"]["code"] >= 400
        state = await Log(gateway).state()
    assert (state.first, state.last) == (1, 1)


async def test_largest_event_fits_with_its_headers_and_a_larger_one_does_not(log_server: EmbeddedNats) -> None:
    async with client(log_server, "gateway") as gateway:
        assert (await publish(gateway, data=b"x" * 65_536, headers={"X-Note": "x" * 7000}))["seq"] == 1
        assert (await publish(gateway, data=b"x" * 74_000))["error"]["err_code"] == 10054
        with pytest.raises(MessageNotSendable):
            await publish(gateway, data=b"x" * 300_000)
