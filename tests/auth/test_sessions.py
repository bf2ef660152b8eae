from __future__ import annotations

from http.cookies import SimpleCookie

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auth.errors import AmbiguousSession, CrossOrigin, MalformedToken, SessionTooLarge
from auth.sessions import check_origin, clear_session, read_session, set_session

# ── the cookie ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_session_cookie_exact() -> None:
    assert set_session("a.b.c", expires_at=1060.9, now=1000.5) == (
        "__Host-passline=a.b.c; Secure; HttpOnly; SameSite=Lax; Path=/; Max-Age=60"
    )


def test_insecure_session_cookie_exact() -> None:
    assert set_session("a.b.c", expires_at=1060, now=1000, insecure=True) == (
        "passline=a.b.c; HttpOnly; SameSite=Lax; Path=/; Max-Age=60"
    )


def test_cleared_session_cookie_exact() -> None:
    assert clear_session() == "__Host-passline=; Secure; HttpOnly; SameSite=Lax; Path=/; Max-Age=0"
    assert clear_session(insecure=True) == "passline=; HttpOnly; SameSite=Lax; Path=/; Max-Age=0"


def test_host_prefix_keeps_its_conditions() -> None:
    """Browsers drop a `__Host-` cookie without Secure, with Domain, or with another path."""
    morsel = SimpleCookie(set_session("a.b.c", expires_at=2, now=1))["__Host-passline"]
    assert morsel["secure"]
    assert morsel["path"] == "/"
    assert morsel["domain"] == ""


def test_cookie_of_an_ended_token_is_gone_at_once() -> None:
    assert set_session("a.b.c", expires_at=1, now=5).endswith("Max-Age=0")


def test_token_that_does_not_fit_a_cookie_is_told_the_limit() -> None:
    overhead = len(set_session("x", expires_at=60, now=0)) - 1
    assert len(set_session("x" * (4096 - overhead), expires_at=60, now=0)) == 4096
    with pytest.raises(SessionTooLarge, match=r"4099 bytes long and browsers keep 4096.* 3 bytes shorter") as caught:
        set_session("x" * (4096 - overhead + 3), expires_at=60, now=0)
    assert (caught.value.size, caught.value.limit) == (4099, 4096)


@pytest.mark.parametrize("token", ["", "a;b", "a b", "a\r\nSet-Cookie: x=y", "a,b", 'a"b', "é"])
def test_token_with_other_characters_never_enters_a_cookie(token: str) -> None:
    with pytest.raises(MalformedToken):
        set_session(token, expires_at=60, now=0)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("__Host-passline=a.b.c", "a.b.c"),
        ("theme=dark; __Host-passline=a.b.c; x=y", "a.b.c"),
        ("__Host-passline=a.b.c==", "a.b.c=="),
        ("a=1;__Host-passline=a.b.c;;; =; junk; \x00", "a.b.c"),
        ("__Host-passline=a.b.c; __Host-passline=a.b.c", "a.b.c"),
        ("__Host-passline=; __Host-passline=a.b.c", "a.b.c"),
        ("__Host-passline=", None),
        ("__Host-passline", None),
        ("", None),
        ("passline=a.b.c", None),
        ("__host-passline=a.b.c", None),
        ("x__Host-passline=a.b.c", None),
        ("x=__Host-passline=a.b.c", None),
        ('x="; y=1', None),
    ],
)
def test_session_is_found_among_other_cookies_and_junk(header: str, expected: str | None) -> None:
    assert read_session(header) == expected


def test_each_mode_reads_its_own_name_only() -> None:
    assert read_session("passline=a.b.c", insecure=True) == "a.b.c"
    assert read_session("__Host-passline=a.b.c", insecure=True) is None


def test_two_different_sessions_are_refused_instead_of_choosing_one() -> None:
    with pytest.raises(AmbiguousSession):
        read_session("passline=a.b.c; passline=d.e.f", insecure=True)


@given(st.text(), st.booleans())
def test_any_cookie_header_is_read_or_refused(header: str, insecure: bool) -> None:
    try:
        token = read_session(header, insecure=insecure)
    except AmbiguousSession:
        return
    assert token is None or token in header


@given(st.from_regex(r"[A-Za-z0-9_.=-]{1,200}", fullmatch=True), st.booleans())
def test_what_is_set_is_read(token: str, insecure: bool) -> None:
    cookie = set_session(token, expires_at=60, now=0, insecure=insecure).split(";")[0]
    assert read_session(f"a=b; {cookie}", insecure=insecure) == token


# ── origins ──────────────────────────────────────────────────────────────────────────────────────────────────────────

ALLOWED = "https://board.example"
SIBLING = "https://evil.pass.example"


def passes(
    origin: str | None, site: str | None, method: str = "GET", host: str = "pass.example", scheme: str = "https"
) -> bool:
    try:
        check_origin(origin, site, host, frozenset({ALLOWED}), scheme, method=method)
    except CrossOrigin:
        return False
    return True


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
@pytest.mark.parametrize(
    ("origin", "site", "expected"),
    [
        # With Sec-Fetch-Site, that decides; an Origin may add an allowed one.
        (None, "same-origin", True),
        (None, "none", True),
        ("https://pass.example", "same-origin", True),
        ("http://behind-a-proxy", "same-origin", True),
        (None, "same-site", False),
        (None, "cross-site", False),
        (SIBLING, "same-site", False),
        ("https://evil.example", "cross-site", False),
        (ALLOWED, "same-site", True),
        (ALLOWED, "cross-site", True),
        (None, "Same-Origin", False),
        (None, "", False),
        (None, "something-new", False),
        ("https://pass.example", "cross-site", False),
        # Without it, Origin.
        ("https://pass.example", None, True),
        (ALLOWED, None, True),
        (SIBLING, None, False),
        ("http://pass.example", None, False),
        ("https://pass.example:8443", None, False),
        ("https://pass.example.evil.example", None, False),
        (ALLOWED + "/", None, False),
        (ALLOWED.upper(), None, False),
        ("", None, False),
        # A sandboxed frame's origin is nobody's.
        ("null", None, False),
        ("null", "same-origin", False),
        ("null", "cross-site", False),
    ],
)
def test_cookie_passes_from_our_own_pages_and_allowed_origins_only(
    origin: str | None, site: str | None, expected: bool, method: str
) -> None:
    assert passes(origin, site, method) is expected


def test_without_both_headers_reading_passes_and_changing_does_not() -> None:
    """A same-origin EventSource on a plain-HTTP network sends neither header."""
    assert passes(None, None, "GET")
    assert passes(None, None, "HEAD")
    for method in ("POST", "DELETE", "PUT", "PATCH", "get", "OPTIONS"):
        assert not passes(None, None, method)


@pytest.mark.parametrize(
    ("origin", "host", "scheme", "expected"),
    [
        ("http://localhost:8000", "localhost:8000", "http", True),
        ("http://localhost:8001", "localhost:8000", "http", False),
        ("http://192.168.1.5", "192.168.1.5:80", "http", True),
        ("https://pass.example", "Pass.Example:443", "https", True),
        ("https://pass.example:80", "pass.example:80", "https", True),
        ("http://[::1]:8000", "[::1]:8000", "http", True),
    ],
)
def test_own_origin_is_scheme_and_host_as_a_browser_writes_them(
    origin: str, host: str, scheme: str, expected: bool
) -> None:
    assert passes(origin, None, "POST", host, scheme) is expected


def test_null_never_passes_even_if_it_is_allowed() -> None:
    with pytest.raises(CrossOrigin):
        check_origin("null", "same-origin", "pass.example", frozenset({"null"}), "https", method="GET")
