"""What an operator sets: one frozen struct, read once from `PASSLINE_…` variables and the command's options.

To add a setting: one field, with its unit in its name, how it is read, its default, and what it is for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_type_hints
from urllib.parse import quote, urlsplit

import msgspec

from auth.addresses import read_jwks_url
from gateway.errors import GatewayError
from gateway.peers import read_networks
from gateway.signing import read_keys
from streams.credentials import ROLES, Role, password_variable
from streams.database import parse_url
from streams.lives import Lives

_PREFIX = "PASSLINE_"
_PASSWORDS = {password_variable(role): role for role in ROLES}


class SettingsInvalid(GatewayError, ValueError):
    """Settings that can't be used.

    `reasons` has a line for each: which variable or option, what is wrong with it, and what would be right.
    """

    def __init__(self, reasons: list[str]) -> None:
        super().__init__("\n".join(reasons))
        self.reasons = tuple(reasons)


class Secret(str):
    """A text that is or may contain a password: it never shows in a repr."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "<secret>"


# ── How a value is read: from its text, or ValueError with what is wrong and what would be right ─────────────────────


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:60]}…")


def _whole(low: int, high: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if not low <= value <= high:
            raise ValueError(f"{_shown(text)} is not a whole number from {low} to {high}")
        return value

    return read


_cap = _whole(0, 1_000_000)
_seconds = _whole(0, 7 * 86_400)


def _number(low: float, high: float) -> Callable[[str], float]:
    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = low - 1
        if not low <= value <= high:  # nor is NaN
            raise ValueError(f"{_shown(text)} is not a number from {low:g} to {high:g}")
        return value

    return read


def _choice(*words: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text.lower() not in words:
            raise ValueError(f"{_shown(text)} is none of {', '.join(words)}")
        return text.lower()

    return read


def _switch(text: str) -> bool:
    if text.lower() in ("true", "yes", "on", "1"):
        return True
    if text.lower() in ("false", "no", "off", "0"):
        return False
    raise ValueError(f"{_shown(text)} is neither 'true' nor 'false'")


def _line(text: str) -> str:
    if len(text) > 256 or not text.isprintable():
        raise ValueError("the value is not one line of at most 256 printable characters")
    return text


def _prefix(text: str) -> str:
    if len(text) > 64 or not text.isprintable():
        raise ValueError("the value is not at most 64 printable characters")
    return text


def _path(text: str) -> Path:
    if "\0" in text:
        raise ValueError(f"{_shown(text)} is not a path")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{_shown(text)} names a home directory that there is not") from error


def _password(text: str) -> Secret:
    """nats-server reads the same variable, where a value may stand in quotes (see nats.conf)."""
    for quotes in ('"', "'"):
        if len(text) > 2 and text.startswith(quotes) and text.endswith(quotes):
            return Secret(text[1:-1])
    return Secret(text)


def _database_url(text: str) -> Secret:
    parse_url(text)  # its error is a ValueError, and never repeats the address
    return Secret(text)


def _table(text: str) -> str:
    # Two tables are named after it, in PostgreSQL with at most 63 characters.
    if re.fullmatch(r"([A-Za-z_][A-Za-z0-9_]{0,62}\.)?[A-Za-z_][A-Za-z0-9_]{0,55}", text) is None:
        raise ValueError(f"{_shown(text)} is not the name of a table, or a schema's and a table's with a dot between")
    return text


def _nats_url(text: str) -> Secret:
    for server in text.split(","):
        try:
            parts = urlsplit(server.strip())
            usable = parts.scheme in ("nats", "tls") and parts.hostname and parts.port != 0
        except ValueError:
            usable = False
        if not usable or parts.path.strip("/") or parts.query or parts.fragment:
            raise ValueError("the value is not nats://host:port, or several of them with commas between")
    return Secret(text)


def _webhook_url(text: str) -> Secret:
    """It may have a secret in its path, as such addresses often do."""
    try:
        parts = urlsplit(text)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and text.isprintable()
    except ValueError:
        usable = False
    if not usable or parts.username is not None or parts.fragment or not text.isascii() or " " in text:
        raise ValueError("the value is not https://… or http://…, without user, password and fragment")
    return Secret(text)


def _authorization(text: str) -> Secret:
    """The value of a header, which may hold a password."""
    if not text.isascii() or not text.isprintable() or text != text.strip():
        raise ValueError("the value is not printable ASCII without spaces around it, as in `Bearer …`")
    return Secret(text)


def _webhook_secret(text: str) -> Secret:
    read_keys(text)  # its error never repeats the secret
    return Secret(text)


def _origin(text: str) -> str:
    """As a browser writes an origin (RFC 6454 section 6.2): lower case, no path, not the scheme's own port."""
    wanted = "an origin is exactly what browsers send, as in https://app.example or http://localhost:3000"
    if "*" in text:
        raise ValueError(
            f"{_shown(text)} stands for many origins, and any of their pages could use a session; name each"
        )
    try:
        parts = urlsplit(text.removesuffix("/"))
        port, host = parts.port, parts.hostname or ""
    except ValueError:
        raise ValueError(f"{_shown(text)} is not an origin; {wanted}") from None
    name = f"[{host}]" if ":" in host else host
    default = {"http": 80, "https": 443}.get(parts.scheme)
    written = f"{parts.scheme}://{name}" + ("" if port in (None, default) else f":{port}")
    if not host or default is None or not text.isascii() or written != text.removesuffix("/").lower():
        raise ValueError(f"{_shown(text)} is not an origin; {wanted}")
    return written


def _origins(text: str) -> frozenset[str]:
    return frozenset(_origin(each.strip()) for each in text.split(",") if each.strip())


def _networks(text: str) -> tuple[str, ...]:
    return tuple(str(network) for network in read_networks(text))


# ── The settings ─────────────────────────────────────────────────────────────────────────────────────────────────────


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """All that can be set. A field `name` is the variable `PASSLINE_NAME`; an empty variable counts as not set.

    `from_environment` checks; the constructor trusts.
    """

    data_dir: Annotated[Path, _path, "directory of the embedded broker, the SQLite file and the keys"] = Path(
        "passline-data"
    )
    host: Annotated[str, _line, "address to listen on"] = "127.0.0.1"
    port: Annotated[int, _whole(0, 65_535), "TCP port to listen on; 0 takes any free one"] = 8000
    workers: Annotated[int, _whole(1, 64), "gateway processes that share the port"] = 1
    public_url: Annotated[str | None, _origin, "scheme, host and port as browsers see them, where a proxy stands"] = (
        None
    )

    nats_url: Annotated[Secret | None, _nats_url, "an existing broker; none is started then"] = None
    nats_passwords: Annotated[Mapping[Role, Secret], None, "for each of nats.conf's users"] = {}
    stream_replicas: Annotated[int, _whole(1, 5), "of the log in a NATS cluster; for a stream that is made"] = 1
    stream_max_age_seconds: Annotated[int, _whole(60, 10 * 365 * 86_400), "that the log keeps an event; likewise"] = (
        7 * 86_400
    )
    stream_max_bytes: Annotated[int, _whole(1 << 20, 1 << 50), "that the log takes on the disk; likewise"] = 4 << 30
    database_url: Annotated[Secret | None, _database_url, "the projection; by default a SQLite file in data_dir"] = None
    statement_seconds: Annotated[float, _number(0.1, 60), "for one SQL statement, waiting for locks included"] = 2.0

    outbox_database_url: Annotated[Secret | None, _database_url, "an application's, with an outbox to relay"] = None
    outbox_table: Annotated[str, _table, "the outbox in it; schema.table where it is in a schema"] = "passline_outbox"
    outbox_keep_seconds: Annotated[int, _whole(0, 366 * 86_400), "that an outbox keeps what was published"] = 86_400
    export_authorization: Annotated[Secret | None, _authorization, "sent by `passline export` with every batch"] = None

    command_seconds: Annotated[int, _whole(1, 3600), "that an order service has to take a command"] = 60

    heartbeat_seconds: Annotated[float, _number(0.05, 300), "without traffic until a stream's heartbeat"] = 15.0
    retry_ms: Annotated[int, _whole(500, 600_000), "after which clients come back, half of it more or less"] = 2000
    window_events: Annotated[int, _whole(1, 100_000_000), "newest events that a process keeps in memory"] = 100_000
    window_bytes: Annotated[int, _whole(1024, 1 << 40), "that these events may take in memory"] = 64 * 1024 * 1024
    progress_seconds: Annotated[float, _number(0.1, 3600), "that a client may read nothing before it is cut"] = 30.0
    expiring_seconds: Annotated[
        float, _number(0, 3600), "before its token's end that a stream is told, half of it more or less"
    ] = 60.0
    drain_seconds: Annotated[float, _number(0, 600), "over which streams are closed when the process ends"] = 10.0

    max_per_subject_topic: Annotated[int, _cap, "streams of a subject on a topic, in a process; 0 for no cap"] = 4
    max_per_subject: Annotated[int, _cap, "streams of a subject, in a process; 0 for no cap"] = 32
    max_per_address: Annotated[int, _cap, "streams of a client's address, in a process; 0 for no cap"] = 1_000
    max_per_topic: Annotated[int, _cap, "streams of a topic, in a process; 0 for no cap"] = 10_000
    max_per_process: Annotated[int, _cap, "streams in a process; 0 for no cap"] = 16_000
    max_new_per_second: Annotated[int, _cap, "new streams in a second, in a process; 0 for no cap"] = 2_000
    signals_per_second: Annotated[int, _cap, "signals of a subject to an order, in a process; 0 for no limit"] = 5
    trusted_proxies: Annotated[
        tuple[str, ...], _networks, "proxies whose X-Forwarded-For is believed, with commas between"
    ] = ()

    token_issuer: Annotated[str, _line, "the claim `iss` of accepted tokens"] = "passline"  # noqa: S105 - a name
    token_audience: Annotated[str, _line, "what the claim `aud` of them must name"] = "passline"  # noqa: S105 - a name
    token_key_file: Annotated[
        Path | None, _path, "the issuer's public key in PEM; by default a development key made in data_dir"
    ] = None
    token_jwks_url: Annotated[
        str | None, read_jwks_url, "instead: where the issuer publishes its keys, as a JWK Set"
    ] = None
    token_identity_claim: Annotated[str, _line, "the one claim that says who it is"] = "sub"  # noqa: S105 - a name
    token_prefix: Annotated[str, _prefix, "stands before each identity of the issuer"] = ""
    token_restaurants: Annotated[bool, _switch, "whether the issuer's claim `restaurants` is believed"] = True
    token_max_life_seconds: Annotated[int, _whole(60, 86_400), "that a token may be valid for"] = 86_400
    issuers_file: Annotated[Path | None, _path, "more issuers, in TOML"] = None
    jwks_refresh_seconds: Annotated[int, _whole(10, 86_400), "from one fetch of an issuer's keys to the next"] = 600
    jwks_stale_seconds: Annotated[int, _whole(10, 30 * 86_400), "that fetched keys stay good without a next fetch"] = (
        86_400
    )
    forwarded_identity: Annotated[
        str | None, _line, "the issuer whose tokens the trusted proxies have verified; they say who is asking"
    ] = None
    forwarded_life_seconds: Annotated[
        int, _whole(10, 86_400), "that an identity from a proxy is good for where the proxy does not say"
    ] = 900

    accept_within_seconds: Annotated[int, _seconds, "for a restaurant to answer an order; 0 for no such alarm"] = 300
    ready_within_seconds: Annotated[
        int, _seconds, "from accepted to ready, where no delivery time was promised; 0 for no such alarm"
    ] = 2_700
    deliver_within_seconds: Annotated[
        int, _seconds, "from ready to delivered, where no delivery time was promised; 0 for no such alarm"
    ] = 3_600
    deliver_margin_seconds: Annotated[int, _seconds, "that a delivery may be later than was promised"] = 600
    unattended_seconds: Annotated[
        int, _seconds, "in which somebody of the restaurant must have a stream open for an order; 0 for no such alarm"
    ] = 60
    alarms_file: Annotated[Path | None, _path, "times of single restaurants, in TOML"] = None
    alert_webhook: Annotated[Secret | None, _webhook_url, "an address that every alarm is sent to"] = None
    alert_webhook_secret: Annotated[Secret | None, _webhook_secret, "signs what is sent to it"] = None

    pass_key_file: Annotated[
        Path | None, _path, "the Ed25519 private key in PEM that signs passes; by default one made in data_dir"
    ] = None

    show_platform_fee: Annotated[bool, _switch, "whether customers are shown the platform's fee"] = False
    team_carts: Annotated[bool, _switch, "whether there are streams of team carts"] = False
    team_cart_seconds: Annotated[int, _whole(1, 366 * 86_400), "that a cart is known after its last event"] = 86_400
    workflow_seconds: Annotated[int, _whole(1, 366 * 86_400), "that a workflow is known after its last event"] = 3_600

    cors_origins: Annotated[
        frozenset[str], _origins, "other origins whose pages may use this gateway, with commas between"
    ] = frozenset()
    insecure_cookies: Annotated[bool, _switch, "session cookies without `Secure`, for networks without TLS"] = False

    log_format: Annotated[Literal["auto", "json", "console"], _choice("auto", "json", "console"), "of the log"] = "auto"
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"],
        _choice("debug", "info", "warning", "error"),
        "of the least important lines that are logged",
    ] = "info"

    notices: Annotated[tuple[str, ...], None, "what an operator should be told at the start, a line each"] = ()

    @classmethod
    def from_environment(cls, environ: Mapping[str, str], **options: object) -> Self:
        """The settings in `environ`, and before them the command's `options` by field name; one that is None counts as
        not given.

        A variable `PASSLINE_…` that is no setting is not refused, since it may be a newer version's or the operator's
        own (`PASSLINE_TOKEN`, say), but told in `notices` with the setting whose name is nearest.

        Raises:
            SettingsInvalid: with everything that is wrong, not just the first.
        """
        values: dict[str, Any] = {}
        wrong: list[str] = []
        for field, (read, purpose) in _READERS.items():
            source, given = _given(field, environ, options)
            if given is None:
                continue
            try:
                values[field] = read(given)
            except ValueError as error:
                wrong.append(f"{source}: {error} ({purpose})")
        values["nats_passwords"] = {
            role: _password(environ[name]) for name, role in _PASSWORDS.items() if environ.get(name)
        }
        settings = cls(**values, notices=tuple(_unknown(environ)))
        wrong.extend(_contradictions(settings))
        if wrong:
            raise SettingsInvalid(wrong)
        return settings

    @property
    def takes_development_tokens(self) -> bool:
        """Whether there is a development key: only where no issuer has a key of its own."""
        return self.token_key_file is None and self.token_jwks_url is None and self.issuers_file is None

    @property
    def lives(self) -> Lives:
        """How long workflows and carts are known."""
        return Lives(self.workflow_seconds, self.team_cart_seconds)

    @property
    def sql_url(self) -> str:
        """Where the projection is: never to be logged, it may contain a password."""
        return self.database_url or f"sqlite:///{self.data_dir.absolute() / 'passline.db'}"

    @property
    def browser_scheme(self) -> str:
        """The scheme that browsers see: this process itself speaks plain HTTP, TLS is the proxy's."""
        return urlsplit(self.public_url).scheme if self.public_url else "http"

    def external_nats_url(self, role: Role) -> str | None:
        """Where the existing broker is and how `role` gets in, None where there is none: never to be logged.

        User and password in `nats_url` hold for every role; without them a role's user is its name in nats.conf.
        """
        if self.nats_url is None or "@" in self.nats_url or role not in self.nats_passwords:
            return self.nats_url
        scheme, _, servers = self.nats_url.strip().partition("://")
        return f"{scheme}://{role}:{quote(self.nats_passwords[role], safe='')}@{servers}"


def _readers() -> dict[str, tuple[Callable[[str], Any], str]]:
    hints = get_type_hints(Settings, include_extras=True)
    notes = {field: hints[field].__metadata__ for field in Settings.__struct_fields__}
    return {field: (read, purpose) for field, (read, purpose) in notes.items() if read is not None}


_READERS = _readers()


def _variable(field: str) -> str:
    return _PREFIX + field.upper()


def _given(field: str, environ: Mapping[str, str], options: Mapping[str, object]) -> tuple[str, str | None]:
    """Where a field was set, as its operator knows that place, and to what."""
    option = options.get(field)
    if option is not None:
        return f"--{field.replace('_', '-')}", str(option)
    return _variable(field), environ.get(_variable(field)) or None


def _unknown(environ: Mapping[str, str]) -> list[str]:
    known = {name.removeprefix(_PREFIX) for name in (*map(_variable, _READERS), *_PASSWORDS)}
    ours = sorted(name.removeprefix(_PREFIX) for name in environ if name.startswith(_PREFIX))
    return [_told(name, get_close_matches(name, known, n=1, cutoff=0.65)) for name in ours if name not in known]


def _told(name: str, near: list[str]) -> str:
    return f"{_PREFIX}{name} is no setting" + "".join(f"; is {_PREFIX}{each} meant?" for each in near)


def _contradictions(settings: Settings) -> list[str]:
    told = []
    if settings.insecure_cookies and settings.browser_scheme == "https":
        told.append(
            f"{_variable('insecure_cookies')}: browsers see {settings.public_url}, so session cookies can and must be "
            f"secure; unset this, or mend {_variable('public_url')}"
        )
    if settings.token_jwks_url and settings.token_key_file:
        told.append(
            f"{_variable('token_jwks_url')}: {_variable('token_key_file')} is set as well, and an issuer has its keys "
            "from one place; unset one of them"
        )
    if settings.jwks_stale_seconds < settings.jwks_refresh_seconds:
        told.append(
            f"{_variable('jwks_stale_seconds')}: keys would be too old before they are fetched anew; set it to no less "
            f"than {_variable('jwks_refresh_seconds')}, {settings.jwks_refresh_seconds}"
        )
    if bool(settings.alert_webhook) != bool(settings.alert_webhook_secret):
        told.append(
            f"{_variable('alert_webhook')}: what is sent there is signed; set {_variable('alert_webhook_secret')} with "
            "it, or neither"
        )
    if settings.forwarded_identity and not settings.trusted_proxies:
        told.append(
            f"{_variable('forwarded_identity')}: nobody would be believed; name the proxies that verify tokens in "
            f"{_variable('trusted_proxies')}"
        )
    return told
