"""How long each step of an order may take: the settings, and the file with the times of single restaurants."""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING, Annotated

import msgspec
from msgspec import Meta

from gateway.settings import SettingsInvalid
from streams.due import MAX_RESTAURANTS, AlarmTimes, Limits
from streams.events import Id, split_path

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.settings import Settings

MAX_SECONDS = 7 * 86_400
"""The longest time that may be set; an order that takes longer has left the log by default."""

_Seconds = Annotated[int, Meta(ge=0, le=MAX_SECONDS)]


class _Restaurant(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the file says of a restaurant. What it leaves out is as for all."""

    accept_within_seconds: _Seconds | None = None
    ready_within_seconds: _Seconds | None = None
    deliver_within_seconds: _Seconds | None = None
    deliver_margin_seconds: _Seconds | None = None
    unattended_seconds: _Seconds | None = None


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    restaurants: Annotated[dict[Id, _Restaurant], Meta(max_length=MAX_RESTAURANTS)] = {}


def alarm_times(settings: Settings) -> AlarmTimes:
    """The times that the settings and their alarms file say.

    Raises:
        SettingsInvalid: the file can't be used.
    """
    default = Limits(
        accept=settings.accept_within_seconds,
        ready=settings.ready_within_seconds,
        deliver=settings.deliver_within_seconds,
        deliver_margin=settings.deliver_margin_seconds,
        unattended=settings.unattended_seconds,
    )
    if settings.alarms_file is None:
        return AlarmTimes(default)
    restaurants = _read(settings.alarms_file)
    return AlarmTimes(default, {name: _own(default, each) for name, each in restaurants.items()})


def _own(default: Limits, said: _Restaurant) -> Limits:
    own = {
        "accept": said.accept_within_seconds,
        "ready": said.ready_within_seconds,
        "deliver": said.deliver_within_seconds,
        "deliver_margin": said.deliver_margin_seconds,
        "unattended": said.unattended_seconds,
    }
    return msgspec.structs.replace(default, **{name: value for name, value in own.items() if value is not None})


def _read(path: Path) -> dict[str, _Restaurant]:
    try:
        document = tomllib.loads(path.read_text("utf-8"))
        return msgspec.convert(document, _File).restaurants
    except OSError as error:
        reason = f"the file can't be read: {error.strerror}"
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        reason = f"this is not TOML: {error}"
    except msgspec.ValidationError as error:
        detail, where = split_path(str(error))
        reason = f"{detail} (at {where})" if where else detail
    raise SettingsInvalid([f"PASSLINE_ALARMS_FILE: {path}: {reason}"])
