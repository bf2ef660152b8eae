from __future__ import annotations

import pytest

from auth.addresses import read_jwks_url


@pytest.mark.parametrize(
    "url",
    [
        "https://id.example/keys",
        "https://id.example:8443/keys?p=one",
        "https://10.0.0.7/keys",
        "http://127.0.0.1:8080/keys",
        "http://127.9.9.9/keys",
        "http://[::1]/keys",
        "http://localhost:8080/keys",
    ],
)
def test_https_and_this_machine_itself_are_taken(url: str) -> None:
    assert read_jwks_url(url) == url


@pytest.mark.parametrize(
    "url",
    [
        "http://id.example/keys",
        "http://10.0.0.7/keys",
        "http://localhost.evil.example/keys",
        "http://127.0.0.1.evil.example/keys",
        "http://0.0.0.0/keys",
        "http://[::]/keys",
    ],
)
def test_plain_http_to_elsewhere_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="use https"):
        read_jwks_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "id.example/keys",
        "file:///etc/keys",
        "ftp://id.example/keys",
        "https://",
        "https:///keys",
        "https://id.example:0/keys",
        "https://id.example:99999/keys",
        "https://[::1/keys",
        "https://id.example/keys#secret",
        "https://user:secret@id.example/keys",
        "https://id.exämple/secret",
        "https://id.example/ secret",
        "https://id.example/secret\n",
        "https://id.example/" + "secret" * 400,
    ],
)
def test_what_is_no_address_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(ValueError, match="not an address as https://id") as caught:
        read_jwks_url(url)
    assert "secret" not in str(caught.value)
