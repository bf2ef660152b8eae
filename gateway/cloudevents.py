"""CloudEvents 1.0 → our events as JSON. Pure.

A CloudEvent is attributes and data (its specification, JSON event format and HTTP protocol binding, all of 1.0.2). The
data is our event. The attributes `type`, `id` and `time` stand for its `type`, `eventId` and `occurredOnUtc`; what is
said in both places must be the same. All other attributes must be well-formed, and are dropped.
"""

from __future__ import annotations

import codecs
import datetime as dt
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Annotated, Final, NamedTuple, TypeAlias, TypeVar
from urllib.parse import unquote_to_bytes

import msgspec
from msgspec import Meta, Raw

from gateway.errors import GatewayError
from gateway.media_types import is_json, utf8_media_type
from streams.events import EVENT_TYPES, UtcTime

STRUCTURED: Final = "application/cloudevents+json"
"""The media type of one CloudEvent in JSON."""

BATCH: Final = "application/cloudevents-batch+json"
"""The media type of an array of them."""

Headers: TypeAlias = Sequence[tuple[str, str]]
"""Names, in any case, and values of a request's headers, decoded from Latin-1."""


class Place(NamedTuple):
    """Where something was said: at `pointer` in what was sent (RFC 6901), or in `header`.

    What stands at `pointer` may be encoded, so that no pointer leads into it; `within` does then.
    """

    pointer: str = ""
    header: str | None = None
    within: str = ""


class Unwrapped(NamedTuple):
    """An event as JSON. `place` tells of a JSON pointer into `body` where that was sent."""

    body: bytes
    place: Callable[[str], Place]


class MalformedCloudEvent(GatewayError):
    """It is no CloudEvent 1.0, or none whose data can be an event. `detail` says why, and `place` where."""

    def __init__(self, detail: str, place: Place) -> None:
        super().__init__(detail)
        self.detail = detail
        self.place = place


def is_binary(headers: Headers) -> bool:
    """Whether a request is meant as a CloudEvent in binary mode: it has one of the headers that each of them has."""
    return any(name.lower() in _REQUIRED_HEADERS for name, _ in headers)


def from_structured(body: bytes) -> Unwrapped:
    """The event in a CloudEvent in JSON, as it is also in a batch.

    Raises:
        MalformedCloudEvent: what is wrong with the CloudEvent. The event is not looked at.
    """
    members = _decoded(_members, body, Place())
    _check_required(members, _IN_JSON)  # first: an event that is not wrapped at all should be told so
    attributes = _attributes(members)
    _check(attributes, _IN_JSON)
    datacontenttype = attributes.get("datacontenttype", "application/json")
    if not isinstance(datacontenttype, str) or not is_json(utf8_media_type(datacontenttype) or ""):
        raise MalformedCloudEvent("the data must be JSON in UTF-8", Place("/datacontenttype"))
    if "data_base64" not in members:
        if "data" not in members:
            raise MalformedCloudEvent("there is no `data`, which would be the event", Place())
        return _unwrapped(attributes, members["data"], _IN_JSON)
    if "data" in members:
        raise MalformedCloudEvent("there is `data` already", Place("/data_base64"))
    data = _decoded(_base64, members["data_base64"], Place("/data_base64"))
    return _unwrapped(attributes, data.removeprefix(codecs.BOM_UTF8), _IN_BASE64)


def from_binary(headers: Headers, body: bytes) -> Unwrapped:
    """The event in a request whose body is the data, in JSON, and whose headers are the attributes.

    Raises:
        MalformedCloudEvent: what is wrong with the CloudEvent. The event is not looked at.
    """
    attributes: dict[str, _Value] = {}
    for header, value in headers:
        if not header.lower().startswith(_PREFIX):
            continue
        name = header.lower().removeprefix(_PREFIX)
        place = _IN_HEADERS.attribute(name)
        if not _NAME.fullmatch(name) or name in ("data", "datacontenttype"):
            raise MalformedCloudEvent("no attribute can have this name in a header", place)
        if name in attributes:
            raise MalformedCloudEvent("it is there twice", place)
        attributes[name] = _text(_unescaped(value, place), place)
    _check(attributes, _IN_HEADERS)
    return _unwrapped(attributes, body, _IN_HEADERS)


# -- Where it stands -------------------------------------------------------------------------------------------------


class _Layout(NamedTuple):
    """Where a content mode has its attributes, one that should be there, and what the data says."""

    attribute: Callable[[str], Place]
    missing: Callable[[str], Place]
    data: Callable[[str], Place]


def _member(name: str) -> Place:
    return Place(f"/{name}")


def _header(name: str) -> Place:
    return Place(header=f"{_PREFIX}{name}"[:_LONGEST_TOLD])


_PREFIX = "ce-"
_LONGEST_TOLD = 64  # characters of a name that somebody made up
_IN_JSON = _Layout(_member, lambda _: Place(), lambda path: Place(f"/data{path}"))
_IN_BASE64 = _IN_JSON._replace(data=lambda path: Place("/data_base64", within=path))
_IN_HEADERS = _Layout(_header, _header, Place)


# -- Attributes ------------------------------------------------------------------------------------------------------

_Value: TypeAlias = Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)] | str | bool | None

_REQUIRED = ("specversion", "id", "source", "type")
_REQUIRED_HEADERS = frozenset(f"{_PREFIX}{name}" for name in _REQUIRED)
_NAME = re.compile(r"[a-z0-9]+")
# Control characters, and what Unicode says is no character.
_NONCHARACTERS = "".join(f"{chr(plane + 0xFFFE)}{chr(plane + 0xFFFF)}" for plane in range(0, 0x110000, 0x10000))
_DISALLOWED = re.compile(f"[\x00-\x1f\x7f-\x9f\ufdd0-\ufdef{_NONCHARACTERS}]")
_CHARACTER = r"(?:[A-Za-z0-9._~!$&'()*+,;=:@/-]|%[0-9A-Fa-f]{2})"
# RFC 3986, section 4.1. A reference without a scheme has no colon in its first segment.
_URI_REFERENCE = re.compile(
    r"(?:[A-Za-z][A-Za-z0-9+.-]*+:|(?![^/?#]*:))"
    rf"(?://(?:[A-Za-z0-9._~!$&'()*+,;=:%-]*+@)?\[[0-9A-Za-z:._~!$&'()*+,;=-]++\](?::[0-9]*+)?(?=[/?#]|$))?"
    rf"{_CHARACTER}*+(?:\?(?:{_CHARACTER}|\?)*+)?(?:#(?:{_CHARACTER}|\?)*+)?"
)
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*+)"')
_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")


def _attributes(members: Mapping[str, Raw]) -> dict[str, _Value]:
    """Those that are not null, which is the same as not there."""
    attributes: dict[str, _Value] = {}
    for name, raw in members.items():
        if name in ("data", "data_base64"):
            continue
        if not _NAME.fullmatch(name):
            raise MalformedCloudEvent("an attribute's name is small letters and digits", _misnamed(name))
        place = _member(name)
        value = _decoded(_value, raw, place)
        if value is not None:
            attributes[name] = _text(value, place) if isinstance(value, str) else value
    return attributes


def _misnamed(name: str) -> Place:
    escaped = name.replace("~", "~0").replace("/", "~1")
    return Place(f"/{escaped}" if len(escaped) <= _LONGEST_TOLD else "")


def _text(value: str, place: Place) -> str:
    if _DISALLOWED.search(value):
        raise MalformedCloudEvent("there is a control character or a noncharacter in it", place)
    return value


def _unescaped(value: str, place: Place) -> str:
    """A header's value (HTTP protocol binding, section 3.1.3.2): quoted strings first, then percent-encoding, once."""
    if not value.isascii():
        raise MalformedCloudEvent("other characters than ASCII's must be percent-encoded", place)
    unquoted = _QUOTED.sub(lambda quoted: re.sub(r"\\(.)", r"\1", quoted[1]), value.strip(" \t"))
    if '"' in _QUOTED.sub("", value):
        raise MalformedCloudEvent("a quotation mark has no counterpart", place)
    if _PERCENT.search(unquoted):
        raise MalformedCloudEvent("a percent sign must be followed by two hexadecimal digits", place)
    try:
        return unquote_to_bytes(unquoted).decode()
    except UnicodeDecodeError as error:
        raise MalformedCloudEvent("what is percent-encoded is not UTF-8", place) from error


def _check_required(names: Collection[str], layout: _Layout) -> None:
    for name in _REQUIRED:
        if name not in names:
            raise MalformedCloudEvent(f"the attribute `{name}` of a CloudEvent is missing", layout.missing(name))


def _check(attributes: Mapping[str, _Value], layout: _Layout) -> None:
    """The required attributes are there, and are what they should be."""
    _check_required(attributes, layout)
    for name in _REQUIRED:
        if not isinstance(attributes[name], str):
            raise MalformedCloudEvent("it must be text", layout.attribute(name))
    if attributes["specversion"] != "1.0":
        raise MalformedCloudEvent("only version 1.0 of CloudEvents is taken", layout.attribute("specversion"))
    source = str(attributes["source"])
    if not source or not _URI_REFERENCE.fullmatch(source):
        raise MalformedCloudEvent("it must be a URI reference (RFC 3986), and not empty", layout.attribute("source"))


# -- Event -----------------------------------------------------------------------------------------------------------

_members = msgspec.json.Decoder(dict[str, Raw])
_value = msgspec.json.Decoder(_Value)
_base64 = msgspec.json.Decoder(bytes)
_string = msgspec.json.Decoder(str)
_time = msgspec.json.Decoder(UtcTime)

_ATTRIBUTES_OF = {"type": "type", "eventId": "id", "occurredOnUtc": "time"}
_TIMES = ("occurredOnUtc", "occurredAtUtc")  # some types have the second instead of the first
_Decoded = TypeVar("_Decoded")


def _unwrapped(attributes: Mapping[str, _Value], data: bytes | Raw, layout: _Layout) -> Unwrapped:
    members = _decoded(_members, data, layout.data(""))
    # Of the type what stands after the last dot, so that it may have a prefix, as CloudEvents would have it.
    said = {"type": str(attributes["type"]).rpartition(".")[2], "eventId": str(attributes["id"])}
    for field, value in said.items():
        place = layout.data(f"/{field}")
        if field in members and _decoded(_string, members[field], place) != value:
            raise _contradiction(field, _ATTRIBUTES_OF[field], place)
    if "time" in attributes and not _has_time(members, said["type"], _time_of(attributes, layout), layout):
        said["occurredOnUtc"] = str(attributes["time"])
    return Unwrapped(msgspec.json.encode({**said, **members}), partial(_place, layout, said.keys()))


def _time_of(attributes: Mapping[str, _Value], layout: _Layout) -> dt.datetime:
    try:
        return msgspec.convert(attributes["time"], UtcTime)
    except msgspec.ValidationError as error:
        raise MalformedCloudEvent(str(error), layout.attribute("time")) from error


def _has_time(members: Mapping[str, Raw], type_name: str, time: dt.datetime, layout: _Layout) -> bool:
    """Whether the data says when it happened; then that must be `time`."""
    kind = EVENT_TYPES.get(type_name)
    fields = [field for field in _TIMES if kind and field in kind.__struct_encode_fields__ and field in members]
    for field in fields:
        place = layout.data(f"/{field}")
        if _decoded(_time, members[field], place) != time:
            raise _contradiction(field, "time", place)
    return bool(fields)


def _contradiction(field: str, attribute: str, place: Place) -> MalformedCloudEvent:
    return MalformedCloudEvent(f"the data's `{field}` and the attribute `{attribute}` differ", place)


def _place(layout: _Layout, said: Collection[str], path: str) -> Place:
    field = path.removeprefix("/")
    return layout.attribute(_ATTRIBUTES_OF[field]) if field in said else layout.data(path)


def _decoded(decoder: msgspec.json.Decoder[_Decoded], data: bytes | Raw, place: Place) -> _Decoded:
    try:
        return decoder.decode(data)
    except UnicodeDecodeError as error:
        raise MalformedCloudEvent("not UTF-8", place) from error
    except RecursionError as error:
        raise MalformedCloudEvent("nested too deeply", place) from error
    except msgspec.DecodeError as error:
        raise MalformedCloudEvent(str(error), place) from error
