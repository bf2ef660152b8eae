from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import httpx
import pytest

import gateway.routes.orders
import streams.facts
from tests.gateway.serving import problem
from tests.support.nats import eventually

if TYPE_CHECKING:
    from tests.gateway.conftest import Rest

NEW = "/restaurants/r1/orders/new"
ACTIVE = "/restaurants/r1/orders/active"
ITEMS = [{"name": "Soup", "quantity": 2, "unitPrice": {"amount": "4.50", "currency": "EUR"}}]
TOTAL = {"amount": "9.00", "currency": "EUR"}


@pytest.fixture
def database_kind() -> str:
    """What the two databases answer is compared where they are read."""
    return "sqlite"


@pytest.fixture
def unheard_of_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait less for an order that does not come."""
    monkeypatch.setattr(streams.facts, "WAIT_FOR_ORDER_SECONDS", 0.05)


def owner(rest: Rest) -> dict[str, str]:
    return rest.bearer("boss", restaurants={"r1": "owner"})


def ids(response: httpx.Response) -> list[str]:
    assert response.status_code == 200, response.text
    return [order["orderId"] for order in response.json()["orders"]]


async def placed(rest: Rest, *orders: str) -> str:
    return await rest.happened(*(rest.event("OrderPlaced", order) for order in orders))


async def test_owner_sees_what_waits_for_an_answer_and_nobodys_name(rest: Rest) -> None:
    event = rest.event("OrderPlaced", customer="ada", customerName="Ada Lovelace", items=ITEMS, total=TOTAL)
    cursor = await rest.happened(event)
    response = await rest.get(NEW, owner(rest))
    answer = response.json()
    assert (answer["next"], answer["cursor"]) == (None, cursor)
    (order,) = answer["orders"]
    assert (order["orderId"], order["status"], order["total"]) == ("o1", "Placed", TOTAL)
    assert order["items"] == ITEMS
    assert "ada" not in response.text.lower()
    assert response.headers["cache-control"] == "no-store"


async def test_accepted_orders_are_active_until_they_are_delivered(rest: Rest) -> None:
    await placed(rest, "o1", "o2")
    await rest.happened(rest.event("OrderAccepted", "o1"))
    assert ids(await rest.get(NEW, owner(rest))) == ["o2"]
    assert ids(await rest.get(ACTIVE, owner(rest))) == ["o1"]
    await rest.happened(rest.event("OrderDelivered", "o1"))
    assert ids(await rest.get(ACTIVE, owner(rest))) == []


async def test_pages_follow_one_another_oldest_first(rest: Rest) -> None:
    await placed(rest, "o3", "o1", "o2")
    first = await rest.get(NEW, owner(rest), limit=2)
    assert ids(first) == ["o3", "o1"]
    second = await rest.get(NEW, owner(rest), limit=2, after=first.json()["next"])
    assert (ids(second), second.json()["next"]) == (["o2"], None)


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ({"limit": "0"}, "limit"),
        ({"limit": "501"}, "limit"),
        ({"limit": "many"}, "limit"),
        ({"after": "x"}, "after"),
        ({"after": ""}, "after"),
        ({"after": "9" * 30 + ".a"}, "after"),
        ({"after": "1.a\n"}, "after"),
        ({"after": "1.a b"}, "after"),
    ],
)
async def test_what_is_no_page_is_named(rest: Rest, query: dict[str, Any], parameter: str) -> None:
    told = problem(await rest.get(NEW, owner(rest), **query))
    assert (told["status"], told["errors"][0]["parameter"], told["errors"][0]["in"]) == (422, parameter, "query")


@pytest.mark.parametrize("path", [NEW, ACTIVE])
async def test_restaurants_orders_are_for_its_owner_and_staff(rest: Rest, path: str) -> None:
    await rest.happened(
        rest.event("OrderPlaced"),
        rest.staff_event("StaffAssigned", "cook", role="staff"),
        rest.staff_event("StaffAssigned", "clerk", role="finance"),
        rest.staff_event("StaffAssigned", "neighbour", restaurant="r2", role="owner"),
    )
    may = {"cook": 200, "clerk": 403, "neighbour": 403, "c1": 403}
    assert {who: (await rest.get(path, rest.bearer(who))).status_code for who in may} == may
    assert problem(await rest.get(path, rest.bearer("c1")))["title"] == "Forbidden"
    assert problem(await rest.get(path, {}))["title"] == "Unauthorized"


async def test_staff_revoked_while_the_projection_stands_still_stay_out(rest: Rest) -> None:
    await rest.happened(rest.staff_event("StaffAssigned", "cook", role="staff"))
    cook = rest.bearer("cook", restaurants={"r1": "staff"})
    assert (await rest.get(NEW, cook)).status_code == 200
    await rest.passline.stop_worker()
    await rest.post(rest.staff_event("StaffRevoked", "cook"))

    async def is_out() -> bool:
        return (await rest.get(NEW, cook)).status_code == 403

    await eventually(is_out)


async def test_customer_and_restaurant_each_have_their_view_of_an_order(rest: Rest) -> None:
    cursor = await rest.happened(rest.event("OrderPlaced", customer="ada", items=ITEMS, total=TOTAL))
    for_customer = (await rest.get("/orders/o1", rest.bearer("ada"))).json()
    for_restaurant = (await rest.get("/orders/o1", owner(rest))).json()
    assert for_customer["cursor"] == for_restaurant["cursor"] == cursor
    assert "items" not in for_customer["order"]
    assert for_restaurant["order"] == {**for_customer["order"], "items": ITEMS}
    assert for_customer["order"]["status"] == "Placed"


async def test_identity_of_any_kind_is_a_customer_by_its_key(rest: Rest) -> None:
    await rest.happened(rest.event("OrderPlaced", customer="auth0|5f Ü"))
    assert (await rest.get("/orders/o1", rest.bearer("auth0|5f Ü"))).status_code == 200
    assert (await rest.get("/orders/o1", rest.bearer("auth0|5f U"))).status_code == 403


async def test_somebody_elses_order_is_forbidden(rest: Rest) -> None:
    await placed(rest, "o1")
    for headers in (rest.bearer("c2"), rest.bearer("boss", restaurants={"r2": "owner"})):
        assert problem(await rest.get("/orders/o1", headers))["title"] == "Forbidden"


@pytest.mark.usefixtures("unheard_of_soon")
async def test_order_that_nobody_has_heard_of_is_not_found(rest: Rest) -> None:
    told = problem(await rest.get("/orders/nowhere", rest.bearer("c1")))
    assert (told["status"], told["type"]) == (404, "urn:passline:problem:order-unknown")


async def test_order_that_is_on_its_way_is_waited_for(rest: Rest) -> None:
    reading = asyncio.create_task(rest.get("/orders/o1", rest.bearer("c1")))
    await eventually(lambda: "o1" in rest.gateway.gateway.facts.overlay._waiting)
    await rest.post(rest.event("OrderPlaced"))
    assert (await reading).json()["order"]["orderId"] == "o1"


async def test_order_that_the_projection_has_not_come_to_is_for_later(
    rest: Rest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway.routes.orders, "APPLIED_WITHIN_SECONDS", 0.05)
    await placed(rest, "o1")
    await rest.passline.stop_worker()
    await rest.post(rest.event("OrderPlaced", "o2"))
    response = await rest.get("/orders/o2", rest.bearer("c1"))
    assert problem(response)["status"] == 503
    assert 1 <= int(response.headers["retry-after"]) <= 3
    assert (await rest.get("/orders/o2", rest.bearer("c2"))).status_code == 403


async def test_order_that_the_projection_comes_to_meanwhile_is_answered(rest: Rest) -> None:
    await placed(rest, "o1")
    await rest.passline.stop_worker()
    await rest.post(rest.event("OrderPlaced", "o2"))
    reading = asyncio.create_task(rest.get("/orders/o2", rest.bearer("c1")))
    rest.passline.start_worker()
    assert (await reading).json()["order"]["orderId"] == "o2"


async def test_facts_out_of_reach_are_for_later(rest: Rest) -> None:
    await rest.passline.stop_worker()
    path = rest.passline.settings.sql_url.removeprefix("sqlite:///")
    with closing(sqlite3.connect(path)) as database:
        database.execute("ALTER TABLE position RENAME TO lost")
    for order in (NEW, ACTIVE, "/orders/o1"):
        response = await rest.get(order, owner(rest))
        assert problem(response)["status"] == 503
        assert 1 <= int(response.headers["retry-after"]) <= 3
        assert "position" not in response.text


@pytest.mark.parametrize("bad", ["%2A", "%3E", "a.b", "a%20b", "x" * 300, "%00", "a%0A", "%C3%BC"])
async def test_what_is_no_id_reaches_no_log_and_no_database(rest: Rest, bad: str) -> None:
    everything = rest.bearer("boss", restaurants={"r1": "owner"})
    for path, parameter in ((f"/orders/{bad}", "order_id"), (f"/restaurants/{bad}/orders/new", "restaurant_id")):
        told = problem(await rest.get(path, everything))
        assert (told["status"], told["errors"][0]["parameter"]) == (422, parameter)
