"""Nobody is sent what is not theirs, by whatever they ask for, and the log of the processes tells no secret.

Real processes, of two towns full of markers: everybody asks every endpoint about either, gets the streams they may have
from the log's beginning and with their snapshots, and makes every mistake. All that they were sent, and all that was
logged at the level `debug`, is then searched for what should not be there.
"""

from __future__ import annotations

import asyncio
import json
import re
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import httpx
import pytest

from auth.keys import development_key
from auth.tokens import mint
from tests.gateway.marked_world import (
    EVERYWHERE,
    PARAMETERS,
    ROLES,
    SIDES,
    TOPICS,
    Mark,
    Person,
    is_told,
    marked_events,
    may_be_logged,
    may_see,
    shared,
    those_beside,
)
from tests.support.nats import eventually
from tests.support.processes import PasslineProcess
from tests.support.sse_client import StreamRequest, open_stream

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ENVIRONMENT = {
    "PASSLINE_LOG_LEVEL": "debug",
    "PASSLINE_LOG_FORMAT": "json",
    "PASSLINE_TEAM_CARTS": "1",
    "PASSLINE_HEARTBEAT_SECONDS": "0.1",
    "PASSLINE_SIGNALS_PER_SECOND": "0",
}
WRONG = "nonsense-mark"
SECRET = "secret-mark"
QUERY = "query-mark"
BODIES: dict[str, Any] = {
    "signals": {"type": "typing", "role": "chef"},
    "reject": {"reason": f"{WRONG}-reason"},
    "cancel": {"reason": f"{WRONG}-reason"},
    "accept": {"estimatedDeliveryTime": "2199-01-01T00:00:00Z"},
    "devices": {"code": f"{SECRET}-code", "name": "Screen"},
}


WITH_A_SNAPSHOT = {"owner", "staff", "device", "customer", "neighbour", "guest", "member", "mate", "user"}


class Sent(NamedTuple):
    """What somebody was sent for what."""

    person: Person
    asked: str
    status: int
    text: str


@dataclass
class World:
    """Everybody, and all that was found out."""

    passline: PasslineProcess
    http: httpx.AsyncClient
    marks: dict[str, Mark] = field(default_factory=dict)
    people: list[Person] = field(default_factory=list)
    secrets: set[str] = field(default_factory=set)
    sent: list[Sent] = field(default_factory=list)
    head: int = 0
    epoch: str = ""

    def token(self, subject: str, **claims: Any) -> str:
        key = development_key(self.passline.data_dir)
        token = mint(
            signing_key=key, issuer="passline", audience="passline", subject=subject, life_seconds=3600, **claims
        )
        self.secrets.add(token)
        return token

    def bearer(self, subject: str, **claims: Any) -> dict[str, str]:
        return {"authorization": f"Bearer {self.token(subject, **claims)}"}

    # -- who and what there is -----------------------------------------------------------------------------------------

    async def publish(self) -> None:
        """Everything on both sides."""
        service = self.bearer("publisher", scopes=["events:publish", "access:publish"])
        for side in SIDES:
            self.marks |= {text: Mark(side, "", name) for name, text in shared(side).items()}
            for name, body, markers in marked_events(side):
                self.marks |= {marker: Mark(side, name, path.split("/")[1]) for path, marker in markers.of.items()}
                beside = those_beside(side) if name == "TeamCartCreated" else []
                answer = await self.http.post("/events", json=[body, *beside], headers=service)
                assert answer.status_code == 200, f"{name}: {answer.text}"
                self.epoch, _, head = answer.json()["results"][-1]["cursor"].rpartition("-")
                self.head = max(self.head, int(head))
        wanted = {mark.event for mark in self.marks.values()}
        assert len(wanted) > 40

    async def settle(self) -> None:
        """Everybody arrives, with what they show."""
        for side in SIDES:
            for role, claims in (
                *(("owner", {"restaurants": {shared(side)["restaurantId"]: "owner"}}),),
                *(("staff", {"restaurants": {shared(side)["restaurantId"]: "staff"}}),),
                *(("finance", {"restaurants": {shared(side)["restaurantId"]: "finance"}}),),
                *((role, {}) for role in ("customer", "neighbour", "member", "mate", "user")),
            ):
                self.people.append(Person(role, side, self.bearer(shared(side)[f"{role}Identity"], **claims)))
            await self._guest(side)
            await self._device(side)
        for role, scopes in (
            ("marketing", ["marketing:read"]),
            ("courier", ["courier"]),
            ("commander", ["orders:command"]),
            ("issuer", ["passes:issue"]),
            ("publisher", ["events:publish", "access:publish"]),
            ("stranger", []),
        ):
            self.people.append(Person(role, "", self.bearer(role, scopes=scopes)))
        self.people.append(Person("nobody", "", {}))
        assert {person.role for person in self.people} == set(ROLES)

    def person(self, role: str, side: str) -> Person:
        return next(each for each in self.people if (each.role, each.side) == (role, side))

    async def _guest(self, side: str) -> None:
        customer = self.person("customer", side)
        answer = await self.http.post(f"/orders/{shared(side)['orderId']}/guest-pass", headers=customer.headers)
        self._show("guest", side, answer.json()["pass"])

    async def _device(self, side: str) -> None:
        of, owner = shared(side), self.person("owner", side)
        opened = await self.http.post(f"/restaurants/{of['restaurantId']}/devices/pairing", headers=owner.headers)
        code, found = opened.json()["code"], dict[str, str]()

        async def is_registered() -> bool:  # codes are not to be guessed, so there may be a moment to wait
            answer = await self.http.post("/devices", json={"code": code, "name": of["deviceName"]})
            found.update(answer.json())
            return answer.status_code == 201

        await eventually(is_registered, within=10)
        traded = await self.http.post("/devices/pass", headers={"authorization": f"Device {found['key']}"})
        self.secrets |= {code, code.replace("-", ""), found["key"]}
        self._show("device", side, traded.json()["pass"])

    def _show(self, role: str, side: str, text: str) -> None:
        self.secrets.add(text)
        self.people.append(Person(role, side, {"authorization": f"Bearer {text}"}))

    # -- asking --------------------------------------------------------------------------------------------------------

    async def ask_all(self, person: Person, routes: list[tuple[str, str]]) -> None:
        """Every endpoint about both sides, and every mistake."""
        for method, template in routes:
            for path in self._paths(method, template):
                body = BODIES.get(template.rpartition("/")[2])
                if method == "GET" and template.endswith("/events"):
                    await self._streams(person, path)
                else:
                    await self._ask(person, method, path, body)
            wrong = re.sub(r"\{[a-z_]+\}", f"{WRONG}.id", template)
            if method != "GET" or wrong != template:
                await self._ask(person, method, wrong, {WRONG: [WRONG]})

    def _paths(self, method: str, template: str) -> list[str]:
        """Of both sides; what changes nothing also about the order beside."""
        named = {mark: marker for marker, mark in self.marks.items()}
        found: list[str] = []
        for side in SIDES:
            of = shared(side)
            known = {parameter: of[field] for parameter, field in PARAMETERS.items()}
            known["pass_id"] = named[Mark(side, "PassIssued", "passId")]
            known["device_id"] = named[Mark(side, "DeviceRevoked", "deviceId")]
            beside = known | {"order_id": of["othersId"], "customer_key": of["neighbourKey"]}
            templates = [f"{template}?{'&'.join(f'topic={topic}' for topic in topics)}" for topics in TOPICS]
            for each in templates if template == "/events" and method == "GET" else [template]:
                found += [each.format(**known), *([each.format(**beside)] if method == "GET" else [])]
        return list(dict.fromkeys(found))

    async def _ask(self, person: Person, method: str, path: str, body: Any = None) -> None:
        url = f"{path}{'&' if '?' in path else '?'}trace={QUERY}"
        sent = body if method == "POST" else None
        answer = await self.http.request(method, url, headers=person.headers, json=sent)
        text = f"{answer.headers} {answer.text}"
        self.sent.append(Sent(person, f"{method} {path} {json.dumps(body)}", answer.status_code, text))
        self.secrets |= set(re.findall(r"[A-Za-z0-9_-]{20,}\.[A-Za-z0-9_-]{20,}\.[A-Za-z0-9_-]{20,}", text))
        assert answer.status_code != 500, answer.text

    async def _streams(self, person: Person, path: str) -> None:
        """From the log's beginning, with a snapshot, and after a mistake."""
        url = f"{self.http.base_url}{path.removeprefix('/')}{'&' if '?' in path else '?'}trace={QUERY}"
        for begin in (f"{self.epoch}-0", "", *([] if "topic=" in path else [WRONG])):
            async with open_stream(StreamRequest(url, headers=person.headers, last_event_id=begin)) as stream:
                if stream.status == 200:
                    while (block := await stream.next_block()) is not None:
                        if block.id is not None and int(block.id.rpartition("-")[2]) >= self.head:
                            break
                else:
                    await stream.read_to_end()
                text = f"{stream.head} {stream.body.decode()}"
                self.sent.append(Sent(person, f"GET {path} from {begin}", stream.status, text))

    async def ask_with_wrong_secrets(self) -> None:
        for headers in (
            {"authorization": f"Bearer {SECRET}"},
            {"authorization": f"Device {SECRET}"},
            {"authorization": f"Basic {SECRET}"},
            {"cookie": f"__Host-passline={SECRET}; session={SECRET}"},
        ):
            person = Person("nobody", "", headers)
            for path in (f"/orders/{shared('left')['orderId']}?pass={SECRET}", "/marketing/events", "/devices/pass"):
                await self._ask(person, "POST" if path.startswith("/devices") else "GET", path)

    # -- judging -------------------------------------------------------------------------------------------------------

    def found_in(self, text: str) -> set[str]:
        """Markers. A number counts only where it stands alone: it may be a part of a time."""
        found = {marker for marker in self.marks if marker in text}
        return {each for each in found if not each.isdecimal() or re.search(rf"(?<![\d.]){each}(?!\d)", text)}

    def leaks_to_people(self) -> Iterator[str]:
        for person, asked, status, text in self.sent:
            for marker in self.found_in(text) - self.found_in(asked):
                mark = self.marks[marker]
                is_theirs = person.side == mark.side or (person.role in EVERYWHERE and not person.side)
                if not (is_theirs and may_see(person.role, mark)):
                    yield f"{person} was sent {mark} as {marker!r} with {status} for {asked}"
            if SECRET in text:
                yield f"{person} was sent back a wrong secret with {status} for {asked}"

    def leaks_to_logs(self) -> Iterator[str]:
        for line in self.passline.output.splitlines():
            for marker in self.found_in(line):
                if not may_be_logged(self.marks[marker]):
                    yield f"{self.marks[marker]} as {marker!r} was logged: {line}"
            for word in (WRONG, SECRET, QUERY, "trace="):
                if word in line:
                    yield f"{word} was logged: {line}"
            for secret in self.secrets:
                if secret in line or secret.rpartition(".")[2] in line:
                    yield f"a secret was logged: {line}"


@pytest.mark.timeout(90)
async def test_nobody_is_sent_what_is_not_theirs_and_no_secret_is_logged(tmp_path: Path) -> None:
    async with (
        PasslineProcess("serve", data_dir=tmp_path / "data", environment=ENVIRONMENT) as passline,
        httpx.AsyncClient(base_url=f"{passline.url}/api/v1", timeout=20, trust_env=False) as http,
    ):
        world = World(passline, http)
        await world.publish()
        await world.settle()
        routes = await _routes(http)
        async with AsyncExitStack() as stack:
            for role, topic in (("staff", "restaurants"), ("device", "partners")):  # so that somebody is connected
                restaurant = shared("left")["restaurantId"]
                headers = world.person(role, "left").headers
                request = StreamRequest(f"{passline.url}/api/v1/{topic}/{restaurant}/events", headers=headers)
                await stack.enter_async_context(open_stream(request))
            await asyncio.gather(*(world.ask_all(person, routes) for person in world.people))
        await world.ask_with_wrong_secrets()
        leaks = [*world.leaks_to_people(), *world.leaks_to_logs()]
        assert not leaks, "\n".join(leaks[:50])
        unseen = _unseen(world)
        assert _roles_with_a_snapshot(world) == WITH_A_SNAPSHOT
        assert not unseen, f"this looks for less than there is to see: {sorted(unseen)}"


async def _routes(http: httpx.AsyncClient) -> list[tuple[str, str]]:
    document = (await http.get(str(http.base_url.join("/schema/openapi.json")))).json()
    found = [
        (method.upper(), path.removeprefix("/api/v1"))
        for path, item in document["paths"].items()
        for method in item
        if path.startswith("/api/v1/")
    ]
    assert len(found) > 30
    return found


def _unseen(world: World) -> set[tuple[str, Mark]]:
    """What somebody should have been sent, and was not."""
    wanted = {(role, mark) for role in ROLES for mark in world.marks.values() if mark.event and is_told(role, mark)}
    seen = {(sent.person.role, world.marks[marker]) for sent in world.sent for marker in world.found_in(sent.text)}
    return wanted - seen


def _roles_with_a_snapshot(world: World) -> set[str]:
    return {sent.person.role for sent in world.sent if "event: snapshot" in sent.text}
