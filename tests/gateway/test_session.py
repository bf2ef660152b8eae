from __future__ import annotations

from typing import TYPE_CHECKING

import httpx
import pytest

from tests.gateway.serving import problem

if TYPE_CHECKING:
    from tests.gateway.conftest import Rest
    from tests.support.gateway import Passline

PATH = "/api/v1/session"


@pytest.fixture
def database_kind() -> str:
    """Nothing here asks the database."""
    return "sqlite"


def cookie_of(response: httpx.Response) -> str:
    name, _, rest = response.headers["set-cookie"].partition("=")
    return f"{name}={rest.partition(';')[0]}"


async def test_bearer_token_becomes_a_session_that_reads(rest: Rest) -> None:
    await rest.happened(rest.event("OrderPlaced", customer="auth0|5f"))
    begun = await rest.http.post(PATH, headers=rest.bearer("auth0|5f", life_seconds=600))
    assert begun.status_code == 200
    session = {"cookie": cookie_of(begun), "sec-fetch-site": "same-origin"}
    assert (await rest.get("/orders/o1", session)).status_code == 200
    assert (await rest.get("/orders/o1", session | {"sec-fetch-site": "cross-site"})).status_code == 403


async def test_answer_says_who_and_by_what_key_and_until_when(rest: Rest) -> None:
    token = rest.gateway.token("auth0|5f", life_seconds=600)
    response = await rest.http.post(PATH, headers={"authorization": f"Bearer {token}"})
    answer = response.json()
    assert answer["subject"] == "auth0|5f"
    assert answer["key"].startswith("h_")
    assert answer["expiresAt"].endswith("Z")
    assert response.headers["cache-control"] == "no-store"
    name, *attributes = response.headers["set-cookie"].split("; ")
    assert name == f"__Host-passline={token}"
    assert attributes[:4] == ["Secure", "HttpOnly", "SameSite=Lax", "Path=/"]
    assert 0 < int(attributes[4].removeprefix("Max-Age=")) <= 600


async def test_insecure_cookie_is_neither_secure_nor_of_the_secure_name(passline: Passline) -> None:
    gateway = await passline.gateway(insecure_cookies=True)
    headers = {"authorization": f"Bearer {gateway.token('c1')}"}
    async with httpx.AsyncClient(base_url=gateway.url) as http:
        cookie = (await http.post(PATH, headers=headers)).headers["set-cookie"]
    assert cookie.startswith("passline=")
    assert "Secure" not in cookie


async def test_no_token_no_session(rest: Rest) -> None:
    response = await rest.http.post(PATH)
    assert problem(response)["title"] == "Unauthorized"
    assert "set-cookie" not in response.headers


async def test_session_begets_no_session(rest: Rest) -> None:
    begun = await rest.http.post(PATH, headers=rest.bearer("c1"))
    again = await rest.http.post(PATH, headers={"cookie": cookie_of(begun), "sec-fetch-site": "same-origin"})
    assert problem(again)["type"] == "urn:passline:problem:missing-token"


async def test_token_that_no_browser_would_keep_is_told_so(rest: Rest) -> None:
    restaurants = {f"restaurant-{number:04}": "owner" for number in range(200)}
    headers = rest.bearer("c1", restaurants=restaurants)
    response = await rest.http.post(PATH, headers=headers)
    told = problem(response)
    assert (told["status"], told["type"]) == (422, "urn:passline:problem:session-too-large")
    assert "4096" in told["detail"]
    assert "set-cookie" not in response.headers


@pytest.mark.parametrize("cookie", ["", "__Host-passline=rubbish", "__Host-passline=a; __Host-passline=b"])
async def test_ending_a_session_takes_the_cookie_back_whatever_it_is(rest: Rest, cookie: str) -> None:
    for _ in range(2):
        ended = await rest.http.delete(PATH, headers={"cookie": cookie, "sec-fetch-site": "same-origin"})
        assert ended.status_code == 204
        assert ended.headers["set-cookie"] == ("__Host-passline=; Secure; HttpOnly; SameSite=Lax; Path=/; Max-Age=0")
        assert ended.content == b""


@pytest.mark.parametrize("headers", [{"origin": "https://evil.example"}, {"sec-fetch-site": "same-site"}, {}])
async def test_another_sites_page_can_not_end_a_session(rest: Rest, headers: dict[str, str]) -> None:
    response = await rest.http.delete(PATH, headers=headers)
    assert problem(response)["type"] == "urn:passline:problem:cross-origin"
    assert "set-cookie" not in response.headers


async def test_client_that_sends_its_token_is_no_page_and_may_end_its_session(rest: Rest) -> None:
    response = await rest.http.delete(PATH, headers=rest.bearer("c1"))
    assert response.status_code == 204


async def test_page_of_a_named_origin_may_begin_and_end_a_session(passline: Passline) -> None:
    origin = "https://app.example"
    gateway = await passline.gateway(cors_origins=frozenset({origin}))
    async with httpx.AsyncClient(base_url=gateway.url) as http:
        preflight = {"origin": origin, "access-control-request-method": "DELETE"}
        assert (await http.options(PATH, headers=preflight)).status_code == 204
        ended = await http.delete(PATH, headers={"origin": origin, "sec-fetch-site": "cross-site"})
    assert ended.status_code == 204
    assert ended.headers["access-control-allow-origin"] == origin
    assert ended.headers["access-control-allow-credentials"] == "true"
