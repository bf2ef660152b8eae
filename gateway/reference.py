"""The page docs/topics.md: every topic, event, view and policy, from what the gateway runs on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Any, Final

import msgspec

from auth import policies
from gateway.channels import API, address_of, kind_of, subject_of
from gateway.json_schemas import JsonSchema, in_one_line, schemas_of
from gateway.stream_messages import CONTROL, SIGNAL, SIGNALLED_AUDIENCES, STATES
from gateway.who_may import AUDIENCES, OPEN, ROUTES, Policy, Rule
from streams.events import EVENT_TYPES, Event, OrderEvent
from streams.matrix import FACTS, MATRIX, Row
from streams.topics import Audience, TopicKind

_PREFIX: Final = "#/"

_HEAD: Final = """\
# Topics, events, views, policies

<!-- Made by `make docs` from the code. `make check` fails while it is not what the code says. -->

What is meant by all this is told in [Streams](streams.md) and [Publishing](publishing.md). For machines the same is in
the AsyncAPI document (`/schema/asyncapi.json`, `passline schema asyncapi`) and in JSON Schemas (`passline schema
json`). A new audience is added as in [Adding an audience](adding-an-audience.md).
"""


def page() -> str:
    """The page's text, in Markdown."""
    sections = (
        _topics(),
        _routes(),
        _policies(),
        _matrix(),
        _views(),
        _control(),
        _states(),
        _events(),
        _facts(),
        _parts(),
    )
    return _HEAD + "".join("\n" + "\n".join(section) + "\n" for section in sections)


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> Iterator[str]:
    columns = list(head)
    yield f"| {' | '.join(columns)} |"
    yield "|" + "---|" * len(columns)
    for row in rows:
        yield f"| {' | '.join(each.replace('|', chr(92) + '|') for each in row)} |"


def _who(rules: Iterable[Rule]) -> str:
    return "; ".join(f"{rule.who} (`{rule.policy.__name__}`)" for rule in rules)


# -- Topics, routes, policies ------------------------------------------------------------------------------------------


def _topics() -> Iterator[str]:
    yield "## Topics"
    yield ""
    yield "Each audience is shown a topic in its own views. An order has two: its customer, and guests with a pass."
    yield ""
    yield from _table(
        ("topic", "audience", "stream", "who may", "snapshot"), (_topic(audience) for audience in Audience)
    )


def _topic(audience: Audience) -> tuple[str, ...]:
    kind = kind_of(audience)
    topic = kind.value if kind is TopicKind.MARKETING else f"{kind}/<id>"
    state = STATES.get(audience)
    return (
        f"`{topic}`",
        f"`{audience}`",
        f"`GET {address_of(kind)}`",
        _who(AUDIENCES[audience]),
        f"`{state[0]}`" if state else "none",
    )


def _routes() -> Iterator[str]:
    yield "## Other endpoints"
    yield ""
    yield f"Below `{API}`. What no policy allows is refused."
    yield ""
    named = ((f"`{route}`", _who(of)) for route, of in ROUTES.items())
    yield from _table(("endpoint", "who may"), chain(named, ((f"`{route}`", why) for route, why in OPEN.items())))


def _policies() -> Iterator[str]:
    yield "## Policies"
    yield ""
    yield "Functions of `auth.policies`: each is handed the claims of a token or pass, and facts of the log."
    yield ""
    rules = chain.from_iterable((*AUDIENCES.values(), *ROUTES.values()))
    by_policy: dict[Policy, dict[str, Rule]] = {}
    for rule in rules:
        by_policy.setdefault(rule.policy, {})[rule.who] = rule
    in_order = [each for each in vars(policies).values() if callable(each) and each in by_policy]
    rows = (
        (f"`{each.__name__}`", "; ".join(by_policy[each]), next(iter(by_policy[each].values())).how)
        for each in in_order
    )
    yield from _table(("policy", "lets through", "in its own words"), rows)


# -- The matrix --------------------------------------------------------------------------------------------------------


def _matrix() -> Iterator[str]:
    yield "## The matrix"
    yield ""
    yield "Which event of the log goes to which audience, under which SSE event name, in which view. `told` is who is"
    yield "told of an order's event without a `target` of its own; `status` is the order's or the workflow's after it."
    yield ""
    yield from _table(
        ("event", "told", "status", "audience", "SSE event", "view"),
        chain.from_iterable(_cells(event, row) for event, row in MATRIX.items()),
    )


def _cells(event: type[Event], row: Row) -> Iterator[tuple[str, ...]]:
    alike: dict[tuple[str, str], list[str]] = {}
    for audience, cell in row.told.items():
        alike.setdefault((cell.name, cell.view_type.__name__), []).append(f"`{audience}`")
    told = (row.to.name or "").lower() if issubclass(event, OrderEvent) else ""
    for index, ((name, view), audiences) in enumerate(alike.items()):
        first = index == 0
        yield (
            f"`{event.type_name()}`" if first else "",
            told if first else "",
            (f"`{row.status}`" if row.status else "") if first else "",
            ", ".join(audiences),
            f"`{name}`",
            _link(view),
        )


def _link(struct: str) -> str:
    return f"[{struct}](#{struct.lower()})"


# -- Structs -----------------------------------------------------------------------------------------------------------


def _views() -> Iterator[str]:
    structs = dict.fromkeys(cell.view_type for row in MATRIX.values() for cell in row.told.values())
    yield "## Views"
    yield ""
    yield "What is not always there is left out where the event does not say it; `null` means that it was cleared."
    yield from _structs(structs)


def _control() -> Iterator[str]:
    yield "## What a stream says beside events"
    said = (*CONTROL, SIGNAL)
    names = {each.payload.__name__: f"`{each.name}`" for each in said}
    yield ""
    audiences = ", ".join(f"`{each}`" for each in Audience if each in SIGNALLED_AUDIENCES)
    yield f"`{SIGNAL.name}` comes to {audiences} alone. A heartbeat is a block with nothing but an id."
    yield from _structs([each.payload for each in said], names)


def _states() -> Iterator[str]:
    yield "## States"
    yield ""
    yield "What a `snapshot` holds beside `topic`. `null` is what is not known."
    _, components = schemas_of([type_ for _, type_ in STATES.values()], _PREFIX)
    yield ""
    rows = (
        (f"`{audience}`", f"`{field}`", _form(schemas_of([type_], _PREFIX)[0][0]))
        for audience, (field, type_) in STATES.items()
    )
    yield from _table(("audience", "field", "form"), rows)
    for name in components:
        if name not in _SHARED:
            yield from _struct(name, components[name])


def _structs(structs: Iterable[type[msgspec.Struct]], names: Mapping[str, str] | None = None) -> Iterator[str]:
    _, components = schemas_of(structs, _PREFIX)
    for name, schema in components.items():
        if name not in _SHARED and "properties" in schema:
            yield from _struct(name, schema, (names or {}).get(name))


def _struct(name: str, schema: JsonSchema, also: str | None = None) -> Iterator[str]:
    yield ""
    yield f"### {name}"
    yield ""
    if also:
        yield f"The data of {also}."
        yield ""
    if "description" in schema:
        yield schema["description"]
    yield ""
    yield from _fields(schema)


def _fields(schema: JsonSchema) -> Iterator[str]:
    required = set(schema.get("required", ()))
    rows = (
        (f"`{field}`", _form(said), "always" if field in required else "")
        for field, said in schema["properties"].items()
    )
    yield from _table(("field", "form", "there"), rows)


# -- Events ------------------------------------------------------------------------------------------------------------


def _events() -> Iterator[str]:
    yield "## Events"
    yield ""
    yield "What services publish, with where it stands in the log. Unknown fields are ignored. `always` means required."
    told = [event for event in EVENT_TYPES.values() if event not in FACTS]
    yield from _event_families(told)


def _facts() -> Iterator[str]:
    yield "## Facts"
    yield ""
    yield "Events that are shown to nobody: they decide what others are shown."
    yield from _event_families([event for event in EVENT_TYPES.values() if event in FACTS])


def _event_families(events: Iterable[type[Event]]) -> Iterator[str]:
    """One table for all events that have the same fields."""
    wanted = list(events)
    _, components = schemas_of(wanted, _PREFIX)
    families: dict[str, list[type[Event]]] = {}
    for event in wanted:
        schema = components[event.__name__]
        del schema["properties"]["type"]
        schema["required"].remove("type")
        fields = {name: schema[name] for name in ("properties", "required")}
        families.setdefault(repr(fields), []).append(event)
    for alike in families.values():
        yield ""
        yield f"### {', '.join(event.type_name() for event in alike)}"
        yield ""
        yield f"`{subject_of(alike[0]).rpartition('.')[0]}.<type>`"
        yield ""
        own = [(event.type_name(), in_one_line(vars(event).get("__doc__"))) for event in alike]
        yield from (f"- `{name}`: {said}" for name, said in own if said)
        if any(said for _, said in own):
            yield ""
        yield from _fields(components[alike[0].__name__])


_SHARED: Final = ("Money", "OrderItem", "CartItem")


def _parts() -> Iterator[str]:
    yield "## What they are made of"
    _, components = schemas_of(list(EVENT_TYPES.values()), _PREFIX)
    for name in _SHARED:
        yield from _struct(name, components[name])


# -- Forms -------------------------------------------------------------------------------------------------------------


def _form(said: JsonSchema) -> str:
    """A field's schema in a few words."""
    match said:
        case {"anyOf": kinds}:
            return " or ".join(dict.fromkeys(map(_form, kinds)))
        case {"$ref": reference}:
            name = reference.removeprefix(_PREFIX)
            return _ENUMS.get(name) or _link(name)
        case {"enum": values}:
            return " or ".join(f"`{value}`" for value in values)
        case {"type": "array", "items": items}:
            return f"list of {_form(items)}"
        case {"type": "null"}:
            return "`null`"
        case {"type": "string", "format": "date-time"}:
            return "time (RFC 3339)"
        case {"type": "string"}:
            return _text(said)
        case {"type": "integer" | "number" as kind}:
            return _number(kind, said)
        case {"type": kind}:
            return str(kind)
    raise AssertionError(f"teach this page the form of {said}")


def _text(said: Mapping[str, Any]) -> str:
    match said.get("description"):
        case str(description):
            return f"text: {description[0].lower()}{description[1:].rstrip('.')}"
    return f"text, at most {said['maxLength']} characters" if "maxLength" in said else "text"


def _number(kind: str, said: Mapping[str, Any]) -> str:
    name = "whole number" if kind == "integer" else "number"
    return f"{name} from {said['minimum']}" if "minimum" in said else name


def _enums() -> dict[str, str]:
    types = [*EVENT_TYPES.values(), *(each.payload for each in (*CONTROL, SIGNAL))]
    return {name: _form(schema) for name, schema in schemas_of(types, _PREFIX)[1].items() if "enum" in schema}


_ENUMS: dict[str, str] = {}
_ENUMS |= _enums()
