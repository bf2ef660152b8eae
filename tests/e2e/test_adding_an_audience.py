"""The example of docs/adding-an-audience.md, applied to a copy of the source and run."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.e2e.commands import event, lines
from tests.support.processes import PasslineProcess, run_passline
from tests.support.sse_client import StreamRequest, open_stream

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs/adding-an-audience.md"


def hunks(document: str) -> Iterator[tuple[str, str, str]]:
    """Of every hunk: the file, the lines that must be there once, and what they become."""
    for block in re.findall(r"^```diff\n(.*?)^```$", document, re.M | re.S):
        head, *parts = re.split(r"^@@.*\n", block, flags=re.M)
        (name,) = re.findall(r"^\+\+\+ b/(.*)$", head, re.M)
        for part in parts:
            told = part.splitlines(keepends=True)
            yield (
                name,
                "".join(line[1:] for line in told if line[0] in " -"),
                "".join(line[1:] for line in told if line[0] in " +"),
            )


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """The packages with the example applied."""
    copy = tmp_path / "source"
    for package in ("auth", "gateway", "streams"):
        shutil.copytree(ROOT / package, copy / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "nats.conf", copy)
    for name, before, after in hunks(DOCUMENT.read_text()):
        text = (copy / name).read_text()
        assert ("\n" + text).count("\n" + before) == 1, f"{name} has this not once:\n{before}"
        (copy / name).write_text(("\n" + text).replace("\n" + before, "\n" + after)[1:])
    return copy


async def test_documented_example_adds_an_audience_with_all_that_belongs_to_it(source: Path, tmp_path: Path) -> None:
    environment = {"PYTHONPATH": str(source)}

    async def said(*arguments: str, stdin: bytes = b"") -> str:
        done = await run_passline(*arguments, environment=environment, stdin=stdin)
        assert done.returncode == 0, done.stderr
        return done.stdout

    at = ("--data-dir", str(tmp_path / "data"))
    async with PasslineProcess("serve", data_dir=tmp_path / "data", environment=environment) as passline:
        path = "/api/v1/restaurants/pizzeria-roma/couriers/events"
        courier = (await said("token", "--subject", "desk", "--scope", "courier", *at)).strip()
        stranger = (await said("token", "--subject", "ada", *at)).strip()
        async with (
            open_stream(StreamRequest(passline.url + path, token=stranger)) as refused,
            open_stream(StreamRequest(passline.url + path, token=courier)) as stream,
        ):
            assert refused.status == 403
            await stream.next_event("stream.opened")
            events = [event(1, "OrderPlaced", customerName="Ada L.", total={"amount": "9.00", "currency": "EUR"})]
            events += [event(2, "OrderAccepted"), event(3, "OrderReadyForDelivery", orderNumber="17")]
            await said("publish", "-", *at, stdin=lines(*events))
            block = await stream.next_event("ReceiveCourierOrder")
    told = json.loads(block.data or "")
    assert told.pop("occurredOnUtc") == "2026-11-20T10:00:00Z"
    assert told == {
        "eventId": "e-3",
        "topic": "couriers/pizzeria-roma",
        "schemaVersion": 1,
        "orderId": "o-1",
        "orderNumber": "17",
        "status": "ReadyForDelivery",
    }
    documents = await said("schema", "topics")
    assert "| `couriers/<id>` | `couriers` | `GET /api/v1/restaurants/{restaurant_id}/couriers/events` |" in documents
    assert "### CourierBroadcast" in documents
