"""The body of a publishing request → events, or what is wrong with it. Pure.

One JSON event, a JSON array of events, or one event a line. A field that an event's type does not have is dropped here,
because what is published is the event encoded anew.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterable
from typing import ClassVar, TypeAlias

import msgspec

from gateway.errors import GatewayError
from streams.events import MAX_EVENT_BYTES, AnyEvent, EventError, OrderEvent, decode, encode, split_path

MAX_EVENTS = 1_000
"""The most events of one request."""

MAX_BODY_BYTES = 4 * 1024 * 1024
"""The longest body of one request, in bytes."""

_Splitter: TypeAlias = Callable[[bytes], list[bytes]]
# Two tokens (RFC 9110, section 5.6.2), and what follows them.
_MEDIA_TYPE = re.compile(r"[ \t]*([!#$%&'*+.^_`|~0-9a-z-]+/[!#$%&'*+.^_`|~0-9a-z-]+)[ \t]*(?:;(.*))?", re.ASCII)
_CHARSET = re.compile(r"(?:^|;)[ \t]*charset=\"?([^\"; \t]*)")
_BLANK = b" \t\r\n"  # JSON's white space (RFC 8259, section 2)
_LINE = re.compile(rb"[^ \t\r\n][^\n]*")  # from its first character that is not blank


class UnusableBody(GatewayError):
    """A body of which nothing was stored. `detail` says what is wrong.

    `index` is the number of the first wrong event, from 0, and `pointer` where it is wrong, as a JSON pointer (RFC
    6901) into the body: `/3/orderId` into an array, `/orderId` into a single event. Lines count as an array's elements,
    and an element that is no object is told before any other. Where it is the whole body, `index` is None and
    `pointer` the empty one.
    """

    status: ClassVar[int]

    def __init__(self, detail: str, *, index: int | None = None, pointer: str = "") -> None:
        super().__init__(f"{detail} (at {pointer})" if pointer else detail)
        self.detail = detail
        self.index = index
        self.pointer = pointer


class UnsupportedMediaType(UnusableBody):
    """It is said to be something that is not taken here."""

    status = 415

    def __init__(self, content_type: str) -> None:
        said = f"{content_type[:100]!r} is not taken" if content_type else "no media type is given"
        super().__init__(f"{said}: send {', '.join(ACCEPTED)}, in UTF-8")


class ContentTooLarge(UnusableBody):
    """More bytes or more events than a request may have, or more bytes than an event may have."""

    status = 413


class UnprocessableContent(UnusableBody):
    """No JSON, no event, or events that contradict one another."""

    status = 422


def parse_events(body: bytes, content_type: str) -> list[AnyEvent]:
    """The events of a request in their order: at least one, at most MAX_EVENTS, none of which contradicts another.

    `content_type` is the header's value, empty where there is none. The same event may be there twice.

    Raises:
        UnsupportedMediaType: it is none of ACCEPTED, or another charset than UTF-8.
        ContentTooLarge: a limit is exceeded.
        UnprocessableContent: an event of an unknown type and anything else that is wrong.
    """
    split = _splitter(content_type)
    if len(body) > MAX_BODY_BYTES:
        raise ContentTooLarge(f"a request has at most {MAX_BODY_BYTES} bytes, this one {len(body)}")
    body = body.removeprefix(codecs.BOM_UTF8)
    bodies = split(body)
    if not bodies:
        raise UnprocessableContent("there is no event in it")
    return _consistent(bodies, is_single=split is _json and not _is_array(body))


def _splitter(content_type: str) -> _Splitter:
    found = _MEDIA_TYPE.fullmatch(content_type.lower())
    split = found and _SPLITTERS.get(found[1])
    if not found or not split:
        raise UnsupportedMediaType(content_type)
    charset = _CHARSET.search(found[2] or "")
    if charset and charset[1] not in ("utf-8", "utf8"):
        raise UnsupportedMediaType(content_type)
    return split


# -- Apart -----------------------------------------------------------------------------------------------------------


def _json(body: bytes) -> list[bytes]:
    """One event, or an array of them."""
    if not _is_array(body):
        single = body.strip(_BLANK)
        return [single] if single else []
    try:
        # Counted before anything is kept: four megabytes of `[1,1,…]` would take a hundred and more.
        _check_count(len(_shape.decode(body)))
        return [bytes(raw) for raw in _array.decode(body)]
    except msgspec.ValidationError as error:
        detail, path = split_path(str(error))
        raise UnprocessableContent(detail, index=int(path.removeprefix("/")), pointer=path) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UnprocessableContent(str(error)) from error
    except RecursionError as error:
        raise UnprocessableContent("nested too deeply") from error


def _lines(body: bytes) -> list[bytes]:
    """One event a line. Blank lines are passed over; they stand at the end of many a file."""
    lines: list[bytes] = _LINE.findall(body)
    _check_count(len(lines))
    return lines


def _check_count(count: int) -> None:
    if count > MAX_EVENTS:
        raise ContentTooLarge(f"a request has at most {MAX_EVENTS} events, this one {count}")


def _is_array(body: bytes) -> bool:
    return body.lstrip(_BLANK).startswith(b"[")


class _Object(msgspec.Struct, gc=False):
    """Any JSON object."""


_shape = msgspec.json.Decoder(list[_Object])
_array = msgspec.json.Decoder(list[msgspec.Raw])
_SPLITTERS: dict[str, _Splitter] = {
    "application/json": _json,
    "application/x-ndjson": _lines,
    "application/ndjson": _lines,
    "application/jsonl": _lines,
    "application/x-jsonl": _lines,
    "application/jsonlines": _lines,
    "application/x-jsonlines": _lines,
}
ACCEPTED = ("application/json", "application/x-ndjson", "application/jsonl")
"""The media types to tell of; others that mean the same are taken as well."""


# -- One after the other ---------------------------------------------------------------------------------------------


def _consistent(bodies: Iterable[bytes], *, is_single: bool) -> list[AnyEvent]:
    """The events decoded; the first wrong one is told, whatever is wrong with it."""
    events: dict[str, AnyEvent] = {}
    orders: dict[str, OrderEvent] = {}
    parsed: list[AnyEvent] = []
    for index, body in enumerate(bodies):
        place = "" if is_single else f"/{index}"
        event = _event(body, index, place)
        if events.setdefault(event.event_id, event) != event:
            raise UnprocessableContent(
                "an earlier event of the request has the same eventId and another content",
                index=index,
                pointer=f"{place}/eventId",
            )
        if isinstance(event, OrderEvent):
            field = _contradicted(orders.setdefault(event.order_id, event), event)
            if field:
                raise UnprocessableContent(
                    f"an earlier event of the request says another {field} for this order",
                    index=index,
                    pointer=f"{place}/{field}",
                )
        parsed.append(event)
    return parsed


def _event(body: bytes, index: int, place: str) -> AnyEvent:
    try:
        size = len(body)
        if size <= MAX_EVENT_BYTES:
            event = decode(body)
            size = len(encode(event))  # it may grow, by what is added where it says nothing
        if size <= MAX_EVENT_BYTES:
            return event
    except EventError as error:
        raise UnprocessableContent(error.detail, index=index, pointer=place + error.path) from error
    raise ContentTooLarge(f"an event has at most {MAX_EVENT_BYTES} bytes, this one {size}", index=index, pointer=place)


def _contradicted(first: OrderEvent, event: OrderEvent) -> str | None:
    """The field in which an event says its order to be another's."""
    if event.restaurant_id != first.restaurant_id:
        return "restaurantId"
    if event.customer_key != first.customer_key:
        return "customerId"
    return None
