"""The demo's dinner: friends fill a cart, it becomes an order, the kitchen's screen accepts it, it is late, and comes.

Everybody in it is a client of the gateway, with a token or a pass of their own, and does over HTTP what they would do
elsewhere. It shows how the audiences hang together, and that nothing here needs to know the gateway from inside.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import secrets
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import httpx
import msgspec
import structlog

from gateway.errors import GatewayError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from gateway.town import Customer, Restaurant

PROMISED_SECONDS: Final = 40
"""The kitchen promises the dinner for then, and does not keep it: an alarm follows."""

_BEAT_SECONDS = 3.0  # between two things that people do
_PAUSE_SECONDS = 30.0  # between two dinners
_RETRY_SECONDS = 2.0
_PATIENCE_SECONDS = 180.0
_PASS_SECONDS = 600.0  # a device's pass is renewed long before its 15 minutes are over
_CURRENCY = "EUR"
_COUPON = "friends-10"

_log = structlog.get_logger()


class DinnerSpoiled(GatewayError):
    """Something was refused that should not have been."""


class Diners(msgspec.Struct, frozen=True):
    """Who eats, and where. `bearer` makes a token: for a subject, with more claims as `mint_token` takes them."""

    restaurant: Restaurant
    host: Customer
    friend: Customer
    bearer: Callable[..., str]


class Dinner:
    """One dinner after another at the gateway at `url`. `tell` is called with what may be watched: about it, and a line
    to paste.
    """

    def __init__(self, url: str, diners: Diners, tell: Callable[[str, str], None]) -> None:
        self._url = url
        self._diners = diners
        self._tell = tell
        self._key: str | None = None
        self._headers: dict[str, dict[str, str]] = {}
        self.cart_id = f"cart-{secrets.token_hex(4)}"

    async def run(self) -> None:
        """Until cancelled. What spoils a dinner is told in the log, and the next one is begun."""
        while True:
            try:
                async with httpx.AsyncClient(base_url=f"{self._url}/api/v1", timeout=10) as http:
                    await self._have_dinner(http)
                pause = _PAUSE_SECONDS
            except (httpx.HTTPError, DinnerSpoiled, TimeoutError) as error:
                _log.warning("dinner.spoiled", reason=str(error) or type(error).__name__)
                pause = _RETRY_SECONDS
            self.cart_id = f"cart-{secrets.token_hex(4)}"
            await asyncio.sleep(pause)

    async def _have_dinner(self, http: httpx.AsyncClient) -> None:
        order_id, correlation_id = f"dinner-{secrets.token_hex(4)}", f"request-{secrets.token_hex(4)}"
        async with self._screen(http) as (screen, device_pass), asyncio.timeout(_PATIENCE_SECONDS):
            await self._fill_cart(http)
            await self._become_order(http, order_id, correlation_id)
            await self._invite(http, order_id)
            await self._cook(http, order_id, screen, device_pass)
            await self._bring(http, order_id)

    # -- The cart ------------------------------------------------------------------------------------------------------

    async def _fill_cart(self, http: httpx.AsyncClient) -> None:
        host, friend = self._diners.host, self._diners.friend
        (dish, cents), (drink, drink_cents) = self._diners.restaurant.menu[:2]
        await self._happened(http, "TeamCartCreated", memberId=host.identity, memberName=host.name)
        watched = f"{self._url}/api/v1/carts/{self.cart_id}/events"
        self._tell(
            f"{host.name} and {friend.name} fill a cart together",
            f'curl -N -H "Authorization: {self._as(host.identity)["authorization"]}" {watched}',
        )
        await self._happened(http, "TeamCartMemberJoined", memberId=friend.identity, memberName=friend.name)
        for number, (who, name, price) in enumerate(((host, dish, cents), (friend, drink, drink_cents)), 1):
            item = {"itemId": f"item-{number}", "name": name, "quantity": 1, "unitPrice": _money(price)}
            await self._happened(http, "TeamCartItemAdded", memberId=who.identity, item=item)
        await self._happened(http, "TeamCartQuoteUpdated", total=_money(cents + drink_cents))
        await self._happened(http, "TeamCartLockedForPayment", memberId=host.identity)
        await self._happened(http, "TeamCartPaymentAuthorized", memberId=host.identity, amount=_money(cents))
        await self._happened(http, "TeamCartPaymentAuthorized", memberId=friend.identity, amount=_money(drink_cents))

    async def _become_order(self, http: httpx.AsyncClient, order_id: str, correlation_id: str) -> None:
        host, restaurant = self._diners.host, self._diners.restaurant
        await _post(http, f"/workflows/{correlation_id}", self._as(host.identity))
        lines = [{"name": name, "quantity": 1, "unitPrice": _money(cents)} for name, cents in restaurant.menu[:2]]
        total = sum(cents for _, cents in restaurant.menu[:2])
        await self._publish(
            http,
            _event("WorkflowAccepted", correlationId=correlation_id, userId=host.identity),
            self._cart_event("TeamCartConverted", orderId=order_id, restaurantId=restaurant.id),
            _event("CouponUsed", couponId=_COUPON, previousUsageCount=41, newUsageCount=42, usedAt=_now()),
            self._order_event("OrderPlaced", order_id, customerName=host.name, items=lines, total=_money(total)),
            self._order_event("OrderPaymentSucceeded", order_id),
            {"type": "OrderProcessed", "correlationId": correlation_id, "orderId": order_id, "occurredAtUtc": _now()},
        )

    async def _invite(self, http: httpx.AsyncClient, order_id: str) -> None:
        given = await _post(http, f"/orders/{order_id}/guest-pass", self._as(self._diners.host.identity))
        stream = f"{self._url}/api/v1/orders/{order_id}/events?pass={given['pass']}"
        self._tell("The cart has become an order; a guest sees it come by this link", f"curl -N '{stream}'")

    # -- The kitchen ---------------------------------------------------------------------------------------------------

    async def _cook(
        self, http: httpx.AsyncClient, order_id: str, screen: asyncio.Queue[tuple[str, dict[str, Any]]], shown: str
    ) -> None:
        device = {"authorization": f"Bearer {shown}"}
        await _shows(screen, "NewOrder", order_id)
        await asyncio.sleep(_BEAT_SECONDS)
        promised = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=PROMISED_SECONDS)
        said = {"estimatedDeliveryTime": promised.isoformat()}
        await _post(http, f"/orders/{order_id}/accept", device, said)
        await _shows(screen, "OrderAccepted", order_id)
        await _post(http, f"/orders/{order_id}/preparing", device)
        await _shows(screen, "ReceiveOrderDelayed", order_id)
        later = (promised + dt.timedelta(minutes=1)).isoformat()
        await self._publish(http, self._order_event("OrderEtaUpdated", order_id, estimatedDeliveryTime=later))
        await asyncio.sleep(_BEAT_SECONDS)
        await _post(http, f"/orders/{order_id}/ready", device)
        await _shows(screen, "OrderReadyForDelivery", order_id)

    async def _bring(self, http: httpx.AsyncClient, order_id: str) -> None:
        courier = self._as("courier-1", scopes=["courier"])
        for step in range(5):
            position = {"type": "courier_position", "lat": 52.52 + step / 1000, "lon": 13.405 + step / 1000}
            await _post(http, f"/orders/{order_id}/signals", courier, position)
            await asyncio.sleep(_BEAT_SECONDS / 2)
        await _post(http, f"/orders/{order_id}/delivered", courier)
        restaurant = self._diners.restaurant
        total = sum(cents for _, cents in restaurant.menu[:2])
        account = {
            "restaurantAccountId": f"account-{restaurant.id}",
            "restaurantId": restaurant.id,
            "orderId": order_id,
        }
        revenue = {"amount": _money(total), "newBalance": _money(250_000 + total)}
        fee = {"amount": _money(total // 12), "newBalance": _money(250_000 + total - total // 12)}
        await self._publish(
            http, _event("RevenueRecorded", **account, **revenue), _event("PlatformFeeRecorded", **account, **fee)
        )

    @asynccontextmanager
    async def _screen(
        self, http: httpx.AsyncClient
    ) -> AsyncIterator[tuple[asyncio.Queue[tuple[str, dict[str, Any]]], str]]:
        """A screen in the kitchen, paired once: what its stream shows, and a pass of its."""
        if self._key is None:
            owner = self._as(self._diners.restaurant.owner)
            paired = await _post(http, f"/restaurants/{self._diners.restaurant.id}/devices/pairing", owner)
            device = await _post(http, "/devices", {}, {"code": paired["code"], "name": "Screen by the oven"})
            self._key = device["key"]
        shown = (await _post(http, "/devices/pass", {"authorization": f"Device {self._key}"}))["pass"]
        screen: asyncio.Queue[tuple[str, dict[str, Any]]] = asyncio.Queue()
        path = f"/partners/{self._diners.restaurant.id}/events"
        watching = asyncio.create_task(_watch(self._url + "/api/v1" + path, shown, screen))
        try:
            yield screen, shown
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    # -- Words ---------------------------------------------------------------------------------------------------------

    async def _happened(self, http: httpx.AsyncClient, name: str, **fields: Any) -> None:
        """One thing in the cart, and time to see it."""
        await self._publish(http, self._cart_event(name, **fields))
        await asyncio.sleep(_BEAT_SECONDS)

    async def _publish(self, http: httpx.AsyncClient, *events: dict[str, Any]) -> None:
        await _post(http, "/events", self._as("services", scopes=["events:publish"]), list(events))

    def _cart_event(self, name: str, **fields: Any) -> dict[str, Any]:
        return _event(name, teamCartId=self.cart_id, **fields)

    def _order_event(self, name: str, order_id: str, **fields: Any) -> dict[str, Any]:
        whose = {"restaurantId": self._diners.restaurant.id, "customerId": self._diners.host.identity}
        return _event(name, orderId=order_id, **whose, **fields)

    def _as(self, subject: str, **claims: Any) -> dict[str, str]:
        if subject not in self._headers:
            self._headers[subject] = {"authorization": f"Bearer {self._diners.bearer(subject, **claims)}"}
        return self._headers[subject]


async def _post(http: httpx.AsyncClient, path: str, headers: dict[str, str], body: Any = None) -> Any:
    answer = await http.post(path, headers=headers, json=body)
    if answer.status_code >= 300 or answer.status_code == 207:
        raise DinnerSpoiled(f"POST {path.partition('?')[0]} was answered by {answer.status_code}")
    return answer.json() if answer.content else None


async def _watch(url: str, shown: str, screen: asyncio.Queue[tuple[str, dict[str, Any]]]) -> None:
    """What a screen does: read its stream, and come back where it stopped."""
    last_id = ""
    while True:
        headers = {"authorization": f"Bearer {shown}", **({"last-event-id": last_id} if last_id else {})}
        try:
            async with (
                httpx.AsyncClient(timeout=httpx.Timeout(10, read=60)) as http,
                http.stream("GET", url, headers=headers) as stream,
            ):
                name = data = ""
                async for line in stream.aiter_lines():
                    field, _, value = line.partition(": ")
                    if field == "event":
                        name = value
                    elif field == "data":
                        data = value
                    elif field == "id":
                        last_id = value
                    elif not line and name and data:
                        screen.put_nowait((name, json.loads(data)))
                        name = data = ""
        except httpx.HTTPError as error:
            _log.debug("dinner.screen_cut", reason=type(error).__name__)
        await asyncio.sleep(_RETRY_SECONDS)


async def _shows(screen: asyncio.Queue[tuple[str, dict[str, Any]]], name: str, order_id: str) -> None:
    """Wait until the screen has shown it."""
    while True:
        shown, data = await screen.get()
        if shown == name and data.get("orderId") == order_id:
            return


def _event(name: str, **fields: Any) -> dict[str, Any]:
    return {"type": name, "eventId": f"event-{secrets.token_hex(8)}", "occurredOnUtc": _now(), **fields}


def _money(cents: int) -> dict[str, str]:
    return {"amount": f"{cents // 100}.{cents % 100:02}", "currency": _CURRENCY}


def _now() -> str:
    return dt.datetime.now(dt.UTC).isoformat()
