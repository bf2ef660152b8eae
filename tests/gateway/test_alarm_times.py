"""How long each step of an order may take: the settings, and the file with the times of single restaurants."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gateway.alarm_times import alarm_times
from gateway.settings import Settings, SettingsInvalid
from streams.due import AlarmTimes, Limits

if TYPE_CHECKING:
    from pathlib import Path

SECRET = "whsec_" + "c2l4dGVlbiB0aW1lcyB0d28gYnl0ZXMgYXMgYSBrZXk="


def test_without_a_file_all_restaurants_have_the_settings_times() -> None:
    settings = Settings.from_environment({"PASSLINE_ACCEPT_WITHIN_SECONDS": "60", "PASSLINE_READY_WITHIN_SECONDS": "0"})
    limits = Limits(accept=60, ready=0, deliver=3600, deliver_margin=600, unattended=60)
    assert alarm_times(settings) == AlarmTimes(limits)


def test_restaurants_of_the_file_have_their_own_times_and_else_those_of_all(tmp_path: Path) -> None:
    file = tmp_path / "alarms.toml"
    file.write_text(
        "[restaurants.pizzeria-roma]\naccept_within_seconds = 120\nunattended_seconds = 0\n"
        "[restaurants.2]\ndeliver_margin_seconds = 1\nready_within_seconds = 9\ndeliver_within_seconds = 8\n"
    )
    times = alarm_times(Settings.from_environment({"PASSLINE_ALARMS_FILE": str(file)}))
    assert times.of("elsewhere") == times.default
    assert times.of("pizzeria-roma") == Limits(accept=120, ready=2700, deliver=3600, deliver_margin=600, unattended=0)
    assert times.of("2") == Limits(accept=300, ready=9, deliver=8, deliver_margin=1, unattended=60)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, "the file can't be read: No such file or directory"),
        ("[restaurants.r1", "this is not TOML"),
        ("[restaurant.r1]\n", "Object contains unknown field `restaurant`"),
        ("[restaurants.r1]\naccept = 1\n", "Object contains unknown field `accept`"),
        ("[restaurants.r1]\naccept_within_seconds = -1\n", "Expected `int` >= 0"),
        ("[restaurants.r1]\naccept_within_seconds = nan\n", "Expected `int | null`, got `float`"),
        ('[restaurants.r1]\naccept_within_seconds = "soon"\n', "Expected `int | null`, got `str`"),
        ('[restaurants."a.b"]\n', "matching regex"),
        ("\n".join(f"[restaurants.r{number}]" for number in range(1001)), "length <= 1000"),
    ],
)
def test_file_that_can_not_be_used_is_refused_with_where_it_is_wrong(
    tmp_path: Path, text: str | None, told: str
) -> None:
    file = tmp_path / "alarms.toml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(SettingsInvalid) as refused:
        alarm_times(Settings.from_environment({"PASSLINE_ALARMS_FILE": str(file)}))
    [reason] = refused.value.reasons
    assert reason.startswith(f"PASSLINE_ALARMS_FILE: {file}: ")
    assert told in reason


@pytest.mark.parametrize(
    ("environ", "told"),
    [
        ({"ALERT_WEBHOOK": "https://pager.example/x"}, "set PASSLINE_ALERT_WEBHOOK_SECRET with it"),
        ({"ALERT_WEBHOOK_SECRET": SECRET}, "set PASSLINE_ALERT_WEBHOOK_SECRET with it"),
        ({"ALERT_WEBHOOK": "pager.example", "ALERT_WEBHOOK_SECRET": SECRET}, "the value is not https://"),
        ({"ALERT_WEBHOOK": "ftp://pager.example/hunter2", "ALERT_WEBHOOK_SECRET": SECRET}, "the value is not https://"),
        ({"ALERT_WEBHOOK": "https://u:hunter2@a.example", "ALERT_WEBHOOK_SECRET": SECRET}, "the value is not https://"),
        ({"ALERT_WEBHOOK": "https://a.example", "ALERT_WEBHOOK_SECRET": "hunter2"}, "the value is not a secret"),
    ],
)
def test_webhook_without_a_usable_address_and_secret_is_refused_and_neither_shown(
    environ: dict[str, str], told: str
) -> None:
    with pytest.raises(SettingsInvalid) as refused:
        Settings.from_environment({f"PASSLINE_{name}": value for name, value in environ.items()})
    assert told in str(refused.value)
    assert "hunter2" not in str(refused.value)


def test_webhook_and_its_secret_show_in_no_repr() -> None:
    settings = Settings.from_environment(
        {"PASSLINE_ALERT_WEBHOOK": "https://a.example/hunter2", "PASSLINE_ALERT_WEBHOOK_SECRET": f"{SECRET},{SECRET}"}
    )
    assert "hunter2" not in repr(settings)
    assert SECRET not in repr(settings)
