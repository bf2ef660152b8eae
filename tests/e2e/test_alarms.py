"""Alarms of `passline serve`: on the streams and at the webhook, once, whatever is killed meanwhile."""

from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING

import pytest

from tests.e2e.commands import event, kitchen, publish
from tests.gateway.test_webhook import OK, SECRET, Receiver, documented, receiving
from tests.support.nats import eventually
from tests.support.processes import PasslineProcess, run_passline
from tests.support.sse_client import open_stream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

SOON = {"PASSLINE_ACCEPT_WITHIN_SECONDS": "1", "PASSLINE_UNATTENDED_SECONDS": "1"}


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    """It takes everything."""
    async with receiving(OK) as running:
        yield running


def to(receiver: Receiver) -> dict[str, str]:
    """The settings that send alarms there."""
    return {**SOON, "PASSLINE_ALERT_WEBHOOK": receiver.url, "PASSLINE_ALERT_WEBHOOK_SECRET": SECRET}


async def test_late_order_alarms_its_restaurant_and_the_webhook_once_though_the_worker_is_killed(
    tmp_path: Path, receiver: Receiver
) -> None:
    async with (
        PasslineProcess("serve", data_dir=tmp_path / "data", environment=to(receiver)) as passline,
        open_stream(await kitchen(passline)) as stream,
    ):
        await stream.next_event("snapshot")
        await publish(passline, event(1, "OrderPlaced"))
        alarms = [json.loads((await stream.next_event("ReceiveOrderDelayed")).data or "")]
        await eventually(lambda: "webhook.delivered" in passline.output)
        [worker] = passline.processes("worker")
        worker.send(signal.SIGKILL)
        await publish(passline, event(2, "OrderPlaced", orderId="o-2"))
        alarms.append(json.loads((await stream.next_event("ReceiveOrderDelayed")).data or ""))
        await eventually(lambda: len(receiver.ids) == 2, within=10)
        assert "ReceiveOrderUnattended" not in {block.event for block in stream.blocks}
    assert [(each["orderId"], each["alarm"]) for each in alarms] == [("o-1", "accept"), ("o-2", "accept")]
    assert receiver.ids == [each["eventId"] for each in alarms]
    for request, body in receiver.requests:
        assert documented()(request.headers, body, SECRET)["type"] == "OrderDelayed"


async def test_order_that_nobody_sees_alarms_the_webhook(tmp_path: Path, receiver: Receiver) -> None:
    environment = {**to(receiver), "PASSLINE_ACCEPT_WITHIN_SECONDS": "0"}
    async with PasslineProcess("serve", data_dir=tmp_path / "data", environment=environment) as passline:
        await publish(passline, event(1, "OrderPlaced"))
        await eventually(lambda: len(receiver.requests) >= 1, within=10)
        request, body = receiver.requests[0]
        assert documented()(request.headers, body, SECRET)["type"] == "OrderUnattended"


async def test_serve_refuses_an_alarms_file_that_can_not_be_used_with_one_line(tmp_path: Path) -> None:
    file = tmp_path / "alarms.toml"
    file.write_text("[restaurants.r1]\naccept = 1\n")
    arguments = ("serve", "--port", "0", "--data-dir", str(tmp_path / "data"))
    done = await run_passline(*arguments, environment={"PASSLINE_ALARMS_FILE": str(file)})
    assert done.returncode == 1
    assert f"PASSLINE_ALARMS_FILE: {file}: Object contains unknown field `accept`" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
