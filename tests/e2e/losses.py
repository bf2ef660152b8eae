"""Those of the district who have something until the log takes it back: each of them by another kind of fact."""

from __future__ import annotations

import base64
import json
from functools import partial
from typing import TYPE_CHECKING, Any

import httpx

from tests.e2e.district import CUSTOMERS, RESTAURANTS, WORKFLOWS, customer_topic
from tests.support.nats import eventually

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.e2e.district import District

FIRST, SECOND, *_ = RESTAURANTS


class Losses:
    """`prepare` gives everybody what is theirs and makes their clients; each of `due` takes something from somebody."""

    def __init__(self, district: District, url: str) -> None:
        self.due: list[Callable[[], Awaitable[None]]] = []
        self._district = district
        self._url = f"{url}/api/v1"

    async def prepare(self) -> None:
        async with httpx.AsyncClient(base_url=self._url, timeout=10, trust_env=False) as http:
            await self._staff()
            await self._guests(http)
            await self._devices(http)
            await self._workflows(http)
            self._tokens()
        self._district.random.shuffle(self.due)

    async def _staff(self) -> None:
        district = self._district
        for subject, restaurant, role in (
            ("cook", FIRST, "staff"),
            ("auditor", FIRST, "finance"),
            ("deputy", FIRST, "owner"),
            ("deputy", SECOND, "owner"),
        ):
            fact = {"restaurantId": restaurant, "subject": subject, "role": role}
            await district.publish(district.event("StaffAssigned", **fact))
        district.client("cook", f"restaurants/{FIRST}", district.token("cook"))
        district.client("auditor", f"finance/{FIRST}", district.token("auditor"))
        for restaurant in (FIRST, SECOND):
            for kind in ("restaurants", "partners", "finance"):
                district.grant("deputy", f"{kind}/{restaurant}")
        district.client_of_several("deputy", district.token("deputy"))
        self.due += [
            partial(self._lose, "cook", "StaffRevoked", restaurantId=FIRST, subject="cook"),
            partial(self._lose, "auditor", "StaffRevoked", restaurantId=FIRST, subject="auditor", role="finance"),
            partial(self._lose, "deputy", "StaffRevoked", restaurantId=SECOND, subject="deputy", only=SECOND),
        ]

    async def _guests(self, http: httpx.AsyncClient) -> None:
        for number, customer in enumerate(CUSTOMERS[:3]):
            order, bearer = f"order-{number}", self._bearer(customer)
            answer = await http.post(f"/orders/{order}/guest-pass", headers=bearer)
            assert answer.status_code == 201, answer.text
            name, issued = f"guest of {order}", answer.json()
            self._district.client(name, f"orders/{order}", issued["pass"], called=f"guests/{order}")
            if number == 0:
                fact = {"orderId": order, "passId": issued["passId"]}
                self.due.append(partial(self._lose, name, "PassRevoked", **fact))

    async def _devices(self, http: httpx.AsyncClient) -> None:
        for restaurant in (FIRST, SECOND):
            owner = self._bearer(f"owner-of-{restaurant}", restaurants={restaurant: "owner"})
            answer = await http.post(f"/restaurants/{restaurant}/devices/pairing", headers=owner)
            device = await self._register(http, answer.json()["code"])
            key = {"authorization": f"Device {device['key']}"}
            traded = await http.post("/devices/pass", headers=key)
            name = f"screen of {restaurant}"
            self._district.client(name, f"partners/{restaurant}", traded.json()["pass"])
            if restaurant == FIRST:
                fact = {"restaurantId": restaurant, "deviceId": device["deviceId"]}
                self.due.append(partial(self._lose, name, "DeviceRevoked", **fact))

    async def _register(self, http: httpx.AsyncClient, code: str) -> dict[str, Any]:
        """Codes are not to be guessed, so there may be a moment to wait."""
        found: dict[str, Any] = {}

        async def is_registered() -> bool:
            answer = await http.post("/devices", json={"code": code, "name": "Screen"})
            found.update(answer.json())
            return answer.status_code == 201

        await eventually(is_registered, within=10)
        return found

    async def _workflows(self, http: httpx.AsyncClient) -> None:
        district = self._district
        for number, workflow in enumerate(WORKFLOWS):
            user = f"user-{number}"
            answer = await http.post(f"/workflows/{workflow}", headers=self._bearer(user))
            assert answer.status_code == 201, answer.text
            district.client(user, f"workflows/{workflow}", district.token(user))
        contested, heir = WORKFLOWS[0], "heir"
        district.grants[heir] = []
        district.client(heir, f"workflows/{contested}", district.token(heir))

        async def accepted_for_another() -> None:
            await self._lose("user-0", "WorkflowAccepted", correlationId=contested, userId=heir)
            district.grant(heir, f"workflows/{contested}")

        self.due.append(accepted_for_another)

    def _tokens(self) -> None:
        district = self._district
        lost = district.token("chef-with-a-lost-token", restaurants={SECOND: "staff"})
        payload = lost.split(".")[1]
        jti = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["jti"]
        district.client("lost token", f"restaurants/{SECOND}", lost)
        customer = CUSTOMERS[7]
        district.client("locked out", customer_topic(customer), district.token(customer))
        self.due += [
            partial(self._lose, "lost token", "TokenRevoked", jti=jti),
            partial(self._lose, "locked out", "TokenRevoked", also=customer, subject=customer),
        ]

    async def _lose(self, name: str, kind: str, *, only: str = "", also: str = "", **fields: Any) -> None:
        """`only` what is of one restaurant; `also` another client of the same person."""
        district = self._district
        (place,) = await district.publish(district.event(kind, **fields))
        for each in filter(None, (name, also)):
            topics = [topic for topic in district.topics_now(each) if topic.endswith(only)]
            district.take_back(*topics, before=place, names=(each,))

    def _bearer(self, subject: str, **claims: Any) -> dict[str, str]:
        return {"authorization": f"Bearer {self._district.token(subject, **claims)}"}
