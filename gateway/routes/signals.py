"""Signals to an order's live streams: outside the log, at most once."""

from __future__ import annotations

import datetime as dt
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import msgspec
from litestar import Request, Response, post
from litestar.di import NamedDependency
from litestar.exceptions import ClientException, InternalServerException

from auth.claims import Claims
from auth.errors import NotAllowed
from auth.policies import COURIER_SCOPE
from gateway.authorization import may_see_restaurant
from gateway.ingest import UnprocessableContent, UnsupportedMediaType
from gateway.media_types import is_json, utf8_media_type
from gateway.openapi import BEARER, SESSION, OrderId, SignalOperation, refusals
from gateway.problems import NEVER_KEPT
from gateway.process import Gateway
from streams.events import split_path
from streams.signals import CourierPosition, Sender, Signal

if TYPE_CHECKING:
    from streams.facts import Facts
    from streams.snapshots import OrderOwner

MAX_SIGNAL_BYTES: Final = 1024

Asker: TypeAlias = Request[Claims, Any, Any]

_ONLY: Final = {
    False: "Only the customer who placed this order and its restaurant may signal.",
    True: "Only the courier and the restaurant may tell where the courier is.",
}
_decoder: Final[msgspec.json.Decoder[Signal]] = msgspec.json.Decoder(Signal)


class SentSignal(msgspec.Struct, frozen=True):
    """A signal was sent, which is not to say that anybody got it. Who did was told the same `at`."""

    at: dt.datetime


@post(
    "/orders/{order_id:str}/signals",
    status_code=HTTPStatus.ACCEPTED,
    summary="Signal to who watches an order",
    tags=["signals"],
    security=[BEARER, SESSION],
    request_max_body_size=MAX_SIGNAL_BYTES,
    operation_class=SignalOperation,
    responses=refusals(401, 403, 404, 413, 415, 422, 429, 503),
)
async def send_signal(request: Asker, order_id: OrderId, gateway: NamedDependency[Gateway]) -> Response[SentSignal]:
    """Typing, viewing, or where the courier is, at most 1 KB: to the live streams of the order, the sender's own too.
    They get it at most once, and who is not there now never does.

    For the customer who placed it, and for the restaurant's owner and staff. A courier's position is the restaurant's
    to tell, or that of somebody with the scope `courier`.
    """
    claims = request.user
    signal = _parse(await _body(request), request.headers.get("content-type", ""))
    gateway.signals_sent.take(f"{claims.key} {order_id}", gateway.hub.clock())
    owner = await gateway.facts.owner(order_id)
    sender = await _sender(gateway.facts, claims, owner, signal)
    at = await gateway.signals.send(order_id, owner, sender, signal)
    return Response(SentSignal(at=at), headers=dict(NEVER_KEPT))


async def _sender(facts: Facts, claims: Claims, owner: OrderOwner, signal: Signal) -> Sender:
    """On whose side the caller is, for this signal. Raises NotAllowed, FactsUnavailable."""
    is_position = isinstance(signal, CourierPosition)
    if is_position and COURIER_SCOPE in claims.scopes:
        return Sender.COURIER
    if not is_position and claims.key == owner.customer_key:
        return Sender.CUSTOMER
    try:
        await may_see_restaurant(facts, claims, owner.restaurant_id)
    except NotAllowed as refusal:
        raise NotAllowed(_ONLY[is_position]) from refusal
    return Sender.RESTAURANT


async def _body(request: Asker) -> bytes:
    try:
        return await request.body()
    except InternalServerException as error:  # Litestar's word for a client that went away
        raise ClientException("The request ended before its body did") from error


def _parse(body: bytes, content_type: str) -> Signal:
    """Raises UnsupportedMediaType, UnprocessableContent. A field that the type does not have is dropped."""
    media_type = utf8_media_type(content_type)
    if media_type is None or not is_json(media_type):
        raise UnsupportedMediaType(content_type, ("application/json",))
    try:
        return _decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        detail, pointer = split_path(str(error))
        raise UnprocessableContent(detail, index=0, pointer=pointer) from error


HANDLERS = [send_signal]
