from __future__ import annotations

import asyncio
import os
import re
import sys
from typing import TYPE_CHECKING, Any

import pytest

import streams.facts
from gateway.ingest import ACCEPTED
from streams.events import EVENT_TYPES, Command
from tests.gateway.serving import problem

if TYPE_CHECKING:
    from pathlib import Path

    from tests.gateway.conftest import Rest

DOCUMENT = "/schema/openapi.json"

# Half of the ids are of what there is, so that good answers are compared with the document, too. Too long a body is
# refused by another status than a wrong one. Every edge of every kind of event would be thousands of requests: they
# are generated at random.
CONFIGURATION = """
hooks = "tests.gateway.schemathesis_hooks"
seed = 1

[dictionaries.restaurants]
values = ["r1", "r2"]

[dictionaries.orders]
values = ["o1", "o2", "o3"]

[parameters]
"path.restaurant_id" = { dictionary = "restaurants", probability = 0.5 }
"path.order_id" = { dictionary = "orders", probability = 0.5 }

[checks.negative_data_rejection]
expected-statuses = ["400", "401", "403", "404", "405", "413", "415", "422"]

[checks.positive_data_acceptance]
expected-statuses = ["2xx", "3xx", "401", "403", "404", "409", "413", "429", "5xx"]

[[operations]]
include-name = "POST /api/v1/events"
phases.coverage.enabled = false

[[operations]]
include-name = "GET /api/v1/events"
enabled = false
"""


@pytest.fixture
def database_kind() -> str:
    """What the two databases answer is compared where they are read."""
    return "sqlite"


@pytest.mark.timeout(120)
async def test_every_answer_of_the_rest_part_is_as_the_document_says(
    rest: Rest, tmp_path: Path, pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams.facts, "WAIT_FOR_ORDER_SECONDS", 0.01)
    await rest.happened(
        rest.event("OrderPlaced", "o1", items=[{"name": "Soup", "quantity": 1}], customer="somebody"),
        rest.event("OrderPlaced", "o2"),
        rest.event("OrderAccepted", "o2"),
        rest.event("OrderPlaced", "o3", restaurant="r2", customer="somebody"),
    )
    token = rest.gateway.token("somebody", restaurants={"r1": "owner"}, scopes=["events:publish", "access:publish"])
    (tmp_path / "schemathesis.toml").write_text(CONFIGURATION)
    run = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "schemathesis.cli", "--config-file", "schemathesis.toml"),
        *("run", f"{rest.gateway.url}{DOCUMENT}", "--header", f"Authorization: Bearer {token}"),
        *(
            "--exclude-path-regex",
            "}/events$|marketing/events$|finance/events$",
            "--checks",
            "all",
            "--max-examples",
            "20",
        ),
        *("--phases", "examples,coverage,fuzzing"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(pytestconfig.rootpath)},
    )
    try:
        async with asyncio.timeout(110):
            output, _ = await run.communicate()
    finally:
        if run.returncode is None:
            run.kill()
    assert run.returncode == 0, output.decode()
    of_streams = [
        operation
        for path in (await document(rest))["paths"].values()
        for operation in path.values()
        if "text/event-stream" in operation["responses"].get("200", {}).get("content", {})
    ]
    counted = re.search(r"(\d+) selected / (\d+) total", output.decode())
    assert counted is not None
    selected, total = counted.groups()
    assert int(total) - int(selected) == len(of_streams) >= 10


async def document(rest: Rest) -> dict[str, Any]:
    response = await rest.http.get(DOCUMENT)
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/vnd.oai.openapi+json"
    answer = response.json()
    assert isinstance(answer, dict)
    return answer


async def test_every_route_is_in_the_document(rest: Rest) -> None:
    paths = (await document(rest))["paths"]
    assert {f"{method.upper()} {path}" for path, operations in paths.items() for method in operations} == {
        "GET /api/v1/orders/{order_id}",
        *(f"POST /api/v1/orders/{{order_id}}/{command}" for command in Command),
        "POST /api/v1/orders/{order_id}/guest-pass",
        "DELETE /api/v1/orders/{order_id}/guest-pass/{pass_id}",
        "GET /api/v1/orders/{order_id}/watchers",
        "POST /api/v1/orders/{order_id}/signals",
        "GET /api/v1/restaurants/{restaurant_id}/devices",
        "POST /api/v1/restaurants/{restaurant_id}/devices/pairing",
        "GET /api/v1/restaurants/{restaurant_id}/devices/keys",
        "DELETE /api/v1/restaurants/{restaurant_id}/devices/{device_id}",
        "POST /api/v1/devices",
        "POST /api/v1/devices/pass",
        "POST /api/v1/devices/key",
        "GET /api/v1/carts/{cart_id}/events",
        "GET /api/v1/workflows/{correlation_id}",
        "POST /api/v1/workflows/{correlation_id}",
        "GET /api/v1/workflows/{correlation_id}/events",
        "GET /api/v1/events",
        "GET /api/v1/partners/{restaurant_id}/events",
        "GET /api/v1/customers/{customer_key}/events",
        "GET /api/v1/coupons/{coupon_id}/events",
        "GET /api/v1/marketing/events",
        "GET /api/v1/restaurants/{restaurant_id}/finance/events",
        "GET /api/v1/orders/{order_id}/events",
        "GET /api/v1/restaurants/{restaurant_id}/events",
        "GET /api/v1/restaurants/{restaurant_id}/orders/active",
        "GET /api/v1/restaurants/{restaurant_id}/orders/new",
        "POST /api/v1/events",
        "POST /api/v1/session",
        "DELETE /api/v1/session",
        "GET /health/live",
        "GET /health/ready",
    }


async def test_every_operation_but_the_public_ones_says_how_to_authenticate(rest: Rest) -> None:
    paths = (await document(rest))["paths"]
    public = {
        f"{method.upper()} {path}"
        for path, operations in paths.items()
        for method, operation in operations.items()
        if not operation.get("security")
    }
    assert public == {"DELETE /api/v1/session", "POST /api/v1/devices", "GET /health/live", "GET /health/ready"}


async def test_every_event_type_can_be_found_in_what_may_be_published(rest: Rest) -> None:
    told = await document(rest)
    content = told["paths"]["/api/v1/events"]["post"]["requestBody"]["content"]
    assert set(content) <= set(ACCEPTED)
    assert set(told["components"]["schemas"]["Event"]["discriminator"]["mapping"]) == set(EVENT_TYPES)
    assert set(EVENT_TYPES) <= set(told["components"]["schemas"])


async def test_every_reference_leads_somewhere(rest: Rest) -> None:
    told = await document(rest)

    def references(node: Any) -> set[str]:
        if isinstance(node, dict):
            own = {node["$ref"]} if "$ref" in node else set()
            return own.union(*map(references, node.values()))
        return set().union(*map(references, node)) if isinstance(node, list) else set()

    schemas = {f"#/components/schemas/{name}" for name in told["components"]["schemas"]}
    assert references(told) <= schemas


async def test_problems_are_described_as_what_they_are_sent_as(rest: Rest) -> None:
    for operations in (await document(rest))["paths"].values():
        for operation in operations.values():
            for status, answer in operation["responses"].items():
                if status[0] in "45" and operation["summary"] != "Should this process be sent clients?":
                    assert list(answer["content"]) == ["application/problem+json"]


@pytest.mark.parametrize("path", ["/schema/swagger", "/schema/redoc", "/schema/nothing", "/schema/openapi.html"])
async def test_no_page_is_served_that_loads_scripts_from_elsewhere(rest: Rest, path: str) -> None:
    assert problem(await rest.http.get(path))["status"] == 404


async def test_the_documents_directory_is_the_document(rest: Rest) -> None:
    assert (await rest.http.get("/schema")).json() == await document(rest)


async def test_a_path_with_two_methods_allows_both(rest: Rest) -> None:
    response = await rest.http.options("/api/v1/session")
    assert (response.status_code, response.headers["allow"]) == (204, "DELETE, OPTIONS, POST")
