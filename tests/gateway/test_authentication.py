from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from litestar import Litestar, Request, get, post
from litestar.middleware import DefineMiddleware
from litestar.params import FromPath

from auth.claims import Claims
from auth.errors import KeyUnusable, Unauthorized
from auth.keys import development_key
from auth.tokens import mint
from gateway.authentication import PUBLIC, Authentication, Carrier, cors_config
from gateway.issuers import token_verifier
from gateway.problems import EXCEPTION_HANDLERS
from gateway.settings import Settings
from tests.auth.forging import NOW, OURS, forge, verifier
from tests.gateway.empty_log import empty_log
from tests.gateway.serving import HOST, client_of, problem

APP = "https://app.example"
SETTINGS = Settings(cors_origins=frozenset({APP}))


@get("/who")
async def who(request: Request[Claims, Carrier, Any]) -> dict[str, str]:
    return {"subject": request.user.subject, "carrier": request.auth}


@post("/who")
async def change(request: Request[Claims, Carrier, Any]) -> dict[str, str]:
    return {"subject": request.user.subject, "carrier": request.auth}


@get("/public/{name:str}", opt=dict(PUBLIC))
async def public(request: Request[Any, Any, Any], name: FromPath[str]) -> dict[str, bool]:
    return {name: "user" in request.scope}


def application(settings: Settings = SETTINGS) -> Litestar:
    return Litestar(
        [who, change, public],
        middleware=[DefineMiddleware(Authentication, verifier=verifier(), settings=settings)],
        cors_config=cors_config(settings),
        exception_handlers=EXCEPTION_HANDLERS,
        state=empty_log(),
        openapi_config=None,
        logging_config=None,
    )


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(application()) as client:
        yield client


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def session(token: str, **headers: str) -> dict[str, str]:
    return {"cookie": f"theme=dark; __Host-passline={token}", **{k.replace("_", "-"): v for k, v in headers.items()}}


async def test_bearer_token_says_who_it_is(client: httpx.AsyncClient) -> None:
    response = await client.get("/who", headers=bearer(forge(sub="auth0|5f")))
    assert response.json() == {"subject": "auth0|5f", "carrier": "bearer"}


async def test_session_cookie_says_who_it_is(client: httpx.AsyncClient) -> None:
    response = await client.get("/who", headers=session(forge(), sec_fetch_site="same-origin"))
    assert response.json() == {"subject": "alice", "carrier": "session"}


async def test_header_goes_before_cookie(client: httpx.AsyncClient) -> None:
    headers = session(forge(sub="bob"), sec_fetch_site="cross-site") | bearer(forge(sub="alice"))
    response = await client.get("/who", headers=headers)
    assert response.json() == {"subject": "alice", "carrier": "bearer"}


async def test_bad_header_is_not_saved_by_a_good_cookie(client: httpx.AsyncClient) -> None:
    headers = session(forge(), sec_fetch_site="same-origin") | bearer(forge(exp=NOW - 1))
    assert problem(await client.get("/who", headers=headers))["type"] == "urn:passline:problem:token-expired"


async def test_another_scheme_stands_beside_a_session(client: httpx.AsyncClient) -> None:
    headers = session(forge(), sec_fetch_site="same-origin") | {"authorization": "Basic dXNlcjpwYXNz"}
    assert (await client.get("/who", headers=headers)).json()["carrier"] == "session"


async def test_no_credentials_are_told_how_to_send_some(client: httpx.AsyncClient) -> None:
    response = await client.get("/who")
    assert problem(response)["type"] == "urn:passline:problem:missing-token"
    assert response.headers["www-authenticate"] == 'Bearer realm="passline"'


@pytest.mark.parametrize("name", ["access_token", "token", "pass", "authorization", "bearer"])
async def test_token_in_the_query_is_never_read(client: httpx.AsyncClient, name: str) -> None:
    assert (await client.get("/who", params={name: forge()})).status_code == 401


async def test_two_authorization_headers_are_none(client: httpx.AsyncClient) -> None:
    headers = [("authorization", f"Bearer {forge(sub=name)}") for name in ("alice", "bob")]
    assert problem(await client.get("/who", headers=headers))["type"] == "urn:passline:problem:malformed-authorization"


@pytest.mark.parametrize("value", ["Bearer", "Bearer ", "Bearer a b", "bearer é", "Bearer a, Bearer b"])
async def test_malformed_header_is_a_401(client: httpx.AsyncClient, value: str) -> None:
    response = await client.get("/who", headers=[(b"authorization", value.encode())])
    assert problem(response)["type"] == "urn:passline:problem:malformed-authorization"


async def test_cookies_in_several_headers_are_read_as_one(client: httpx.AsyncClient) -> None:
    headers = [("cookie", "a=b"), ("cookie", f"__Host-passline={forge()}"), ("sec-fetch-site", "same-origin")]
    assert (await client.get("/who", headers=headers)).status_code == 200


async def test_two_different_session_cookies_are_none(client: httpx.AsyncClient) -> None:
    cookies = f"__Host-passline={forge()}; __Host-passline={forge(sub='bob')}"
    headers = {"cookie": cookies, "sec-fetch-site": "same-origin"}
    assert problem(await client.get("/who", headers=headers))["type"] == "urn:passline:problem:ambiguous-session"


async def test_cookie_of_the_insecure_name_counts_only_where_that_is_set() -> None:
    headers = {"cookie": f"passline={forge()}", "sec-fetch-site": "same-origin"}
    async with client_of(application()) as client:
        assert (await client.get("/who", headers=headers)).status_code == 401
    async with client_of(application(Settings(insecure_cookies=True))) as client:
        assert (await client.get("/who", headers=headers)).status_code == 200


@pytest.mark.parametrize(
    ("method", "headers", "status"),
    [
        ("GET", {}, 200),
        ("GET", {"origin": f"http://{HOST}"}, 200),
        ("GET", {"origin": APP, "sec-fetch-site": "cross-site"}, 200),
        ("GET", {"origin": "https://evil.example"}, 403),
        ("GET", {"origin": "https://evil.example", "sec-fetch-site": "same-site"}, 403),
        ("GET", {"origin": "null"}, 403),
        ("GET", {"origin": f"https://{HOST}"}, 403),
        ("GET", {"sec-fetch-site": "cross-site"}, 403),
        ("POST", {"sec-fetch-site": "same-origin"}, 201),
        ("POST", {"origin": f"http://{HOST}"}, 201),
        ("POST", {}, 403),
    ],
)
async def test_session_is_for_the_pages_that_may_use_it(
    client: httpx.AsyncClient, method: str, headers: dict[str, str], status: int
) -> None:
    response = await client.request(method, "/who", headers=session(forge()) | headers)
    assert response.status_code == status
    if status == 403:
        assert problem(response)["type"] == "urn:passline:problem:cross-origin"


async def test_page_of_another_site_learns_nothing_of_a_bad_cookie(client: httpx.AsyncClient) -> None:
    headers = session("bad", origin="https://evil.example")
    assert (await client.get("/who", headers=headers)).status_code == 403


async def test_behind_a_proxy_the_public_url_is_our_origin() -> None:
    async with client_of(application(Settings(public_url="https://public.example"))) as client:
        same = await client.get("/who", headers=session(forge(), origin="https://public.example"))
        other = await client.get("/who", headers=session(forge(), origin="http://public.example"))
    assert (same.status_code, other.status_code) == (200, 403)


async def test_public_handler_needs_nobody_and_reads_nobody(client: httpx.AsyncClient) -> None:
    assert (await client.get("/public/x")).json() == {"x": False}
    assert (await client.get("/public/x", headers=bearer("rubbish"))).json() == {"x": False}


@pytest.mark.parametrize("path", ["/who?/public/x", "/who#/public/x", "/who/", "/public/../who"])
async def test_no_spelling_of_a_path_opens_a_closed_handler(client: httpx.AsyncClient, path: str) -> None:
    assert (await client.get(path)).status_code == 401


async def test_no_token_is_logged(client: httpx.AsyncClient) -> None:
    good, bad = forge(), forge(exp=NOW - 1)
    with structlog.testing.capture_logs() as logs:
        await client.get("/who", headers=bearer(good))
        await client.get("/who", headers=bearer(bad))
        await client.get("/who", headers=session(bad))
    assert good not in str(logs)
    assert bad not in str(logs)


async def test_preflight_is_for_the_named_origins_exactly(client: httpx.AsyncClient) -> None:
    ask = {"access-control-request-method": "GET", "access-control-request-headers": "authorization, last-event-id"}
    allowed = await client.options("/who", headers={"origin": APP, **ask})
    assert allowed.status_code == 204
    assert allowed.headers["access-control-allow-origin"] == APP
    assert allowed.headers["access-control-allow-credentials"] == "true"
    for origin in ("https://evil.example", "https://app.example.evil.example", "https://appXexample", "null"):
        refused = await client.options("/who", headers={"origin": origin, **ask})
        assert refused.status_code == 400
        assert "access-control-allow-origin" not in refused.headers


async def test_answers_can_be_read_by_the_named_origins_only(client: httpx.AsyncClient) -> None:
    allowed = await client.get("/who", headers=bearer(forge()) | {"origin": APP})
    assert allowed.headers["access-control-allow-origin"] == APP
    assert allowed.headers["vary"] == "Origin"
    refused = await client.get("/who", headers=bearer(forge()) | {"origin": "https://evil.example"})
    assert "access-control-allow-origin" not in refused.headers


async def test_problems_can_be_read_by_the_named_origins_too(client: httpx.AsyncClient) -> None:
    response = await client.get("/who", headers={"origin": APP})
    assert response.status_code == 401
    assert response.headers["access-control-allow-origin"] == APP
    assert response.headers["access-control-expose-headers"] == "retry-after, www-authenticate"


def test_without_origins_there_is_no_cors() -> None:
    assert cors_config(Settings()) is None


def test_development_key_verifies_what_it_signed(tmp_path: Path) -> None:
    checks = token_verifier(Settings(data_dir=tmp_path, token_prefix="dev|"))
    token = mint(
        signing_key=development_key(tmp_path), issuer="passline", audience="passline", subject="ann", life_seconds=60
    )
    assert checks.verify(token).subject == "dev|ann"


def test_key_file_takes_the_place_of_the_development_key(tmp_path: Path) -> None:
    pem = tmp_path / "key.pem"
    pem.write_bytes(OURS.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    checks = token_verifier(Settings(data_dir=tmp_path, token_key_file=pem))
    own = mint(
        signing_key=development_key(tmp_path), issuer="passline", audience="passline", subject="ann", life_seconds=60
    )
    with pytest.raises(Unauthorized):
        checks.verify(own)


def test_life_limit_is_the_settings(tmp_path: Path) -> None:
    checks = token_verifier(Settings(data_dir=tmp_path, token_max_life_seconds=60))
    token = mint(
        signing_key=development_key(tmp_path), issuer="passline", audience="passline", subject="ann", life_seconds=61
    )
    with pytest.raises(Unauthorized, match="at most 60 seconds"):
        checks.verify(token)


def test_key_file_that_is_missing_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(KeyUnusable, match=r"no\.pem"):
        token_verifier(Settings(data_dir=tmp_path, token_key_file=tmp_path / "no.pem"))
