"""The issuers file: several issuers in TOML, which people write and comment, an `[[issuer]]` each."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from auth.addresses import read_jwks_url
from auth.keys import ALGORITHMS, Algorithm

MAX_LIFE_SECONDS = 86_400

_KEY_SOURCES = ("key_file", "jwks_url")


class IssuerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """One issuer, as `auth.issuers.Issuer` has it; its claim `restaurants` is not believed unless it says so.

    Exactly one of `key_file` and `jwks_url` is set.
    """

    name: str
    audience: str
    key_file: Path | None = None
    jwks_url: str | None = None
    identity_claim: str = "sub"
    prefix: str = ""
    restaurants: bool = False
    max_life_seconds: int = MAX_LIFE_SECONDS
    algorithms: frozenset[Algorithm] = ALGORITHMS


def read_issuers_file(path: Path) -> tuple[list[IssuerSettings], list[str]]:
    """The issuers, and a line for everything that is wrong: of which issuer, which field, and what would be right.

    The path of a key file is taken from the directory of this file.
    """
    try:
        document = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        return [], [f"the file can't be read: {error.strerror}"]
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        return [], [f"this is not TOML: {error}"]
    wrong = [f"{name}: is not known here; an issuer begins with [[issuer]]" for name in document if name != "issuer"]
    entries = document.get("issuer")
    if not isinstance(entries, list) or not entries:
        return [], [*wrong, "issuer: there is none; each begins with [[issuer]]"]
    found = []
    for number, entry in enumerate(entries, 1):
        issuer, reasons = _read_issuer(entry, path.parent)
        wrong += [f"issuer {number}{_called(entry)}: {reason}" for reason in reasons]
        if issuer is not None:
            found.append(issuer)
    return found, wrong


def _read_issuer(entry: object, directory: Path) -> tuple[IssuerSettings | None, list[str]]:
    if not isinstance(entry, Mapping):
        return None, ["is no table; it begins with [[issuer]]"]
    values: dict[str, Any] = {}
    wrong = [
        f"{field}: is not known here; the fields are {', '.join(_READERS)}" for field in entry if field not in _READERS
    ]
    wrong += [f"{field}: is missing" for field in ("name", "audience") if field not in entry]
    sources = [field for field in _KEY_SOURCES if field in entry]
    if len(sources) != 1:
        wrong.append(f"{' and '.join(_KEY_SOURCES)}: one of them must be set, not {len(sources) or 'none'}")
    for field, read in _READERS.items():
        if field in entry:
            try:
                values[field] = read(entry[field])
            except ValueError as error:
                wrong.append(f"{field}: {error}")
    if wrong:
        return None, wrong
    if "key_file" in values:
        values["key_file"] = directory / values["key_file"]
    return IssuerSettings(**values), []


def _called(entry: object) -> str:
    name = entry.get("name") if isinstance(entry, Mapping) else None
    return f" ({name[:60]!r})" if isinstance(name, str) else ""


def _line(value: object) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= 256 or not value.isprintable():
        raise ValueError("must be a text of 1 to 256 printable characters")
    return value


def _prefix(value: object) -> str:
    if not isinstance(value, str) or len(value) > 64 or not value.isprintable():
        raise ValueError("must be a text of at most 64 printable characters")
    return value


def _path(value: object) -> Path:
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError("must be the path of a file")
    return Path(value).expanduser()


def _url(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("must be a text")
    return read_jwks_url(value)


def _switch(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError("must be true or false")
    return value


def _life(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 60 <= value <= MAX_LIFE_SECONDS:
        raise ValueError(f"must be a whole number from 60 to {MAX_LIFE_SECONDS}")
    return value


def _algorithms(value: object) -> frozenset[Algorithm]:
    known = ", ".join(sorted(ALGORITHMS))
    if not isinstance(value, list) or not value or not all(each in known.split(", ") for each in value):
        raise ValueError(f"must be a list of {known}")
    return frozenset(value)


_READERS: Mapping[str, Callable[[object], Any]] = {
    "name": _line,
    "audience": _line,
    "key_file": _path,
    "jwks_url": _url,
    "identity_claim": _line,
    "prefix": _prefix,
    "restaurants": _switch,
    "max_life_seconds": _life,
    "algorithms": _algorithms,
}
