"""The AsyncAPI document: it is one, and what a gateway really sends is what it says."""

from __future__ import annotations

import json
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import jsonschema_rs
import pytest
from click.testing import CliRunner

from auth import policies
from gateway.asyncapi import document, json_schemas
from gateway.channels import API, subject_of
from gateway.commands.schema import schema
from gateway.sse import SseEncoder
from gateway.who_may import AUDIENCES
from streams.events import EVENT_TYPES, decode
from streams.matrix import FACTS, MATRIX
from streams.subscriber import End
from streams.topics import Audience
from tests.gateway.test_streams import applied, said
from tests.support.event_stream import EventStreamParser
from tests.support.markers import Markers
from tests.support.nats import publish
from tests.support.samples import sample
from tests.support.sse_client import StreamRequest, open_stream

if TYPE_CHECKING:
    from tests.gateway.conftest import Rest
    from tests.support.event_stream import Block
    from tests.support.gateway import Passline, RunningGateway
    from tests.support.sse_client import SseStream

SPECIFICATION = (
    Path(__file__).parents[1]
    / "interop/node_modules/@asyncapi/specs/schemas"
    / f"{document()['asyncapi']}-without-$id.json"
)
TOLD = [name for name, event in EVENT_TYPES.items() if event not in FACTS]
POLICIES = [name for name in vars(policies) if name.startswith(("must_", "may_"))]
OF_A_STREAM = {audience.value for audience in Audience}

IDS: dict[str, Any] = {
    "orderId": "o1",
    "restaurantId": "r1",
    "customerId": "c1",
    "teamCartId": "t1",
    "memberId": "m1",
    "correlationId": "w1",
    "userId": "u1",
    "couponId": "k1",
    "target": "Both",
}
"""Everything is of one order, one cart and so on, and told to everybody who may be told."""

PATH_IDS = {
    "restaurant_id": "r1",
    "order_id": "o1",
    "customer_key": "c1",
    "cart_id": "t1",
    "correlation_id": "w1",
    "coupon_id": "k1",
}
ANOTHER_MEMBER = {"TeamCartMemberLeft": {"memberId": "m2"}, "TeamCartMemberRemoved": {"memberId": "m2"}}
"""Whoever has left is told of nothing more."""


@pytest.fixture
def database_kind() -> str:
    """No answer of a database is looked at here."""
    return "sqlite"


def resolved(told: dict[str, Any], node: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in node:
        reference, node = node["$ref"], told
        for part in reference.removeprefix("#/").split("/"):
            node = node[part]
    return node


def closed(node: Any) -> Any:
    """A schema by which an object has no field that it does not name."""
    if isinstance(node, list):
        return [closed(each) for each in node]
    if not isinstance(node, dict):
        return node
    extra = {"additionalProperties": False} if "properties" in node and node.get("type") == "object" else {}
    return {name: closed(value) for name, value in node.items()} | extra


class Messages:
    """What the document says of one channel's messages."""

    def __init__(self, told: dict[str, Any], channel: str) -> None:
        self.names = set(told["channels"][channel]["messages"])
        components = {"schemas": closed(told["components"]["schemas"])}
        self._validators = {
            name: jsonschema_rs.validator_for(
                {**closed(resolved(told, message)["payload"]), "components": components}, validate_formats=True
            )
            for name, message in told["channels"][channel]["messages"].items()
        }

    def check(self, name: str, payload: object) -> None:
        assert name in self.names, f"{name} is not among the channel's messages"
        wrong = [str(error) for error in self._validators[name].iter_errors(payload)]
        assert not wrong, (name, payload, wrong)


def test_document_is_valid_by_the_schema_of_the_specification() -> None:
    specification = json.loads(SPECIFICATION.read_text())
    wrong = [
        (each.instance_path, each.message)
        for each in jsonschema_rs.validator_for(specification).iter_errors(document())
    ]
    assert wrong == []


def test_every_reference_leads_somewhere() -> None:
    told = document()

    def look(node: Any) -> None:
        if isinstance(node, dict):
            resolved(told, node)
            node = list(node.values())
        if isinstance(node, list):
            for each in node:
                look(each)

    look(told)


def test_json_schemas_are_one_valid_schema_of_every_event_and_view() -> None:
    told = json_schemas()
    jsonschema_rs.meta.validate(told)
    wanted = {cell.view_type.__name__ for row in MATRIX.values() for cell in row.told.values()}
    assert wanted | set(EVENT_TYPES) | {"OrderCommand"} <= set(told["$defs"])


@pytest.mark.parametrize("name", EVENT_TYPES)
def test_address_of_an_event_is_the_subject_that_it_stands_under(name: str) -> None:
    event = decode(json.dumps(Markers().body(name, **(IDS if name in TOLD else {}))).encode())
    ids = {
        each: getattr(event, each)
        for each in ("restaurant_id", "order_id", "team_cart_id", "correlation_id")
        if hasattr(event, each)
    }
    ids |= {each: getattr(event, each, "") for each in ("customer_key", "coupon_id")}
    ids["revoked"] = getattr(event, "jti", "")
    assert subject_of(type(event)).format_map(ids) == event.log_subject()
    assert document()["channels"][f"EVENTS.{name}"]["address"] == subject_of(type(event))


@pytest.mark.parametrize("name", EVENT_TYPES)
def test_schema_of_an_event_takes_what_the_gateway_takes(name: str) -> None:
    messages = Messages(document(), f"EVENTS.{name}")
    messages.check(name, sample(name))
    messages.check(name, Markers().body(name))
    with pytest.raises(AssertionError):
        messages.check(name, {"type": name})


def test_command_prints_the_documents() -> None:
    def printed(name: str) -> str:
        done = CliRunner().invoke(schema, [name])
        assert done.exit_code == 0, done.output
        return done.output

    assert json.loads(printed("asyncapi")) == document()
    assert json.loads(printed("json")) == json_schemas()
    page = printed("topics")
    for each in (*EVENT_TYPES, *(f"`{audience}`" for audience in Audience), *POLICIES):
        assert each in page, each


async def test_gateway_serves_the_document_to_anybody(rest: Rest) -> None:
    answer = await rest.http.get("/schema/asyncapi.json")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/vnd.aai.asyncapi+json;version=3.0.0"
    assert answer.json() == document()


# -- What is really sent -----------------------------------------------------------------------------------------------


def request_of(gateway: RunningGateway, audience: Audience) -> StreamRequest:
    """A request of somebody's who may, at the document's address."""
    who: dict[Audience, tuple[str, dict[str, Any]]] = {
        Audience.RESTAURANT: ("owner", {"restaurants": {"r1": "owner"}}),
        Audience.PARTNER: ("owner", {"restaurants": {"r1": "owner"}}),
        Audience.FINANCE: ("owner", {"restaurants": {"r1": "owner"}}),
        Audience.ORDER: ("c1", {}),
        Audience.CUSTOMER: ("c1", {}),
        Audience.COUPON: ("marketer", {"scopes": ["marketing:read"]}),
        Audience.MARKETING: ("marketer", {"scopes": ["marketing:read"]}),
        Audience.CART: ("m1", {}),
        Audience.WORKFLOW: ("u1", {}),
    }
    subject, claims = who[audience]
    address = document()["channels"][audience]["address"].format_map(PATH_IDS)
    return StreamRequest(gateway.url + address, token=gateway.token(subject, **claims))


async def publish_everything(passline: Passline) -> None:
    """Every event that anybody is told of: with its required fields alone, and with all that it may say."""
    for name in TOLD:
        for suffix, body in (("little", sample(name)), ("all", Markers().body(name))):
            ids = {field: value for field, value in IDS.items() if field in body or field == "target"}
            await append(passline, {**body, **ids, **ANOTHER_MEMBER.get(name, {}), "eventId": f"{name}-{suffix}"})


async def append(passline: Passline, body: dict[str, Any]) -> int:
    """Publish an event as it is. Returns its sequence."""
    event = decode(json.dumps(body).encode())
    answer = await publish(passline.nc, event.log_subject(), json.dumps(body).encode(), {"Nats-Msg-Id": event.event_id})
    return int(answer["seq"])


async def guests_request(gateway: RunningGateway) -> StreamRequest:
    """A request by a tracking link."""
    async with httpx.AsyncClient(base_url=gateway.url, timeout=10) as http:
        headers = {"authorization": f"Bearer {gateway.token('c1')}"}
        answer = await http.post(f"{API}/orders/o1/guest-pass", headers=headers)
    assert answer.status_code == 201, answer.text
    address = document()["channels"][Audience.GUEST]["address"].format_map(PATH_IDS)
    return StreamRequest(f"{gateway.url}{address}?pass={answer.json()['pass']}")


async def read_until(stream: SseStream, names: set[str]) -> list[Block]:
    """Blocks, until there were all of the names twice; a heartbeat is a block without a name."""
    blocks: list[Block] = []
    while any(sum(block.event == name for block in blocks) < 2 for name in names):
        block = await stream.next_block()
        assert block is not None
        blocks.append(block)
    return blocks


async def test_everything_that_a_gateway_sends_is_as_the_document_says(passline: Passline) -> None:
    told = document()
    gateway = await passline.gateway(show_platform_fee=True, team_carts=True)
    for name in ("OrderPlaced", "TeamCartCreated", "WorkflowBound"):
        body = sample(name, eventId=f"first-{name}")
        last = await append(passline, body | {field: value for field, value in IDS.items() if field in body})
    await applied(gateway, last)
    async with AsyncExitStack() as stack:
        streams = {
            audience: await stack.enter_async_context(
                open_stream(
                    await guests_request(gateway) if audience is Audience.GUEST else request_of(gateway, audience)
                )
            )
            for audience in Audience
        }
        for stream in streams.values():
            assert stream.status == 200
        await publish_everything(passline)
        for audience, stream in streams.items():
            messages = Messages(told, audience)
            wanted = {cell.name for row in MATRIX.values() if (cell := row.told.get(audience)) is not None}
            assert wanted <= messages.names
            for block in await read_until(stream, wanted):
                messages.check(block.event or "heartbeat", json.loads(block.data or "null"))


async def test_signals_are_as_the_document_says(rest: Rest) -> None:
    await rest.happened(rest.event("OrderPlaced"))
    signals: list[dict[str, Any]] = [
        {"type": "courier_position", "lat": 52.52, "lon": 13.405, "heading": 90.5, "accuracy": 3},
        {"type": "viewing"},
        {"type": "typing", "role": "chef"},
    ]
    shown = {Audience.ORDER: 3, Audience.GUEST: 1}
    sender = rest.bearer("owner", restaurants={"r1": "owner"})
    async with (
        open_stream(request_of(rest.gateway, Audience.ORDER)) as order,
        open_stream(await guests_request(rest.gateway)) as guest,
    ):
        for stream in (order, guest):
            await stream.next_event("snapshot")
        for signal in signals:
            answer = await rest.http.post(f"{API}/orders/o1/signals", json=signal, headers=sender)
            assert answer.status_code == 202, answer.text
        for audience, stream in ((Audience.ORDER, order), (Audience.GUEST, guest)):
            messages = Messages(document(), audience)
            for _ in range(shown[audience]):
                messages.check("ReceiveSignal", said(await stream.next_event("ReceiveSignal")))


async def test_reset_is_as_the_document_says(rest: Rest) -> None:
    await rest.happened(rest.event("OrderPlaced"))
    messages = Messages(document(), Audience.RESTAURANT)
    for given in ("nonsense", "other-1"):
        async with open_stream(rest.gateway.kitchen("r1", last_event_id=given)) as stream:
            opened = said(await stream.next_event("stream.opened"))
        assert opened["verdict"] == "reset"
        messages.check("stream.opened", opened)
    lost = {"from": "k3f9-1", "to": "k3f9-7"}
    messages.check("stream.opened", opened | {"reason": "expired", "lost": lost})


def test_words_at_the_end_of_a_stream_are_as_the_document_says() -> None:
    encoder, messages = SseEncoder(), Messages(document(), Audience.RESTAURANT)
    blocks = [encoder.closing(end) for end in End if end not in (End.STALLED, End.GONE)]
    for block in EventStreamParser().feed(b"".join([*blocks, encoder.expiring(60.0)])):
        messages.check(block.type, said(block))


def test_every_audience_has_a_policy_and_a_channel() -> None:
    assert set(AUDIENCES) == set(Audience)
    assert set(document()["channels"]) >= OF_A_STREAM
