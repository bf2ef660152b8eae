"""Who is asking, as a proxy in front says: believed of the named ones alone, and never beside a token."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from litestar import Litestar, Request, get, post
from litestar.middleware import DefineMiddleware

from auth.claims import Claims
from auth.issuers import Issuers
from gateway.authentication import Authentication, Carrier
from gateway.forwarded import ForwardedIdentity
from gateway.peers import Peers, read_networks
from gateway.problems import EXCEPTION_HANDLERS
from gateway.settings import Settings
from tests.auth.forging import NOW, forge, identity_key, is_id, issuer, verifier
from tests.gateway.empty_log import empty_log
from tests.gateway.serving import HOST, problem

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

APP = "https://app.example"
PROXY = "10.0.0.7"
ANN = {"x-forwarded-user": "ann"}


@get("/who")
async def who(request: Request[Claims, Carrier, Any]) -> dict[str, Any]:
    claims = request.user
    return {"subject": claims.subject, "carrier": request.auth, "scopes": sorted(claims.scopes)}


@post("/who")
async def change(request: Request[Claims, Carrier, Any]) -> dict[str, Any]:
    return {"subject": request.user.subject, "carrier": request.auth}


@asynccontextmanager
async def client(peer: str | None = PROXY, *, on: bool = True) -> AsyncIterator[httpx.AsyncClient]:
    """Requests that come from `peer`'s socket, None for one without an address."""
    said = issuer()
    believing = ForwardedIdentity(
        Issuers([said], identity_key, is_id, lambda: NOW), said, Peers(read_networks(PROXY)), 900, lambda: NOW
    )
    settings = Settings(cors_origins=frozenset({APP}))
    authentication = DefineMiddleware(
        Authentication, verifier=verifier(), settings=settings, forwarded=believing if on else None
    )
    app = Litestar(
        [who, change],
        middleware=[authentication],
        exception_handlers=EXCEPTION_HANDLERS,
        state=empty_log(),
        openapi_config=None,
        logging_config=None,
    )

    async def from_peer(scope: Any, receive: Any, send: Any) -> None:
        scope["client"] = None if peer is None else (peer, 4711)
        await app(scope, receive, send)

    transport = httpx.ASGITransport(app=from_peer)
    async with httpx.AsyncClient(transport=transport, base_url=f"http://{HOST}") as http:
        yield http


async def test_named_proxy_is_believed_who_is_asking() -> None:
    headers = ANN | {"x-forwarded-scopes": "events:publish", "x-forwarded-expires-at": str(int(NOW) + 60)}
    async with client() as http:
        response = await http.get("/who", headers=headers)
    assert response.json() == {"subject": "ann", "carrier": "forwarded", "scopes": ["events:publish"]}


@pytest.mark.parametrize("peer", ["10.0.0.8", "192.0.2.1", "::1", "", None])
async def test_stranger_is_never_believed(peer: str | None) -> None:
    headers = ANN | {"x-forwarded-for": PROXY, "forwarded": f"for={PROXY}", "x-real-ip": PROXY}
    async with client(peer) as http:
        assert problem(await http.get("/who", headers=headers))["type"] == "urn:passline:problem:missing-token"
        both = headers | {"authorization": f"Bearer {forge(sub='bob')}"}
        assert (await http.get("/who", headers=both)).json()["subject"] == "bob"
        broken = headers | {"x-forwarded-expires-at": "rubbish"} | both
        assert (await http.get("/who", headers=broken)).json()["subject"] == "bob"


async def test_nobody_is_believed_unless_it_is_turned_on() -> None:
    async with client(on=False) as http:
        assert (await http.get("/who", headers=ANN)).status_code == 401


@pytest.mark.parametrize(
    "token",
    [
        {"authorization": f"Bearer {forge(sub='bob')}"},
        {"authorization": f"Bearer {forge(sub='ann')}"},
        {"authorization": "Bearer rubbish"},
        {"cookie": f"__Host-passline={forge(sub='bob')}"},
    ],
)
async def test_identity_beside_a_token_is_refused(token: dict[str, str]) -> None:
    async with client() as http:
        response = await http.get("/who", headers=ANN | token)
    assert problem(response)["type"] == "urn:passline:problem:ambiguous-identity"
    assert response.status_code == 401


async def test_identity_may_stand_beside_another_scheme_and_other_cookies() -> None:
    async with client() as http:
        headers = ANN | {"authorization": "Basic dXNlcjpwYXNz", "cookie": "proxy_session=1"}
        assert (await http.get("/who", headers=headers)).json()["carrier"] == "forwarded"


async def test_token_that_comes_through_the_proxy_is_taken_where_it_says_nothing() -> None:
    async with client() as http:
        headers = {
            "authorization": f"Bearer {forge(sub='bob')}",
            "x-forwarded-for": "192.0.2.1",
            "x-forwarded-user": "",
        }
        assert (await http.get("/who", headers=headers)).json() == {"subject": "bob", "carrier": "bearer", "scopes": []}


async def test_what_a_named_proxy_says_wrongly_is_told() -> None:
    async with client() as http:
        response = await http.get("/who", headers=[("x-forwarded-user", "ann"), ("x-forwarded-user", "bob")])
        assert problem(response)["type"] == "urn:passline:problem:forwarded-identity-invalid"
        assert "'x-forwarded-user' stands twice" in problem(response)["detail"]
        response = await http.get("/who", headers=ANN | {"x-forwarded-expires-at": str(int(NOW))})
        assert problem(response)["type"] == "urn:passline:problem:token-expired"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 201),
        ({"origin": f"http://{HOST}"}, 201),
        ({"origin": APP, "sec-fetch-site": "cross-site"}, 201),
        ({"sec-fetch-site": "same-origin"}, 201),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "https://evil.example", "sec-fetch-site": "cross-site"}, 403),
        ({"origin": "null"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
    ],
)
async def test_page_of_another_origin_cannot_use_what_the_proxy_knows_its_client_by(
    headers: dict[str, str], status: int
) -> None:
    async with client() as http:
        assert (await http.post("/who", headers=ANN | headers)).status_code == status
