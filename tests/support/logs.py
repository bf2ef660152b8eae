"""A log for tests of those who read it: order events by the hundred, and every way in which a log can be replaced."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
from typing import TYPE_CHECKING, Any

from streams.events import decode, encode
from streams.provision import StreamSettings, provision
from tests.support.nats import client, publish
from tests.support.samples import sample

if TYPE_CHECKING:
    from pathlib import Path

    from nats.aio.client import Client

    from streams.embedded import EmbeddedNats

SMALL = StreamSettings(max_bytes=256 * 1024, dead_max_bytes=1024**2)
"""Holds some 500 small events; what is older goes out at the front."""


def order_body(event_id: str, *, restaurant: str, customer: str, order: str, kind: str, **fields: Any) -> bytes:
    """The JSON of an order's event."""
    return json.dumps(
        {
            "type": kind,
            "eventId": event_id,
            "occurredOnUtc": "2026-11-20T10:00:00Z",
            "orderId": order,
            "restaurantId": restaurant,
            "customerId": customer,
            **fields,
        }
    ).encode()


async def append_order(
    nc: Client,
    event_id: str,
    *,
    restaurant: str = "r1",
    customer: str = "c1",
    order: str = "o1",
    kind: str = "OrderAccepted",
    **fields: Any,
) -> int:
    """Publish one order's event as its owner would. Returns its sequence."""
    answer = await publish(
        nc,
        f"orders.{restaurant}.{customer}.{order}.{kind}",
        order_body(event_id, restaurant=restaurant, customer=customer, order=order, kind=kind, **fields),
        {"Nats-Msg-Id": event_id},
    )
    return int(answer["seq"])


async def append_orders(
    nc: Client, count: int, *, prefix: str = "e", restaurant: str = "r1", order: str = "o1"
) -> None:
    """Publish many, in their order."""
    for begin in range(0, count, 50):
        await asyncio.gather(
            *(
                append_order(nc, f"{prefix}{index}", restaurant=restaurant, order=order)
                for index in range(begin, min(begin + 50, count))
            )
        )


async def append_staff(nc: Client, event_id: str, kind: str, *, restaurant: str, subject: str, role: str) -> int:
    """Publish that somebody was assigned or revoked. `nc` is of the user `access` or `gateway`."""
    body = {
        "type": kind,
        "eventId": event_id,
        "occurredOnUtc": "2026-11-20T10:00:00Z",
        "restaurantId": restaurant,
        "subject": subject,
        "role": role,
    }
    answer = await publish(nc, f"access.{restaurant}.{kind}", json.dumps(body).encode(), {"Nats-Msg-Id": event_id})
    return int(answer["seq"])


async def append(nc: Client, name: str, event_id: str, /, **fields: Any) -> int:
    """Publish an event of any type: what it must have, and `fields`. Returns its sequence."""
    event = decode(json.dumps(sample(name, eventId=event_id, **fields)).encode())
    answer = await publish(nc, event.log_subject(), encode(event), {"Nats-Msg-Id": event.event_id})
    return int(answer["seq"])


async def stop(server: EmbeddedNats) -> None:
    """End the broker's process, as a kill does; `server.restart()` brings it back."""
    os.kill(server.pid, signal.SIGKILL)
    await server.wait_exited()


def store_of(server: EmbeddedNats) -> Path:
    """Where the broker keeps its streams."""
    return server.layout.store


async def replace_by_new_log(server: EmbeddedNats, settings: StreamSettings) -> None:
    """The stream is deleted and made again: another epoch, and sequences from 1."""
    await stop(server)
    shutil.rmtree(store_of(server) / "jetstream")
    await server.restart()
    async with client(server, "admin") as admin:
        await provision(admin, settings)


async def back_up(server: EmbeddedNats, to: Path) -> None:
    """Copy the store of a stopped moment; the broker runs again afterwards."""
    await stop(server)
    shutil.copytree(store_of(server) / "jetstream", to)
    await server.restart()


async def restore(server: EmbeddedNats, backup: Path) -> None:
    """The store is again what it was at the backup."""
    await stop(server)
    shutil.rmtree(store_of(server) / "jetstream")
    shutil.copytree(backup, store_of(server) / "jetstream")
    await server.restart()
