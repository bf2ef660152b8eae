"""Workflows over real sockets: who binds one, who loses it, what its stream tells, and when it is over."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from typing import TYPE_CHECKING, Any

import httpx
import msgspec

from tests.gateway.test_streams import applied, opened, said
from tests.support.logs import append
from tests.support.nats import client, eventually
from tests.support.pausing import pause
from tests.support.sse_client import Ending, SseStream, StreamRequest, open_stream

if TYPE_CHECKING:
    from tests.support.gateway import Passline, RunningGateway

BROKER_SECONDS = 2.0


async def ask(gateway: RunningGateway, user: str, correlation_id: str = "w1", method: str = "GET") -> httpx.Response:
    headers = {"authorization": f"Bearer {gateway.token(user)}"}
    async with httpx.AsyncClient(base_url=gateway.url, timeout=10) as http:
        return await http.request(method, f"/api/v1/workflows/{correlation_id}", headers=headers)


async def bind(gateway: RunningGateway, user: str, correlation_id: str = "w1") -> httpx.Response:
    return await ask(gateway, user, correlation_id, "POST")


def stream_of(gateway: RunningGateway, user: str, correlation_id: str = "w1", **options: Any) -> StreamRequest:
    return gateway.stream(f"workflows/{correlation_id}", gateway.token(user), **options)


async def steps(stream: SseStream, count: int) -> list[tuple[str, object]]:
    """Status and order id of the next `count` events."""
    found: list[tuple[str, object]] = []
    while len(found) < count:
        told = said(await stream.next_event("OrderStatusChanged"))
        found.append((told["status"], told.get("orderId")))
    return found


async def step(passline: Passline, kind: str, event_id: str, correlation_id: str = "w1", **fields: Any) -> int:
    return await append(passline.nc, kind, event_id, correlationId=correlation_id, **fields)


async def forgetful(passline: Passline, **lives: int) -> RunningGateway:
    """A gateway, and the worker, with these settings."""
    gateway = await passline.gateway(**lives)
    await passline.stop_worker()
    passline.settings = msgspec.structs.replace(passline.settings, **lives)
    passline.start_worker()
    return gateway


async def reached(gateway: RunningGateway, sequence: int) -> None:
    await eventually(lambda: gateway.gateway.hub.completed >= sequence)


async def test_workflow_is_bound_followed_and_completed(passline: Passline) -> None:
    gateway = await passline.gateway()
    bound = await bind(gateway, "ada")
    assert (bound.status_code, bound.headers["cache-control"]) == (201, "no-store")
    cursor = bound.json()["cursor"]
    assert bound.json() == {"correlationId": "w1", "status": None, "orderId": None, "cursor": cursor}
    again = await bind(gateway, "ada")
    assert (again.status_code, again.json()) == (200, bound.json())
    async with open_stream(stream_of(gateway, "ada", last_event_id=cursor)) as stream:
        await step(passline, "WorkflowAccepted", "a", userId="ada")
        await step(passline, "WorkflowProcessing", "p")
        last = await step(passline, "OrderProcessed", "d", orderId=4711)
        assert await steps(stream, 3) == [("ACCEPTED", None), ("PROCESSING", None), ("COMPLETED", 4711)]
    await reached(gateway, last)
    told = (await ask(gateway, "ada")).json()
    assert (told["status"], told["orderId"]) == ("COMPLETED", 4711)
    await applied(gateway, last)
    async with open_stream(stream_of(gateway, "ada")) as stream:  # late
        state = said(await stream.next_event("snapshot"))
        assert state == {
            "topic": "workflows/w1",
            "workflow": {"correlationId": "w1", "status": "COMPLETED", "orderId": 4711},
        }


async def test_of_two_users_on_two_gateways_one_binds_and_the_other_is_refused(passline: Passline) -> None:
    gateways = [await passline.gateway(), await passline.gateway()]
    for number in range(4):
        name = f"race-{number}"
        answers = await asyncio.gather(
            *(bind(gateway, user, name) for gateway, user in zip(gateways, ("ada", "bob"), strict=True))
        )
        assert sorted(answer.status_code for answer in answers) == [201, 403]
        winner = answers[0].status_code == 403
        for gateway in gateways:
            told = [(await ask(gateway, user, name)).status_code for user in ("ada", "bob")]
            assert told == ([403, 200] if winner else [200, 403])
    state = await gateways[0].gateway.log.state()
    assert state.last == 4  # the losers' never got into the log


async def test_foreign_workflow_is_refused_and_one_that_nobody_has_bound_is_not_found(passline: Passline) -> None:
    gateway = await passline.gateway()
    await bind(gateway, "ada")
    await step(passline, "WorkflowProcessing", "p", "unbound")
    for answer in (await ask(gateway, "bob"), await bind(gateway, "bob")):
        assert (answer.status_code, answer.json()["title"]) == (403, "Forbidden")
        assert "ada" not in answer.text
    for name in ("unbound", "unheard-of"):
        answer = await ask(gateway, "bob", name)
        assert (answer.status_code, answer.json()["type"]) == (404, "urn:passline:problem:workflow-unknown")
        async with open_stream(stream_of(gateway, "bob", name)) as stream:
            assert stream.status == 404
    async with open_stream(stream_of(gateway, "bob")) as stream:
        assert stream.status == 403
    several = StreamRequest(
        f"{gateway.url}/api/v1/events?topic=customers/bob&topic=workflows/unbound", token=gateway.token("bob")
    )
    async with open_stream(several) as stream:
        assert stream.status == 404
        await stream.read_to_end()
        assert json.loads(stream.body)["topic"] == "workflows/unbound"


async def test_stream_opens_on_another_gateway_right_after_the_binding(passline: Passline) -> None:
    first, second = await passline.gateway(), await passline.gateway()
    for number in range(5):
        assert (await bind(first, "ada", f"w{number}")).status_code == 201
        async with open_stream(stream_of(second, "ada", f"w{number}")) as stream:
            assert (await opened(stream))["topics"] == [f"workflows/w{number}"]


async def test_what_came_before_the_binding_is_kept_for_who_binds(passline: Passline) -> None:
    gateway = await passline.gateway()
    await step(passline, "WorkflowProcessing", "p", orderId="o-1")
    last = await step(passline, "OrderProcessed", "d", orderId="o-2")
    await reached(gateway, last)
    bound = await bind(gateway, "ada")
    assert (bound.status_code, bound.json()["status"], bound.json()["orderId"]) == (201, "COMPLETED", "o-2")
    async with open_stream(stream_of(gateway, "ada", query={"since": "1h"})) as stream:
        assert await steps(stream, 2) == [("PROCESSING", "o-1"), ("COMPLETED", "o-2")]


async def test_accepted_event_before_the_binding_says_whose_it_is(passline: Passline) -> None:
    gateway = await passline.gateway()
    await reached(gateway, await step(passline, "WorkflowAccepted", "a", userId="ada"))
    assert (await bind(gateway, "bob")).status_code == 403
    assert (await bind(gateway, "ada")).status_code == 200
    assert (await ask(gateway, "ada")).json()["status"] == "ACCEPTED"
    assert (await gateway.gateway.log.state()).last == 1


async def test_accepted_event_that_names_another_ends_the_binders_streams_and_not_the_rightful_users(
    passline: Passline,
) -> None:
    gateway = await passline.gateway()
    await bind(gateway, "bob")
    async with (
        open_stream(stream_of(gateway, "bob")) as binders,
        open_stream(StreamRequest(_two(gateway), token=gateway.token("bob"))) as binders_several,
    ):
        await opened(binders)
        await opened(binders_several)
        await step(passline, "WorkflowAccepted", "a", userId="ada")
        await step(passline, "OrderProcessed", "d", orderId="o-1")
        for stream in (binders, binders_several):
            assert said(await stream.next_event("stream.closing")) == {"reason": "revoked"}
            assert await stream.read_to_end() is Ending.CUT
            assert b"OrderStatusChanged" not in stream.body
    assert [(await ask(gateway, user)).status_code for user in ("bob", "ada")] == [403, 200]
    async with open_stream(stream_of(gateway, "ada", query={"since": "1h"})) as rightful:
        assert await steps(rightful, 2) == [("ACCEPTED", None), ("COMPLETED", "o-1")]


def _two(gateway: RunningGateway) -> str:
    return f"{gateway.url}/api/v1/events?topic=customers/bob&topic=workflows/w1"


async def test_first_accepted_event_holds_and_one_that_contradicts_it_is_shown_to_nobody(passline: Passline) -> None:
    gateway = await passline.gateway()
    await bind(gateway, "ada")
    async with open_stream(stream_of(gateway, "ada")) as before:
        await opened(before)
        accepted = await step(passline, "WorkflowAccepted", "a", userId="ada")
        assert await steps(before, 1) == [("ACCEPTED", None)]
        await applied(gateway, accepted)
        async with open_stream(stream_of(gateway, "ada")) as after:
            await opened(after)
            wrong = await step(passline, "WorkflowAccepted", "wrong", userId="bob", orderId="bobs")
            await step(passline, "OrderProcessed", "d", orderId="o-1")
            for stream in (before, after):
                assert await steps(stream, 1) == [("COMPLETED", "o-1")]
                assert b"bobs" not in stream.body
    assert [(await ask(gateway, user)).status_code for user in ("bob", "ada")] == [403, 200]
    await applied(gateway, wrong + 1)
    async with client(passline.server, "admin") as admin:
        aside = await admin.jetstream().get_last_msg("DEAD", "dead.>")
    assert b"the workflow was accepted for another user" in (aside.data or b"")


async def test_repeated_steps_change_nothing(passline: Passline) -> None:
    gateway = await passline.gateway()
    await bind(gateway, "ada")
    await step(passline, "WorkflowAccepted", "a", userId="ada", orderId="o-1")
    await step(passline, "OrderProcessed", "d1", orderId="o-1")
    await step(passline, "OrderProcessed", "d2", orderId="o-1")  # as after the broker's window for duplicates
    last = await step(passline, "WorkflowAccepted", "a2", userId="ada")
    await reached(gateway, last)
    told = (await ask(gateway, "ada")).json()
    assert (told["status"], told["orderId"]) == ("COMPLETED", "o-1")


async def test_workflow_is_gone_a_while_after_its_last_event(passline: Passline) -> None:
    gateway = await forgetful(passline, workflow_seconds=2)
    await bind(gateway, "ada")
    await bind(gateway, "ada", "quiet")
    await step(passline, "WorkflowProcessing", "p0", "never-bound")
    async with (
        open_stream(stream_of(gateway, "ada")) as stream,
        open_stream(stream_of(gateway, "ada", "quiet")) as quiet,
    ):
        await opened(stream)
        await opened(quiet)
        ended = asyncio.create_task(quiet.next_event("stream.closing"))
        number = 0
        while not ended.done():  # each event moves the end on
            number += 1
            await step(passline, "WorkflowProcessing", f"p{number}")
            await asyncio.wait({ended}, timeout=0.3)
        assert said(await ended) == {"reason": "ended"}
        assert await quiet.read_to_end() is Ending.CUT
        assert len(await steps(stream, number)) == number
        assert (await ask(gateway, "ada")).status_code == 200
        assert said(await stream.next_event("stream.closing")) == {"reason": "ended"}
    for answer in (await ask(gateway, "ada"), await bind(gateway, "ada"), await bind(gateway, "bob")):
        assert answer.status_code == 404
    # So it stays when it was forgotten, as it is with the next event of another one.
    last = await step(passline, "WorkflowProcessing", "other", "other")
    await applied(gateway, last)
    await eventually(lambda: gateway.gateway.hub.completed >= last)
    fresh = await passline.gateway()
    for name in ("w1", "never-bound"):
        for answer in (await ask(fresh, "ada", name), await bind(fresh, "ada", name), await bind(fresh, "bob", name)):
            assert answer.status_code == 404
    async with open_stream(stream_of(fresh, "ada")) as stream:
        assert stream.status == 404


async def test_binding_fails_fast_while_the_log_is_out_of_reach(passline: Passline) -> None:
    gateway = await passline.gateway()
    await bind(gateway, "ada")
    pause(passline.server.pid)
    try:
        async with asyncio.timeout(BROKER_SECONDS):
            answer = await bind(gateway, "ada", "w2")
        assert (answer.status_code, answer.json()["title"]) == (503, "Service Unavailable")
        assert int(answer.headers["retry-after"]) >= 1
        assert (await bind(gateway, "ada")).status_code == 200  # known
    finally:
        os.kill(passline.server.pid, signal.SIGCONT)

    async def is_bound() -> bool:
        return (await bind(gateway, "ada", "w2")).status_code in (200, 201)

    await eventually(is_bound, within=15)
