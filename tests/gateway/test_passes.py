"""Guests: a link that shows one order, to whoever has it, until it is revoked or its time is up."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import pytest
import structlog

from auth.keys import pass_key
from auth.passes import Passes, claims_to_be_pass
from streams.changes import guest_pass_fact
from streams.subscriber import End
from tests.gateway.serving import problem
from tests.gateway.ways import CORE
from tests.support.nats import eventually
from tests.support.sse_client import StreamRequest, open_stream

if TYPE_CHECKING:
    import httpx

    from streams.entry import Entry
    from tests.gateway.conftest import Rest
    from tests.support.gateway import RunningGateway
    from tests.support.sse_client import SseStream

TOTAL = {"amount": "25.00", "currency": "EUR"}


async def placed(rest: Rest, order: str = "o1") -> None:
    await rest.happened(rest.event("OrderPlaced", order, customerName="Ada Lovelace", total=TOTAL, orderNumber="A-7"))


async def issue(rest: Rest, order: str = "o1", headers: dict[str, str] | None = None, **body: Any) -> httpx.Response:
    path = f"/api/v1/orders/{order}/guest-pass"
    return await rest.http.post(path, json=body or None, headers=headers or rest.bearer("c1"))


async def issued(rest: Rest, order: str = "o1", **body: Any) -> dict[str, str]:
    response = await issue(rest, order, **body)
    assert response.status_code == 201, response.text
    answer: dict[str, str] = response.json()
    return answer


async def revoke(rest: Rest, pass_id: str, order: str = "o1", headers: dict[str, str] | None = None) -> httpx.Response:
    path = f"/api/v1/orders/{order}/guest-pass/{pass_id}"
    return await rest.http.delete(path, headers=headers or rest.bearer("c1"))


def guest(gateway: RunningGateway, text: str, order: str = "o1", **options: Any) -> StreamRequest:
    query = {"pass": text, **options.pop("query", {})}
    return StreamRequest(f"{gateway.url}/api/v1/orders/{order}/events", query=query, **options)


def said(block: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(block.data)
    return found


async def reason_of_its_end(stream: SseStream) -> str:
    reason: str = said(await stream.next_event("stream.closing"))["reason"]
    return reason


@CORE
async def test_guest_sees_the_order_as_guests_do(rest: Rest) -> None:
    await placed(rest)
    given = await issued(rest)
    async with open_stream(guest(rest.gateway, given["pass"])) as stream:
        told = said(await stream.next_event("stream.opened"))
        assert (told["verdict"], told["topics"]) == ("fresh", ["orders/o1"])
        state = said(await stream.next_event("snapshot"))
        assert (state["topic"], state["order"]["status"]) == ("orders/o1", "Placed")
        await rest.happened(rest.event("OrderPaymentSucceeded", total=TOTAL), rest.event("OrderAccepted"))
        event = said(await stream.next_event("ReceiveOrderStatusChanged"))
        assert (event["topic"], event["status"]) == ("orders/o1", "Accepted")
        body = bytes(stream.body)
    for kept in (b"25.00", b"Ada", b"c1", b"total"):
        assert kept not in body
    order = (await rest.get("/orders/o1", {}, **{"pass": given["pass"]})).json()["order"]
    assert (order["orderId"], order["orderNumber"], order["status"]) == ("o1", "A-7", "Accepted")
    assert "total" not in order


async def test_pass_lives_as_long_as_was_asked_for_and_a_day_at_most(rest: Rest) -> None:
    await placed(rest)
    now = time.time()
    for given, life in ((await issued(rest), 86_400), (await issued(rest, lifeSeconds=60), 60)):
        claims = json.loads(base64.urlsafe_b64decode(given["pass"].split(".")[1] + "=="))
        assert -2 <= claims["exp"] - (now + life) < 10
        assert claims["topic"] == "orders/o1"
        assert claims["jti"] == given["passId"]
    for wrong in (0, -1, 86_401, 1.5, None, "long"):
        assert (await issue(rest, lifeSeconds=wrong)).status_code in (400, 422)
    assert (await issue(rest, life=60)).status_code in (400, 422)


async def test_link_leads_to_the_page_of_the_order_with_the_pass(rest: Rest) -> None:
    await placed(rest)
    given = await issued(rest)
    link = urlsplit(given["url"])
    assert f"{link.scheme}://{link.netloc}" == rest.gateway.url
    assert (link.path, parse_qs(link.query)) == ("/track/o1", {"pass": [given["pass"]]})
    public = await rest.passline.gateway(public_url="https://orders.example")
    response = await rest.http.post(f"{public.url}/api/v1/orders/o1/guest-pass", headers=rest.bearer("c1"))
    assert response.json()["url"].startswith("https://orders.example/track/o1?pass=")


async def test_only_the_customer_and_services_with_the_scope_give_and_revoke_passes(rest: Rest) -> None:
    await placed(rest)
    given = await issued(rest)
    service = rest.bearer("mailer", scopes=["passes:issue"])
    assert (await issue(rest, headers=service)).status_code == 201
    boss = rest.bearer("boss", restaurants={"r1": "owner"})
    by_pass = {"authorization": f"Bearer {given['pass']}"}
    for other, status in ((boss, 403), (rest.bearer("c2"), 403), (rest.order_service, 403), (by_pass, 401)):
        assert (await issue(rest, headers=other)).status_code == status
        assert (await revoke(rest, given["passId"], headers=other)).status_code == status
    assert (await revoke(rest, given["passId"], headers=service)).status_code == 204


async def test_order_and_pass_that_nobody_knows_are_not_found(rest: Rest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streams.facts.WAIT_FOR_ORDER_SECONDS", 0.05)
    await placed(rest)
    assert (await issue(rest, "nobody")).status_code == 404
    assert (await revoke(rest, "nobody")).status_code == 404


async def test_pass_is_good_at_once_at_every_gateway(rest: Rest) -> None:
    """Also where the log's newest entries have not come yet, and while the database stands still."""
    await placed(rest)
    other = await rest.passline.gateway()
    await rest.passline.stop_worker()
    goes_on = held_back(other)
    given = await issued(rest)
    opening = asyncio.create_task(_first_event(guest(other, given["pass"])))
    await eventually(lambda: other.gateway.facts.overlay.known(guest_pass_fact("o1", given["passId"])) is not None)
    assert not opening.done()
    goes_on.set()
    assert await opening == "fresh"


def held_back(gateway: RunningGateway) -> asyncio.Event:
    """The gateway's tail brings nothing more until that is set."""
    goes_on, dispatch = asyncio.Event(), gateway.gateway.tail._dispatch

    async def wait_and_dispatch(entries: list[Entry]) -> None:
        await goes_on.wait()
        await dispatch(entries)

    gateway.gateway.tail._dispatch = wait_and_dispatch  # type: ignore[method-assign]
    return goes_on


async def _first_event(request: StreamRequest) -> str:
    async with open_stream(request) as stream:
        verdict: str = said(await stream.next_event("stream.opened"))["verdict"]
        return verdict


async def test_pass_is_given_out_only_when_the_log_has_it(rest: Rest) -> None:
    await placed(rest)
    await issued(rest)  # its facts are known then
    with rest.hung_broker():
        response = await issue(rest)
    assert problem(response)["status"] == 503
    assert response.headers["retry-after"]
    assert "pass=" not in response.text


def pass_issued(order: str, pass_id: str) -> dict[str, str]:
    """The event by which the log knows of a pass."""
    fields = {"orderId": order, "passId": pass_id, "expiresAt": "2099-01-01T00:00:00Z"}
    return {"type": "PassIssued", "eventId": pass_id, "occurredOnUtc": "2026-11-20T18:00:00Z", **fields}


def token_revoked(jti: str) -> dict[str, str]:
    return {"type": "TokenRevoked", "eventId": f"r-{jti}", "occurredOnUtc": "2026-11-20T18:00:00Z", "jti": jti}


async def refusals(rest: Rest, path: str, text: str) -> list[tuple[int, bytes, dict[str, str]]]:
    """Everything that is told to who shows a pass: in the query, and as a bearer token if it says that it is one."""
    found = []
    ways: list[dict[str, Any]] = [{"params": {"pass": text}}]
    if claims_to_be_pass(text):
        ways.append({"headers": {"authorization": f"Bearer {text}"}})
    for way in ways:
        response = await rest.http.get(f"/api/v1{path}", **way)
        found.append((response.status_code, response.content, dict(response.headers, date="")))
    return found


async def test_every_pass_that_is_not_good_here_is_refused_in_the_very_same_words(
    rest: Rest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streams.facts.WAIT_FOR_ORDER_SECONDS", 0.05)
    await placed(rest)
    await placed(rest, "o2")
    await rest.happened(rest.event("OrderPlaced", "o3"), rest.event("OrderDelivered", "o3"))
    passes = Passes(pass_key(rest.gateway.gateway.settings.data_dir))
    good, foreign, revoked = await issued(rest), await issued(rest, "o2"), await issued(rest)
    assert (await revoke(rest, revoked["passId"])).status_code == 204
    late = await issued(rest, "o3")
    await rest.happened(pass_issued("nobody", "1" * 32))
    recalled = await issued(rest)
    await rest.happened(token_revoked(recalled["passId"]))
    soon = time.time() + 600
    ended = Passes(pass_key(rest.gateway.gateway.settings.data_dir), clock=lambda: time.time() - 7200)
    head, payload, signature = good["pass"].split(".")
    wrong = {
        "guessed": "guess",
        "empty": "",
        "malformed": "a.b.c",
        "tampered": f"{head}.{payload[:-2]}xx.{signature}",
        "unsigned": f"{head}.{payload}.",
        "foreign": foreign["pass"],
        "revoked": revoked["pass"],
        "revoked as if it were a token": recalled["pass"],
        "ended": ended.for_guest("o1", good["passId"], time.time() - 60),
        "never issued": passes.for_guest("o1", "0" * 32, soon),
        "of an order that nobody knows": passes.for_guest("nobody", "1" * 32, soon),
        "of a device": passes.for_device("r1", "d1", "0" * 32, soon),
        "a token": rest.gateway.token("c1"),
        "not ascii": "é.é.é",
    }
    told = []
    for path in ("/orders/o1/events", "/orders/o1", "/orders/nobody/events", "/orders/nobody"):
        for name, text in wrong.items():
            told += [(path, name, *each) for each in await refusals(rest, path, text)]
    for path in ("/orders/nobody/events", "/orders/nobody", "/partners/r1/events", "/partners/o1/events"):
        told += [(path, "good elsewhere", *each) for each in await refusals(rest, path, good["pass"])]
    monkeypatch.setattr("streams.changes.GUEST_SECONDS_AFTER_DELIVERY", 0.0)
    for path in ("/orders/o3/events", "/orders/o3"):
        told += [(path, "delivered long ago", *each) for each in await refusals(rest, path, late["pass"])]
    twice = await rest.http.get(f"/api/v1/orders/o1?pass={good['pass']}&pass={good['pass']}")
    told.append(("/orders/o1", "twice", twice.status_code, twice.content, dict(twice.headers, date="")))
    assert {each[2] for each in told} == {403}
    different = {each[1]: each[2:] for each in told if each[2:] != told[0][2:]}
    assert different == {}
    assert len(told) > 70
    assert json.loads(told[0][3])["title"] == "Forbidden"
    assert (await rest.get("/orders/o1", {}, **{"pass": good["pass"]})).status_code == 200


async def test_pass_opens_nothing_but_what_it_names(rest: Rest) -> None:
    await placed(rest)
    given = await issued(rest)
    as_bearer = {"authorization": f"Bearer {given['pass']}"}
    for path in (
        "/events?topic=orders/o1",
        "/customers/c1/events",
        "/restaurants/r1/events",
        "/restaurants/r1/orders/new",
        "/restaurants/r1/devices",
        "/orders/o1/watchers",
        "/marketing/events",
        "/coupons/x/events",
        "/restaurants/r1/finance/events",
    ):
        query = "&" if "?" in path else "?"
        by_query = await rest.http.get(f"/api/v1{path}{query}pass={given['pass']}")
        by_header = await rest.http.get(f"/api/v1{path}", headers=as_bearer)
        assert problem(by_query)["type"] == "urn:passline:problem:missing-token"
        assert problem(by_header)["type"] == "urn:passline:problem:pass-is-no-token"
    for method, path in (("POST", "/events"), ("POST", "/session"), ("POST", "/orders/o1/signals")):
        assert (await rest.http.request(method, f"/api/v1{path}", headers=as_bearer)).status_code == 401


async def test_link_shows_the_guests_view_to_whoever_opens_it_whoever_they_are(rest: Rest) -> None:
    """A browser sends the session along, and it may be the customer's own."""
    await placed(rest)
    given = await issued(rest)
    cookie = {"cookie": f"__Host-passline={rest.gateway.token('c1')}", "sec-fetch-site": "cross-site"}
    answer = (await rest.get("/orders/o1", cookie, **{"pass": given["pass"]})).json()
    assert "total" not in answer["order"]
    assert (await rest.get("/orders/o1", cookie, **{"pass": "guess"})).status_code == 403


async def test_pass_works_as_a_bearer_token_where_it_works_at_all(rest: Rest) -> None:
    await placed(rest)
    given = await issued(rest)
    request = StreamRequest(f"{rest.gateway.url}/api/v1/orders/o1/events", token=given["pass"])
    async with open_stream(request) as stream:
        await stream.next_event("snapshot")


@CORE
async def test_revocation_ends_the_streams_of_that_pass_everywhere_before_any_later_event(rest: Rest) -> None:
    await placed(rest)
    other = await rest.passline.gateway()
    given, spared = await issued(rest), await issued(rest)
    async with (
        open_stream(guest(rest.gateway, given["pass"])) as here,
        open_stream(guest(other, given["pass"])) as there,
        open_stream(guest(other, spared["pass"])) as others,
        open_stream(rest.gateway.customer("o1")) as customer,
    ):
        for stream in (here, there, others, customer):
            await stream.next_event("snapshot")
        assert (await revoke(rest, given["passId"])).status_code == 204
        await rest.happened(rest.event("OrderAccepted"))
        for stream in (here, there):
            assert await reason_of_its_end(stream) == "revoked"
            await stream.read_to_end()
            assert b"Accepted" not in stream.body
        for stream in (others, customer):
            assert said(await stream.next_event("ReceiveOrderStatusChanged"))["status"] == "Accepted"
    assert (await revoke(rest, given["passId"])).status_code == 204
    assert rest.gateway.gateway.hub.ended[End.REVOKED] == 1


async def test_revocation_ends_a_stream_that_is_still_replaying(rest: Rest) -> None:
    """It reads nothing yet, and what it missed stands before the revocation as well as behind it."""
    await placed(rest)
    narrow = await rest.passline.gateway(window_events=5)
    given = await issued(rest)
    for _ in range(4):
        await rest.happened(*(rest.event("OrderEtaUpdated", orderNumber="x" * 500) for _ in range(200)))
    epoch = narrow.gateway.hub.frames.epoch
    await eventually(lambda: narrow.gateway.hub.head >= 800)
    async with open_stream(guest(narrow, given["pass"], last_event_id=f"{epoch}-1", receive_buffer=4096)) as stream:
        assert stream.is_event_stream
        assert (await revoke(rest, given["passId"])).status_code == 204
        await rest.happened(rest.event("OrderAccepted"))
        await stream.read_to_end()
        assert b"Accepted" not in stream.body
    await eventually(lambda: narrow.gateway.hub.ended[End.REVOKED] == 1)


async def test_revoked_pass_does_not_come_back(rest: Rest) -> None:
    await placed(rest)
    given = await issued(rest)
    assert (await revoke(rest, given["passId"])).status_code == 204
    await eventually(lambda: rest.gateway.gateway.facts.overlay.head >= 3)
    async with open_stream(guest(rest.gateway, given["pass"])) as stream:
        assert stream.status == 403


async def test_pass_ends_with_its_time(rest: Rest) -> None:
    await placed(rest)
    given = await issued(rest, lifeSeconds=5)
    async with open_stream(guest(rest.gateway, given["pass"])) as stream:
        await stream.next_event("snapshot")
        assert await reason_of_its_end(stream) == "expired"
    assert (await rest.get("/orders/o1", {}, **{"pass": given["pass"]})).status_code == 403


async def test_guests_see_the_order_until_some_time_after_its_delivery(
    rest: Rest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those who watch, those who come back without a snapshot, and those who are given a pass only then."""
    monkeypatch.setattr("streams.changes.GUEST_SECONDS_AFTER_DELIVERY", 5.0)
    await placed(rest)
    given = await issued(rest)
    async with (
        open_stream(guest(rest.gateway, given["pass"])) as early,
        open_stream(rest.gateway.customer("o1")) as customer,
    ):
        await early.next_event("snapshot")
        cursor = await rest.happened(rest.event("OrderDelivered"))
        assert said(await early.next_event("ReceiveOrderStatusChanged"))["status"] == "Delivered"
        late_pass = await issued(rest)
        async with (
            open_stream(guest(rest.gateway, late_pass["pass"])) as late,
            open_stream(guest(rest.gateway, given["pass"], last_event_id=cursor)) as returned,
        ):
            for stream in (early, late, returned):
                assert await reason_of_its_end(stream) == "expired"
        await rest.happened(rest.event("OrderEtaUpdated"))
        await customer.next_event("ReceiveOrderEtaUpdated")
    assert (await rest.get("/orders/o1", {}, **{"pass": given["pass"]})).status_code == 403
    refused = await issue(rest)
    assert problem(refused)["type"] == "urn:passline:problem:delivered-long-ago"
    assert refused.status_code == 409


async def test_delivery_that_the_database_has_not_seen_yet_counts(rest: Rest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streams.changes.GUEST_SECONDS_AFTER_DELIVERY", 4.0)
    await placed(rest)
    given = await issued(rest)
    await rest.passline.stop_worker()
    assert (await rest.post(rest.event("OrderDelivered"))).status_code == 200
    async with open_stream(guest(rest.gateway, given["pass"])) as stream:
        assert await reason_of_its_end(stream) == "expired"


async def test_pass_that_is_given_after_the_delivery_ends_with_the_rest(
    rest: Rest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streams.changes.GUEST_SECONDS_AFTER_DELIVERY", 600.0)
    await rest.happened(rest.event("OrderPlaced"), rest.event("OrderDelivered"))
    given = await issued(rest)
    claims = json.loads(base64.urlsafe_b64decode(given["pass"].split(".")[1] + "=="))
    assert claims["exp"] <= time.time() + 600


async def test_somebody_elses_word_on_the_delivery_ends_nothing(rest: Rest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The order's first event says whose it is; what another publisher says under another name is not of that order."""
    monkeypatch.setattr("streams.changes.GUEST_SECONDS_AFTER_DELIVERY", 0.0)
    await placed(rest)
    given = await issued(rest)
    body = rest.event("OrderDelivered", restaurant="r9")
    await rest.passline.nc.publish("orders.r9.c1.o1.OrderDelivered", json.dumps(body).encode())
    async with open_stream(guest(rest.gateway, given["pass"])) as stream:
        await stream.next_event("snapshot")
        await rest.happened(rest.event("OrderAccepted"))
        assert said(await stream.next_event("ReceiveOrderStatusChanged"))["status"] == "Accepted"


async def test_no_pass_stands_in_a_log(rest: Rest, caplog: pytest.LogCaptureFixture) -> None:
    with structlog.testing.capture_logs() as logged:
        await placed(rest)
        given = await issued(rest)
        async with open_stream(guest(rest.gateway, given["pass"])) as stream:
            await stream.next_event("snapshot")
        await rest.get("/orders/o1", {}, **{"pass": given["pass"] + "x"})
        await revoke(rest, given["passId"])
    text = json.dumps(logged, default=str) + caplog.text
    assert "pass.issued" in text
    assert given["pass"] not in text
    assert given["pass"].split(".")[2] not in text
    assert "pass=" not in text


async def test_storm_of_one_links_guests_is_read_together(rest: Rest) -> None:
    """Several who open a link at once share what is known of the pass."""
    await placed(rest)
    given = await issued(rest)
    answers = await asyncio.gather(*(rest.get("/orders/o1", {}, **{"pass": given["pass"]}) for _ in range(20)))
    assert {each.status_code for each in answers} == {200}
