"""The AsyncAPI 3.0 document and the JSON Schemas, from the structs and the matrix that the gateway runs on."""

from __future__ import annotations

from functools import lru_cache
from importlib.metadata import version
from typing import Any, Final

import msgspec

from gateway.channels import Payloads, command_channel, log_channels, several_topics, shown, stream_channels
from gateway.json_schemas import schemas_of
from streams.commands import OrderCommand
from streams.events import EVENT_TYPES
from streams.topics import Audience


@lru_cache(maxsize=1)
def encoded_document() -> bytes:
    """The document as it is served and printed: UTF-8 JSON."""
    return msgspec.json.encode(document())


def document() -> dict[str, Any]:
    """The whole document."""
    messages: dict[str, Any] = {}
    channels, operations = {}, {}
    payloads = Payloads()
    for name, channel, operation, said in (
        *stream_channels(payloads),
        *log_channels(payloads),
        command_channel(payloads),
    ):
        messages |= {f"{name}.{each}": message for each, message in said.items()}
        refs = {each: {"$ref": f"#/components/messages/{name}.{each}"} for each in said}
        channels[name] = {**channel, "messages": refs}
        operations[f"{operation['action']}.{name}"] = {**operation, "channel": {"$ref": f"#/channels/{name}"}}
    several = several_topics(channels)
    channels[several.name] = {**several.channel, "messages": several.messages}
    operations["send.several"] = {**several.operation, "channel": {"$ref": "#/channels/several"}}
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Passline",
            "version": version("passline"),
            "description": "Order events from one durable log to every browser that may see them. "
            "The REST part is in the OpenAPI document, at `/schema/openapi.json`.",
        },
        "defaultContentType": "application/json",
        "servers": _SERVERS,
        "channels": channels,
        "operations": operations,
        "components": {"messages": messages, "schemas": payloads.schemas(), "securitySchemes": _SECURITY},
    }


_SERVERS: Final[dict[str, Any]] = {
    "gateway": {
        "host": "{host}",
        "protocol": "https",
        "description": "A gateway: Server-Sent Events over HTTP.",
        "variables": {"host": {"default": "localhost:8000"}},
        "security": [{"$ref": f"#/components/securitySchemes/{name}"} for name in ("bearer", "session", "pass")],
    },
    "broker": {
        "host": "{host}",
        "protocol": "nats",
        "description": "The broker, for services that publish to its log themselves and for order services.",
        "variables": {"host": {"default": "localhost:4222"}},
        "security": [{"$ref": "#/components/securitySchemes/broker"}],
    },
}
_SECURITY: Final = {
    "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
    "session": {
        "type": "httpApiKey",
        "in": "cookie",
        "name": "__Host-passline",
        "description": "Made by `POST /api/v1/session`; taken from this site's pages and the named origins'.",
    },
    "pass": {
        "type": "httpApiKey",
        "in": "query",
        "name": "pass",
        "description": "A guest's pass for one order, or a device's for its restaurant: it opens nothing else.",
    },
    "broker": {"type": "userPassword", "description": "One of the users of `nats.conf`."},
}


def json_schemas() -> dict[str, Any]:
    """Every event, view and command as one JSON Schema (2020-12) with `$defs`."""
    views = {view for audience in Audience for views in shown(audience).values() for view in views.values()}
    wanted = [*EVENT_TYPES.values(), *sorted(views, key=lambda view: view.__name__), OrderCommand]
    _, definitions = schemas_of(wanted, "#/$defs/")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"Passline {version('passline')}: events, views and commands",
        "$defs": definitions,
    }
