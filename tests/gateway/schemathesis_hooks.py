"""What JSON Schema can't say of a request's events: loaded by schemathesis, which runs in a process of its own."""

from __future__ import annotations

import re
from typing import Any
from uuid import uuid4

import schemathesis

from gateway.idempotency_key import KEY_PATTERN

_IDENTITIES = ("customerId", "subject", "memberId", "userId", "jti")
_ROOM = 60  # a longer id would become one that is too long


@schemathesis.hook
def map_body(context: object, body: Any) -> Any:
    """Two events of one request don't contradict each other, a whole number is written without a point, and an identity
    is printable, which is a matter of Unicode's version.
    """
    if isinstance(body, list):
        return [_by_itself(_whole(_mended(event)), index) for index, event in enumerate(body)]
    return _whole(_mended(body))


@schemathesis.hook
def map_headers(context: object, headers: Any) -> Any:
    """A key that stands for a command can't be used for another one: each request has its own."""
    if isinstance(headers, dict) and re.fullmatch(KEY_PATTERN, str(headers.get("Idempotency-Key"))):
        return {**headers, "Idempotency-Key": uuid4().hex}
    return headers


def _whole(event: Any) -> Any:
    """What some events ask of several fields together."""
    if not isinstance(event, dict):
        return event
    amount, balance = event.get("amount"), event.get("newBalance")
    if isinstance(amount, dict) and isinstance(balance, dict) and "currency" in amount and "currency" in balance:
        balance["currency"] = amount["currency"]
    if event.get("type") == "TokenRevoked" and isinstance(event.get("jti"), str):
        event.pop("subject", None)
    elif event.get("type") == "TokenRevoked" and "subject" not in event:
        event["jti"] = "some"
    if event.get("type") == "OrderProcessed" and not {"occurredAtUtc", "occurredOnUtc"} & set(event):
        event["occurredAtUtc"] = "2026-11-20T10:00:00Z"
    return event


def _by_itself(event: Any, index: int) -> Any:
    if isinstance(event, dict):
        for name in ("eventId", "orderId"):
            value = event.get(name)
            if isinstance(value, str) and 0 < len(value) <= _ROOM:
                event[name] = f"{value}-{index}"
    return event


def _mended(value: Any) -> Any:
    match value:
        case dict():
            return {name: _printable(each) if name in _IDENTITIES else _mended(each) for name, each in value.items()}
        case list():
            return [_mended(each) for each in value]
        case float() if value.is_integer():
            return int(value)
    return value


def _printable(identity: Any) -> Any:
    if not isinstance(identity, str):
        return identity
    return "".join(letter if letter.isprintable() else "?" for letter in identity)
