"""Every alarm to the operator's own address, signed, and again until it is taken.

An alarm on a stream that nobody watches helps nobody. The address is the operator's setting and nobody else's word
decides where anything is sent, so it may be on a private network.
"""

from __future__ import annotations

import asyncio
import random
import time
from http import HTTPStatus
from typing import TYPE_CHECKING

import httpx
import structlog

from gateway.signing import signature
from streams.database import DatabaseUnavailable
from streams.deliveries import GIVEN_UP_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from streams.deliveries import Deliveries, Delivery

ATTEMPT_SECONDS = 10.0
"""For one attempt as a whole."""

AT_ONCE = 8
"""Attempts under way: a receiver that hangs holds up no more than these."""

POLL_SECONDS = 1.0

FIRST_RETRY_SECONDS = 5.0
LONGEST_RETRY_SECONDS = 900.0

_log = structlog.get_logger()


def http_client(seconds: float) -> httpx.AsyncClient:
    """Follows no redirects: the address in the settings is the one that is meant.

    `HTTPS_PROXY`, `NO_PROXY`, `SSL_CERT_FILE` and `SSL_CERT_DIR` hold as usual.
    """
    return httpx.AsyncClient(timeout=seconds, follow_redirects=False)


class Webhook:
    """Delivers what is queued to `url`, signed with each of `keys`. `clock` is in Unix seconds.

    A status from 200 to 299 means taken. Redirects are not followed, and nothing of an answer is read but its status.
    410 Gone gives the alarm up at once, everything else is tried again, until the alarm is a day old.
    """

    def __init__(
        self,
        deliveries: Deliveries,
        url: str,
        keys: Sequence[bytes],
        *,
        clock: Callable[[], float] = time.time,
        attempt_seconds: float = ATTEMPT_SECONDS,
    ) -> None:
        self._deliveries = deliveries
        self._url = url
        self._keys = keys
        self._clock = clock
        self._attempt_seconds = attempt_seconds

    async def run(self) -> None:
        """Deliver until cancelled."""
        under_way: set[asyncio.Task[None]] = set()
        async with (
            http_client(self._attempt_seconds) as http,
            asyncio.TaskGroup() as group,
        ):
            while True:
                claimed = await self._claim(AT_ONCE - len(under_way))
                for delivery in claimed:
                    task = group.create_task(self._deliver(http, delivery))
                    under_way.add(task)
                    task.add_done_callback(under_way.discard)
                if len(under_way) == AT_ONCE:
                    await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
                elif not claimed:
                    await asyncio.sleep(POLL_SECONDS)

    async def deliver_due(self, http: httpx.AsyncClient) -> int:
        """Make one attempt for some of what is due, at most AT_ONCE; how many there were."""
        claimed = await self._claim(AT_ONCE)
        await asyncio.gather(*(self._deliver(http, each) for each in claimed))
        return len(claimed)

    async def _claim(self, most: int) -> list[Delivery]:
        try:
            return await self._deliveries.claim(self._clock(), most)
        except DatabaseUnavailable as error:
            _log.warning("webhook.database_away", reason=error.reason)
            return []

    async def _deliver(self, http: httpx.AsyncClient, delivery: Delivery) -> None:
        try:
            await self._attempt(http, delivery)
        except DatabaseUnavailable as error:  # what came of it is lost, so it is due again
            _log.warning("webhook.database_away", event_id=delivery.event_id, reason=error.reason)

    async def _attempt(self, http: httpx.AsyncClient, delivery: Delivery) -> None:
        give_up_at = delivery.raised_at + GIVEN_UP_SECONDS
        if self._clock() >= give_up_at:  # as when the log is read anew into an empty database
            await self._deliveries.over(delivery)
            _log.info("webhook.too_old", event_id=delivery.event_id)
            return
        answer = await self._post(http, delivery)
        if isinstance(answer, int) and HTTPStatus.OK <= answer < HTTPStatus.MULTIPLE_CHOICES:
            await self._deliveries.over(delivery)
            _log.info("webhook.delivered", event_id=delivery.event_id, attempt=delivery.attempts)
            return
        reason = answer if isinstance(answer, str) else f"the answer is {answer}"
        again_at = self._clock() + retry_seconds(delivery.attempts)
        if answer == HTTPStatus.GONE or again_at >= give_up_at:
            await self._give_up(delivery, reason)
            return
        await self._deliveries.again(delivery, again_at)
        _log.warning("webhook.failed", event_id=delivery.event_id, attempt=delivery.attempts, reason=reason)

    async def _give_up(self, delivery: Delivery, reason: str) -> None:
        await self._deliveries.over(delivery)
        _log.error("webhook.given_up", event_id=delivery.event_id, attempt=delivery.attempts, reason=reason)

    async def _post(self, http: httpx.AsyncClient, delivery: Delivery) -> int | str:
        """The status of the answer, or why there is none."""
        timestamp = int(self._clock())
        headers = {
            "content-type": "application/json",
            "user-agent": "passline",
            "webhook-id": delivery.event_id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": signature(self._keys, delivery.event_id, timestamp, delivery.body),
        }
        try:
            async with asyncio.timeout(self._attempt_seconds):
                async with http.stream("POST", self._url, content=delivery.body, headers=headers) as response:
                    return response.status_code
        except TimeoutError:
            return f"no answer within {self._attempt_seconds:g} seconds"
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, OSError) as error:
            return type(error).__name__  # its text may repeat the address, which may hold a secret


def retry_seconds(attempts: int) -> float:
    """From the failure of that attempt to the next one: twice as long each time, and up to a half less by chance."""
    longest = min(LONGEST_RETRY_SECONDS, FIRST_RETRY_SECONDS * 2.0 ** min(attempts - 1, 30))
    return longest * random.uniform(0.5, 1)  # noqa: S311 - spreads load, guards nothing
