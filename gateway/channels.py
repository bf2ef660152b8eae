"""The channels of the AsyncAPI document: each audience's streams, the log's subjects, the commands.

A stream is a channel for each audience. Its address is that of the handler which is named for the topic's kind, and its
messages are the SSE events by their names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple, cast

import msgspec

from gateway.json_schemas import JsonSchema, in_one_line, schemas_of
from gateway.routes import streams as stream_routes
from gateway.stream_messages import CONTROL, SIGNAL, SIGNALLED_AUDIENCES, STATES, StreamMessage
from gateway.who_may import AUDIENCES as WHO_MAY
from streams.commands import OrderCommand
from streams.events import EVENT_TYPES, Command, Event
from streams.matrix import MATRIX
from streams.subjects import command_subject
from streams.topics import Audience, TopicKind, topic_of

API: Final = "/api/v1"
_SCHEMAS: Final = "#/components/schemas/"
_CURSOR: Final = {
    "type": "string",
    "pattern": "^[A-Za-z0-9]{1,32}-(0|[1-9][0-9]{0,18})$",
    "description": "`<epoch>-<sequence>`: a position in the whole log.",
}

_PARAMETERS: Final = {
    "restaurant_id": "The restaurant's id.",
    "customer_key": "The customer's key: the identity itself if that is an id, else a hash of it.",
    "order_id": "The order's id.",
    "team_cart_id": "The cart's id.",
    "cart_id": "The cart's id.",
    "correlation_id": "The correlation id.",
    "coupon_id": "The coupon's id.",
    "command": "What is asked for.",
    "revoked": "The key of whose tokens end, or of the token's `jti`.",
}
_QUERY: Final = {
    "last_event_id": "Where a returning client stopped, as the header `Last-Event-ID`.",
    "since": "From this log time on: RFC 3339, or a span before now, as `15m`.",
    "snapshot": "`false`: a stream that does not resume begins without the state.",
}
_GET: Final[dict[str, Any]] = {
    "http": {
        "method": "GET",
        "query": {
            "type": "object",
            "properties": {name: {"type": "string", "description": text} for name, text in _QUERY.items()},
        },
        "bindingVersion": "0.3.0",
    }
}


class Payloads:
    """The types that the document speaks of, and their schemas once all are known."""

    def __init__(self) -> None:
        self._types: list[Any] = []

    def ref(self, type_: type[msgspec.Struct]) -> JsonSchema:
        self._types.append(type_)
        return {"$ref": f"{_SCHEMAS}{type_.__name__}"}

    def state(self, field: str, type_: Any) -> JsonSchema:
        self._types.append(type_)
        (schema,), _ = schemas_of([type_], _SCHEMAS)
        properties = {"topic": {"type": "string"}, field: schema}
        return {"type": "object", "properties": properties, "required": list(properties)}

    def schemas(self) -> dict[str, JsonSchema]:
        return schemas_of(dict.fromkeys(self._types), _SCHEMAS)[1]


class Described(NamedTuple):
    """A channel with what is done on it, and its messages by their names."""

    name: str
    channel: dict[str, Any]
    operation: dict[str, Any]
    messages: dict[str, Any]


# -- Streams -----------------------------------------------------------------------------------------------------------


def address_of(kind: TopicKind) -> str | None:
    """The path of the kind's own streams, None where there is no handler for it."""
    wanted = f"{kind.name.lower()}_events"
    for handler in stream_routes.HANDLERS:
        if handler.fn.__name__ == wanted:
            (path,) = handler.paths
            return API + re.sub(r"{(\w+):\w+}", r"{\1}", path)
    return None


def kind_of(audience: Audience) -> TopicKind:
    """The topics that an audience is shown."""
    return TopicKind(topic_of(f"{audience}/x").partition("/")[0])


def shown(audience: Audience) -> dict[str, dict[str, type[msgspec.Struct]]]:
    """By the SSE event's name: the views that the audience is shown under it, by the names of the log's events."""
    found: dict[str, dict[str, type[msgspec.Struct]]] = {}
    for event, row in MATRIX.items():
        if (cell := row.told.get(audience)) is not None:
            found.setdefault(cell.name, {})[event.type_name()] = cell.view_type
    return found


def stream_channels(payloads: Payloads) -> Iterator[Described]:
    """One for each audience."""
    for audience in Audience:
        kind = kind_of(audience)
        address = address_of(kind)
        if address is None:
            continue
        topic = f"`{kind}`" if kind is TopicKind.MARKETING else f"`{kind}/<id>`"
        who = "; ".join(rule.who for rule in WHO_MAY[audience])
        channel = {
            "address": address,
            "title": f"{topic} for {audience}",
            "description": f"For {who}.",
            "servers": [{"$ref": "#/servers/gateway"}],
            "parameters": _parameters(address),
        }
        operation = {
            "action": "send",
            "summary": f"What {audience} are shown of {topic}, as Server-Sent Events.",
            "bindings": _GET,
        }
        yield Described(audience.value, channel, operation, dict(_stream_messages(audience, payloads)))


def _stream_messages(audience: Audience, payloads: Payloads) -> Iterator[tuple[str, Any]]:
    for said in (*CONTROL, *((SIGNAL,) if audience in SIGNALLED_AUDIENCES else ())):
        yield said.name, _control(said, payloads)
    if audience in STATES:
        yield (
            "snapshot",
            {
                "name": "snapshot",
                "title": "snapshot",
                "summary": "The topic's state at the id, on a stream that does not resume.",
                "headers": _with_id(required=False),
                "payload": payloads.state(*STATES[audience]),
            },
        )
    yield (
        "heartbeat",
        {
            "name": "heartbeat",
            "title": "heartbeat",
            "summary": "After a while without traffic: an id alone. No event fires, the client's cursor moves.",
            "headers": _with_id(required=True),
            "payload": {"type": "null"},
        },
    )
    for name, views in shown(audience).items():
        refs = [payloads.ref(view) for view in dict.fromkeys(views.values())]
        yield (
            name,
            {
                "name": name,
                "title": name,
                "summary": f"Of {', '.join(views)}.",
                "headers": _with_id(required=False),
                "payload": refs[0] if len(refs) == 1 else {"anyOf": refs},
            },
        )


def _control(said: StreamMessage, payloads: Payloads) -> dict[str, Any]:
    message = {
        "name": said.name,
        "title": said.name,
        "summary": in_one_line(said.payload.__doc__),
        "payload": payloads.ref(said.payload),
    }
    return {**message, "headers": _with_id(required=False)} if said.has_id else message


def _with_id(*, required: bool) -> JsonSchema:
    """The block's `id`. Where one entry of the log makes several blocks, only the last of them has it."""
    schema: JsonSchema = {"type": "object", "properties": {"id": _CURSOR}}
    return {**schema, "required": ["id"]} if required else schema


def several_topics(channels: Mapping[str, Any]) -> Described:
    """The stream of several topics, of the other streams' `channels`."""
    streams = [audience.value for audience in Audience if audience in channels]
    channel = {
        "address": f"{API}/events",
        "title": "Several topics on one stream",
        "description": "`?topic=`, once for each topic: what their own streams say, each event with its `topic`.",
        "servers": [{"$ref": "#/servers/gateway"}],
    }
    messages = {
        f"{audience}.{name}": message
        for audience in streams
        for name, message in channels[audience]["messages"].items()
    }
    return Described("several", channel, {"action": "send", "bindings": _GET}, messages)


def _parameters(address: str) -> dict[str, Any]:
    return {name: {"description": _PARAMETERS[name]} for name in re.findall(r"{(\w+)}", address)}


# -- The log -----------------------------------------------------------------------------------------------------------


class _Named:
    """Stands for an event whose ids are their own names."""

    def __init__(self, event: type[Event]) -> None:
        self._event = event

    def type_name(self) -> str:
        return self._event.type_name()

    def __getattr__(self, field: str) -> str:
        return f"-{field.strip('_')}-"


def subject_of(event: type[Event]) -> str:
    """Where events of a type stand in the log, with the names of ids in braces."""
    return re.sub(r"-(\w+)-", r"{\1}", event.log_subject(cast("Any", _Named(event))))


def log_channels(payloads: Payloads) -> Iterator[Described]:
    """One for each type of event, as it is published."""
    for name, event in EVENT_TYPES.items():
        subject = subject_of(event)
        family, cells = subject.partition(".")[0], MATRIX[event].told
        told = ", ".join(cells) if cells else "nobody; it is a fact that decides what others are told"
        channel = {
            "address": subject,
            "title": name,
            "servers": [{"$ref": "#/servers/broker"}],
            "parameters": _parameters(subject),
            "tags": [{"name": family}],
        }
        operation = {"action": "receive", "summary": f"Told to: {told}."}
        message = {
            "name": name,
            "title": name,
            "headers": _message_id("The `eventId`: what the log has already is not stored again."),
            "payload": payloads.ref(event),
        }
        yield Described(f"EVENTS.{name}", channel, operation, {name: message})


def _message_id(description: str) -> JsonSchema:
    return {"type": "object", "properties": {"Nats-Msg-Id": {"type": "string", "description": description}}}


# -- Commands ----------------------------------------------------------------------------------------------------------


def command_channel(payloads: Payloads) -> Described:
    """The work queue that order services take commands from."""
    address = command_subject("{restaurant_id}", "{order_id}", "{command}")
    parameters = _parameters(address)
    parameters["command"]["enum"] = [each.value for each in Command]
    channel = {
        "address": address,
        "title": "COMMANDS",
        "description": "A work queue: an order service takes a command, publishes what it decided, and acknowledges.",
        "servers": [{"$ref": "#/servers/broker"}],
        "parameters": parameters,
    }
    operation = {"action": "send", "summary": "What somebody wants done with an order."}
    message = {
        "name": "OrderCommand",
        "title": "OrderCommand",
        "headers": _message_id("The `commandId`."),
        "payload": payloads.ref(OrderCommand),
    }
    return Described("COMMANDS", channel, operation, {"OrderCommand": message})
