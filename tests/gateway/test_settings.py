from __future__ import annotations

import pickle
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.settings import Secret, Settings, SettingsInvalid
from streams.credentials import ROLES


def reasons(environ: dict[str, str], **options: object) -> list[str]:
    with pytest.raises(SettingsInvalid) as refused:
        Settings.from_environment(environ, **options)
    return list(refused.value.reasons)


def test_empty_environment_gives_the_defaults() -> None:
    assert Settings.from_environment({}) == Settings()


def test_defaults_are_those_of_the_documentation() -> None:
    defaults = Settings()
    assert (defaults.heartbeat_seconds, defaults.retry_ms, defaults.progress_seconds, defaults.drain_seconds) == (
        15,
        2000,
        30,
        10,
    )
    assert (defaults.window_events, defaults.window_bytes) == (100_000, 64 * 1024 * 1024)
    assert defaults.statement_seconds == 2
    assert (defaults.stream_replicas, defaults.stream_max_age_seconds) == (1, 7 * 86_400)
    assert (defaults.max_per_subject_topic, defaults.max_per_subject, defaults.max_per_address) == (4, 32, 1_000)
    assert (defaults.max_per_topic, defaults.max_per_process, defaults.max_new_per_second) == (10_000, 16_000, 2_000)
    assert defaults.trusted_proxies == ()
    assert defaults.token_max_life_seconds == 24 * 3600
    assert not defaults.insecure_cookies
    assert defaults.cors_origins == frozenset()


def test_every_default_is_a_value_that_may_be_set() -> None:
    written = {
        f"PASSLINE_{name.upper()}": str(value)
        for name, value in msgspec.structs.asdict(Settings()).items()
        if isinstance(value, str | int | float | bool | Path)
    }
    assert Settings.from_environment(written) == Settings()


def test_a_variable_sets_its_field() -> None:
    settings = Settings.from_environment(
        {
            "PASSLINE_PORT": "9000",
            "PASSLINE_DATA_DIR": "/var/lib/passline",
            "PASSLINE_HEARTBEAT_SECONDS": "0.5",
            "PASSLINE_INSECURE_COOKIES": "Yes",
            "PASSLINE_CORS_ORIGINS": "https://app.example, http://localhost:3000",
            "PASSLINE_LOG_FORMAT": "JSON",
        }
    )
    assert settings.port == 9000
    assert settings.data_dir == Path("/var/lib/passline")
    assert settings.heartbeat_seconds == 0.5
    assert settings.insecure_cookies
    assert settings.cors_origins == {"https://app.example", "http://localhost:3000"}
    assert settings.log_format == "json"


def test_empty_variable_counts_as_not_set() -> None:
    assert Settings.from_environment({"PASSLINE_NATS_URL": "", "PASSLINE_PORT": ""}) == Settings()


def test_option_goes_before_variable_and_none_is_no_option() -> None:
    settings = Settings.from_environment({"PASSLINE_PORT": "1", "PASSLINE_HOST": "::1"}, port=2, host=None)
    assert (settings.port, settings.host) == (2, "::1")


def test_wrong_variable_is_not_read_where_an_option_replaces_it() -> None:
    assert Settings.from_environment({"PASSLINE_PORT": "x"}, port=0).port == 0


def test_wrong_option_is_named_as_the_option() -> None:
    assert reasons({}, port=70_000, data_dir="\0") == [
        "--data-dir: '\\x00' is not a path (directory of the embedded broker, the SQLite file and the keys)",
        "--port: '70000' is not a whole number from 0 to 65535 (TCP port to listen on; 0 takes any free one)",
    ]


def test_everything_wrong_is_told_at_once_a_line_each() -> None:
    with pytest.raises(SettingsInvalid) as refused:
        Settings.from_environment(
            {
                "PASSLINE_PORT": "http",
                "PASSLINE_DRAIN_SECONDS": "nan",
                "PASSLINE_LOG_LEVEL": "loud",
                "PASSLINE_INSECURE_COOKIES": "maybe",
                "PASSLINE_TOKEN_PREFIX": "a\n",
            }
        )
    assert str(refused.value) == (
        "PASSLINE_PORT: 'http' is not a whole number from 0 to 65535 (TCP port to listen on; 0 takes any free one)\n"
        "PASSLINE_DRAIN_SECONDS: 'nan' is not a number from 0 to 600 "
        "(over which streams are closed when the process ends)\n"
        "PASSLINE_TOKEN_PREFIX: the value is not at most 64 printable characters "
        "(stands before each identity of the issuer)\n"
        "PASSLINE_INSECURE_COOKIES: 'maybe' is neither 'true' nor 'false' "
        "(session cookies without `Secure`, for networks without TLS)\n"
        "PASSLINE_LOG_LEVEL: 'loud' is none of debug, info, warning, error "
        "(of the least important lines that are logged)"
    )


def test_an_over_long_value_is_cut_in_what_is_told() -> None:
    (reason,) = reasons({"PASSLINE_PORT": "9" * 5000})
    assert f"'{'9' * 60}…'" in reason
    assert len(reason) < 300


@pytest.mark.parametrize("name", ["PORT", "WORKERS", "RETRY_MS", "WINDOW_EVENTS", "TOKEN_MAX_LIFE_SECONDS"])
@pytest.mark.parametrize("value", ["-1", "1.5", "", " ", "1e9", "9" * 5000])
def test_a_number_out_of_range_or_none_at_all_is_refused_or_absent(name: str, value: str) -> None:
    variable = f"PASSLINE_{name}"
    if not value:
        assert Settings.from_environment({variable: value}) == Settings()
    else:
        assert [reason.partition(":")[0] for reason in reasons({variable: value})] == [variable]


@pytest.mark.parametrize(
    "value",
    [
        "*",
        "https://*.example",
        "null",
        "app.example",
        "https://app.example/path",
        "https://app.example?x",
        "https://user@app.example",
        "ftp://app.example",
        "https://app.example:0x1",
        "https://app.example:99999",
        "https://",
        "https://ex\u00e4mple.org",
        "https://a.example https://b.example",
    ],
)
def test_what_is_no_exact_origin_is_refused(value: str) -> None:
    (reason,) = reasons({"PASSLINE_CORS_ORIGINS": f"https://good.example,{value}"})
    assert reason.startswith("PASSLINE_CORS_ORIGINS: ")
    assert repr(value) in reason


@pytest.mark.parametrize(
    ("value", "as_sent"),
    [
        ("https://App.Example", "https://app.example"),
        ("https://app.example/", "https://app.example"),
        ("http://[::1]:3000", "http://[::1]:3000"),
        ("http://localhost:3000", "http://localhost:3000"),
    ],
)
def test_an_origin_is_kept_as_browsers_send_it(value: str, as_sent: str) -> None:
    assert Settings.from_environment({"PASSLINE_CORS_ORIGINS": value}).cors_origins == {as_sent}


@pytest.mark.parametrize("value", ["https://app.example:443", "http://app.example:80"])
def test_an_origin_with_its_schemes_own_port_is_refused_because_browsers_leave_it_out(value: str) -> None:
    assert len(reasons({"PASSLINE_CORS_ORIGINS": value})) == 1


@pytest.mark.parametrize("name", sorted(name for name in Settings.__struct_fields__ if name.startswith("max_")))
def test_every_cap_can_be_set_and_turned_off_and_is_no_less_than_zero(name: str) -> None:
    variable = f"PASSLINE_{name.upper()}"
    assert getattr(Settings.from_environment({variable: "7"}), name) == 7
    assert getattr(Settings.from_environment({variable: "0"}), name) == 0
    (reason,) = reasons({variable: "-1"})
    assert reason.startswith(f"{variable}: '-1' is not a whole number from 0 to ")


def test_proxies_are_addresses_and_networks_with_commas_between() -> None:
    settings = Settings.from_environment(
        {"PASSLINE_TRUSTED_PROXIES": "127.0.0.1, 10.0.0.0/24,2001:db8::/32, ::1 ,::ffff:192.0.2.0/120,"}
    )
    assert list(settings.trusted_proxies) == [
        "127.0.0.1/32",
        "10.0.0.0/24",
        "2001:db8::/32",
        "::1/128",
        "192.0.2.0/24",
    ]
    assert pickle.loads(pickle.dumps(settings)) == settings


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("proxy.example", "'proxy.example' is neither an address nor a network, as 10.0.0.7 or 10.0.0.0/24"),
        ("*", "'*' is neither an address nor a network, as 10.0.0.7 or 10.0.0.0/24"),
        ("10.0.0.1:80", "'10.0.0.1:80' is neither an address nor a network, as 10.0.0.7 or 10.0.0.0/24"),
        ("10.0.0.1 10.0.0.2", "'10.0.0.1 10.0.0.2' is neither an address nor a network, as 10.0.0.7 or 10.0.0.0/24"),
        ("fe80::1%eth0", "'fe80::1%eth0' is neither an address nor a network, as 10.0.0.7 or 10.0.0.0/24"),
        ("10.0.0.7/24", "'10.0.0.7/24' is not where a network begins; is 10.0.0.0/24 meant?"),
        ("0.0.0.0/0", "'0.0.0.0/0' is everybody, and anybody could then say who they are; name your proxies"),
        ("::/0", "'::/0' is everybody, and anybody could then say who they are; name your proxies"),
    ],
)
def test_what_is_no_proxy_is_refused_with_what_would_be_right(value: str, told: str) -> None:
    assert reasons({"PASSLINE_TRUSTED_PROXIES": f"127.0.0.1,{value}"}) == [
        f"PASSLINE_TRUSTED_PROXIES: {told} (proxies whose X-Forwarded-For is believed, with commas between)"
    ]


def test_insecure_cookies_are_refused_where_browsers_see_https() -> None:
    (reason,) = reasons({"PASSLINE_INSECURE_COOKIES": "1", "PASSLINE_PUBLIC_URL": "https://gate.example"})
    assert reason.startswith("PASSLINE_INSECURE_COOKIES: ")
    assert "PASSLINE_PUBLIC_URL" in reason


def test_insecure_cookies_are_for_plain_http() -> None:
    settings = Settings.from_environment(
        {"PASSLINE_INSECURE_COOKIES": "1", "PASSLINE_PUBLIC_URL": "http://kitchen.lan:8000"}
    )
    assert settings.insecure_cookies
    assert settings.browser_scheme == "http"


def test_the_scheme_that_browsers_see_is_the_public_urls() -> None:
    assert Settings.from_environment({"PASSLINE_PUBLIC_URL": "https://gate.example"}).browser_scheme == "https"
    assert Settings().browser_scheme == "http"


def test_unknown_variable_is_told_with_the_nearest_name() -> None:
    settings = Settings.from_environment(
        {"PASSLINE_CORS_ORIGIN": "https://a.example", "PASSLINE_TOKEN": "t", "PATH": "/bin", "PASSLINE_PORT": "1"}
    )
    assert settings.notices == (
        "PASSLINE_CORS_ORIGIN is no setting; is PASSLINE_CORS_ORIGINS meant?",
        "PASSLINE_TOKEN is no setting",
    )


def test_variables_of_the_brokers_users_are_known() -> None:
    environ = {f"PASSLINE_NATS_PASSWORD_{role.upper()}": f"secret-{role}" for role in ROLES}
    settings = Settings.from_environment(environ)
    assert settings.notices == ()
    assert settings.nats_passwords == {role: f"secret-{role}" for role in ROLES}


def test_without_a_nats_url_there_is_no_external_broker() -> None:
    environ = {"PASSLINE_NATS_PASSWORD_GATEWAY": "secret"}
    assert Settings.from_environment(environ).external_nats_url("gateway") is None


def test_a_roles_password_goes_into_the_first_server_of_the_nats_url() -> None:
    settings = Settings.from_environment(
        {"PASSLINE_NATS_URL": "nats://a:4222,nats://b:4222", "PASSLINE_NATS_PASSWORD_GATEWAY": "p/@s:"}
    )
    assert settings.external_nats_url("gateway") == "nats://gateway:p%2F%40s%3A@a:4222,nats://b:4222"
    assert settings.external_nats_url("worker") == "nats://a:4222,nats://b:4222"


def test_a_password_in_the_quotes_that_nats_conf_may_need_is_what_stands_between() -> None:
    settings = Settings.from_environment({"PASSLINE_NATS_PASSWORD_GATEWAY": '"123abc"'})
    assert settings.nats_passwords == {"gateway": "123abc"}


def test_user_and_password_in_the_nats_url_hold_for_every_role() -> None:
    settings = Settings.from_environment(
        {"PASSLINE_NATS_URL": "nats://u:p@a:4222", "PASSLINE_NATS_PASSWORD_GATEWAY": "other"}
    )
    assert {settings.external_nats_url(role) for role in ROLES} == {"nats://u:p@a:4222"}


@pytest.mark.parametrize("value", ["a:4222", "http://a", "nats://", "nats://a:0", "nats://u:p/q@a", "nats://a:b", ","])
def test_a_wrong_nats_url_is_refused_and_never_shown(value: str) -> None:
    (reason,) = reasons({"PASSLINE_NATS_URL": value})
    assert reason.startswith("PASSLINE_NATS_URL: the value is not nats://host:port")


def test_a_wrong_database_url_is_refused_and_never_shown() -> None:
    (reason,) = reasons({"PASSLINE_DATABASE_URL": "mysql://root:hunter2@host/db"})
    assert reason.startswith("PASSLINE_DATABASE_URL: ")
    assert "hunter2" not in reason


def test_the_default_database_is_a_file_in_the_data_directory(tmp_path: Path) -> None:
    assert Settings.from_environment({}, data_dir=tmp_path).sql_url == f"sqlite:///{tmp_path}/passline.db"
    assert Settings.from_environment({"PASSLINE_DATABASE_URL": "postgresql://h/d"}).sql_url == "postgresql://h/d"


def test_secrets_show_in_no_repr() -> None:
    settings = Settings.from_environment(
        {
            "PASSLINE_NATS_URL": "nats://u:hunter2@a",
            "PASSLINE_DATABASE_URL": "postgresql://u:hunter2@h/d",
            "PASSLINE_NATS_PASSWORD_ADMIN": "hunter2",
        }
    )
    assert "hunter2" not in repr(settings)
    assert settings.external_nats_url("gateway") == "nats://u:hunter2@a"


def test_settings_reach_another_process_as_they_are() -> None:
    settings = Settings.from_environment({"PASSLINE_NATS_URL": "nats://u:p@a", "PASSLINE_NATS_PASSWORD_ADMIN": "x"})
    copy = pickle.loads(pickle.dumps(settings))
    assert copy == settings
    assert type(copy.nats_url) is Secret


@given(st.dictionaries(st.sampled_from(sorted(Settings.__struct_fields__)), st.text(st.characters(codec="utf-8"))))
def test_any_environment_is_taken_or_refused_in_words(values: dict[str, str]) -> None:
    told: tuple[str, ...] = ()
    try:
        Settings.from_environment({f"PASSLINE_{name.upper()}": value for name, value in values.items()})
    except SettingsInvalid as error:
        told = error.reasons
    assert all(reason.startswith("PASSLINE_") for reason in told)
