"""The broadcast matrix: which event goes to which audience, under which SSE event name, in which view. Pure.

To add an audience: a view in `views`, a feed in `topics`, its cells here, a policy in `auth.policies`, and a row in
`gateway.audiences`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Flag
from typing import Any, TypeAlias, get_type_hints

import msgspec
from msgspec import UNSET, UnsetType

from streams import events
from streams.events import (
    CouponUsed,
    Event,
    FinanceEvent,
    NotificationTarget,
    OrderEvent,
    TeamCartEvent,
    WorkflowAccepted,
    WorkflowEvent,
)
from streams.topics import (
    MARKETING_LANE,
    Audience,
    Feed,
    audience_of,
    cart_feed,
    coupon_feed,
    customer_feed,
    customer_lane,
    finance_feed,
    guest_feed,
    lane_of,
    marketing_feed,
    order_feed,
    order_lane,
    partner_feed,
    restaurant_feed,
    restaurant_lane,
    topic_of,
    user_of,
    workflow_feed,
)
from streams.views import (
    About,
    View,
    booking,
    command_failed,
    coupon_use,
    customer_order,
    new_order,
    order_delayed,
    order_status,
    restaurant_order,
    team_cart,
    workflow_step,
)

Lanes: TypeAlias = Callable[[str, str, str], tuple[str, ...]]
MakeView: TypeAlias = Callable[[Any, About], View]


class To(Flag):
    """Which sides of an order are told of its event."""

    NOBODY = 0
    RESTAURANT = 1
    CUSTOMER = 2
    BOTH = 3


class Cell(msgspec.Struct, frozen=True):
    """What one audience is sent of an event: the SSE event's name, and what makes its view."""

    name: str
    view: MakeView

    @property
    def view_type(self) -> type[View]:
        """The struct that is made, as the annotation of what makes it says."""
        made: type[View] = get_type_hints(self.view)["return"]
        return made


class Row(msgspec.Struct, frozen=True):
    """One line of the matrix: `told` by audience; facts tell nobody. `status` is the order's or the workflow's after
    the event, None where it stays as it was. `to` are the sides of an order that are told if the event does not say.
    """

    told: Mapping[Audience, Cell]
    status: str | None = None
    to: To = To.NOBODY


def _order(
    name: str,
    status: str | None = None,
    *,
    to: To = To.BOTH,
    view: MakeView = order_status,
    restaurant_view: MakeView | None = None,
    customer_view: MakeView | None = None,
    partner: Cell | None = None,
    guest: bool = True,
) -> Row:
    """An order's event. All audiences see `view`, but for those that have one of their own; a guest sees no other."""
    of_restaurant, of_customer = Cell(name, restaurant_view or view), Cell(name, customer_view or view)
    told = {
        Audience.RESTAURANT: of_restaurant,
        Audience.PARTNER: partner or of_restaurant,
        Audience.ORDER: of_customer,
        Audience.CUSTOMER: of_customer,
    }
    if guest:
        told[Audience.GUEST] = Cell(name, view)
    return Row(told, status, to)


def _moved_to(status: str, own_name: str) -> Row:
    """Every step of an order has one name to listen to; rejection and cancellation are steps too."""
    return _order("ReceiveOrderStatusChanged", status, partner=Cell(own_name, order_status))


def _paid(name: str, status: str | None, *, partner: Cell | None = None) -> Row:
    return _order(name, status, restaurant_view=restaurant_order, customer_view=customer_order, partner=partner)


def _only(audience: Audience, name: str, view: MakeView, status: str | None = None) -> Row:
    return Row({audience: Cell(name, view)}, status)


def _in_cart(name: str) -> Row:
    return _only(Audience.CART, f"Receive{name}", team_cart)


def _step(status: str) -> Row:
    return _only(Audience.WORKFLOW, "OrderStatusChanged", workflow_step, status)


_PLACED = _paid("ReceiveOrderPlaced", "Placed", partner=Cell("NewOrder", new_order))
_COUPON = Cell("ReceiveCouponUsed", coupon_use)
_FACT = Row({})

# fmt: off
MATRIX: dict[type[Event], Row] = {
    events.OrderPlaced:               _PLACED,
    events.OrderCreated:              _PLACED,
    events.OrderPaymentSucceeded:     _paid("ReceiveOrderPaymentSucceeded", None),
    events.OrderPaymentFailed:        _paid("ReceiveOrderPaymentFailed", "PaymentFailed"),
    events.OrderAccepted:             _moved_to("Accepted", "OrderAccepted"),
    events.OrderPreparing:            _moved_to("Preparing", "OrderPreparing"),
    events.OrderReadyForDelivery:     _moved_to("ReadyForDelivery", "OrderReadyForDelivery"),
    events.OrderDelivered:            _moved_to("Delivered", "OrderDelivered"),
    events.OrderRejected:             _moved_to("Rejected", "OrderRejected"),
    events.OrderCancelled:            _moved_to("Cancelled", "OrderCancelled"),
    events.OrderEtaUpdated:           _order("ReceiveOrderEtaUpdated"),
    events.OrderDelayed:              _order("ReceiveOrderDelayed", view=order_delayed),
    events.OrderUnattended:           _order("ReceiveOrderUnattended", to=To.RESTAURANT),
    events.CommandRejected:           _order("ReceiveCommandRejected", to=To.NOBODY, view=command_failed, guest=False),
    events.CommandExpired:            _order("ReceiveCommandExpired", to=To.NOBODY, view=command_failed, guest=False),

    events.WorkflowAccepted:          _step("ACCEPTED"),
    events.WorkflowProcessing:        _step("PROCESSING"),
    events.OrderProcessed:            _step("COMPLETED"),

    events.TeamCartCreated:           _in_cart("TeamCartCreated"),
    events.TeamCartMemberJoined:      _in_cart("TeamCartMemberJoined"),
    events.TeamCartMemberLeft:        _in_cart("TeamCartMemberLeft"),
    events.TeamCartMemberRemoved:     _in_cart("TeamCartMemberRemoved"),
    events.TeamCartItemAdded:         _in_cart("TeamCartItemAdded"),
    events.TeamCartItemUpdated:       _in_cart("TeamCartItemUpdated"),
    events.TeamCartItemRemoved:       _in_cart("TeamCartItemRemoved"),
    events.TeamCartQuoteUpdated:      _in_cart("TeamCartQuoteUpdated"),
    events.TeamCartLockedForPayment:  _in_cart("TeamCartLockedForPayment"),
    events.TeamCartPaymentAuthorized: _in_cart("TeamCartPaymentAuthorized"),
    events.TeamCartPaymentFailed:     _in_cart("TeamCartPaymentFailed"),
    events.TeamCartConverted:         _in_cart("TeamCartConverted"),
    events.TeamCartExpired:           _in_cart("TeamCartExpired"),

    events.RevenueRecorded:           _only(Audience.FINANCE, "ReceiveRevenueRecorded", booking),
    events.PlatformFeeRecorded:       _only(Audience.FINANCE, "ReceivePlatformFeeRecorded", booking),
    events.CouponUsed:                Row({Audience.COUPON: _COUPON, Audience.MARKETING: _COUPON}),

    events.StaffAssigned:             _FACT,
    events.StaffRevoked:              _FACT,
    events.TokenRevoked:              _FACT,
    events.WorkflowBound:             _FACT,
    events.PassIssued:                _FACT,
    events.PassRevoked:               _FACT,
    events.PairingOpened:             _FACT,
    events.DeviceRegistered:          _FACT,
    events.DeviceRevoked:             _FACT,
}
# fmt: on

FACTS = frozenset(kind for kind, row in MATRIX.items() if not row.told)
"""Events that are told to nobody: they decide what others are told."""

_TARGETS: dict[NotificationTarget | UnsetType | None, To | None] = {
    NotificationTarget.RESTAURANT: To.RESTAURANT,
    NotificationTarget.CUSTOMER: To.CUSTOMER,
    NotificationTarget.BOTH: To.BOTH,
    UNSET: None,
    None: None,
}
_TOLD: dict[tuple[type[Event], NotificationTarget | UnsetType | None], To] = {
    (kind, target): row.to if to is None else to for kind, row in MATRIX.items() for target, to in _TARGETS.items()
}

# Of order id, restaurant id and customer key.
_LANES_FOR: dict[To, Lanes] = {
    To.NOBODY: lambda *_: (),
    To.RESTAURANT: lambda _, restaurant_id, __: (restaurant_lane(restaurant_id),),
    To.CUSTOMER: lambda order_id, restaurant_id, customer_key: (
        order_lane(order_id, restaurant_id, customer_key),
        customer_lane(customer_key),
    ),
    To.BOTH: lambda order_id, restaurant_id, customer_key: (
        restaurant_lane(restaurant_id),
        order_lane(order_id, restaurant_id, customer_key),
        customer_lane(customer_key),
    ),
}

LANES: dict[type[Event], dict[NotificationTarget | UnsetType | None, Lanes]] = {
    kind: {target: _LANES_FOR[_TOLD[kind, target]] for target in _TARGETS}
    for kind in MATRIX
    if issubclass(kind, OrderEvent)
}
"""What makes the lanes of an order event of order id, restaurant id and customer key, by the event's class and target.
They are asked of everything in the log, so they are told without the event."""


def lanes_of(event: Event) -> tuple[str, ...]:
    """The lanes that the event goes out on."""
    match event:
        case OrderEvent():
            return LANES[type(event)][event.target](event.order_id, event.restaurant_id, event.customer_key)
        case CouponUsed():
            return (coupon_feed(event.coupon_id).lane, MARKETING_LANE)
    return tuple(feed.lane for feed in _feeds(event))


class Notification(msgspec.Struct, frozen=True, gc=False):
    """One event for the audience that has the feed `key`."""

    key: str
    topic: str
    name: str
    status: str | None
    view: MakeView

    def render(self, event: Event, *, shows_fee: bool = False) -> View:
        """What the audience sees of the event. May raise whatever a faulty view raises."""
        return self.view(event, About(self.topic, self.status, shows_fee))


def notification(event: Event, key: str) -> Notification | None:
    """What the audience of `key` is sent of the event, None if it is nothing. The event must be on the key's lane."""
    row = MATRIX[type(event)]
    cell = row.told.get(audience_of(key))
    if isinstance(event, WorkflowAccepted) and user_of(key) not in ("", event.user_key):
        return None  # the order service contradicts itself, or their own stream is about to end
    return None if cell is None else Notification(key, topic_of(key), cell.name, row.status, cell.view)


def notifications(event: Event) -> tuple[Notification, ...]:
    """Whom the event is for, in all its audiences."""
    lanes = lanes_of(event)
    found = [notification(event, feed.key) for feed in _feeds(event) if lane_of(feed.key) in lanes]
    return tuple(each for each in found if each is not None)


def _feeds(event: Event) -> tuple[Feed, ...]:
    match event:
        case OrderEvent():
            order = (event.order_id, event.restaurant_id, event.customer_key)
            return (
                restaurant_feed(event.restaurant_id),
                partner_feed(event.restaurant_id),
                order_feed(*order),
                guest_feed(*order),
                customer_feed(event.customer_key),
            )
        case TeamCartEvent():
            return (cart_feed(event.team_cart_id),)
        case WorkflowEvent() if MATRIX[type(event)].told:
            return (workflow_feed(event.correlation_id),)
        case FinanceEvent():
            return (finance_feed(event.restaurant_id),)
        case CouponUsed():
            return (coupon_feed(event.coupon_id), marketing_feed())
    return ()


def status_after(event: Event) -> str | None:
    """The order's or the workflow's status after the event, None where it stays as it was."""
    return MATRIX[type(event)].status
