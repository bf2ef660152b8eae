"""A district in which everybody watches: each kind of topic, one and several on a stream, and who loses what they had.

Whom an event is for is written out by hand in `topics_of`. What somebody may see is known by the places in the log at
which it was given and taken back.
"""

from __future__ import annotations

import itertools
from random import Random
from typing import TYPE_CHECKING, Any

from auth.keys import development_key
from auth.tokens import mint
from streams.subjects import identity_key
from tests.support.publishing import RecordingPublisher
from tests.support.reconnecting import ReconnectingClient, random_cuts, received
from tests.support.records import ClientLog, Grant, History, Position
from tests.support.sse_client import StreamRequest

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.event_stream import Block
    from tests.support.processes import PasslineProcess

RESTAURANTS = [f"restaurant-{number}" for number in range(5)]
CUSTOMERS = [f"auth0|customer-{number}" if number % 2 else f"customer-{number}" for number in range(8)]
COUPONS = ["spring", "summer", "winter"]
CARTS = ["cart-0", "cart-1", "cart-2"]
WORKFLOWS = ["flow-0", "flow-1", "flow-2", "flow-3"]
STEPS = ("OrderPaymentSucceeded", "OrderAccepted", "OrderPreparing", "OrderReadyForDelivery", "OrderDelivered")
IN_CART = ("TeamCartItemAdded", "TeamCartItemUpdated", "TeamCartItemRemoved", "TeamCartQuoteUpdated")
MONEY = {"amount": "25.00", "currency": "EUR"}

RESTAURANTS_SIDE = {"Restaurant", "Both"}
CUSTOMERS_SIDE = {"Customer", "Both"}


def topics_of(event: dict[str, Any]) -> list[str]:
    """Whom it is for. What an order's guests are shown is called `guests/<order>` here."""
    kind = event["type"]
    if kind.startswith("TeamCart"):
        return [f"carts/{event['teamCartId']}"]
    if kind == "CouponUsed":
        return [f"coupons/{event['couponId']}", "marketing"]
    if kind in ("RevenueRecorded", "PlatformFeeRecorded"):
        return [f"finance/{event['restaurantId']}"]
    if "correlationId" in event:
        return [f"workflows/{event['correlationId']}"]
    return _topics_of_order(event) if "customerId" in event else []


def _topics_of_order(event: dict[str, Any]) -> list[str]:
    side = event.get("target", "Both")
    topics = []
    if side in RESTAURANTS_SIDE:
        topics += [f"restaurants/{event['restaurantId']}", f"partners/{event['restaurantId']}"]
    if side in CUSTOMERS_SIDE:
        topics += [f"orders/{event['orderId']}", customer_topic(event["customerId"])]
        if not event["type"].startswith("Command"):
            topics.append(f"guests/{event['orderId']}")
    return topics


def customer_topic(customer: str) -> str:
    return f"customers/{identity_key(customer)}"


def is_event(block: Block) -> bool:
    """Whether a block stands for an entry of the log."""
    return received(block).event_id is not None


class Order:
    """An order, and how far it is."""

    def __init__(self, number: int, random: Random) -> None:
        self.id = f"order-{number}"
        self.restaurant = random.choice(RESTAURANTS)
        self.customer = CUSTOMERS[number % len(CUSTOMERS)]
        self.step = 0


class District:
    """`async with District(…) as district:` publishes, and knows who may see what; the test enters its `clients`.

    What is published, and where each client is cut, comes from `seed`.
    """

    def __init__(self, passline: PasslineProcess, seed: int) -> None:
        self.random = Random(seed)
        self.clients: list[ReconnectingClient] = []
        self.stuck: list[str] = []  # who never came to where the run ended
        self.grants: dict[str, list[Grant]] = {}  # of everybody, by the client's name
        self._seed = seed
        self._passline = passline
        self._key = development_key(passline.data_dir)
        token = self.token("everything", scopes=["events:publish", "access:publish"])
        self._publisher = RecordingPublisher(lambda: passline.url, token, topics_of)
        self._numbers = itertools.count(1)
        self._orders = [Order(number, self.random) for number in range(len(CUSTOMERS))]
        self._members = {(cart, f"member-{index}"): False for cart in CARTS for index in range(4)}

    async def __aenter__(self) -> District:
        await self._publisher.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._publisher.__aexit__()

    def token(self, subject: str, **claims: Any) -> str:
        key = self._key
        return mint(
            signing_key=key, issuer="passline", audience="passline", subject=subject, life_seconds=3600, **claims
        )

    # -- what happens --------------------------------------------------------------------------------------------------

    def event(self, kind: str, **fields: Any) -> dict[str, Any]:
        return {"type": kind, "eventId": f"e{next(self._numbers)}", "occurredOnUtc": "2026-11-20T10:00:00Z", **fields}

    def of_order(self, kind: str, order: Order, **fields: Any) -> dict[str, Any]:
        ids = {"orderId": order.id, "restaurantId": order.restaurant, "customerId": order.customer}
        return self.event(kind, **ids, **fields)

    async def publish(self, *events: dict[str, Any]) -> list[Position]:
        return await self._publisher.publish(list(events))

    async def begin(self) -> None:
        """What there is before anybody watches."""
        await self.publish(*(self.of_order("OrderPlaced", order) for order in self._orders))
        for (cart, member), _ in itertools.islice(self._members.items(), 0, None, 4):
            await self.join("TeamCartCreated", cart, member)
        for cart, member in list(self._members):
            if not self._members[cart, member] and self.random.random() < 0.5:
                await self.join("TeamCartMemberJoined", cart, member)

    async def live(self, steps: int) -> None:
        """So many steps, of some events each."""
        for _ in range(steps):
            await self.publish(*(self._something() for _ in range(self.random.randint(1, 6))))
            if self.random.random() < 0.15:
                await self._somebody_comes_or_goes()

    def _something(self) -> dict[str, Any]:
        choice = self.random.random()
        if choice < 0.55:
            return self._order_goes_on()
        if choice < 0.75:
            return self.event(self.random.choice(IN_CART), teamCartId=self.random.choice(CARTS))
        if choice < 0.85:
            kind = self.random.choice(("RevenueRecorded", "PlatformFeeRecorded"))
            booking = {"restaurantAccountId": "a1", "restaurantId": self.random.choice(RESTAURANTS)}
            return self.event(kind, **booking, amount=MONEY, newBalance=MONEY)
        if choice < 0.93:
            counts = {"previousUsageCount": 1, "newUsageCount": 2, "usedAt": "2026-11-20T10:00:00Z"}
            return self.event("CouponUsed", couponId=self.random.choice(COUPONS), **counts)
        return self.event("WorkflowProcessing", correlationId=self.random.choice(WORKFLOWS))

    def _order_goes_on(self) -> dict[str, Any]:
        order = self.random.choice(self._orders[-2 * len(CUSTOMERS) :])
        if self.random.random() < 0.15:
            self._orders.append(Order(len(self._orders), self.random))
            return self.of_order("OrderPlaced", self._orders[-1])
        if self.random.random() < 0.1:
            command = {"commandId": "k1", "command": "accept", "target": self.random.choice(("Restaurant", "Customer"))}
            return self.of_order(self.random.choice(("CommandRejected", "CommandExpired")), order, **command)
        if self.random.random() < 0.3:
            target = self.random.choice(({}, {"target": "Restaurant"}, {"target": "Customer"}, {"target": "Both"}))
            return self.of_order("OrderEtaUpdated", order, estimatedDeliveryTime="2026-11-20T11:00:00Z", **target)
        order.step += 1
        return self.of_order(STEPS[order.step % len(STEPS)], order)

    async def _somebody_comes_or_goes(self) -> None:
        (cart, member), is_in = self.random.choice(list(self._members.items()))
        if not is_in:
            await self.join("TeamCartMemberJoined", cart, member)
            return
        kind = self.random.choice(("TeamCartMemberLeft", "TeamCartMemberRemoved"))
        (place,) = await self.publish(self.event(kind, teamCartId=cart, memberId=member))
        self._members[cart, member] = False
        self.take_back(f"carts/{cart}", before=place, names=(member, f"{member} in {cart}"))

    async def join(self, kind: str, cart: str, member: str) -> None:
        (place,) = await self.publish(self.event(kind, teamCartId=cart, memberId=member))
        self._members[cart, member] = True
        for name in (member, f"{member} in {cart}"):
            self.grant(name, f"carts/{cart}", after=str(place))

    # -- who may see what ----------------------------------------------------------------------------------------------

    def grant(self, name: str, topic: str, after: str | None = None) -> None:
        self.grants.setdefault(name, []).append(Grant(topic, after))

    def take_back(self, *topics: str, before: Position, names: tuple[str, ...]) -> None:
        """Nobody of these is shown what stands at this place, or what follows."""
        upto = str(before._replace(sequence=before.sequence - 1))
        for name in names:
            self.grants[name] = [
                Grant(each.topic, each.after, upto) if each.topic in topics and each.upto is None else each
                for each in self.grants.get(name, [])
            ]

    def topics_now(self, name: str) -> list[str]:
        """What somebody may see now, as far as it is known here."""
        return [each.topic for each in self.grants[name] if each.upto is None]

    def some_topics(self, name: str) -> Callable[[], list[str]]:
        """Now these of them, now those, in any order: one cursor stands for all."""

        random = Random(f"{self._seed} topics of {name}")

        def choose() -> list[str]:
            topics = self.topics_now(name) or [each.topic for each in self.grants[name]]  # who lost all asks for that
            return random.sample(topics, random.randint(1, len(topics)))

        return choose

    # -- who watches ---------------------------------------------------------------------------------------------------

    def client(self, name: str, topic: str, token: str, called: str | None = None) -> ReconnectingClient:
        """One who watches one topic. `called` is its name in the record."""
        if name not in self.grants:
            self.grant(name, called or topic)
        path = {"finance": f"restaurants/{topic.partition('/')[2]}/finance"}.get(topic.partition("/")[0], topic)
        request = StreamRequest(f"{self._passline.url}/api/v1/{path}/events", token=token)
        return self._client(name, request, called={} if called is None else {topic: called})

    def client_of_several(self, name: str, token: str) -> ReconnectingClient:
        """One who asks for some of their topics, for others each time."""
        request = StreamRequest(f"{self._passline.url}/api/v1/events", token=token)
        return self._client(name, request, topics=self.some_topics(name))

    def _client(self, name: str, request: StreamRequest, **options: Any) -> ReconnectingClient:
        random = Random(f"{self._seed} {name}")

        def leaves_behind(block: Block) -> bool:
            """Most often in the middle of an entry that is for two of its topics."""
            return is_event(block) and random.random() < (0.6 if block.id is None else 0.2)

        client = ReconnectingClient(
            name,
            request,
            (),
            patience_seconds=0.2,
            pause_seconds=lambda _: random.uniform(0, 0.2),
            cuts=random_cuts(random, probability=0.6, upto=4_000),
            leaves_behind=leaves_behind,
            **options,
        )
        self.clients.append(client)
        return client

    def watch(self) -> None:
        """Make the clients of all who lose nothing."""
        self._watchers()
        self._watchers_of_several()

    def _watchers(self) -> None:
        """Those who need nothing but a token."""
        for restaurant in RESTAURANTS[:3]:
            chef = self.token(f"chef-{restaurant}", restaurants={restaurant: "staff"})
            self.client(f"kitchen of {restaurant}", f"restaurants/{restaurant}", chef)
            bookkeeper = self.token(f"bookkeeper-{restaurant}", restaurants={restaurant: "finance"})
            self.client(f"bookkeeper of {restaurant}", f"finance/{restaurant}", bookkeeper)
        for customer, order in zip(CUSTOMERS[:5], self._orders, strict=False):
            self.client(f"{customer}, all", customer_topic(customer), self.token(customer))
            self.client(f"{customer}, one", f"orders/{order.id}", self.token(customer))
        for topic in (f"coupons/{COUPONS[0]}", f"coupons/{COUPONS[1]}", "marketing"):
            self.client(f"analyst of {topic}", topic, self.token(f"analyst-{topic}", scopes=["marketing:read"]))
        for cart, member in self._members:
            self.grants.setdefault(f"{member} in {cart}", [])
            self.client(f"{member} in {cart}", f"carts/{cart}", self.token(member))

    def _watchers_of_several(self) -> None:
        for number in range(3):
            name = f"boss-{number}"
            for restaurant in RESTAURANTS:
                for kind in ("restaurants", "partners", "finance"):
                    self.grant(name, f"{kind}/{restaurant}")
            self.client_of_several(name, self.token(name, restaurants=dict.fromkeys(RESTAURANTS, "owner")))
        for customer, order in zip(CUSTOMERS[4:], self._orders[4:], strict=False):
            self.grant(customer, customer_topic(customer))
            self.grant(customer, f"orders/{order.id}")
            self.client_of_several(customer, self.token(customer))
        for member in sorted({member for _, member in self._members}):
            self.grant(member, customer_topic(member))
            self.client_of_several(member, self.token(member))

    # -- the end -------------------------------------------------------------------------------------------------------

    async def history(self) -> History:
        """When everybody has reached the end, or has been refused what was taken from them."""
        end = self._publisher.last_acknowledged
        for client in self.clients:
            log = client.log
            log.grants = tuple(self.grants[log.client])
            try:
                await self._settled(client, end, within=2 if self.stuck else 45)
            except TimeoutError:
                self.stuck.append(log.client)
        return History(self._publisher.published, [client.log for client in self.clients])

    async def _settled(self, client: ReconnectingClient, end: Position, within: float) -> None:
        if not self.topics_now(client.log.client):
            await client.until(lambda: _is_refused(client.log), within)
            return
        client.log.until = str(end)
        await client.until(lambda: _has_reached(client, end), within)


def _has_reached(client: ReconnectingClient, end: Position) -> bool:
    position = Position.parse(client.last_event_id)
    return position is not None and position >= end


def _is_refused(log: ClientLog) -> bool:
    return bool(log.connections) and log.connections[-1].status in (401, 403)
