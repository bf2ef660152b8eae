"""Which policies a topic and a route ask, for the documents: any one of them is enough.

What decides is `gateway.audiences` and the handlers. These tables say in one place what they ask; a test refuses
a stranger on every route, sees which policies were asked, and fails where that is not what stands here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

from auth import policies
from gateway.json_schemas import in_one_line
from streams.topics import Audience

Policy: TypeAlias = Callable[..., object]

_STAFF: Final = (policies.must_be_restaurant_staff,)
_OWNER: Final = (policies.must_be_restaurant_owner,)
_ORDER: Final = (policies.must_be_order_owner,)
_COMMAND: Final = (policies.must_be_able_to_command,)
_SCOPE: Final = (policies.must_have_scope,)

AUDIENCES: Final[Mapping[Audience, tuple[Policy, ...]]] = {
    Audience.RESTAURANT: _STAFF,
    Audience.PARTNER: (*_STAFF, policies.must_be_device_of),
    Audience.ORDER: _ORDER,
    Audience.GUEST: (policies.must_have_pass_for,),
    Audience.CUSTOMER: (policies.must_be_customer,),
    Audience.CART: (policies.must_be_cart_member,),
    Audience.WORKFLOW: (policies.must_be_workflow_user,),
    Audience.FINANCE: (policies.must_see_finance,),
    Audience.COUPON: _SCOPE,
    Audience.MARKETING: _SCOPE,
}
"""Who may have a topic's stream as which audience. The scope is `marketing:read`."""

# fmt: off
ROUTES: Final[Mapping[str, tuple[Policy, ...]]] = {
    "GET /restaurants/{restaurant_id}/orders/new": _STAFF,
    "GET /restaurants/{restaurant_id}/orders/active": _STAFF,
    "GET /restaurants/{restaurant_id}/devices": _STAFF,
    "GET /restaurants/{restaurant_id}/devices/keys": _OWNER,
    "POST /restaurants/{restaurant_id}/devices/pairing": _OWNER,
    "DELETE /restaurants/{restaurant_id}/devices/{device_id}": _OWNER,
    "GET /orders/{order_id}": (*_ORDER, *_STAFF, policies.must_have_pass_for),
    "GET /orders/{order_id}/watchers": (*_ORDER, *_STAFF),
    "POST /orders/{order_id}/signals": (*_ORDER, *_STAFF, *_SCOPE),
    "POST /orders/{order_id}/guest-pass": (*_ORDER, *_SCOPE),
    "DELETE /orders/{order_id}/guest-pass/{pass_id}": (*_ORDER, *_SCOPE),
    "POST /orders/{order_id}/accept": _COMMAND,
    "POST /orders/{order_id}/reject": _COMMAND,
    "POST /orders/{order_id}/preparing": _COMMAND,
    "POST /orders/{order_id}/ready": _COMMAND,
    "POST /orders/{order_id}/delivered": _COMMAND,
    "POST /orders/{order_id}/cancel": _COMMAND,
    "POST /workflows/{correlation_id}": (policies.may_bind_workflow,),
    "GET /workflows/{correlation_id}": (policies.must_be_workflow_user,),
    "POST /events": _SCOPE,
}
# fmt: on
"""Who may use an endpoint below `/api/v1` that is no stream."""

OPEN: Final[Mapping[str, str]] = {
    "POST /session": "Whoever shows a token that holds: the cookie is as good as that.",
    "DELETE /session": "Anybody; it takes the browser's own cookie back.",
    "POST /devices": "Whoever shows a pairing code of a restaurant.",
    "POST /devices/pass": "A device, by its key.",
    "POST /devices/key": "A device, by its key.",
}
"""Endpoints below `/api/v1` that ask no policy, and why."""


def said_of(policy: Policy) -> str:
    """What a policy's docstring says of who may, without what it raises."""
    return re.split(r"\s*Raises\b", in_one_line(policy.__doc__), maxsplit=1)[0]
