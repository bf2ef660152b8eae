"""Chromium can be driven, and the tests' own client and parser do as it does."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from tests.support.chromium import chromium_page
from tests.support.event_stream import EventStreamParser
from tests.support.scripted_server import LAST_CHUNK, STREAM_HEAD, Exchange, answer, chunk, serving
from tests.support.test_event_stream import PIECES

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

pytestmark = pytest.mark.system

BLANK = answer("200 OK", b"<!doctype html><title>blank</title>", "text/html")
EVENTS_UNTIL = """
([url, names, last]) => new Promise(resolve => {
  const events = []
  const source = new EventSource(url)
  for (const name of [...names, last]) {
    source.addEventListener(name, ({type, data, lastEventId}) => {
      if (type === last) {
        source.close()
        resolve(events)
      }
      events.push([type, data, lastEventId])
    })
  }
})
"""


def at(path: str, script: Callable[[Exchange], Awaitable[None]]) -> Callable[[Exchange], Awaitable[None]]:
    """The script for requests below `path`; a page without anything for all others, such as the browser's own."""

    async def serve(exchange: Exchange) -> None:
        if urlsplit(exchange.request.target).path.startswith(path):
            await script(exchange)
        else:
            await exchange.send(BLANK)

    return serve


async def test_chromium_keeps_its_last_event_id_over_connections_whose_events_have_none() -> None:
    asked: list[str | None] = []
    bodies = [
        b"retry: 50\ndata: a\nid: k-1\n\n",
        b"data: b\n\n",  # the standard would forget the id here
        b"id: k-2\n\nid: k-3\ndata: half",
        b"event: end\ndata: c\n\n",
    ]

    async def script(exchange: Exchange) -> None:
        asked.append(exchange.request.last_event_id)
        # Ended in order, since of a body that is cut Chromium at times loses what came last.
        await exchange.send(STREAM_HEAD + chunk(bodies[len(asked) - 1]) + LAST_CHUNK)

    async with serving(at("/events", script)) as server, chromium_page() as page:
        await page.goto(server.url)
        events = await page.evaluate(EVENTS_UNTIL, ["/events", ["message"], "end"])

    assert asked == [None, "k-1", "k-1", "k-2"]
    assert events == [["message", "a", "k-1"], ["message", "b", "k-1"], ["end", "c", "k-2"]]
    parser = EventStreamParser("k-1")
    assert [block.last_event_id for block in parser.feed(bodies[1])] == ["k-1"]


async def test_chromium_fires_what_our_parser_does() -> None:
    random = Random(156)
    bodies = [
        # A first field, since a line end right after a byte order mark is not seen by Chromium.
        random.choice((b"", b"\xef\xbb\xbf"))
        + b"data: 1\n"
        + b"".join(random.choice(PIECES) for _ in range(random.randint(1, 30)))
        + b"\n\nevent: end\ndata\n\n"
        for _ in range(200)
    ]

    async def script(exchange: Exchange) -> None:
        number = int(urlsplit(exchange.request.target).path.rpartition("/")[2])
        await exchange.send(STREAM_HEAD + chunk(bodies[number]))
        await exchange.gone()

    async with serving(at("/events/", script)) as server, chromium_page() as page:
        await page.goto(server.url)
        for number, body in enumerate(bodies):
            blocks = [block for block in EventStreamParser().feed(body) if block.data is not None]
            names = sorted({block.type for block in blocks} - {"end"})
            fired = await page.evaluate(EVENTS_UNTIL, [f"/events/{number}", names, "end"])
            assert fired == [[block.type, block.data, block.last_event_id] for block in blocks]


async def test_chromium_keeps_a_host_cookie_from_loopback_and_sends_it_with_an_event_source() -> None:
    cookie = b"Set-Cookie: __Host-session=s3cret; Path=/; Secure; HttpOnly; SameSite=Lax\r\n"

    async def script(exchange: Exchange) -> None:
        if exchange.request.target == "/api/session":
            await exchange.send(answer("204 No Content").replace(b"\r\n", b"\r\n" + cookie, 1))
        else:
            await exchange.send(STREAM_HEAD + chunk(b"event: end\ndata: x\n\n"))
            await exchange.gone()

    async with serving(at("/api/", script)) as server, chromium_page() as page:
        await page.goto(server.url)
        await page.evaluate("() => fetch('/api/session', {method: 'POST'})")
        await page.evaluate(EVENTS_UNTIL, ["/api/events", [], "end"])

    request = next(each for each in server.requests if each.target == "/api/events")
    assert request.headers["cookie"] == "__Host-session=s3cret"
    assert "origin" not in request.headers
    assert request.headers["sec-fetch-site"] == "same-origin"
