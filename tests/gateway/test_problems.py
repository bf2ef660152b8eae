from __future__ import annotations

import importlib
import pkgutil
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import structlog
from litestar import Litestar, Request, get, post
from litestar.exceptions import HTTPException
from litestar.params import FromPath

import auth
import gateway
import streams
from auth.errors import (
    AuthError,
    CrossOrigin,
    Forbidden,
    InsufficientScope,
    MissingToken,
    NotAllowed,
    SessionTooLarge,
    TokenExpired,
    Unauthorized,
    WrongIssuer,
)
from gateway.errors import GatewayError
from gateway.ingest import ContentTooLarge, UnprocessableContent, UnsupportedMediaType
from gateway.openapi import OrderId
from gateway.problems import EXCEPTION_HANDLERS, TopicRefused, problem_of, status_of
from gateway.routes.orders import Limit
from streams.database import DatabaseUnavailable
from streams.errors import BrokerUnavailable, JetStreamRefused, StreamsError
from streams.facts import FactsUnavailable, OrderUnknown
from streams.snapshots import InvalidPage
from tests.gateway.serving import client_of, problem

RAISED: dict[str, Exception] = {
    "unauthorized": TokenExpired(1_800_000_000.0),
    "forbidden": NotAllowed("Only the customer who placed this order may do this."),
    "scope": InsufficientScope("events:publish"),
    "unknown-order": OrderUnknown("o-1"),
    "broker": BrokerUnavailable("secret.subject", 2.0, "no answer from 10.0.0.1"),
    "bug": RuntimeError("the password is hunter2"),
    "event": UnprocessableContent("Expected `str`", index=3, pointer="/3/orderId"),
}


@get("/raise/{name:str}")
async def raising(name: FromPath[str]) -> None:
    raise RAISED[name]


@get("/orders/{order_id:str}")
async def with_parameters(order_id: OrderId, limit: Limit = 1) -> dict[str, Any]:
    return {"order": order_id, "limit": limit}


@post("/upload", request_max_body_size=10)
async def upload(request: Request[Any, Any, Any]) -> None:
    await request.body()


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    app = Litestar(
        [raising, with_parameters, upload],
        exception_handlers=EXCEPTION_HANDLERS,
        openapi_config=None,
        logging_config=None,
    )
    async with client_of(app) as client:
        yield client


async def test_unauthorized_says_why_in_body_and_header(client: httpx.AsyncClient) -> None:
    response = await client.get("/raise/unauthorized")
    assert problem(response) == {
        "type": "urn:passline:problem:token-expired",
        "title": "Unauthorized",
        "status": 401,
        "detail": "The token expired at 2027-01-15T08:00:00Z; get a new one.",
    }
    assert response.headers["www-authenticate"] == (
        'Bearer realm="passline", error="invalid_token", '
        'error_description="The token expired at 2027-01-15T08:00:00Z; get a new one."'
    )


async def test_forbidden_has_its_title_and_no_challenge(client: httpx.AsyncClient) -> None:
    response = await client.get("/raise/forbidden")
    assert problem(response) == {
        "type": "urn:passline:problem:not-allowed",
        "title": "Forbidden",
        "status": 403,
        "detail": "Only the customer who placed this order may do this.",
    }
    assert "www-authenticate" not in response.headers


async def test_insufficient_scope_names_the_scope_in_a_challenge(client: httpx.AsyncClient) -> None:
    response = await client.get("/raise/scope")
    assert response.status_code == 403
    assert response.headers["www-authenticate"] == (
        'Bearer realm="passline", error="insufficient_scope", scope="events:publish"'
    )


async def test_unknown_order_is_a_sentence(client: httpx.AsyncClient) -> None:
    document = problem(await client.get("/raise/unknown-order"))
    assert document == {
        "type": "urn:passline:problem:order-unknown",
        "title": "Not Found",
        "status": 404,
        "detail": "There is no order o-1.",
    }


async def test_wrong_event_has_a_pointer_to_what_is_wrong(client: httpx.AsyncClient) -> None:
    document = problem(await client.get("/raise/event"))
    assert document["title"] == "Unprocessable Content"
    assert document["errors"] == [{"detail": "Expected `str`", "pointer": "#/3/orderId"}]


async def test_what_is_out_of_reach_says_when_to_come_back_and_not_what_it_is(client: httpx.AsyncClient) -> None:
    with structlog.testing.capture_logs() as logs:
        response = await client.get("/raise/broker?token=t0ken")
    document = problem(response)
    assert document["title"] == "Service Unavailable"
    assert 1 <= int(response.headers["retry-after"]) <= 3
    assert "10.0.0.1" not in response.text
    assert "secret.subject" not in response.text
    (entry,) = logs
    assert entry["event"] == "request.unavailable"
    assert entry["instance"] == document["instance"]
    assert "t0ken" not in str(entry)


async def test_a_bug_tells_nothing_but_the_id_that_the_log_has_it_under(client: httpx.AsyncClient) -> None:
    with structlog.testing.capture_logs() as logs:
        response = await client.get("/raise/bug?token=t0ken")
    document = problem(response)
    assert (document["type"], document["title"]) == ("about:blank", "Internal Server Error")
    assert document["instance"].startswith("urn:uuid:")
    assert "hunter2" not in response.text
    (entry,) = logs
    assert entry["event"] == "request.failed"
    assert entry["instance"] == document["instance"]
    assert entry["route"] == "/raise/{name}"
    assert entry["exc_info"] is RAISED["bug"]
    assert "t0ken" not in str(entry)


async def test_unknown_path_is_a_problem(client: httpx.AsyncClient) -> None:
    document = problem(await client.get("/nowhere"))
    assert (document["type"], document["title"], document["status"]) == ("about:blank", "Not Found", 404)


async def test_unknown_method_is_a_problem_that_says_which_there_are(client: httpx.AsyncClient) -> None:
    response = await client.put("/orders/o-1")
    assert problem(response)["status"] == 405
    assert "GET" in response.headers["allow"]


async def test_too_long_a_body_is_a_problem(client: httpx.AsyncClient) -> None:
    document = problem(await client.post("/upload", content=b"x" * 11))
    assert (document["title"], document["status"]) == ("Content Too Large", 413)


async def test_a_host_that_is_none_is_a_problem(client: httpx.AsyncClient) -> None:
    document = problem(await client.get("/orders/o-1", headers={"host": "a b"}))
    assert document["status"] == 400


@pytest.mark.parametrize("order_id", ["*", ">", "a.b", "a b", "x" * 300, "a\n", "a\x00", "ü", "..", "%2e"])
async def test_what_is_no_id_is_named_by_its_parameter(client: httpx.AsyncClient, order_id: str) -> None:
    path = "/orders/" + "".join(f"%{byte:02x}" for byte in order_id.encode())
    document = problem(await client.get(path))
    what = "an id is 1 to 64 characters of A-Z, a-z, 0-9, '_' and '-'"
    assert (document["title"], document["status"]) == ("Unprocessable Content", 422)
    assert document["detail"] == f"order_id: {what}."
    assert document["errors"] == [{"detail": what, "parameter": "order_id", "in": "path"}]


@pytest.mark.parametrize("limit", ["0", "501", "x", "1.5", "", "1e400"])
async def test_what_is_no_limit_is_named_by_its_parameter(client: httpx.AsyncClient, limit: str) -> None:
    document = problem(await client.get("/orders/o-1", params={"limit": limit}))
    assert document["status"] == 422
    assert [(each["parameter"], each["in"]) for each in document["errors"]] == [("limit", "query")]


def leaves(base: type[Exception]) -> set[type[Exception]]:
    below = base.__subclasses__()
    return {leaf for each in below for leaf in leaves(each)} if below else {base}


def test_every_condition_has_the_status_that_was_decided_for_it() -> None:
    for package in (auth, gateway, streams):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.startswith("streams.migrations."):
                importlib.import_module(module.name)
    decided = {leaf.__name__: status_of(leaf.__new__(leaf)) for leaf in leaves(AuthError)}
    assert {name for name, status in decided.items() if status == 500} == {
        "KeyUnusable",
        "IssuersCollide",
        "FetchFailed",
    }
    decided = {
        leaf.__name__: status_of(leaf.__new__(leaf))
        for base in (StreamsError, GatewayError)
        for leaf in leaves(base) - {TopicRefused}  # whose status is that of what it is made of
    }
    assert {name: status for name, status in decided.items() if status != 500} == {
        "CartUnknown": 404,
        "ContentTooLarge": 413,
        "DatabaseBusy": 503,
        "DeliveredLongAgo": 409,
        "DeviceUnknown": 404,
        "EpochMissing": 503,
        "FactsUnavailable": 503,
        "BrokerUnavailable": 503,
        "InvalidId": 422,
        "InvalidPage": 422,
        "InvalidTopic": 422,
        "JetStreamRefused": 503,
        "KeyReused": 422,
        "NoPosition": 503,
        "NobodyAnswered": 503,
        "OrderUnknown": 404,
        "PassUnknown": 404,
        "RateExceeded": 429,
        "StreamMissing": 503,
        "UnprocessableContent": 422,
        "UnsupportedMediaType": 415,
        "WorkflowUnknown": 404,
    }


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (MissingToken(), 401),
        (WrongIssuer(["a"]), 401),
        (Unauthorized("No."), 401),
        (CrossOrigin(), 403),
        (Forbidden("No."), 403),
        (SessionTooLarge(5000, 4096), 422),
        (InvalidPage("not the end of any page"), 422),
        (ContentTooLarge("too long"), 413),
        (UnsupportedMediaType("text/plain"), 415),
        (FactsUnavailable("behind"), 503),
        (DatabaseUnavailable("gone"), 503),
        (JetStreamRefused("x", 503, 10008, "no quorum"), 503),
        (StreamsError("whatever"), 500),
        (HTTPException(status_code=429, detail="Slow down"), 429),
        (KeyError("x"), 500),
    ],
)
def test_a_problem_is_a_sentence_with_a_title(error: Exception, status: int) -> None:
    told = problem_of(error)
    assert told.status == status_of(error) == status
    assert told.title
    assert not told.detail[0].islower()
    assert told.detail[-1] in ".!?"
