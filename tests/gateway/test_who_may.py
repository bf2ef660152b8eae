"""Who may and who may not: every subject against every endpoint and topic, with real tokens over HTTP.

The table is written out by hand. Whoever does not stand in a line is refused there; an endpoint without a line fails.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any, NamedTuple

import httpx

from tests.gateway.test_streams import applied
from tests.support.logs import append, append_order, append_staff

if TYPE_CHECKING:
    from collections.abc import Iterable

    from litestar import Litestar

    from tests.support.gateway import Passline, RunningGateway

REFUSED = (401, 403)
API = "/api/v1"

NOBODY = "nobody"
SUBJECTS = {
    # who they are to the restaurant r1, its order o1, the cart t1, the workflow w1
    *("owner", "staff", "finance", "claimed-owner", "owner-of-r2"),
    *("customer", "other-customer", "member", "former-member", "user", "other-user"),
    *("marketing", "courier", "order-service", "pass-issuer", "publisher", "access"),
    *("guest", "guest-of-o2", "device", "device-of-r2", "stranger"),
}
IDENTITIES = {
    "customer": "c1",
    "other-customer": "c2",
    "member": "m1",
    "former-member": "m2",
    "user": "u1",
    "other-user": "u2",
}
SCOPES = {
    "marketing": "marketing:read",
    "courier": "courier",
    "order-service": "orders:command",
    "pass-issuer": "passes:issue",
    "publisher": "events:publish",
    "access": "access:publish",
}
PASSES = {"guest", "guest-of-o2", "device", "device-of-r2"}
PEOPLE = SUBJECTS - PASSES

OWNERS = {"owner", "claimed-owner"}
STAFF = {*OWNERS, "staff"}


class Line(NamedTuple):
    """One endpoint, what is sent, and who may. `like` is the route's template."""

    method: str
    path: str
    may: set[str]
    body: Any = None
    like: str = ""


def command(name: str, may: Iterable[str]) -> Line:
    return Line("POST", f"/orders/o1/{name}", {*may}, like=f"/orders/{{order_id}}/{name}")


def multi(*topics: str) -> str:
    return "/events?" + "&".join(f"topic={topic}" for topic in topics)


PLACED = {
    "type": "OrderPlaced",
    "eventId": "published",
    "occurredOnUtc": "2026-11-20T10:00:00Z",
    "orderId": "o9",
    "restaurantId": "r1",
    "customerId": "c9",
}
ASSIGNED = {
    "type": "StaffAssigned",
    "eventId": "assigned",
    "occurredOnUtc": "2026-11-20T10:00:00Z",
    "restaurantId": "r9",
    "subject": "s9",
    "role": "staff",
}

# fmt: off
LINES = [
    # -- streams
    Line("GET", "/restaurants/r1/events", STAFF),
    Line("GET", "/partners/r1/events", {*STAFF, "device"}),
    Line("GET", "/orders/o1/events", {"customer", "guest"}),
    Line("GET", "/customers/c1/events", {"customer"}),
    Line("GET", "/carts/t1/events", {"member"}),
    Line("GET", "/workflows/w1/events", {"user"}),
    Line("GET", "/restaurants/r1/finance/events", {*OWNERS, "finance"}),
    Line("GET", "/coupons/k1/events", {"marketing"}),
    Line("GET", "/marketing/events", {"marketing"}),
    Line("GET", multi("restaurants/r1"), STAFF, like="/events"),
    Line("GET", multi("restaurants/r1", "finance/r1"), OWNERS, like="/events"),
    Line("GET", multi("orders/o1", "customers/c1"), {"customer"}, like="/events"),
    Line("GET", multi("marketing", "restaurants/r1"), set(), like="/events"),
    # -- state
    Line("GET", "/restaurants/r1/orders/new", STAFF),
    Line("GET", "/restaurants/r1/orders/active", STAFF),
    Line("GET", "/orders/o1", {*STAFF, "customer", "guest"}),
    Line("GET", "/workflows/w1", {"user"}),
    Line("POST", "/workflows/w1", {"user"}),
    Line("POST", "/workflows/w9", PEOPLE, like="/workflows/{correlation_id}"),  # the first of them has it
    # -- who is there
    Line("GET", "/restaurants/r1/devices", STAFF),
    Line("GET", "/orders/o1/watchers", {*STAFF, "customer"}),
    Line("POST", "/orders/o1/signals", {*STAFF, "customer"}, {"type": "typing"}),
    Line("POST", "/orders/o1/signals", {*STAFF, "courier"},
         {"type": "courier_position", "lat": 1.0, "lon": 2.0}),
    # -- guests and devices
    Line("POST", "/orders/o1/guest-pass", {"customer", "pass-issuer"}),
    Line("DELETE", "/orders/o1/guest-pass/unknown", {"customer", "pass-issuer"},
         like="/orders/{order_id}/guest-pass/{pass_id}"),
    Line("POST", "/restaurants/r1/devices/pairing", OWNERS),
    Line("GET", "/restaurants/r1/devices/keys", OWNERS),
    Line("DELETE", "/restaurants/r1/devices/unknown", OWNERS, like="/restaurants/{restaurant_id}/devices/{device_id}"),
    # -- commands
    command("accept", {*STAFF, "device", "order-service"}),
    command("reject", {*STAFF, "device", "order-service"}),
    command("preparing", {*STAFF, "device", "order-service"}),
    command("ready", {*STAFF, "device", "order-service"}),
    command("delivered", {*STAFF, "courier", "order-service"}),
    command("cancel", {*STAFF, "customer", "order-service"}),
    # -- publishing, sessions
    Line("POST", "/events", {"publisher"}, PLACED),
    Line("POST", "/events", {"access"}, ASSIGNED),
    Line("POST", "/session", PEOPLE),
]
# fmt: on

OPEN = {("DELETE", "/session"), ("POST", "/devices"), ("POST", "/devices/pass"), ("POST", "/devices/key")}
"""Endpoints that ask nobody who they are; what they ask for instead has tests of its own."""


async def people(passline: Passline, gateway: RunningGateway) -> dict[str, str]:
    """A credential for each subject, as an `Authorization` header."""
    for number, (subject, role) in enumerate((("owner", "owner"), ("staff", "staff"), ("finance", "finance"))):
        await append_staff(passline.nc, f"s{number}", "StaffAssigned", restaurant="r1", subject=subject, role=role)
    await append_order(passline.nc, "placed-1", kind="OrderPlaced")
    await append_order(passline.nc, "placed-2", kind="OrderPlaced", restaurant="r2", order="o2", customer="c2")
    await append(passline.nc, "TeamCartCreated", "cart", memberId="m1")
    await append(passline.nc, "TeamCartMemberJoined", "joined", memberId="m2")
    await append(passline.nc, "TeamCartMemberLeft", "left", memberId="m2")
    await append(passline.nc, "WorkflowAccepted", "other-accepted", correlationId="w2", userId="u2")
    await applied(gateway, await append(passline.nc, "WorkflowAccepted", "accepted"))
    token = gateway.token
    tokens = {each: token(IDENTITIES.get(each, each)) for each in PEOPLE}
    tokens |= {each: token(each, scopes=[scope]) for each, scope in SCOPES.items()}
    tokens["claimed-owner"] = token("claimed-owner", restaurants={"r1": "owner"})
    tokens["owner-of-r2"] = token("owner-of-r2", restaurants={"r2": "owner"})
    async with httpx.AsyncClient(base_url=f"{gateway.url}{API}", timeout=10) as http:
        tokens["guest"] = await _guest_pass(http, "o1", tokens["customer"])
        tokens["guest-of-o2"] = await _guest_pass(http, "o2", tokens["other-customer"])
        tokens["device"] = await _device_pass(http, "r1", tokens["claimed-owner"])
        tokens["device-of-r2"] = await _device_pass(http, "r2", tokens["owner-of-r2"])
    return tokens


async def _guest_pass(http: httpx.AsyncClient, order: str, customer: str) -> str:
    answer = await http.post(f"/orders/{order}/guest-pass", headers={"authorization": f"Bearer {customer}"})
    return str(answer.json()["pass"])


async def _device_pass(http: httpx.AsyncClient, restaurant: str, owner: str) -> str:
    bearer = {"authorization": f"Bearer {owner}"}
    code = (await http.post(f"/restaurants/{restaurant}/devices/pairing", headers=bearer)).json()["code"]
    registered = await http.post("/devices", json={"code": code, "name": "Screen"})
    while registered.status_code == 429:  # codes are not to be guessed
        await asyncio.sleep(float(registered.headers["retry-after"]))
        registered = await http.post("/devices", json={"code": code, "name": "Screen"})
    key = registered.json()["key"]
    return str((await http.post("/devices/pass", headers={"authorization": f"Device {key}"})).json()["pass"])


async def ask(http: httpx.AsyncClient, line: Line, credential: str | None) -> int:
    headers = {} if credential is None else {"authorization": f"Bearer {credential}"}
    async with http.stream(line.method, line.path, json=line.body, headers=headers) as answer:
        return answer.status_code


async def test_everybody_may_what_the_table_says_and_nothing_else(passline: Passline) -> None:
    gateway = await passline.gateway(team_carts=True, max_per_address=0, signals_per_second=1000)
    tokens = await people(passline, gateway)
    assert set(tokens) == SUBJECTS
    wrong: list[str] = []
    async with httpx.AsyncClient(base_url=f"{gateway.url}{API}", timeout=20) as http:
        for line in LINES:
            told = f"{line.method} {line.path} {line.body or ''}"
            if (status := await ask(http, line, None)) != 401:
                wrong.append(f"nobody: {told}: {status}")
            taken = False
            for subject in sorted(SUBJECTS):
                status = await ask(http, line, tokens[subject])
                may = subject in line.may and not (taken and line.path == "/workflows/w9")
                taken = taken or (status < 300)
                if may != (status not in REFUSED) or status >= 500:
                    wrong.append(f"{subject}: {told}: {status}, and {'may' if may else 'may not'}")
    assert not wrong, "\n".join(wrong)


def routes_of(app: Litestar) -> set[tuple[str, str]]:
    """Method and template of every endpoint below the API's root."""
    found: set[tuple[str, str]] = set()
    for route in app.routes:
        if route.path.startswith(f"{API}/"):
            template = re.sub(r":str\}", "}", route.path.removeprefix(API))
            found |= {(str(method), template) for method in route.methods if method not in ("OPTIONS", "HEAD")}
    return found


def template_of(line: Line, routes: set[tuple[str, str]]) -> str:
    if line.like:
        return line.like
    for method, template in routes:
        if method == line.method and re.fullmatch(re.sub(r"\{[a-z_]+\}", "[a-z0-9-]+", template), line.path):
            return template
    return line.path


async def test_every_endpoint_has_a_line(passline: Passline) -> None:
    from gateway.app import create_app

    routes = routes_of(await asyncio.to_thread(create_app, passline.settings))
    exact = {(line.method, line.path) for line in LINES} & routes
    covered = exact | {
        (line.method, template_of(line, routes - exact)) for line in LINES if (line.method, line.path) not in exact
    }
    assert routes - covered == OPEN
