"""Errors → problem documents (RFC 9457): each condition has one status, one type, and a sentence for a person.

What a client did wrong is told as it is. What is wrong here is told as little as possible; the log has it, under the id
that stands in the document's `instance`.
"""

from __future__ import annotations

import random
import re
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

import msgspec
import structlog
from litestar import Response
from litestar.exceptions import HTTPException, ValidationException
from litestar.utils import get_enum_string_value
from msgspec import UNSET, UnsetType

from auth.errors import Forbidden, InsufficientScope, KeysUnavailable, SessionTooLarge, Unauthorized
from gateway.errors import GatewayError
from gateway.idempotency_key import IN_WORDS, KEY_PATTERN
from gateway.ingest import UnusableBody
from streams.commands import KeyReused
from streams.database import DatabaseUnavailable
from streams.devices import DeviceUnknown
from streams.errors import BrokerUnavailable, EpochMissing, JetStreamRefused, StreamMissing, TopicUnknown
from streams.facts import FactsUnavailable
from streams.gathering import NobodyAnswered
from streams.limits import RateExceeded
from streams.passes import DeliveredLongAgo, PassUnknown
from streams.snapshots import InvalidPage, NoPosition
from streams.subjects import ID_PATTERN, InvalidId
from streams.topics import InvalidTopic

if TYPE_CHECKING:
    from collections.abc import Mapping

    from litestar import Request
    from litestar.types import ExceptionHandlersMap

MEDIA_TYPE: Final = "application/problem+json"
NEVER_KEPT: Final[Mapping[str, str]] = {"cache-control": "no-store"}
"""The headers of every answer but a stream's: it is for whoever asked, and true for the moment."""

RETRY_AFTER_SECONDS: Final = (1, 3)
"""From and to: those that were refused together should not come back together."""

log = structlog.get_logger()


class TopicRefused(GatewayError):
    """One of a stream's topics was refused, and so the stream. `topic` says which, `refusal` why."""

    def __init__(self, topic: str, refusal: Forbidden | TopicUnknown) -> None:
        super().__init__(f"{topic}: {refusal}")
        self.topic = topic
        self.refusal = refusal


class Fault(msgspec.Struct, frozen=True, kw_only=True, rename={"place": "in"}):
    """One thing that is wrong with a request.

    `pointer` says where in the body, as a JSON pointer in a URI fragment; `parameter` says which parameter, and `place`
    (in JSON `in`) where that one stands.
    """

    detail: str
    pointer: str | UnsetType = UNSET
    parameter: str | UnsetType = UNSET
    place: str | UnsetType = UNSET


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """A problem document. `type` is `about:blank` where the status says all there is to say.

    `topic` is the one that was refused, where several were asked for.
    """

    type: str
    title: str
    status: int
    detail: str
    instance: str | UnsetType = UNSET
    topic: str | UnsetType = UNSET
    errors: list[Fault] | UnsetType = UNSET


STATUSES: Final[Mapping[type[Exception], HTTPStatus]] = {
    Unauthorized: HTTPStatus.UNAUTHORIZED,
    Forbidden: HTTPStatus.FORBIDDEN,
    DeliveredLongAgo: HTTPStatus.CONFLICT,
    TopicUnknown: HTTPStatus.NOT_FOUND,
    DeviceUnknown: HTTPStatus.NOT_FOUND,
    PassUnknown: HTTPStatus.NOT_FOUND,
    InvalidId: HTTPStatus.UNPROCESSABLE_ENTITY,
    InvalidPage: HTTPStatus.UNPROCESSABLE_ENTITY,
    InvalidTopic: HTTPStatus.UNPROCESSABLE_ENTITY,
    KeyReused: HTTPStatus.UNPROCESSABLE_ENTITY,
    SessionTooLarge: HTTPStatus.UNPROCESSABLE_ENTITY,
    ValidationException: HTTPStatus.UNPROCESSABLE_ENTITY,
    RateExceeded: HTTPStatus.TOO_MANY_REQUESTS,
    BrokerUnavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    DatabaseUnavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    EpochMissing: HTTPStatus.SERVICE_UNAVAILABLE,
    FactsUnavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    JetStreamRefused: HTTPStatus.SERVICE_UNAVAILABLE,
    KeysUnavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    NobodyAnswered: HTTPStatus.SERVICE_UNAVAILABLE,
    NoPosition: HTTPStatus.SERVICE_UNAVAILABLE,
    StreamMissing: HTTPStatus.SERVICE_UNAVAILABLE,
}
"""What each condition is in HTTP; a class stands for those below it. What is not here is nobody's fault but ours."""

# By RFC 9110: Python's own phrases for these differ from version to version.
_TITLES = {413: "Content Too Large", 422: "Unprocessable Content"}
_NO_DETAIL = {
    HTTPStatus.SERVICE_UNAVAILABLE: "What this answer depends on is out of reach for the moment; try again soon.",
    HTTPStatus.INTERNAL_SERVER_ERROR: "Something went wrong here; the log has it under this document's instance.",
}


def problem_response(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """The answer to a request that ended in `error`; what is not the client's fault is logged."""
    status = status_of(error)
    told = problem_of(error)
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        told = msgspec.structs.replace(told, instance=f"urn:uuid:{uuid4()}")
        _log(request, error, told)
    return Response(
        msgspec.json.encode(told), status_code=status, media_type=MEDIA_TYPE, headers=_headers(error, status)
    )


EXCEPTION_HANDLERS: Final[ExceptionHandlersMap] = {Exception: problem_response}
"""For the application: one handler for whatever is raised, Litestar's own errors included."""


def status_of(error: Exception) -> int:
    """The status of an error's answer."""
    if isinstance(error, TopicRefused):
        return status_of(error.refusal)
    for kind in type(error).__mro__:
        if kind in STATUSES:
            return STATUSES[kind]
    if isinstance(error, UnusableBody):
        return error.status
    return error.status_code if isinstance(error, HTTPException) else HTTPStatus.INTERNAL_SERVER_ERROR


def problem_of(error: Exception) -> Problem:
    """What is told of an error."""
    if isinstance(error, TopicRefused):
        told = problem_of(error.refusal)
        return msgspec.structs.replace(told, topic=error.topic, detail=f"{error.topic}: {told.detail}")
    status = status_of(error)
    return problem(status, _detail(error, status), kind=_kind(error, status), errors=_faults(error))


def problem(status: int, detail: str, *, kind: str | None = None, errors: list[Fault] | UnsetType = UNSET) -> Problem:
    """A problem of this `kind`, in words with hyphens between; None where the status says all there is to say.

    `detail` may be a half sentence; it is made a whole one.
    """
    return Problem(
        type="about:blank" if kind is None else f"urn:passline:problem:{kind}",
        title=_TITLES.get(status) or HTTPStatus(status).phrase,
        status=status,
        detail=_sentence(detail),
        errors=errors,
    )


def _sentence(text: str) -> str:
    begins_with_a_word = text.partition(" ")[0].isalpha()  # and not with the name of a field
    capitalized = f"{text[:1].upper()}{text[1:]}" if begins_with_a_word else text
    return capitalized if text[-1:] in ".!?" else f"{capitalized}."


def _kind(error: Exception, status: int) -> str | None:
    """Of our own conditions the name; Litestar's are those of HTTP."""
    if isinstance(error, HTTPException) or status == HTTPStatus.INTERNAL_SERVER_ERROR:
        return None
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", type(error).__name__).lower()


def _detail(error: Exception, status: int) -> str:
    if isinstance(error, ValidationException):
        return "; ".join(f"{fault.parameter}: {fault.detail}" for fault in _parameter_faults(error)) or error.detail
    if status in _NO_DETAIL:
        return _NO_DETAIL[HTTPStatus(status)]
    return error.detail if isinstance(error, HTTPException | Unauthorized | Forbidden | UnusableBody) else str(error)


def _faults(error: Exception) -> list[Fault] | UnsetType:
    if isinstance(error, ValidationException):
        return _parameter_faults(error) or UNSET
    if isinstance(error, UnusableBody) and error.header is not None:
        return [Fault(detail=error.detail, parameter=error.header, place="header")]
    if isinstance(error, UnusableBody) and error.index is not None:
        return [Fault(detail=error.detail, pointer=f"#{error.pointer}")]
    if isinstance(error, KeyReused):
        return [Fault(detail=str(error), parameter="Idempotency-Key", place="header")]
    if isinstance(error, InvalidPage):  # its limit was looked at before
        return [Fault(detail=str(error), parameter="after", place="query")]
    return UNSET


def _parameter_faults(error: ValidationException) -> list[Fault]:
    """What Litestar found wrong with a request's parameters."""
    found = error.extra if isinstance(error.extra, list) else []
    return [
        Fault(
            detail=_in_words(each["message"]),
            parameter=each.get("key", UNSET),
            place=get_enum_string_value(each["source"]) if "source" in each else UNSET,
        )
        for each in found
    ]


def _in_words(message: str) -> str:
    """A pattern says less to a person than what it is for."""
    if message.endswith(f"matching regex {KEY_PATTERN!r}"):
        return IN_WORDS
    return str(InvalidId("")) if message.endswith(f"matching regex {ID_PATTERN!r}") else message


def _headers(error: Exception, status: int) -> dict[str, str]:
    if isinstance(error, TopicRefused):
        return _headers(error.refusal, status)
    headers = dict(NEVER_KEPT)
    if isinstance(error, HTTPException) and error.headers:
        headers |= error.headers
    if isinstance(error, Unauthorized | InsufficientScope):
        headers["www-authenticate"] = error.www_authenticate()
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers["retry-after"] = retry_after()
    if isinstance(error, RateExceeded):
        headers["retry-after"] = str(error.retry_after_seconds)
    return headers


def retry_after() -> str:
    """The value of a `Retry-After` header: seconds, a different number for each."""
    return str(random.randint(*RETRY_AFTER_SECONDS))  # noqa: S311 - spreads load, guards nothing


def _log(request: Request[Any, Any, Any], error: Exception, told: Problem) -> None:
    """By the route's template: a path may name a person, and a query anything."""
    fields = {
        "instance": told.instance,
        "method": request.scope["method"],
        "route": request.scope.get("path_template", ""),
        "error": type(error).__name__,
    }
    if told.status == HTTPStatus.SERVICE_UNAVAILABLE:
        log.warning("request.unavailable", reason=str(error), **fields)
    else:
        log.error("request.failed", exc_info=error, **fields)
