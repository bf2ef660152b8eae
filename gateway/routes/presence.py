"""Who is connected anywhere in the cluster, asked of every gateway process at the moment."""

from __future__ import annotations

import asyncio
import datetime as dt
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import msgspec
from litestar import Request, Response, get
from litestar.di import NamedDependency
from msgspec import UNSET, UnsetType

from auth.claims import Claims
from auth.errors import NotAllowed
from gateway.authorization import may_see_order, may_see_restaurant
from gateway.openapi import BEARER, SESSION, OrderId, RestaurantId, refusals
from gateway.problems import NEVER_KEPT
from gateway.process import Gateway
from streams.devices import DEVICE
from streams.presence import OpenStream
from streams.staff import STAFF

if TYPE_CHECKING:
    from streams.facts import Facts

DEVICE_PREFIX: Final = "device:"

Asker: TypeAlias = Request[Claims, Any, Any]


class ConnectedDevice(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A stream of a restaurant's orders that is open now.

    `kind` says what it is of: a device, by `deviceId` and the `name` that it was registered with; or a person of the
    restaurant, its owner or its staff, by `subject`, which is their key, with the `roles` that the log gives them: none
    where their token alone does.
    `behind` is how many entries of the log it has not come to yet, as its process has read it: 0 when it is live.
    """

    kind: Literal["staff", "device"]
    subject: str | UnsetType = UNSET
    roles: list[str] | UnsetType = UNSET
    device_id: str | UnsetType = UNSET
    name: str | UnsetType = UNSET
    topics: tuple[str, ...]
    connected_since: dt.datetime
    behind: int
    paused: bool


class ConnectedDevices(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Who of a restaurant is connected, longest first: `connected` streams, of which at most 500 are told.

    `processes` gateway processes were heard. Where it is not `complete`, one that was there a moment ago did not answer
    in time, and who is connected to it is missing.
    """

    restaurant_id: str
    devices: list[ConnectedDevice]
    connected: int
    processes: int
    complete: bool


class OrderWatchers(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """How many open streams show an order: to its restaurant's people and devices, to its customer, and to guests.

    `processes` and `complete` as with a restaurant's devices.
    """

    order_id: str
    restaurant: int
    customer: int
    guests: int
    processes: int
    complete: bool


@get(
    "/restaurants/{restaurant_id:str}/devices",
    summary="Who of a restaurant is connected",
    tags=["presence"],
    security=[BEARER, SESSION],
    responses=refusals(401, 403, 422, 429, 503),
)
async def connected_devices(
    request: Asker, restaurant_id: RestaurantId, gateway: NamedDependency[Gateway]
) -> Response[ConnectedDevices]:
    """Every open stream of its orders, at any gateway process: for the restaurant's owner and staff.

    It is known half a second after the question at the latest.
    """
    gateway.presence_asked.take(request.user.key, gateway.hub.clock())
    await may_see_restaurant(gateway.facts, request.user, restaurant_id)
    heard = await gateway.presence.of_restaurant(restaurant_id)
    devices = await asyncio.gather(*[_device(gateway.facts, restaurant_id, stream) for stream in heard.streams])
    answer = ConnectedDevices(
        restaurant_id=restaurant_id,
        devices=list(devices),
        connected=heard.count,
        processes=heard.processes,
        complete=heard.is_complete,
    )
    return Response(answer, headers=dict(NEVER_KEPT))


@get(
    "/orders/{order_id:str}/watchers",
    summary="How many watch an order",
    tags=["presence"],
    security=[BEARER, SESSION],
    responses=refusals(401, 403, 404, 422, 429, 503),
)
async def order_watchers(
    request: Asker, order_id: OrderId, gateway: NamedDependency[Gateway]
) -> Response[OrderWatchers]:
    """Counts, and no names: for the customer who placed it, and for the restaurant's owner and staff."""
    claims, facts = request.user, gateway.facts
    gateway.presence_asked.take(claims.key, gateway.hub.clock())
    owner = await facts.owner(order_id)
    try:
        may_see_order(claims, owner)
    except NotAllowed:
        await may_see_restaurant(facts, claims, owner.restaurant_id)
    heard = await gateway.presence.of_order(order_id, owner.restaurant_id, owner.customer_key)
    answer = OrderWatchers(
        order_id=order_id,
        restaurant=heard.restaurant,
        customer=heard.customer,
        guests=heard.guests,
        processes=heard.processes,
        complete=heard.is_complete,
    )
    return Response(answer, headers=dict(NEVER_KEPT))


async def _device(facts: Facts, restaurant_id: str, stream: OpenStream) -> ConnectedDevice:
    """Raises FactsUnavailable."""
    told: dict[str, Any]
    if stream.subject.startswith(DEVICE_PREFIX):
        device_id = stream.subject.rpartition(":")[2]
        told = {"kind": "device", "device_id": device_id}
        if name := (await facts.state(DEVICE, (restaurant_id, device_id))).name:
            told["name"] = name
    else:
        known = await facts.state(STAFF, (restaurant_id, stream.subject))
        told = {"kind": "staff", "subject": stream.subject, "roles": sorted(known.roles)}
    return ConnectedDevice(
        **told,
        topics=stream.topics,
        connected_since=dt.datetime.fromtimestamp(stream.connected_since, dt.UTC),
        behind=stream.behind,
        paused=stream.paused,
    )


HANDLERS = [connected_devices, order_watchers]
