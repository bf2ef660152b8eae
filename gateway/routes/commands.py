"""Commands: what somebody wants done with an order, handed to the service that owns it. Nothing is decided here."""

from __future__ import annotations

import datetime as dt
from functools import partial
from http import HTTPStatus
from typing import Annotated, Final, TypeAlias
from uuid import uuid4

import msgspec
from litestar import Request, Response, post
from litestar.datastructures import State
from litestar.di import NamedDependency
from litestar.params import HeaderParameter, JSONBody
from msgspec import UNSET, UnsetType

from auth.claims import Claims, PassClaims
from auth.errors import PassRefused
from gateway.authentication import TAKES_PASS, Carrier
from gateway.authorization import may_command
from gateway.idempotency_key import KEY_PATTERN, unquoted
from gateway.openapi import BEARER, SESSION, Body, OrderId, refusals
from gateway.problems import NEVER_KEPT
from gateway.process import Gateway
from streams.commands import Capacity, OrderCommand, SentBy
from streams.cursor import Cursor
from streams.events import Command, NotificationTarget, Text, UtcTime
from streams.facts import FactsUnavailable

MAX_BODY_BYTES: Final = 4 * 1024

Asker: TypeAlias = Request[Claims, Carrier, State]

IdempotencyKey: TypeAlias = Annotated[
    str | None,
    HeaderParameter(
        name="Idempotency-Key",
        pattern=KEY_PATTERN,
        description="Of the caller's choice, another one for each command: what is sent again under it is done once "
        "(draft-ietf-httpapi-idempotency-key-header). Remembered for an hour.",
    ),
]


class Acceptance(Body, frozen=True, kw_only=True):
    """What may be said with `accept`."""

    estimated_delivery_time: UtcTime | UnsetType = UNSET


class Explanation(Body, frozen=True, kw_only=True):
    """What may be said with `reject` and `cancel`."""

    reason: Text | UnsetType = UNSET


class CommandSent(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A command on its way: its answer on the order's streams carries the `commandId`."""

    command_id: str
    order_id: str
    command: Command
    expires_at: dt.datetime


_command = partial(
    post,
    status_code=HTTPStatus.ACCEPTED,
    tags=["commands"],
    security=[BEARER, SESSION],
    request_max_body_size=MAX_BODY_BYTES,
    responses=refusals(401, 403, 404, 413, 422, 503),
)


@_command("/orders/{order_id:str}/accept", opt=dict(TAKES_PASS), summary="Ask to accept an order")
async def accept(
    request: Asker,
    order_id: OrderId,
    gateway: NamedDependency[Gateway],
    data: JSONBody[Acceptance | None] = None,
    idempotency_key: IdempotencyKey = None,
) -> Response[CommandSent]:
    """For the restaurant's owner, staff and devices, and the scope `orders:command`."""
    said = data or Acceptance()
    return await _send(
        gateway, request.user, order_id, Command.ACCEPT, idempotency_key, eta=said.estimated_delivery_time
    )


@_command("/orders/{order_id:str}/reject", opt=dict(TAKES_PASS), summary="Ask to reject an order")
async def reject(
    request: Asker,
    order_id: OrderId,
    gateway: NamedDependency[Gateway],
    data: JSONBody[Explanation | None] = None,
    idempotency_key: IdempotencyKey = None,
) -> Response[CommandSent]:
    """For the restaurant's owner, staff and devices, and the scope `orders:command`."""
    said = data or Explanation()
    return await _send(gateway, request.user, order_id, Command.REJECT, idempotency_key, reason=said.reason)


@_command("/orders/{order_id:str}/preparing", opt=dict(TAKES_PASS), summary="Ask to mark an order as in preparation")
async def preparing(
    request: Asker, order_id: OrderId, gateway: NamedDependency[Gateway], idempotency_key: IdempotencyKey = None
) -> Response[CommandSent]:
    """For the restaurant's owner, staff and devices, and the scope `orders:command`."""
    return await _send(gateway, request.user, order_id, Command.PREPARING, idempotency_key)


@_command("/orders/{order_id:str}/ready", opt=dict(TAKES_PASS), summary="Ask to mark an order as ready for delivery")
async def ready(
    request: Asker, order_id: OrderId, gateway: NamedDependency[Gateway], idempotency_key: IdempotencyKey = None
) -> Response[CommandSent]:
    """For the restaurant's owner, staff and devices, and the scope `orders:command`."""
    return await _send(gateway, request.user, order_id, Command.READY, idempotency_key)


@_command("/orders/{order_id:str}/delivered", summary="Ask to mark an order as delivered")
async def delivered(
    request: Asker, order_id: OrderId, gateway: NamedDependency[Gateway], idempotency_key: IdempotencyKey = None
) -> Response[CommandSent]:
    """For the scopes `courier` and `orders:command`, and the restaurant's owner and staff."""
    return await _send(gateway, request.user, order_id, Command.DELIVERED, idempotency_key)


@_command("/orders/{order_id:str}/cancel", summary="Ask to cancel an order")
async def cancel(
    request: Asker,
    order_id: OrderId,
    gateway: NamedDependency[Gateway],
    data: JSONBody[Explanation | None] = None,
    idempotency_key: IdempotencyKey = None,
) -> Response[CommandSent]:
    """For the customer who placed it, the restaurant's owner and staff, and the scope `orders:command`."""
    said = data or Explanation()
    return await _send(gateway, request.user, order_id, Command.CANCEL, idempotency_key, reason=said.reason)


async def _send(
    gateway: Gateway,
    claims: Claims,
    order_id: str,
    kind: Command,
    key: str | None,
    *,
    reason: str | UnsetType = UNSET,
    eta: dt.datetime | UnsetType = UNSET,
) -> Response[CommandSent]:
    """Answered when the broker has the command on its disk.

    Raises:
        Forbidden, OrderUnknown, FactsUnavailable, KeyReused, BrokerUnavailable, JetStreamRefused
    """
    if isinstance(claims, PassClaims) and claims.device_id is None:
        raise PassRefused  # a guest's, which commands nothing
    facts = gateway.facts
    owner = await facts.owner(order_id)
    capacity = await may_command(facts, claims, kind, owner)
    if not facts.epoch:
        raise FactsUnavailable("this process has not found its place in the log")
    now = dt.datetime.now(dt.UTC)
    command = OrderCommand(
        command_id=uuid4().hex,
        command=kind,
        order_id=order_id,
        restaurant_id=owner.restaurant_id,
        customer_key=owner.customer_key,
        sent_by=SentBy(claims.subject, capacity),
        target=NotificationTarget.CUSTOMER if capacity is Capacity.CUSTOMER else NotificationTarget.RESTAURANT,
        sent_at=now,
        expires_at=now + dt.timedelta(seconds=gateway.settings.command_seconds),
        cursor=str(Cursor(facts.epoch, facts.position)),
        reason=reason,
        estimated_delivery_time=eta,
    )
    sent = await gateway.commands.send(
        command, caller_key=claims.key, idempotency_key=None if key is None else unquoted(key)
    )
    told = CommandSent(command_id=sent.command_id, order_id=order_id, command=kind, expires_at=sent.expires_at)
    return Response(told, status_code=HTTPStatus.ACCEPTED, headers=dict(NEVER_KEPT))


HANDLERS = [accept, reject, preparing, ready, delivered, cancel]
