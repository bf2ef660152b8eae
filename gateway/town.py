"""The demo's town: restaurants, their staff, customers, and what they do with their orders. Pure, given a seed.

It stands in for the shop and the payment service, which publish events, and for people, who want something done: what
becomes of that the order service decides, and the town goes on from what it hears. Nothing in the gateway knows of it.
"""

from __future__ import annotations

import datetime as dt
import heapq
import random
from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any, NamedTuple, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from streams.commands import Capacity
from streams.events import (
    AnyEvent,
    Command,
    CommandExpired,
    Money,
    OrderAccepted,
    OrderCancelled,
    OrderDelivered,
    OrderEvent,
    OrderItem,
    OrderPaymentFailed,
    OrderPaymentSucceeded,
    OrderPlaced,
    OrderPreparing,
    OrderReadyForDelivery,
    OrderRejected,
    Role,
    StaffAssigned,
)

FIRST_ORDER_PATIENCE = 6.0
"""The first order takes so many times longer, two minutes or so: there is time to watch it."""

COURIERS = ("otto", "wilma", "pia")

_CURRENCY = "EUR"
_FEE_PERCENT = 8


class Restaurant(msgspec.Struct, frozen=True):
    """A restaurant, who owns it and works there (identities), and what it cooks: dish and price in cents."""

    id: str
    name: str
    owner: str
    staff: tuple[str, ...]
    menu: tuple[tuple[str, int], ...]


class Customer(msgspec.Struct, frozen=True):
    """Somebody who orders: what the token says, and the name."""

    identity: str
    name: str


class Order(msgspec.Struct, frozen=True):
    """An order on its way. `lines` are dish, how many of it, and the price of one in cents.

    `patience` stretches all of its times; a `spared` one meets no mishap. One that `waits` is accepted by nobody of the
    town.
    """

    id: str
    number: str
    restaurant: Restaurant
    customer: Customer
    lines: tuple[tuple[str, int, int], ...]
    patience: float = 1.0
    spared: bool = False
    waits: bool = False

    @property
    def total_cents(self) -> int:
        """What all of it costs."""
        return sum(quantity * cents for _, quantity, cents in self.lines)


class Way(NamedTuple):
    """What may happen next to an order: with which weight, and after how many seconds. Where there is a `command`, this
    is what somebody wants, `by` says as what, and the order service has to make the event of it.
    """

    weight: int
    event: type[OrderEvent]
    seconds: tuple[float, float]
    reason: str | UnsetType = UNSET
    command: Command | None = None
    by: Capacity = Capacity.SERVICE


class Wanted(NamedTuple):
    """What somebody wants done with an order. `command_id` is unique."""

    command_id: str
    command: Command
    order: Order
    identity: str
    capacity: Capacity
    reason: str | UnsetType


# fmt: off
WAYS: dict[type[OrderEvent], tuple[Way, ...]] = {
    OrderPlaced: (
        Way(94, OrderPaymentSucceeded, (0.5, 2)),
        Way(6,  OrderPaymentFailed,    (0.5, 2), "The card was declined."),
    ),
    OrderPaymentFailed: (
        Way(70, OrderPaymentSucceeded, (2, 5)),
        Way(30, OrderCancelled,        (3, 8), "Not paid.", Command.CANCEL, Capacity.SERVICE),
    ),
    OrderPaymentSucceeded: (
        Way(90, OrderAccepted,         (2, 5), UNSET, Command.ACCEPT, Capacity.STAFF),
        Way(5,  OrderRejected,         (2, 5), "The kitchen is full.", Command.REJECT, Capacity.STAFF),
        Way(5,  OrderCancelled,        (1, 4), "I have changed my mind.", Command.CANCEL, Capacity.CUSTOMER),
    ),
    OrderAccepted:         (Way(1, OrderPreparing,        (1, 3),  UNSET, Command.PREPARING, Capacity.STAFF),),
    OrderPreparing:        (Way(1, OrderReadyForDelivery, (4, 12), UNSET, Command.READY,     Capacity.STAFF),),
    OrderReadyForDelivery: (Way(1, OrderDelivered,        (4, 12), UNSET, Command.DELIVERED, Capacity.COURIER),),
}
"""An order's life: after each event one of its ways, the first of which is the good one."""

ENDS = frozenset({OrderDelivered, OrderRejected, OrderCancelled})
_PLACED = Way(1, OrderPlaced, (0, 0))

RESTAURANTS = (
    Restaurant("pizzeria-roma", "Pizzeria Roma", "giulia", ("marco", "sofia"),
               (("Margherita", 950), ("Diavola", 1150), ("Tiramisù", 550))),
    Restaurant("sushi-kumo", "Sushi Kumo", "haruki", ("aiko",),
               (("Maki mix", 1450), ("Salmon nigiri", 650), ("Miso soup", 390))),
    Restaurant("taqueria-luna", "Taquería Luna", "valeria", ("diego", "ines"),
               (("Tacos al pastor", 890), ("Quesadilla", 750), ("Horchata", 320))),
    Restaurant("bistro-azur", "Bistro Azur", "camille", ("louis",),
               (("Quiche", 980), ("Salade niçoise", 1190), ("Crème brûlée", 620))),
    Restaurant("curry-house", "Curry House", "arjun", ("priya", "dev"),
               (("Chana masala", 1050), ("Garlic naan", 350), ("Mango lassi", 420))),
    Restaurant("green-bowl", "Green Bowl", "nora", ("emil",),
               (("Falafel bowl", 1090), ("Lentil soup", 690), ("Lemonade", 380))),
    Restaurant("noodle-bar", "Noodle Bar", "linh", ("minh",),
               (("Phở bò", 1290), ("Summer rolls", 690), ("Iced coffee", 410))),
    Restaurant("burger-yard", "Burger Yard", "sam", ("alex", "kim"),
               (("Cheeseburger", 1150), ("Fries", 390), ("Milkshake", 520))),
)

CUSTOMERS = (
    Customer("ada", "Ada Lovelace"),
    Customer("auth0|5f7c8ec7c33c6c004bbafe82", "Grace Hopper"),  # what issuers really call people
    Customer("alan", "Alan Turing"),
    Customer("edsger", "Edsger Dijkstra"),
    Customer("barbara", "Barbara Liskov"),
    Customer("tony", "Tony Hoare"),
    Customer("radia", "Radia Perlman"),
    Customer("leslie", "Leslie Lamport"),
    Customer("frances", "Frances Allen"),
    Customer("donald", "Donald Knuth"),
)
# fmt: on

_T = TypeVar("_T")


class _Life(msgspec.Struct):
    """How far an order has come: the last event of its way, and how many of them there were."""

    order: Order
    last: type[OrderEvent]
    steps: int = 0


class Town:
    """What happens in a town of the first `restaurants` of RESTAURANTS, at a steady `orders_per_minute`.

    Its time stands still between two calls of `advance`, so a town whose events could not be published for a while
    goes on where it was. What was published, or done because somebody wanted it, it is told by `heard`, and only then
    the order goes on; so it may as well be done by somebody else. The same seed gives the same events, ids included, so
    a town that publishes for others than a test needs a new one each time.
    """

    def __init__(self, *, seed: int, restaurants: int, orders_per_minute: float) -> None:
        if not 1 <= restaurants <= len(RESTAURANTS) or orders_per_minute <= 0:
            raise ValueError("a town has restaurants and orders")
        self.restaurants = RESTAURANTS[:restaurants]
        self.placed = 0
        self._random = random.Random(seed)  # noqa: S311 - nothing to guard
        self._gap_seconds = 60 / orders_per_minute
        self._numbers = count(1001)
        self._time = 0.0
        # What is due when, and after which step of its order. The number keeps what is due at one moment in order.
        self._due: list[tuple[float, int, Order, Way, int]] = []
        self._places = count()
        self._lives: dict[str, _Life] = {}
        first = self.restaurants[0]
        self.first_order = self._order(first, CUSTOMERS[0], patience=FIRST_ORDER_PATIENCE, spared=True)
        self.waiting_order = self._order(first, CUSTOMERS[0], spared=True, waits=True)
        self._place(0.0, self.first_order)
        self._place(0.0, self.waiting_order)
        self._place_another(0.0)

    def staff(self, now: dt.datetime) -> list[AnyEvent]:
        """Who owns and who works in each restaurant."""
        return [
            StaffAssigned(
                event_id=self._id("staff"), occurred_on_utc=now, restaurant_id=each.id, subject=person, role=role
            )
            for each in self.restaurants
            for role, people in ((Role.OWNER, (each.owner,)), (Role.STAFF, each.staff))
            for person in people
        ]

    def advance(self, seconds: float, now: dt.datetime) -> Iterator[AnyEvent | Wanted]:
        """Let `seconds` pass: what happens in them and what is wanted, in order and as of `now`. The first call places
        the first orders.
        """
        self._time += seconds
        while self._due[0][0] <= self._time:
            at, _, order, way, steps = heapq.heappop(self._due)
            if way.event is OrderPlaced:
                self.placed += 1
                self._lives[order.id] = _Life(order, OrderPlaced)
                if not (order is self.first_order or order is self.waiting_order):
                    self._place_another(at)
            elif self._steps(order) != steps:
                continue  # somebody else was faster
            yield self._event(order, way, now) if way.command is None else self._wanted(order, way, way.command)

    def heard(self, event: OrderEvent) -> None:
        """What the log says has happened to an order, of the town's or another."""
        life = self._lives.get(event.order_id)
        if life is None:
            return
        kind = type(event)
        if kind in ENDS:
            del self._lives[event.order_id]
        elif kind in WAYS or kind is CommandExpired:  # what nobody has done is wanted again
            life.last = life.last if kind is CommandExpired else kind
            life.steps += 1
            if not (life.order.waits and life.last is OrderPaymentSucceeded):
                self._plan_next(life)

    def _steps(self, order: Order) -> int | None:
        life = self._lives.get(order.id)
        return None if life is None else life.steps

    def _place(self, at: float, order: Order) -> None:
        self._plan(at, order, _PLACED, 0)

    def _place_another(self, after: float) -> None:
        gap = self._gap_seconds * self._random.uniform(0.5, 1.5)
        self._place(after + gap, self._order(self._pick(self.restaurants), self._pick(CUSTOMERS)))

    def _plan_next(self, life: _Life) -> None:
        ways = WAYS[life.last][:1] if life.order.spared else WAYS[life.last]
        [way] = self._random.choices(ways, [each.weight for each in ways])
        seconds = life.order.patience * self._random.uniform(*way.seconds)
        self._plan(self._time + seconds, life.order, way, life.steps)

    def _plan(self, at: float, order: Order, way: Way, steps: int) -> None:
        heapq.heappush(self._due, (at, next(self._places), order, way, steps))

    def _wanted(self, order: Order, way: Way, command: Command) -> Wanted:
        identity = {
            Capacity.STAFF: order.restaurant.staff[0],
            Capacity.CUSTOMER: order.customer.identity,
            Capacity.COURIER: self._pick(COURIERS),
        }.get(way.by, "shop")
        return Wanted(self._id("command"), command, order, identity, way.by, way.reason)

    def _event(self, order: Order, way: Way, now: dt.datetime) -> AnyEvent:
        event: AnyEvent = way.event(  # type: ignore[assignment]  # every one in WAYS is one of them
            event_id=self._id("event"),
            occurred_on_utc=now,
            order_id=order.id,
            restaurant_id=order.restaurant.id,
            customer_id=order.customer.identity,
            order_number=order.number,
            reason=way.reason,
            **_details(order, way.event),
        )
        return event

    def _order(self, restaurant: Restaurant, customer: Customer, **more: Any) -> Order:
        dishes = self._random.sample(restaurant.menu, self._random.randint(1, len(restaurant.menu)))
        lines = tuple((name, self._random.randint(1, 3), cents) for name, cents in dishes)
        number = f"#{next(self._numbers)}"
        return Order(self._id("order"), number, restaurant, customer, lines, **more)

    def _pick(self, choices: Sequence[_T]) -> _T:
        return self._random.choice(choices)

    def _id(self, kind: str) -> str:
        return f"{kind}-{self._random.getrandbits(64):016x}"


def _details(order: Order, kind: type[OrderEvent]) -> dict[str, Any]:
    """What an event of this kind says beside whose it is."""
    details: dict[str, Any] = {
        "customer_name": order.customer.name,
        "items": [OrderItem(name, quantity, _money(cents)) for name, quantity, cents in order.lines],
        "total": _money(order.total_cents),
    }
    if kind is OrderPlaced:
        details["platform_fee"] = _money(order.total_cents * _FEE_PERCENT // 100)
    return details


def _money(cents: int) -> Money:
    return Money(f"{cents // 100}.{cents % 100:02}", _CURRENCY)
