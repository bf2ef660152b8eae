"""One document from an address that the settings name, within limits of time and size."""

from __future__ import annotations

import asyncio
from http import HTTPStatus

import httpx

from auth.errors import FetchFailed


def client(timeout: float) -> httpx.AsyncClient:
    """Follows no redirects: the address in the settings is the one that is trusted. Asks for an answer that is not
    compressed, since its size is limited as it comes.

    `HTTPS_PROXY`, `NO_PROXY`, `SSL_CERT_FILE` and `SSL_CERT_DIR` hold as usual.
    """
    return httpx.AsyncClient(
        timeout=timeout, follow_redirects=False, headers={"accept": "application/json", "accept-encoding": "identity"}
    )


async def fetch(http: httpx.AsyncClient, address: str, *, timeout: float, max_bytes: int) -> bytes:
    """The body of the answer to a GET.

    Raises:
        FetchFailed: not reached, not in time (`timeout` in seconds, for all of it), not 200, or too long.
    """
    try:
        async with asyncio.timeout(timeout), http.stream("GET", address) as response:
            if response.status_code != HTTPStatus.OK:
                raise FetchFailed(f"the answer is {response.status_code}")
            body = bytearray()
            async for part in response.aiter_raw():
                body += part
                if len(body) > max_bytes:
                    raise FetchFailed(f"the answer is longer than {max_bytes} bytes")
            return bytes(body)
    except TimeoutError as error:
        raise FetchFailed(f"no answer within {timeout:g} seconds") from error
    except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, OSError) as error:
        raise FetchFailed(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__) from error
