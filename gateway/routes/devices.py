"""A restaurant's devices: how they get their keys, and lose them."""

from __future__ import annotations

import datetime as dt
import secrets
import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeAlias

import msgspec
import structlog
from litestar import Request, Response, delete, get, post
from litestar.datastructures import State
from litestar.di import NamedDependency
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import JSONBody, PathParameter
from msgspec import Meta

from auth.claims import Claims
from auth.devices import DeviceKey, key_digest, new_device_key, read_device_key
from auth.errors import DeviceKeyRefused
from auth.passes import DEVICE_PASS_SECONDS, Passes
from gateway.authentication import PUBLIC, Carrier
from gateway.authorization import may_manage_restaurant
from gateway.openapi import BEARER, DEVICE, SESSION, Body, RestaurantId, refusals
from gateway.pairing import OpenedPairing, RegisteredDevice, open_pairing, register_device
from gateway.problems import NEVER_KEPT
from gateway.process import Gateway
from gateway.recording import new_event_id, now_utc, record
from streams import devices
from streams.cursor import Cursor
from streams.devices import DeviceUnknown, registered_devices
from streams.events import DeviceRegistered, DeviceRevoked
from streams.subjects import ID_PATTERN

if TYPE_CHECKING:
    from streams.devices import Device

MAX_BODY_BYTES: Final = 4 * 1024

Asker: TypeAlias = Request[Claims, Carrier, State]
Stranger: TypeAlias = Request[Any, Any, State]
DeviceId: TypeAlias = Annotated[str, PathParameter(pattern=ID_PATTERN, description="The device's id.")]

_STRANGERS: Final = "strangers"  # no address

_log = structlog.get_logger()


class ShownCode(Body, frozen=True, kw_only=True):
    """What a device shows of the owner's code, and what it is to be called."""

    code: Annotated[str, Meta(min_length=1, max_length=32, description="In any case, with or without the hyphen.")]
    name: Annotated[
        str, Meta(min_length=1, max_length=64, pattern=r"^[^\x00-\x1f\x7f-\x9f]+$(?!\n)", description="For people.")
    ]


class DevicePass(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A pass for `partners/<restaurant>`."""

    text: str = msgspec.field(name="pass")
    expires_at: dt.datetime


class ListedDevice(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A registered device. `keySince` is when it was given its present key."""

    device_id: str
    name: str
    registered_at: dt.datetime
    key_since: dt.datetime


class ListedDevices(msgspec.Struct, frozen=True, kw_only=True):
    """The devices of a restaurant, oldest first, as they are at `cursor`. Those that were revoked are not listed."""

    devices: list[ListedDevice]
    cursor: str


# -- For the restaurant's owner ----------------------------------------------------------------------------------------


@post(
    "/restaurants/{restaurant_id:str}/devices/pairing",
    status_code=HTTPStatus.CREATED,
    summary="Have a code for a device",
    tags=["devices"],
    security=[BEARER, SESSION],
    responses=refusals(401, 403, 422, 503),
)
async def begin_pairing(
    request: Asker, restaurant_id: RestaurantId, gateway: NamedDependency[Gateway], passes: NamedDependency[Passes]
) -> Response[OpenedPairing]:
    """For the restaurant's owner. Whoever shows the code within five minutes is a device of the restaurant; one is."""
    await may_manage_restaurant(gateway.facts, request.user, restaurant_id)
    opened = await open_pairing(gateway.publisher, passes, restaurant_id)
    _log.info("device.pairing_opened", restaurant=restaurant_id, by=request.user.key)
    return Response(opened, headers=dict(NEVER_KEPT))


@get(
    "/restaurants/{restaurant_id:str}/devices/keys",
    summary="The registered devices of a restaurant",
    tags=["devices"],
    security=[BEARER, SESSION],
    responses=refusals(401, 403, 422, 503),
)
async def list_devices(
    request: Asker, restaurant_id: RestaurantId, gateway: NamedDependency[Gateway]
) -> Response[ListedDevices]:
    """For the restaurant's owner. Which of them are connected now, `GET /restaurants/{id}/devices` says."""
    async with gateway.facts.reading() as decision:
        await may_manage_restaurant(decision, request.user, restaurant_id)
        found = await registered_devices(decision.sql, restaurant_id)
        position = decision.sql.position
    answer = ListedDevices(
        devices=[_listed(device_id, device) for device_id, device in found.items()],
        cursor=str(Cursor(position.epoch, position.sequence)),
    )
    return Response(answer, headers=dict(NEVER_KEPT))


@delete(
    "/restaurants/{restaurant_id:str}/devices/{device_id:str}",
    summary="Revoke a device",
    tags=["devices"],
    security=[BEARER, SESSION],
    responses=refusals(401, 403, 404, 422, 503)
    | {204: ResponseSpec(None, description="Its key and its passes are good no more.")},
)
async def revoke_device(
    request: Asker, restaurant_id: RestaurantId, device_id: DeviceId, gateway: NamedDependency[Gateway]
) -> Response[None]:
    """For the restaurant's owner. Its open streams end at once, and it never comes back but as another device."""
    await may_manage_restaurant(gateway.facts, request.user, restaurant_id)
    known = await gateway.facts.settled(devices.DEVICE, (restaurant_id, device_id), _is_known)
    if not _is_known(known):
        raise DeviceUnknown(device_id)
    if not known.is_revoked:
        event = DeviceRevoked(
            event_id=new_event_id(), occurred_on_utc=now_utc(), restaurant_id=restaurant_id, device_id=device_id
        )
        await record(gateway.publisher, event)
        _log.info("device.revoked", restaurant=restaurant_id, device=device_id, by=request.user.key)
    return Response(None, headers=dict(NEVER_KEPT))


# -- For the device ----------------------------------------------------------------------------------------------------


@post(
    "/devices",
    status_code=HTTPStatus.CREATED,
    summary="Become a device of a restaurant",
    tags=["devices"],
    opt=dict(PUBLIC),
    request_max_body_size=MAX_BODY_BYTES,
    responses=refusals(403, 413, 422, 429, 503),
)
async def register(
    request: Stranger,
    gateway: NamedDependency[Gateway],
    passes: NamedDependency[Passes],
    data: JSONBody[ShownCode],
) -> Response[RegisteredDevice]:
    """For whoever shows the code that the restaurant's owner was given. The key is told this once.

    403: a wrong code, a used one, or one whose time is up; which of these is not said.
    """
    gateway.pairing_attempts.take(gateway.peers.client_address(request.scope), gateway.hub.clock())
    device = await register_device(gateway.facts, gateway.publisher, passes, data.code, data.name)
    _log.info("device.registered", restaurant=device.restaurant_id, device=device.device_id)
    return Response(device, headers=dict(NEVER_KEPT))


@post(
    "/devices/pass",
    status_code=HTTPStatus.OK,
    summary="Trade a device's key for a pass",
    tags=["devices"],
    security=[DEVICE],
    opt=dict(PUBLIC),
    responses=refusals(401, 429, 503),
)
async def trade_key(
    request: Stranger, gateway: NamedDependency[Gateway], passes: NamedDependency[Passes]
) -> Response[DevicePass]:
    """`Authorization: Device <key>`. The pass is good for 15 minutes and opens `partners/<restaurant>`. The device's
    streams that are open go on as long.
    """
    shown, _ = await _device(request, gateway)
    expires_at = int(time.time()) + DEVICE_PASS_SECONDS
    text = passes.for_device(shown.restaurant_id, shown.device_id, secrets.token_hex(16), expires_at)
    await gateway.renewals.present(passes.verify(text))
    answer = DevicePass(text=text, expires_at=dt.datetime.fromtimestamp(expires_at, dt.UTC))
    return Response(answer, headers=dict(NEVER_KEPT))


@post(
    "/devices/key",
    status_code=HTTPStatus.CREATED,
    summary="Replace a device's key",
    tags=["devices"],
    security=[DEVICE],
    opt=dict(PUBLIC),
    responses=refusals(401, 429, 503),
)
async def replace_key(request: Stranger, gateway: NamedDependency[Gateway]) -> Response[RegisteredDevice]:
    """`Authorization: Device <key>`, the present one. The new key is told this once; the old one is good for 10 minutes
    more, so that a device whose answer was lost can ask again. Streams go on.
    """
    shown, device = await _device(request, gateway)
    key = new_device_key(shown.restaurant_id, shown.device_id)
    event = DeviceRegistered(
        event_id=new_event_id(),
        occurred_on_utc=now_utc(),
        restaurant_id=shown.restaurant_id,
        device_id=shown.device_id,
        name=device.name,
        key_hash=key_digest(key),
    )
    await record(gateway.publisher, event)
    _log.info("device.key_replaced", restaurant=shown.restaurant_id, device=shown.device_id)
    answer = RegisteredDevice(device_id=shown.device_id, restaurant_id=shown.restaurant_id, key=key)
    return Response(answer, headers=dict(NEVER_KEPT))


async def _device(request: Stranger, gateway: Gateway) -> tuple[DeviceKey, Device]:
    """Whose key it is that a request carries.

    Raises:
        DeviceKeyRefused: nobody's.
        RateExceeded, FactsUnavailable
    """
    shown = read_device_key(request.headers.getall("authorization", []))
    gateway.device_requests.take(gateway.peers.client_address(request.scope), gateway.hub.clock())
    name = (shown.restaurant_id, shown.device_id)
    device = await gateway.facts.state(devices.DEVICE, name)
    if not device.knows(shown.digest):
        # It may be from another process and a moment ago. To see that, the broker is asked: by all strangers together
        # no more often than by one address.
        gateway.device_requests.take(_STRANGERS, gateway.hub.clock())
        device = await gateway.facts.settled(devices.DEVICE, name, lambda found: found.knows(shown.digest))
    if not device.has_key(shown.digest, time.time()):
        raise DeviceKeyRefused
    return shown, device


def _is_known(device: Device) -> bool:
    return device != devices.UNKNOWN_DEVICE


def _listed(device_id: str, device: Device) -> ListedDevice:
    registered_at = device.registered_at or 0.0
    return ListedDevice(
        device_id=device_id,
        name=device.name,
        registered_at=dt.datetime.fromtimestamp(registered_at, dt.UTC),
        key_since=dt.datetime.fromtimestamp(device.key_since or registered_at, dt.UTC),
    )


HANDLERS = [begin_pairing, list_devices, revoke_device, register, trade_key, replace_key]
