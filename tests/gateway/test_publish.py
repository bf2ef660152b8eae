from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.gateway.serving import problem

if TYPE_CHECKING:
    from tests.gateway.conftest import Rest

PATH = "/api/v1/events"


@pytest.fixture
def database_kind() -> str:
    """Ingest asks the database for owners only."""
    return "sqlite"


async def stored(rest: Rest) -> list[tuple[str, Any]]:
    """Subject and body of every entry of the log."""
    log = rest.gateway.gateway.log
    last = (await log.state()).last
    entries = [await log.get(sequence) for sequence in range(1, last + 1)]
    return [(entry.subject, json.loads(entry.data)) for entry in entries if entry is not None]


def statuses(response: httpx.Response) -> list[str]:
    return [result["status"] for result in response.json()["results"]]


async def send(rest: Rest, body: bytes, media_type: str = "application/json") -> httpx.Response:
    return await rest.http.post(PATH, content=body, headers={**rest.order_service, "content-type": media_type})


async def test_an_event_is_in_the_log_when_it_is_answered(rest: Rest) -> None:
    event = rest.event("OrderPlaced")
    response = await rest.post(event)
    epoch = rest.gateway.gateway.facts.epoch
    assert response.status_code == 200
    assert response.json() == {"results": [{"eventId": event["eventId"], "status": "stored", "cursor": f"{epoch}-1"}]}
    assert response.headers["cache-control"] == "no-store"
    assert await stored(rest) == [("orders.r1.c1.o1.OrderPlaced", {**event, "schemaVersion": 1})]


async def test_an_array_enters_the_log_in_its_order(rest: Rest) -> None:
    events = [rest.event("OrderPlaced", f"o{number}") for number in range(20)]
    response = await rest.post(events)
    assert response.status_code == 200
    assert [result["eventId"] for result in response.json()["results"]] == [event["eventId"] for event in events]
    assert [body["eventId"] for _, body in await stored(rest)] == [event["eventId"] for event in events]


@pytest.mark.parametrize("media_type", ["application/x-ndjson", "application/jsonl; charset=utf-8"])
async def test_an_event_a_line_is_taken(rest: Rest, media_type: str) -> None:
    lines = [json.dumps(rest.event(kind)) for kind in ("OrderPlaced", "OrderAccepted")]
    response = await send(rest, "\n".join([*lines, ""]).encode(), media_type)
    assert (response.status_code, statuses(response)) == (200, ["stored", "stored"])


async def test_the_same_event_again_is_a_duplicate_at_its_old_place(rest: Rest) -> None:
    event = rest.event("OrderPlaced")
    first = await rest.post(event)
    again = await rest.post(event)
    assert (again.status_code, statuses(again)) == (200, ["duplicate"])
    assert again.json()["results"][0]["cursor"] == first.json()["results"][0]["cursor"]
    assert len(await stored(rest)) == 1


async def test_another_event_under_the_same_id_is_a_conflict(rest: Rest) -> None:
    event = rest.event("OrderPlaced")
    await rest.post(event)
    response = await rest.post({**event, "orderNumber": "2"})
    told = problem(response)
    assert (told["status"], told["title"], told["type"]) == (409, "Conflict", "urn:passline:problem:event-conflict")
    assert told["results"] == [
        {
            "eventId": event["eventId"],
            "status": "failed",
            "cursor": None,
            "problem": {name: told[name] for name in ("type", "title", "status", "detail")},
        }
    ]
    assert len(await stored(rest)) == 1


@pytest.mark.parametrize("other", [{"restaurant": "r2"}, {"customer": "c2"}])
async def test_an_orders_owners_are_fixed_by_its_first_event(rest: Rest, other: dict[str, str]) -> None:
    await rest.happened(rest.event("OrderPlaced"))
    response = await rest.post(rest.event("OrderAccepted", **other))
    assert problem(response)["type"] == "urn:passline:problem:event-conflict"


async def test_in_an_array_a_conflict_is_told_of_its_event_and_stops_its_order(rest: Rest) -> None:
    await rest.happened(rest.event("OrderPlaced", "o1"))
    response = await rest.post(
        [
            rest.event("OrderAccepted", "o1", restaurant="r2"),
            rest.event("OrderPlaced", "o2"),
            rest.event("OrderPreparing", "o1", restaurant="r2"),
        ]
    )
    assert response.status_code == 207
    assert response.headers["content-type"] == "application/json"
    assert statuses(response) == ["failed", "stored", "not_attempted"]
    conflict, _, later = response.json()["results"]
    assert (conflict["cursor"], conflict["problem"]["status"]) == (None, 409)
    assert later["problem"]["status"] == 409


async def test_an_array_of_nothing_but_a_conflict_is_still_told_event_by_event(rest: Rest) -> None:
    await rest.happened(rest.event("OrderPlaced"))
    response = await rest.post([rest.event("OrderAccepted", restaurant="r2")])
    assert (response.status_code, statuses(response)) == (207, ["failed"])


@pytest.mark.parametrize("as_array", [False, True])
async def test_broker_that_does_not_answer_is_a_503_within_five_seconds(rest: Rest, as_array: bool) -> None:
    event = rest.event("OrderPlaced")
    with rest.hung_broker():
        began = time.monotonic()
        response = await rest.post([event] if as_array else event)
        took = time.monotonic() - began
    told = problem(response)
    assert took < 5
    assert (told["status"], told["type"]) == (503, "urn:passline:problem:event-unavailable")
    assert 1 <= int(response.headers["retry-after"]) <= 3
    assert [result["eventId"] for result in told["results"]] == [event["eventId"]]
    again = await rest.post(event)
    assert again.status_code == 200
    assert len(await stored(rest)) == 1


async def test_wrong_event_is_pointed_at_before_anything_is_stored(rest: Rest) -> None:
    good = rest.event("OrderPlaced")
    bad = {**rest.event("OrderAccepted"), "orderId": "a.b"}
    told = problem(await rest.post([good, bad]))
    assert told["status"] == 422
    assert [fault["pointer"] for fault in told["errors"]] == ["#/1/orderId"]
    single = problem(await rest.post(bad))
    assert [fault["pointer"] for fault in single["errors"]] == ["#/orderId"]
    assert await stored(rest) == []


@pytest.mark.parametrize("field", ["orderId", "restaurantId"])
@pytest.mark.parametrize("value", ["*", ">", "a.b", "a b", "x" * 300, "a\x00", "a\n", "", 7, None])
async def test_what_is_no_id_enters_no_subject(rest: Rest, field: str, value: object) -> None:
    told = problem(await rest.post({**rest.event("OrderPlaced"), field: value}))
    assert (told["status"], told["errors"][0]["pointer"]) == (422, f"#/{field}")
    assert await stored(rest) == []


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"null", b"7", b'"x"', b"[1]", b"\xff", b"[" * 2000, b"{}"])
async def test_what_is_no_event_is_unprocessable(rest: Rest, body: bytes) -> None:
    assert problem(await send(rest, body))["title"] == "Unprocessable Content"


async def test_unknown_type_is_refused(rest: Rest) -> None:
    told = problem(await rest.post(rest.event("OrderEaten")))
    assert (told["status"], told["errors"][0]["pointer"]) == (422, "#/type")


@pytest.mark.parametrize("media_type", ["text/plain", "", "application/xml", "application/json; charset=latin-1"])
async def test_other_media_types_are_refused_by_name(rest: Rest, media_type: str) -> None:
    told = problem(await send(rest, json.dumps(rest.event("OrderPlaced")).encode(), media_type))
    assert (told["status"], told["title"]) == (415, "Unsupported Media Type")
    assert "application/x-ndjson" in told["detail"]


async def test_over_long_body_is_refused(rest: Rest) -> None:
    told = problem(await send(rest, b" " * (4 * 1024 * 1024 + 1)))
    assert (told["status"], told["title"]) == (413, "Content Too Large")


async def test_over_long_body_of_unknown_length_is_refused(rest: Rest) -> None:
    async def pieces() -> Any:
        for _ in range(65):
            yield b" " * 65_536

    headers = {**rest.order_service, "content-type": "application/json"}
    response = await rest.http.post(PATH, content=pieces(), headers=headers)
    assert problem(response)["status"] == 413


async def test_too_many_events_are_refused(rest: Rest) -> None:
    told = problem(await rest.post([rest.event("OrderPlaced")] * 1001))
    assert told["status"] == 413
    assert "1000" in told["detail"]


async def test_over_long_event_is_refused_and_pointed_at(rest: Rest) -> None:
    items = [{"name": "x" * 500, "quantity": 1}] * 150
    told = problem(await rest.post([rest.event("OrderPlaced"), rest.event("OrderPlaced", items=items)]))
    assert told["status"] == 413
    assert told["errors"][0]["pointer"] == "#/1"
    assert await stored(rest) == []


@pytest.mark.parametrize(
    ("scopes", "kinds", "status", "missing"),
    [
        (["events:publish"], ["order"], 200, None),
        (["access:publish"], ["staff"], 200, None),
        (["events:publish", "access:publish"], ["order", "staff"], 200, None),
        (["events:publish"], ["order", "staff"], 403, "access:publish"),
        (["access:publish"], ["staff", "order"], 403, "events:publish"),
        (["marketing:read"], ["order"], 403, "events:publish"),
        ([], ["staff"], 403, "events:publish"),
    ],
)
async def test_each_kind_of_event_needs_its_scope_before_anything_is_stored(
    rest: Rest, scopes: list[str], kinds: list[str], status: int, missing: str | None
) -> None:
    events = {"order": rest.event("OrderPlaced"), "staff": rest.staff_event("StaffAssigned", "cook", role="staff")}
    response = await rest.post([events[kind] for kind in kinds], rest.bearer("service", scopes=scopes))
    assert response.status_code == status
    if missing is None:
        assert len(await stored(rest)) == len(kinds)
    else:
        assert problem(response)["type"] == "urn:passline:problem:insufficient-scope"
        assert f'scope="{missing}"' in response.headers["www-authenticate"]
        assert await stored(rest) == []


async def test_who_may_not_publish_is_told_before_the_body_is_read(rest: Rest) -> None:
    response = await rest.http.post(PATH, content=b"rubbish", headers=rest.bearer("c1"))
    assert problem(response)["status"] == 403


async def test_without_a_token_nothing_is_read(rest: Rest) -> None:
    assert problem(await rest.http.post(PATH, content=b"rubbish"))["status"] == 401


async def test_unknown_fields_do_not_enter_the_log(rest: Rest) -> None:
    await rest.post(rest.event("OrderPlaced", phone="555", customerName="Ada"))
    ((_, body),) = await stored(rest)
    assert "phone" not in body
    assert body["customerName"] == "Ada"


async def test_request_that_ends_before_its_body_harms_nobody(rest: Rest) -> None:
    host, _, port = rest.gateway.url.removeprefix("http://").partition(":")
    _, writer = await asyncio.open_connection(host, int(port))
    token = rest.order_service["authorization"]
    head = f"POST {PATH} HTTP/1.1\r\nhost: x\r\nauthorization: {token}\r\ncontent-type: application/json\r\n"
    writer.write(f"{head}content-length: 1000\r\n\r\n[".encode())
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    assert (await rest.post(rest.event("OrderPlaced"))).status_code == 200
    assert len(await stored(rest)) == 1


async def test_process_that_has_no_place_in_the_log_yet_takes_nothing(
    rest: Rest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rest.gateway.gateway.facts, "epoch", "")
    assert problem(await rest.post(rest.event("OrderPlaced")))["status"] == 503
    assert await stored(rest) == []
