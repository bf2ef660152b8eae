"""What JSON Schema can't say of a request's events: loaded by schemathesis, which runs in a process of its own."""

from __future__ import annotations

from typing import Any

import schemathesis

_ROOM = 60  # a longer id would become one that is too long


@schemathesis.hook
def map_body(context: object, body: Any) -> Any:
    """Two events of one request don't contradict each other, and a whole number is written without a point."""
    if isinstance(body, list):
        return [_by_itself(_whole_numbers(event), index) for index, event in enumerate(body)]
    return _whole_numbers(body)


def _by_itself(event: Any, index: int) -> Any:
    if isinstance(event, dict):
        for name in ("eventId", "orderId"):
            value = event.get(name)
            if isinstance(value, str) and 0 < len(value) <= _ROOM:
                event[name] = f"{value}-{index}"
    return event


def _whole_numbers(value: Any) -> Any:
    match value:
        case dict():
            return {name: _whole_numbers(each) for name, each in value.items()}
        case list():
            return [_whole_numbers(each) for each in value]
        case float() if value.is_integer():
            return int(value)
    return value
