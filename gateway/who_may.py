"""Which policies a topic and a route ask, for the documents: any one of them is enough.

What decides is `gateway.audiences` and the handlers. These tables say in one place what they ask; a test refuses
a stranger on every route, sees which policies were asked, and fails where that is not what stands here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple, TypeAlias

from auth import policies
from gateway.audiences import MARKETING_SCOPE
from gateway.json_schemas import in_one_line
from gateway.routes.passes import PASSES_SCOPE
from gateway.routes.publish import ACCESS_SCOPE, EVENTS_SCOPE
from streams.topics import Audience

Policy: TypeAlias = Callable[..., object]


class Rule(NamedTuple):
    """A policy, and in words whom it lets through."""

    policy: Policy
    who: str

    @property
    def how(self) -> str:
        """What the policy's docstring says, without what it raises."""
        return re.split(r"\s*Raises\b", in_one_line(self.policy.__doc__), maxsplit=1)[0]


def _scope(*scopes: str) -> Rule:
    return Rule(policies.must_have_scope, "the scope " + " or ".join(f"`{scope}`" for scope in scopes))


_STAFF: Final = Rule(policies.must_be_restaurant_staff, "the restaurant's owner and staff")
_OWNER: Final = Rule(policies.must_be_restaurant_owner, "the restaurant's owner")
_DEVICE: Final = Rule(policies.must_be_device_of, "a device of the restaurant, by its pass")
_FINANCE: Final = Rule(policies.must_see_finance, "the restaurant's owner and its finance role")
_CUSTOMER: Final = Rule(policies.must_be_customer, "that customer")
_PLACED_IT: Final = Rule(policies.must_be_order_owner, "the customer who placed the order")
_GUEST: Final = Rule(policies.must_have_pass_for, "who has a pass for the topic")
_MEMBER: Final = Rule(policies.must_be_cart_member, "the cart's members")
_USER: Final = Rule(policies.must_be_workflow_user, "the user whom the workflow is bound to")
_BINDER: Final = Rule(policies.may_bind_workflow, "any user, as long as it is bound to nobody else")
_COMMANDER: Final = Rule(policies.must_be_able_to_command, "whom `auth.policies.MAY_COMMAND` names for the command")

AUDIENCES: Final[Mapping[Audience, tuple[Rule, ...]]] = {
    Audience.RESTAURANT: (_STAFF,),
    Audience.PARTNER: (_STAFF, _DEVICE),
    Audience.ORDER: (_PLACED_IT,),
    Audience.GUEST: (_GUEST,),
    Audience.CUSTOMER: (_CUSTOMER,),
    Audience.CART: (_MEMBER,),
    Audience.WORKFLOW: (_USER,),
    Audience.FINANCE: (_FINANCE,),
    Audience.COUPON: (_scope(MARKETING_SCOPE),),
    Audience.MARKETING: (_scope(MARKETING_SCOPE),),
}
"""Who may have a topic's stream as which audience."""

# fmt: off
ROUTES: Final[Mapping[str, tuple[Rule, ...]]] = {
    "GET /restaurants/{restaurant_id}/orders/new": (_STAFF,),
    "GET /restaurants/{restaurant_id}/orders/active": (_STAFF,),
    "GET /restaurants/{restaurant_id}/devices": (_STAFF,),
    "GET /restaurants/{restaurant_id}/devices/keys": (_OWNER,),
    "POST /restaurants/{restaurant_id}/devices/pairing": (_OWNER,),
    "DELETE /restaurants/{restaurant_id}/devices/{device_id}": (_OWNER,),
    "GET /orders/{order_id}": (_PLACED_IT, _STAFF, _GUEST),
    "GET /orders/{order_id}/watchers": (_PLACED_IT, _STAFF),
    "POST /orders/{order_id}/signals": (_PLACED_IT, _STAFF, _scope(policies.COURIER_SCOPE)),
    "POST /orders/{order_id}/guest-pass": (_PLACED_IT, _scope(PASSES_SCOPE)),
    "DELETE /orders/{order_id}/guest-pass/{pass_id}": (_PLACED_IT, _scope(PASSES_SCOPE)),
    "POST /orders/{order_id}/accept": (_COMMANDER,),
    "POST /orders/{order_id}/reject": (_COMMANDER,),
    "POST /orders/{order_id}/preparing": (_COMMANDER,),
    "POST /orders/{order_id}/ready": (_COMMANDER,),
    "POST /orders/{order_id}/delivered": (_COMMANDER,),
    "POST /orders/{order_id}/cancel": (_COMMANDER,),
    "POST /workflows/{correlation_id}": (_BINDER,),
    "GET /workflows/{correlation_id}": (_USER,),
    "POST /events": (_scope(EVENTS_SCOPE, ACCESS_SCOPE),),
}
# fmt: on
"""Who may use an endpoint below `/api/v1` that is no stream."""

OPEN: Final[Mapping[str, str]] = {
    "POST /session": "who shows a token that holds: the cookie is as good as that",
    "DELETE /session": "anybody: it takes the browser's own cookie back",
    "POST /devices": "who shows a pairing code of a restaurant",
    "POST /devices/pass": "a device, by its key",
    "POST /devices/key": "a device, by its key",
}
"""Endpoints below `/api/v1` that ask no policy, and why."""
