"""A publisher that keeps trying until each event is acknowledged, and writes down for the checker what it was told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import httpx

from tests.support.records import Position, Published

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

STORED = ("stored", "duplicate")


class RecordingPublisher:
    """`async with RecordingPublisher(url, token, topics_of) as publisher:`. `topics_of` says for whom an event is.

    `url` is asked for at each request. `published` is the record.
    """

    def __init__(
        self, url: Callable[[], str], token: str, topics_of: Callable[[dict[str, Any]], Sequence[str]]
    ) -> None:
        self.published: list[Published] = []
        self._url = url
        self._topics_of = topics_of
        self._http = httpx.AsyncClient(headers={"authorization": f"Bearer {token}"}, timeout=6, trust_env=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def publish(self, events: list[dict[str, Any]]) -> list[Position]:
        """Until each is acknowledged; who retries uses the same event id. Returns where they stand."""
        places: dict[str, Position] = {}
        left = events
        while left:
            for event, result in zip(left, await self._attempt(left), strict=True):
                self._record(event, result)
                if result is not None and result["status"] in STORED:
                    position = Position.parse(result["cursor"])
                    assert position is not None
                    places[event["eventId"]] = position
            left = [event for event in left if event["eventId"] not in places]
        return [places[event["eventId"]] for event in events]

    @property
    def last_acknowledged(self) -> Position:
        """The furthest place of all."""
        positions = [Position.parse(each.cursor) for each in self.published if each.cursor is not None]
        return max(position for position in positions if position is not None)

    def _record(self, event: dict[str, Any], result: dict[str, Any] | None) -> None:
        cursor = result["cursor"] if result is not None and result["status"] in STORED else None
        topics = tuple(self._topics_of(event))
        self.published.append(Published(event["eventId"], topics, "unknown" if cursor is None else "ok", cursor))

    async def _attempt(self, events: list[dict[str, Any]]) -> list[dict[str, Any] | None]:
        try:
            response = await self._http.post(f"{self._url()}/api/v1/events", json=events)
        except httpx.TransportError:
            return [None] * len(events)
        if response.status_code not in (200, 207, 503) or "results" not in response.json():
            assert response.status_code == 503, response.text
            return [None] * len(events)
        results: list[dict[str, Any] | None] = response.json()["results"]
        return results
