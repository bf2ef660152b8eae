"""Every topic and every endpoint has a policy, and the documents name the one that is asked."""

from __future__ import annotations

import functools
import inspect
import re
import sys
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from auth import policies
from gateway.app import create_app
from gateway.authentication import PUBLIC
from gateway.channels import API, address_of, kind_of
from gateway.routes import streams
from gateway.who_may import AUDIENCES, OPEN, ROUTES
from streams.topics import Audience, TopicKind
from tests.gateway.conftest import TIME, Rest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from litestar import Litestar

    from tests.support.gateway import Passline

POLICIES = {
    value: name
    for name, value in vars(policies).items()
    if inspect.isfunction(value) and value.__module__ == policies.__name__ and not name.startswith("_")
}
IDS = {
    "restaurant_id": "r1",
    "order_id": "o1",
    "customer_key": "c1",
    "cart_id": "t1",
    "correlation_id": "w1",
    "coupon_id": "k1",
    "device_id": "d1",
    "pass_id": "p1",
}
BODIES: dict[str, Any] = {"POST /orders/{order_id}/signals": {"type": "typing"}}


@pytest.fixture
def database_kind() -> str:
    """Who may is asked of memory here."""
    return "sqlite"


@pytest.fixture
async def rest(passline: Passline) -> AsyncIterator[Rest]:
    """With every feature."""
    gateway = await passline.gateway(team_carts=True)
    async with httpx.AsyncClient(base_url=gateway.url, timeout=10) as http:
        yield Rest(passline, gateway, http)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The names of the policies that are asked from now on, wherever they were imported."""
    names: set[str] = set()

    def recording(policy: Any, name: str) -> Any:
        @functools.wraps(policy)
        def recorded(*arguments: Any, **named: Any) -> Any:
            names.add(name)
            return policy(*arguments, **named)

        return recorded

    wrapped = {policy: recording(policy, name) for policy, name in POLICIES.items()}
    for module in [each for name, each in sys.modules.items() if name.startswith("gateway.")]:
        for name, value in list(vars(module).items()):
            if inspect.isfunction(value) and value in wrapped:
                monkeypatch.setattr(module, name, wrapped[value])
    return names


def routes_of(app: Litestar) -> Iterator[tuple[str, Any]]:
    """Method and path below the API of each endpoint, and its handler."""
    for route in app.routes:
        for handler in getattr(route, "route_handlers", ()):
            path = re.sub(r"{(\w+):\w+}", r"{\1}", route.path)
            for method in handler.http_methods:
                if path.startswith(API) and method != "OPTIONS":
                    yield f"{method} {path.removeprefix(API)}", handler


def test_every_audience_and_every_kind_of_topic_has_a_policy_and_an_endpoint() -> None:
    assert set(AUDIENCES) == set(Audience)
    assert all(AUDIENCES.values())
    assert all(ROUTES.values())
    assert {kind_of(audience) for audience in Audience} == set(TopicKind)
    assert all(address_of(kind) for kind in TopicKind)


async def test_every_endpoint_stands_in_one_of_the_tables(rest: Rest) -> None:
    routes = dict(routes_of(create_app(rest.gateway.gateway.settings)))
    of_streams = {route for route, handler in routes.items() if handler.fn in {each.fn for each in streams.HANDLERS}}
    wanted = {f"GET {(address_of(kind) or '').removeprefix(API)}" for kind in TopicKind} | {"GET /events"}
    assert of_streams == wanted
    assert set(routes) == wanted | set(ROUTES) | set(OPEN)
    public = {route for route, handler in routes.items() if PUBLIC.items() <= handler.opt.items()}
    assert public <= set(OPEN)


async def test_stranger_is_refused_everywhere_by_a_policy_that_the_tables_name(rest: Rest, asked: set[str]) -> None:
    common = {"occurredOnUtc": TIME}
    await rest.happened(
        rest.event("OrderPlaced"),
        {"type": "TeamCartCreated", "eventId": "cart", **common, "teamCartId": "t1", "memberId": "m1"},
        {"type": "WorkflowAccepted", "eventId": "flow", **common, "correlationId": "w1", "userId": "u1"},
    )
    named = {route: {rule.policy.__name__ for rule in rules} for route, rules in ROUTES.items()}
    for audience, rules in AUDIENCES.items():
        route = f"GET {(address_of(kind_of(audience)) or '').removeprefix(API)}"
        named.setdefault(route, set()).update(rule.policy.__name__ for rule in rules)
    stranger = rest.bearer("stranger")
    for route, names in named.items():
        method, path = route.format_map(IDS).split(" ")
        asked.clear()
        nobody = await rest.http.request(method, API + path, json=BODIES.get(route))
        assert (nobody.status_code, asked) == (401, set()), route
        answer = await rest.http.request(method, API + path, json=BODIES.get(route), headers=stranger)
        assert answer.status_code == 403, (route, answer.text)
        assert asked, route
        assert asked <= names, route


async def test_one_refused_topic_of_several_is_refused_by_its_own_policy(rest: Rest, asked: set[str]) -> None:
    await rest.happened(rest.event("OrderPlaced"))
    asked.clear()
    answer = await rest.get("/events", rest.bearer("c1"), topic=["customers/c1", "restaurants/r1"])
    assert answer.status_code == 403
    assert "restaurants/r1" in answer.text
    assert asked == {"must_be_customer", "must_be_restaurant_staff"}
