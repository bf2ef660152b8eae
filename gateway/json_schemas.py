"""JSON Schemas of structs, as they are encoded.

msgspec describes what it decodes. A view is only ever encoded: a field of it that may be left out is not required, and
a time is always one of RFC 3339.
"""

from __future__ import annotations

import datetime as dt
import inspect
import re
from collections.abc import Iterable
from typing import Any, TypeAlias, get_args

import msgspec
from msgspec import UnsetType

JsonSchema: TypeAlias = dict[str, Any]


def schemas_of(types: Iterable[Any], ref_prefix: str) -> tuple[list[JsonSchema], dict[str, JsonSchema]]:
    """A schema for each type, and by their names the structs that those refer to, as `<ref_prefix><name>`."""
    wanted = list(types)
    schemas, components = msgspec.json.schema_components(wanted, ref_template=ref_prefix + "{name}")
    structs: dict[str, type[msgspec.Struct]] = {}
    for each in wanted:
        _find_structs(each, structs)
    for name, component in components.items():
        if "description" in component:
            component["description"] = in_one_line(component["description"])
        if name in structs and "properties" in component:
            _mend(component, structs[name])
    return list(schemas), components


def in_one_line(docstring: str | None) -> str:
    """What a docstring says before its list of attributes, parameters or errors."""
    text = inspect.cleandoc(docstring or "")
    return " ".join(re.split(r"^(?:Attributes|Raises):", text, maxsplit=1, flags=re.M)[0].split())


def _find_structs(annotation: Any, found: dict[str, type[msgspec.Struct]]) -> None:
    if not (isinstance(annotation, type) and issubclass(annotation, msgspec.Struct)):
        for argument in get_args(annotation):
            _find_structs(argument, found)
    elif annotation.__name__ not in found:
        found[annotation.__name__] = annotation
        for field in msgspec.structs.fields(annotation):
            _find_structs(field.type, found)


def _mend(schema: JsonSchema, struct: type[msgspec.Struct]) -> None:
    for field in msgspec.structs.fields(struct):
        kinds = (field.type, *get_args(field.type))
        if UnsetType in kinds and field.encode_name in schema["required"]:
            schema["required"].remove(field.encode_name)
        if dt.datetime in kinds:
            said = schema["properties"][field.encode_name]
            for each in (said, *said.get("anyOf", ())):
                if each.get("type") == "string":
                    each["format"] = "date-time"
