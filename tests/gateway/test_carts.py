"""Carts over real sockets: who is in, from when on, who is out, and what all of them are told."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from streams.views import member_ref
from tests.gateway.test_streams import applied, opened, said
from tests.gateway.test_workflows import forgetful
from tests.support.logs import append, append_order
from tests.support.sse_client import Ending, SseStream, StreamRequest, open_stream

if TYPE_CHECKING:
    from tests.support.gateway import Passline, RunningGateway

TOTAL = {"amount": "19.00", "currency": "EUR"}
PIZZA = {"itemId": "i1", "name": "Pizza", "quantity": 2, "unitPrice": {"amount": "9.50", "currency": "EUR"}}


@pytest.fixture
async def gateway(passline: Passline) -> RunningGateway:
    return await passline.gateway(team_carts=True)


async def cart(passline: Passline, kind: str, event_id: str, member: str | None = None, **fields: Any) -> int:
    """Publish an event of the cart t1."""
    about = {} if member is None else {"memberId": member}
    return await append(passline.nc, f"TeamCart{kind}", event_id, **about, **fields)


def stream_of(gateway: RunningGateway, member: str, **options: Any) -> StreamRequest:
    return gateway.stream("carts/t1", gateway.token(member), **options)


def several(gateway: RunningGateway, member: str, **options: Any) -> StreamRequest:
    """The cart and the member's own orders."""
    url = f"{gateway.url}/api/v1/events?topic=carts/t1&topic=customers/{member}"
    return StreamRequest(url, token=gateway.token(member), **options)


async def told(stream: SseStream, count: int) -> list[str]:
    """The ids of the next `count` events."""
    found: list[str] = []
    while len(found) < count:
        block = await stream.next_block()
        assert block is not None, f"the stream ended after {found}"
        if block.type.startswith("Receive"):
            found.append(said(block)["eventId"])
    return found


async def refused(request: StreamRequest, status: int) -> dict[str, Any]:
    async with open_stream(request) as stream:
        assert stream.status == status
        await stream.read_to_end()
        problem: dict[str, Any] = json.loads(stream.body)
        return problem


async def test_members_follow_a_cart_from_its_first_item_to_its_order(
    passline: Passline, gateway: RunningGateway
) -> None:
    await cart(passline, "Created", "c", "ada", memberName="Ada Lovelace")
    last = await cart(passline, "MemberJoined", "j", "auth0|bob", memberName="Bob")
    await applied(gateway, last)
    async with (
        open_stream(stream_of(gateway, "ada")) as ada,
        open_stream(stream_of(gateway, "auth0|bob")) as bob,
        open_stream(gateway.kitchen("r1")) as kitchen,
    ):
        seen = [said(await each.next_event("snapshot"))["cart"] for each in (ada, bob)]
        assert [each.pop("you") for each in seen] == [member["memberRef"] for member in seen[0]["members"]]
        assert seen[0] == seen[1]
        assert seen[0]["members"] == [
            {"memberRef": member_ref("t1", "ada"), "memberName": "Ada L.", "isHost": True},
            {"memberRef": seen[0]["members"][1]["memberRef"], "memberName": "Bob", "isHost": False},
        ]
        await opened(kitchen)
        await cart(passline, "ItemAdded", "i", "ada", item=PIZZA)
        await cart(passline, "QuoteUpdated", "q", total=TOTAL)
        await cart(passline, "LockedForPayment", "l", "ada")
        await cart(passline, "PaymentAuthorized", "p", "ada", amount=TOTAL)
        await cart(passline, "Converted", "v", orderId="o1", restaurantId="r1")
        last = await append_order(passline.nc, "placed", kind="OrderPlaced", customer="ada")
        for each in (ada, bob):
            assert await told(each, 4) == ["i", "q", "l", "p"]
            converted = said(await each.next_event("ReceiveTeamCartConverted"))
            assert (converted["orderId"], converted["restaurantId"]) == ("o1", "r1")
        assert await told(kitchen, 1) == ["placed"]
        await applied(gateway, last)
        for each in (ada, bob):
            for identity in ("auth0|bob", '"ada"', "Lovelace"):
                assert identity not in each.body.decode()
    async with open_stream(stream_of(gateway, "ada")) as late:
        state = said(await late.next_event("snapshot"))["cart"]
        assert (state["status"], state["orderId"], state["restaurantId"]) == ("Converted", "o1", "r1")
        assert state["total"] == TOTAL
        assert state["items"] == [PIZZA | {"memberRef": member_ref("t1", "ada")}]


async def test_who_leaves_or_is_removed_is_out_before_the_others_are_told(
    passline: Passline, gateway: RunningGateway
) -> None:
    await cart(passline, "Created", "c", "ada")
    for member in ("bob", "cem"):
        last = await cart(passline, "MemberJoined", f"j-{member}", member)
    await applied(gateway, last)
    async with (
        open_stream(stream_of(gateway, "ada")) as ada,
        open_stream(stream_of(gateway, "bob")) as bob,
        open_stream(several(gateway, "cem")) as cem,
    ):
        for stream in (ada, bob, cem):
            await opened(stream)
        await cart(passline, "ItemAdded", "i1", "ada", item=PIZZA)
        await cart(passline, "MemberLeft", "left", "bob")
        await cart(passline, "MemberRemoved", "removed", "cem")
        await cart(passline, "ItemAdded", "i2", "ada", item=PIZZA)
        assert await told(ada, 4) == ["i1", "left", "removed", "i2"]
        for stream, before in ((bob, ["i1"]), (cem, ["i1", "left"])):
            assert await told(stream, len(before)) == before
            assert said(await stream.next_event("stream.closing")) == {"reason": "revoked"}
            assert await stream.read_to_end() is Ending.CUT
            assert b'"removed"' not in stream.body
    assert (await refused(stream_of(gateway, "bob"), 403))["title"] == "Forbidden"
    assert (await refused(several(gateway, "cem"), 403))["topic"] == "carts/t1"


@pytest.mark.parametrize("opening", [stream_of, several])
async def test_member_sees_what_followed_their_latest_joining_and_nothing_before(
    passline: Passline, gateway: RunningGateway, opening: Any
) -> None:
    begin = await cart(passline, "Created", "c", "ada")
    await cart(passline, "MemberJoined", "j1", "bob")
    await cart(passline, "ItemAdded", "while-in", "ada", item=PIZZA)
    await cart(passline, "MemberLeft", "l1", "bob")
    await cart(passline, "ItemAdded", "while-out", "ada", item=PIZZA)
    await append_order(passline.nc, "own", kind="OrderPlaced", customer="bob")
    joined = await cart(passline, "MemberJoined", "j2", "bob")
    last = await cart(passline, "ItemAdded", "after", "ada", item=PIZZA)
    epoch = gateway.gateway.facts.epoch
    await applied(gateway, last)
    own = ["own"] if opening is several else []
    for position in (begin, joined - 3, joined):
        async with open_stream(opening(gateway, "bob", last_event_id=f"{epoch}-{position}")) as stream:
            wanted = [*(own if position < joined else []), "after"]
            assert await told(stream, len(wanted)) == wanted
            assert b"while-" not in stream.body
    await cart(passline, "ItemAdded", "live", "ada", item=PIZZA)
    async with open_stream(stream_of(gateway, "ada", last_event_id=f"{epoch}-{begin}")) as stream:
        assert await told(stream, 7) == ["j1", "while-in", "l1", "while-out", "j2", "after", "live"]


async def test_who_has_just_joined_is_let_in_and_sees_no_state_from_before(
    passline: Passline, gateway: RunningGateway
) -> None:
    """Also by a gateway whose tail has not come so far, and while the projection has not."""
    other = await passline.gateway(team_carts=True)
    await cart(passline, "Created", "c", "ada")
    for number, each in enumerate((gateway, other) * 3):
        joined = await cart(passline, "MemberJoined", f"j{number}", f"member-{number}")
        async with open_stream(stream_of(each, f"member-{number}")) as stream:
            snapshot = await stream.next_event("snapshot")
            assert len(said(snapshot)["cart"]["members"]) == number + 2
            assert int((snapshot.id or "").split("-")[1]) >= joined


async def test_joining_that_is_sent_again_after_the_member_has_left_gives_nothing_back(
    passline: Passline, gateway: RunningGateway
) -> None:
    await cart(passline, "Created", "c", "ada")
    await cart(passline, "MemberJoined", "j", "bob")
    last = await cart(passline, "MemberLeft", "l", "bob")
    await applied(gateway, last)
    # With another message id, as after the broker's window for duplicates.
    body = json.dumps(
        {
            "type": "TeamCartMemberJoined",
            "eventId": "j",
            "occurredOnUtc": "2026-11-20T10:00:00Z",
            "teamCartId": "t1",
            "memberId": "bob",
        }
    )
    await passline.nc.jetstream().publish("carts.t1.TeamCartMemberJoined", body.encode())
    await refused(stream_of(gateway, "bob"), 403)
    await applied(gateway, last + 1)
    await refused(stream_of(gateway, "bob"), 403)
    await cart(passline, "MemberJoined", "j2", "bob")
    async with open_stream(stream_of(gateway, "bob")) as stream:
        assert (await opened(stream))["topics"] == ["carts/t1"]


async def test_cart_that_nobody_has_heard_of_is_not_found_and_none_is_where_there_are_no_carts(
    passline: Passline, gateway: RunningGateway
) -> None:
    await cart(passline, "Created", "c", "ada")
    async with open_stream(stream_of(gateway, "ada")) as stream:
        assert stream.status == 200
    await refused(stream_of(gateway, "bob"), 403)
    unheard_of = await refused(gateway.stream("carts/t9", gateway.token("ada")), 404)
    without = await passline.gateway()
    assert await refused(without.stream("carts/t9", without.token("ada")), 404) == unheard_of
    assert unheard_of["type"] == "urn:passline:problem:cart-unknown"
    await refused(stream_of(without, "ada"), 404)
    assert (await refused(several(without, "ada"), 404))["topic"] == "carts/t1"


async def test_cart_is_gone_a_while_after_its_last_event(passline: Passline) -> None:
    gateway = await forgetful(passline, team_carts=True, team_cart_seconds=2)
    await cart(passline, "Created", "c", "ada")
    async with open_stream(stream_of(gateway, "ada")) as stream:
        await opened(stream)
        await cart(passline, "Expired", "e")
        assert await told(stream, 1) == ["e"]
        assert said(await stream.next_event("stream.closing")) == {"reason": "ended"}
    await refused(stream_of(gateway, "ada"), 404)


async def test_who_joins_while_they_are_being_refused_sees_nothing_from_before(
    passline: Passline, gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They stay refused: what was known of the cart before their joining does not say from where on it is theirs."""
    begin = await cart(passline, "Created", "c", "ada")
    await cart(passline, "ItemAdded", "before", "ada", item=PIZZA)
    facts = gateway.gateway.facts
    settled = facts.settled

    async def joining_meanwhile(*asked: Any) -> Any:
        known = await settled(*asked)
        await applied(gateway, await cart(passline, "MemberJoined", "j", "bob"))
        return known

    monkeypatch.setattr(facts, "settled", joining_meanwhile)
    returning = stream_of(gateway, "bob", last_event_id=f"{facts.epoch}-{begin}")
    await refused(returning, 403)
    monkeypatch.undo()
    await cart(passline, "ItemAdded", "after", "ada", item=PIZZA)
    async with open_stream(returning) as stream:
        assert await told(stream, 1) == ["after"]
