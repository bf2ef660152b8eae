"""Events in which every field is filled with a marker of its own, made from the structs of the events: a field that is
added later is filled, too, and seen on its way to whoever should not have it.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import re
from dataclasses import dataclass, field
from typing import Any

from msgspec import inspect

from streams.events import EVENT_TYPES

# Of two fields that exclude one another, the one that is left out.
_EITHER = {"TokenRevoked": ("subject",), "OrderProcessed": ("occurredAtUtc",)}


@dataclass
class Markers:
    """Fills structs. `of` says which marker stands where: the text as it would be found in JSON, by its path.

    `prefix` and `first` keep the markers of one event apart from those of others: `first` is a number that no marker of
    another event has, nor one of the 100 that follow it.
    """

    prefix: str = ""
    first: int = 0
    of: dict[str, str] = field(default_factory=dict)

    def body(self, name: str, **changed: object) -> dict[str, Any]:
        """An event of the type `name` in which nothing is left out; what is `changed` has no marker."""
        body = {"type": name, **self._struct(EVENT_TYPES[name], ""), **changed}
        for either in _EITHER.get(name, ()):
            del body[either]
            self.of.pop(f"/{either}", None)
        self.of = {path: marker for path, marker in self.of.items() if path.split("/")[1] not in changed}
        return body

    def _struct(self, cls: type[Any], path: str) -> dict[str, Any]:
        info = inspect.type_info(cls)
        assert isinstance(info, inspect.StructType)
        return {each.encode_name: self._value(each.type, f"{path}/{each.encode_name}") for each in info.fields}

    def _value(self, kind: inspect.Type, path: str) -> object:
        match kind:
            case inspect.Metadata(type=inner):
                return self._value(inner, path)
            case inspect.UnionType(types=types):
                inner, *_ = (each for each in types if not isinstance(each, inspect.NoneType))
                return self._value(inner, path)
            case inspect.StructType(cls=cls):
                return self._struct(cls, path)
            case inspect.ListType(item_type=item):
                return [self._value(item, f"{path}/0"), self._value(item, f"{path}/1")]
            case inspect.EnumType(cls=cls):
                return list(cls)[-1]  # its words mark nothing; that they stand nowhere is seen by the exact keys
            case inspect.IntType():
                return self._mark(path, 700_000 + self._number)
            case inspect.DateTimeType():
                return self._mark(path, f"{dt.date(2100, 1, 1) + dt.timedelta(self._number)}T10:00:00Z")
            case inspect.StrType() if path in ("/customerName", "/memberName"):
                return f"Ada {self._mark(path, f'L-{self.prefix}marker-{self._number:03}')}"
            case inspect.StrType() if path in ("/amount/currency", "/newBalance/currency"):
                return "XTS"  # of a booking both are one; the others are marked
            case inspect.StrType(pattern=pattern):
                if path.endswith("/currency") and self.first:
                    return "XTS"  # there are not enough of them
                number = self._number
                letters = "QXZ"[number // 26 % 3] + chr(65 + number % 26) + "Q"
                for candidate in (
                    f"{self.prefix}marker-{number:03}-{path.rsplit('/', 1)[-1]}",
                    hashlib.sha256(f"{self.prefix}{self.first}{path}".encode()).hexdigest(),
                    f"8{number:03}.5{number:03}",
                    letters,
                ):
                    if pattern is None or re.search(pattern, candidate):
                        return self._mark(path, candidate)
        raise AssertionError(f"teach this test a marker for {kind}, which stands at {path}")

    @property
    def _number(self) -> int:
        return self.first + len(self.of)

    def _mark(self, path: str, marker: str | int) -> str | int:
        assert str(marker) not in self.of.values()
        self.of[path] = str(marker)
        return marker

    def under(self, fields: set[str]) -> set[str]:
        """The markers of these fields, and of all that is in them."""
        return {marker for path, marker in self.of.items() if path.split("/")[1] in fields}

    def found_in(self, text: str) -> set[str]:
        return {marker for marker in self.of.values() if marker in text}
