"""Workflows: binding a correlation id to who asks for it, and how far the order service is with it."""

from __future__ import annotations

import asyncio
import time
from http import HTTPStatus
from typing import Final, TypeAlias

import msgspec
from litestar import Request, Response, get, post
from litestar.datastructures import State
from litestar.di import NamedDependency
from litestar.openapi.datastructures import ResponseSpec

from auth.claims import Claims
from auth.policies import may_bind_workflow
from gateway.authentication import Carrier
from gateway.authorization import may_see_workflow
from gateway.openapi import BEARER, SESSION, CorrelationId, refusals
from gateway.problems import NEVER_KEPT
from gateway.process import Gateway
from gateway.routes.options import options
from streams.binding import Claim
from streams.cursor import Cursor
from streams.errors import BrokerUnavailable
from streams.workflows import Workflow, WorkflowState, WorkflowUnknown

BIND_SECONDS: Final = 1.5
"""The longest that a binding may take, whatever is out of reach."""

_POLL_SECONDS = 0.005

Asker: TypeAlias = Request[Claims, Carrier, State]


class WorkflowAt(WorkflowState, frozen=True, kw_only=True):
    """A workflow, at `cursor`: a stream from there on brings what has happened since."""

    cursor: str


@post(
    "/workflows/{correlation_id:str}",
    status_code=HTTPStatus.CREATED,
    summary="Bind a workflow to yourself",
    tags=["workflows"],
    security=[BEARER, SESSION],
    responses=refusals(401, 403, 404, 422, 503)
    | {200: ResponseSpec(WorkflowAt, generate_examples=False, description="It was yours before.")},
)
async def bind_workflow(
    request: Asker, correlation_id: CorrelationId, gateway: NamedDependency[Gateway]
) -> Response[WorkflowAt]:
    """The first binding holds, over all gateways; to bind your own again is fine. 403: it is somebody else's. An
    event of the order service that names the user is the authority, whoever has bound it. 404: the workflow is
    over; a correlation id is good for one.

    What the order service has said of it before is kept for whoever binds it. There is no body.
    """
    try:
        async with asyncio.timeout(BIND_SECONDS):
            claimed = await _bind(gateway, request.user, correlation_id)
            workflow = await may_see_workflow(gateway.facts, gateway.workflows, request.user, correlation_id)
    except TimeoutError as error:
        raise BrokerUnavailable("a workflow's binding", BIND_SECONDS, "no answer in time") from error
    is_new = claimed is not None and claimed.is_new
    return _answer(gateway, correlation_id, workflow, HTTPStatus.CREATED if is_new else HTTPStatus.OK)


@get(
    "/workflows/{correlation_id:str}",
    summary="How far a workflow is",
    tags=["workflows"],
    security=[BEARER, SESSION],
    responses=refusals(401, 403, 404, 422, 503),
)
async def read_workflow(
    request: Asker, correlation_id: CorrelationId, gateway: NamedDependency[Gateway]
) -> Response[WorkflowAt]:
    """ACCEPTED, PROCESSING or COMPLETED, and null before; with the order's id when it is known. For whom it is
    bound to; one that nobody has bound is not found.
    """
    facts, kind, claims = gateway.facts, gateway.workflows, request.user
    await facts.settled(kind, correlation_id, lambda each: each.user_key == claims.key)
    workflow = await may_see_workflow(facts, kind, claims, correlation_id)
    return _answer(gateway, correlation_id, workflow, HTTPStatus.OK)


async def _bind(gateway: Gateway, claims: Claims, correlation_id: str) -> Claim | None:
    """See to it that the workflow is bound to somebody, and that this process has read so. None if it was before.

    Raises:
        NotAllowed: it is somebody else's.
        WorkflowUnknown: it is over.
        BrokerUnavailable, FactsUnavailable
    """
    facts, kind = gateway.facts, gateway.workflows
    workflow = await facts.state(kind, correlation_id)
    if kind.is_over(workflow, time.time()):
        raise WorkflowUnknown(correlation_id)
    may_bind_workflow(claims, workflow.user_key)
    if workflow.user_key is not None:
        return None
    if workflow.last_time is None:
        position = facts.position
        first = await gateway.bindings.first_heard_of(correlation_id)
        if first is not None and first <= position:  # it was forgotten, since it is over
            raise WorkflowUnknown(correlation_id)
    claimed = await gateway.bindings.claim(correlation_id, claims.subject)
    # Only then it can be told whose it is.
    while facts.position < claimed.sequence:  # noqa: ASYNC110 - the tail goes on whoever waits, and tells nobody
        await asyncio.sleep(_POLL_SECONDS)
    return claimed


def _answer(gateway: Gateway, correlation_id: str, workflow: Workflow, status: HTTPStatus) -> Response[WorkflowAt]:
    state = WorkflowState.of(correlation_id, workflow)
    # Nothing was awaited since the workflow was known, so it is true there.
    cursor = str(Cursor(gateway.facts.epoch, gateway.facts.position))
    return Response(
        WorkflowAt(**msgspec.structs.asdict(state), cursor=cursor), status_code=status, headers=dict(NEVER_KEPT)
    )


HANDLERS = [options("/workflows/{correlation_id:str}", "GET", "POST"), bind_workflow, read_workflow]
