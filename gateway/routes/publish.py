"""Ingest: events into the log, answered after the broker has them on its disk."""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

import msgspec
from litestar import Request, Response, post
from litestar.datastructures import State
from litestar.di import NamedDependency
from litestar.exceptions import ClientException, InternalServerException
from litestar.openapi.datastructures import ResponseSpec
from msgspec import UNSET, UnsetType

from auth.claims import Claims
from auth.policies import must_have_scope
from gateway.authentication import Carrier
from gateway.ingest import MAX_BODY_BYTES, is_single_event, parse_events
from gateway.openapi import BEARER, SESSION, PublishOperation, refusals
from gateway.problems import MEDIA_TYPE, NEVER_KEPT, Problem, problem, retry_after
from streams.cursor import Cursor
from streams.facts import Facts, FactsUnavailable
from streams.matrix import FACTS
from streams.publisher import ProblemKind, Publisher, Result, Status

EVENTS_SCOPE: Final = "events:publish"
ACCESS_SCOPE: Final = "access:publish"
"""For events that decide who may see what."""

_STATUSES: Final = {
    ProblemKind.CONFLICT: HTTPStatus.CONFLICT,
    ProblemKind.REFUSED: HTTPStatus.UNPROCESSABLE_ENTITY,
    ProblemKind.UNAVAILABLE: HTTPStatus.SERVICE_UNAVAILABLE,
}
_UNAVAILABLE: Final = HTTPStatus.SERVICE_UNAVAILABLE
_IN_THE_LOG: Final = (Status.STORED, Status.DUPLICATE)


class Outcome(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What became of one event. `cursor` is where it stands in the log, null where it does not."""

    event_id: str
    status: Status
    cursor: str | None
    problem: Problem | UnsetType = UNSET


class Outcomes(msgspec.Struct, frozen=True, kw_only=True):
    """What became of each event, in the order of the request."""

    results: list[Outcome]


class Refusal(Problem, frozen=True, kw_only=True):
    """A problem document with what became of each event."""

    results: list[Outcome]


@post(
    "/events",
    status_code=HTTPStatus.OK,
    summary="Publish events",
    tags=["events"],
    security=[BEARER, SESSION],
    request_max_body_size=MAX_BODY_BYTES,
    operation_class=PublishOperation,
    responses=refusals(401, 403, 409, 413, 415, 422, 503)
    | {
        207: ResponseSpec(Outcomes, generate_examples=False, description="Some events are in the log and some are not.")
    },
)
async def publish_events(
    request: Request[Claims, Carrier, State], publisher: NamedDependency[Publisher], facts: NamedDependency[Facts]
) -> Response[Outcomes | Refusal]:
    """One event, an array, one event a line (NDJSON), or CloudEvents 1.0: structured, binary (`ce-` headers beside the
    event) or a batch. At most 1,000 events and 4 MB; they enter the log in order.

    200: every event is in the log, or was already. 207: some are not; after a failure later events of the same order
    are not attempted. 503: none could be stored; send the same again. Facts about access (staff, revocations, passes,
    devices, whose a workflow is) need the scope `access:publish`, all others `events:publish`.
    """
    if ACCESS_SCOPE not in request.user.scopes:
        must_have_scope(request.user, EVENTS_SCOPE)  # before the body is read
    content_type = request.headers.get("content-type", "")
    body = await _body(request)
    headers = tuple(request.headers.items())  # each, if there are several of one name
    events = parse_events(body, content_type, headers)
    for event in events:
        must_have_scope(request.user, ACCESS_SCOPE if type(event) in FACTS else EVENTS_SCOPE)
    if not facts.epoch:
        raise FactsUnavailable(
            "this process has not found its place in the log, and could not say where an event stands"
        )
    results = await publisher.publish(events)
    is_single = is_single_event(body, content_type, headers)
    return _answer([_outcome(each, facts.epoch) for each in results], is_single=is_single)


async def _body(request: Request[Claims, Carrier, State]) -> bytes:
    try:
        return await request.body()
    except InternalServerException as error:  # Litestar's word for a client that went away
        raise ClientException("The request ended before its body did") from error


def _outcome(result: Result, epoch: str) -> Outcome:
    return Outcome(
        event_id=result.event_id,
        status=result.status,
        cursor=None if result.sequence is None else str(Cursor(epoch, result.sequence)),
        problem=UNSET if result.status in _IN_THE_LOG else _problem(result),
    )


def _problem(result: Result) -> Problem:
    kind = result.kind or ProblemKind.UNAVAILABLE
    return problem(_STATUSES[kind], result.problem or "the event is not in the log", kind=f"event-{kind}")


def _answer(results: list[Outcome], *, is_single: bool) -> Response[Outcomes | Refusal]:
    missing = [outcome for outcome in results if outcome.status not in _IN_THE_LOG]
    if not missing:
        return Response(Outcomes(results=results), headers=NEVER_KEPT)
    reasons = [outcome.problem for outcome in missing if isinstance(outcome.problem, Problem)]
    if is_single or (len(missing) == len(results) and all(each.status == _UNAVAILABLE for each in reasons)):
        return _refusal(reasons[0], results)
    return Response(Outcomes(results=results), status_code=HTTPStatus.MULTI_STATUS, headers=NEVER_KEPT)


def _refusal(reason: Problem, results: list[Outcome]) -> Response[Outcomes | Refusal]:
    coming_back = {"retry-after": retry_after()} if reason.status == _UNAVAILABLE else {}
    return Response(
        Refusal(**msgspec.structs.asdict(reason), results=results),
        status_code=reason.status,
        media_type=MEDIA_TYPE,
        headers={**NEVER_KEPT, **coming_back},
    )


HANDLERS = [publish_events]
