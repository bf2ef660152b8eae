"""The body of a publishing request → events, or what is wrong with it. Pure.

One JSON event, a JSON array of events, one event a line, or CloudEvents. A field that an event's type does not have is
dropped here, because what is published is the event encoded anew.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import ClassVar, NamedTuple, TypeVar

import msgspec

from gateway import cloudevents
from gateway.cloudevents import Headers, MalformedCloudEvent, Place, Unwrapped
from gateway.errors import GatewayError
from gateway.media_types import is_json, utf8_media_type
from streams.events import MAX_EVENT_BYTES, AnyEvent, EventError, OrderEvent, decode, encode, split_path

MAX_EVENTS = 1_000
"""The most events of one request."""

MAX_BODY_BYTES = 4 * 1024 * 1024
"""The longest body of one request, in bytes."""

_MAX_CLOUD_EVENT_BYTES = 2 * MAX_EVENT_BYTES  # an event in Base64, and attributes
_BLANK = b" \t\r\n"  # JSON's white space (RFC 8259, section 2)
_LINE = re.compile(rb"[^ \t\r\n][^\n]*")  # from its first character that is not blank


class UnusableBody(GatewayError):
    """A body of which nothing was stored. `detail` says what is wrong.

    `index` is the number of the first wrong event, from 0, and `pointer` where it is wrong, as a JSON pointer (RFC
    6901) into the body: `/3/orderId` into an array, `/orderId` into a single event. Lines count as an array's elements,
    and an element that is no object is told before any other. Where it is the whole body, `index` is None and
    `pointer` the empty one; and so they are where it is a header, which `header` names and `detail` begins with.
    """

    status: ClassVar[int]

    def __init__(self, detail: str, *, index: int | None = None, pointer: str = "", header: str | None = None) -> None:
        super().__init__(f"{detail} (at {pointer})" if pointer else detail)
        self.detail = detail
        self.index = index
        self.pointer = pointer
        self.header = header


class UnsupportedMediaType(UnusableBody):
    """It is said to be something that is not taken here. `accepted` is, and all of ACCEPTED by default."""

    status = 415

    def __init__(self, content_type: str, accepted: Sequence[str] = ()) -> None:
        said = f"{content_type[:100]!r} is not taken" if content_type else "no media type is given"
        super().__init__(f"{said}: send {', '.join(accepted or ACCEPTED)}, in UTF-8")


class ContentTooLarge(UnusableBody):
    """More bytes or more events than a request may have, or more bytes than an event may have."""

    status = 413


class UnprocessableContent(UnusableBody):
    """No JSON, no event, or events that contradict one another."""

    status = 422


def parse_events(body: bytes, content_type: str, headers: Headers = ()) -> list[AnyEvent]:
    """The events of a request in their order: at least one, at most MAX_EVENTS, none of which contradicts another.

    `content_type` is the header's value, empty where there is none. Of `headers` those of CloudEvents are looked at.
    The same event may be there twice.

    Raises:
        UnsupportedMediaType: it is none of ACCEPTED, or another charset than UTF-8.
        ContentTooLarge: a limit is exceeded.
        UnprocessableContent: an event of an unknown type and anything else that is wrong.
    """
    form = _form(content_type, headers)
    if len(body) > MAX_BODY_BYTES:
        raise ContentTooLarge(f"a request has at most {MAX_BODY_BYTES} bytes, this one {len(body)}")
    body = body.removeprefix(codecs.BOM_UTF8)
    bodies = form.split(body)
    if not bodies:
        raise UnprocessableContent("there is no event in it")
    return _consistent(bodies, form, is_single=form.is_single(body))


def is_single_event(body: bytes, content_type: str, headers: Headers = ()) -> bool:
    """Whether a request that could be parsed is one event by itself, and no array or sequence of them."""
    return _form(content_type, headers).is_single(body.removeprefix(codecs.BOM_UTF8))


class _Form(NamedTuple):
    """How events are sent: what takes a body apart, and what an event is wrapped in."""

    split: Callable[[bytes], list[bytes]]
    unwrap: Callable[[bytes], Unwrapped]
    limit: int = MAX_EVENT_BYTES  # bytes of an event as it is sent

    def is_single(self, body: bytes) -> bool:
        return self.split is _one or (self.split is _one_or_array and not _is_array(body))


def _form(content_type: str, headers: Headers) -> _Form:
    """CloudEvents' own media types come first: with them, the headers only repeat what is in the body."""
    media_type = utf8_media_type(content_type) or ""
    if cloudevents.is_binary(headers) and not media_type.startswith("application/cloudevents"):
        if content_type and not is_json(media_type):
            raise UnsupportedMediaType(content_type, ("application/json beside `ce-` headers",))
        return _Form(_one, partial(cloudevents.from_binary, headers))
    form = _FORMS.get(media_type)
    if form is None:
        raise UnsupportedMediaType(content_type)
    return form


# -- Apart -----------------------------------------------------------------------------------------------------------


def _one(body: bytes) -> list[bytes]:
    single = body.strip(_BLANK)
    return [single] if single else []


def _one_or_array(body: bytes) -> list[bytes]:
    return _array(body) if _is_array(body) else _one(body)


def _array(body: bytes) -> list[bytes]:
    if not body.strip(_BLANK):
        return []
    try:
        # Counted before anything is kept: four megabytes of `[1,1,…]` would take a hundred and more.
        _check_count(len(_shape.decode(body)))
        return [bytes(raw) for raw in _elements.decode(body)]
    except msgspec.ValidationError as error:
        detail, path = split_path(str(error))
        index = int(path.removeprefix("/")) if path else None
        raise UnprocessableContent(detail, index=index, pointer=path) from error
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
_elements = msgspec.json.Decoder(list[msgspec.Raw])


def _as_it_is(body: bytes) -> Unwrapped:
    return Unwrapped(body, Place)


_FORMS = {
    "application/json": _Form(_one_or_array, _as_it_is),
    **dict.fromkeys(
        (
            "application/x-ndjson",
            "application/ndjson",
            "application/jsonl",
            "application/x-jsonl",
            "application/jsonlines",
            "application/x-jsonlines",
        ),
        _Form(_lines, _as_it_is),
    ),
    cloudevents.STRUCTURED: _Form(_one, cloudevents.from_structured, _MAX_CLOUD_EVENT_BYTES),
    cloudevents.BATCH: _Form(_array, cloudevents.from_structured, _MAX_CLOUD_EVENT_BYTES),
}
ACCEPTED = (
    "application/json",
    "application/x-ndjson",
    "application/jsonl",
    cloudevents.STRUCTURED,
    cloudevents.BATCH,
)
"""The media types to tell of; others that mean the same are taken as well."""


# -- One after the other ---------------------------------------------------------------------------------------------


def _consistent(bodies: Iterable[bytes], form: _Form, *, is_single: bool) -> list[AnyEvent]:
    """The events decoded; the first wrong one is told, whatever is wrong with it."""
    events: dict[str, AnyEvent] = {}
    orders: dict[str, OrderEvent] = {}
    parsed: list[AnyEvent] = []
    for index, body in enumerate(bodies):
        at = _Element(index, "" if is_single else f"/{index}")
        event, place = _event(body, form, at)
        if events.setdefault(event.event_id, event) != event:
            detail = "an earlier event of the request has the same eventId and another content"
            raise at.refusal(UnprocessableContent, detail, place("/eventId"))
        if isinstance(event, OrderEvent):
            field = _contradicted(orders.setdefault(event.order_id, event), event)
            if field:
                detail = f"an earlier event of the request says another {field} for this order"
                raise at.refusal(UnprocessableContent, detail, place(f"/{field}"))
        parsed.append(event)
    return parsed


def _event(body: bytes, form: _Form, at: _Element) -> tuple[AnyEvent, Callable[[str], Place]]:
    """The event, and where what it says stands."""
    size = len(body)
    if size > form.limit:
        raise at.too_long(form.limit, size)
    try:
        unwrapped = form.unwrap(body)
    except MalformedCloudEvent as error:
        raise at.refusal(UnprocessableContent, error.detail, error.place) from error
    try:
        size = len(unwrapped.body)
        if size <= MAX_EVENT_BYTES:
            event = decode(unwrapped.body)
            size = len(encode(event))  # it may grow, by what is added where it says nothing
        if size <= MAX_EVENT_BYTES:
            return event, unwrapped.place
    except EventError as error:
        raise at.refusal(UnprocessableContent, error.detail, unwrapped.place(error.path)) from error
    raise at.too_long(MAX_EVENT_BYTES, size)


_Refusal = TypeVar("_Refusal", bound=UnusableBody)


class _Element(NamedTuple):
    """One of a request's events: its number, and the JSON pointer to it."""

    number: int  # from 0
    pointer: str

    def refusal(self, kind: type[_Refusal], detail: str, place: Place) -> _Refusal:
        if place.header:
            return kind(f"the header `{place.header}`: {detail}", header=place.header)
        if place.within:
            detail = f"{detail} (at {place.within} in it)"
        return kind(detail, index=self.number, pointer=self.pointer + place.pointer)

    def too_long(self, limit: int, size: int) -> ContentTooLarge:
        detail = f"an event has at most {limit} bytes, this one {size}"
        return ContentTooLarge(detail, index=self.number, pointer=self.pointer)


def _contradicted(first: OrderEvent, event: OrderEvent) -> str | None:
    """The field in which an event says its order to be another's."""
    if event.restaurant_id != first.restaurant_id:
        return "restaurantId"
    if event.customer_key != first.customer_key:
        return "customerId"
    return None
