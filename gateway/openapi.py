"""What the OpenAPI document says beyond what the handlers' signatures do: problems, security, parameters, events.

Only the document is served, no page: such pages load their scripts from elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from importlib.metadata import version
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeAlias

import msgspec
from litestar import Router
from litestar.exceptions import NotFoundException
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import (
    Components,
    OpenAPIMediaType,
    OpenAPIType,
    Operation,
    Reference,
    RequestBody,
    Schema,
    SecurityScheme,
)
from litestar.params import PathParameter

from auth.sessions import clear_session
from gateway import problems
from gateway.authentication import PUBLIC
from gateway.ingest import MAX_EVENTS
from gateway.problems import Problem
from streams.events import AnyEvent
from streams.signals import Signal
from streams.subjects import ID_PATTERN

if TYPE_CHECKING:
    from litestar import Request
    from litestar.openapi.spec import SecurityRequirement
    from litestar.response import Response

    from gateway.settings import Settings

BEARER: Final[SecurityRequirement] = {"bearer": []}
SESSION: Final[SecurityRequirement] = {"session": []}
PASS: Final[SecurityRequirement] = {"pass": []}
DEVICE: Final[SecurityRequirement] = {"device": []}

OrderId: TypeAlias = Annotated[str, PathParameter(pattern=ID_PATTERN, description="The order's id.")]
CorrelationId: TypeAlias = Annotated[
    str, PathParameter(pattern=ID_PATTERN, description="The correlation id that the client has given the workflow.")
]
RestaurantId: TypeAlias = Annotated[str, PathParameter(pattern=ID_PATTERN, description="The restaurant's id.")]

_COMPONENTS = "#/components/schemas/"
_WHEN = {
    400: "The request is no well-formed HTTP, by its `Host` for one.",
    401: "No credentials, or none that hold; `WWW-Authenticate` and `detail` say why.",
    403: "Known who it is, and they may not; or a session cookie from a page of another origin.",
    404: "There is no such thing.",
    409: "What is asked contradicts what is known.",
    413: "The body is too long.",
    415: "The body's media type is none that is taken here.",
    422: "A parameter or the body is wrong; `errors` says where and how.",
    429: "That was too often; `Retry-After` says when to try again.",
    500: "Something is wrong here; the log has it under `instance`.",
    503: "What the answer depends on is out of reach for the moment; `Retry-After` says when to come back.",
}


class Body(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """A request's body, if it is more than events. A field that it does not have is refused rather than passed over, so
    that a misspelt one does not go unnoticed.
    """


def refusals(*statuses: int) -> dict[int, ResponseSpec]:
    """The problem documents that a handler may answer; 400 and 500 may come from anywhere."""
    return {
        status: ResponseSpec(
            Problem, generate_examples=False, description=_WHEN[status], media_type=problems.MEDIA_TYPE
        )
        for status in sorted({*statuses, 400, 500})
    }


@dataclass
class PublishOperation(Operation):
    """The operation that takes events: its handler reads the body itself, so what that may be is said here."""

    def __post_init__(self) -> None:
        self.request_body = RequestBody(
            required=True,
            content={
                "application/json": OpenAPIMediaType(schema=Reference(f"{_COMPONENTS}EventOrEvents")),
                "application/x-ndjson": OpenAPIMediaType(
                    schema=Schema(type=OpenAPIType.STRING, description="One event a line.")
                ),
            },
        )


@dataclass
class SignalOperation(Operation):
    """The operation that takes signals, likewise."""

    def __post_init__(self) -> None:
        schema = Reference(f"{_COMPONENTS}Signal")
        self.request_body = RequestBody(required=True, content={"application/json": OpenAPIMediaType(schema=schema)})


def openapi_config(settings: Settings) -> OpenAPIConfig:
    """The document at `/schema/openapi.json`."""
    return OpenAPIConfig(
        title="Passline",
        version=version("passline"),
        summary="Order events from one durable log to every browser that may see them.",
        use_handler_docstrings=True,
        components=Components(
            security_schemes={
                "bearer": SecurityScheme(type="http", scheme="bearer", bearer_format="JWT"),
                "session": SecurityScheme(
                    type="apiKey",
                    security_scheme_in="cookie",
                    name=clear_session(insecure=settings.insecure_cookies).partition("=")[0],
                    description="Made by `POST /api/v1/session`; taken from this site's pages and the named origins'.",
                ),
                "pass": SecurityScheme(
                    type="apiKey",
                    security_scheme_in="query",
                    name="pass",
                    description="A guest's or a device's, for what it names; as a bearer token, too.",
                ),
                "device": SecurityScheme(
                    type="http", scheme="device", description="A device's key: `Authorization: Device <key>`."
                ),
            }
        ),
        render_plugins=[_Document()],
        openapi_router=Router(
            "/schema", route_handlers=[], include_in_schema=False, opt=dict(PUBLIC), after_request=_without_pages
        ),
    )


class _Document(JsonRenderPlugin):
    """The document with what Litestar can't know, encoded once."""

    def __init__(self) -> None:
        super().__init__()
        self._encoded: bytes | None = None

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        if self._encoded is None:
            self._encoded = self.render_json(request, complete(openapi_schema))
        return self._encoded


async def _without_pages(response: Response[Any]) -> Response[Any]:
    """Litestar answers an unknown path below the document's with a page."""
    if response.status_code == HTTPStatus.NOT_FOUND:
        raise NotFoundException
    return response


def complete(document: dict[str, Any]) -> dict[str, Any]:
    """Litestar's document with the events, and mended where it says what is not so.

    Its `oneOf` is `anyOf`, since several of the kinds may fit; a parameter that may be left out is never null; and a
    `Body` has no other fields.
    """
    completed = {name: _with_any_of(value) for name, value in document.items()}
    schemas = completed["components"]["schemas"]
    schemas |= _event_schemas()
    for body in Body.__subclasses__():
        schemas[body.__name__]["additionalProperties"] = False
    for path in completed["paths"].values():
        for operation in path.values():
            for parameter in operation.get("parameters", ()):
                parameter["schema"] = _without_null(parameter["schema"])
    return completed


def _event_schemas() -> dict[str, Any]:
    """The events and signals as they are decoded, by the names of their types."""
    (event, signal), schemas = msgspec.json.schema_components([AnyEvent, Signal], ref_template=_COMPONENTS + "{name}")
    one = {"$ref": f"{_COMPONENTS}Event"}
    several = {"type": "array", "items": one, "minItems": 1, "maxItems": MAX_EVENTS}
    return {**schemas, "Signal": signal, "Event": event, "EventOrEvents": {"anyOf": [one, several]}}


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    kinds = [kind for kind in schema.get("anyOf", ()) if kind != {"type": "null"}]
    if len(kinds) != 1:
        return schema
    rest = {name: value for name, value in schema.items() if name != "anyOf"}
    return {**kinds[0], **rest}


def _with_any_of(node: Any) -> Any:
    if isinstance(node, dict):
        return {("anyOf" if name == "oneOf" else name): _with_any_of(value) for name, value in node.items()}
    if isinstance(node, list):
        return [_with_any_of(each) for each in node]
    return node
