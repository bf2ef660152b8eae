"""The keys that an issuer publishes at an address (RFC 7517), fetched anew from time to time and kept meanwhile."""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import structlog

from auth.errors import FetchFailed, KeyNotNamed, KeysUnavailable, UnknownKey
from auth.jwks import KeySet, read_key_set
from auth.keys import ALGORITHMS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from auth.claims import Claims
    from auth.keys import Algorithm, VerificationKey
    from auth.remembering import Verifier

ASK_AGAIN_SECONDS = 30.0
"""From one question because of an unknown key to the next: anybody can make up the name of a key."""

FETCH_SECONDS = 5.0
"""For a whole answer."""

MAX_BYTES = 256 * 1024
"""Of an answer; with certificates in it, a key takes a few KB."""

RETRY_SECONDS = (1.0, 30.0)
"""After a first failure, and at most; doubled each time."""

_log = structlog.get_logger()


class PublishedKeys:
    """The keys of one `issuer`, as published at `address`, which comes from the settings and never from a token.

    `run` fetches; everything else goes without it, on what is there. What was fetched holds until the next answer. A
    failed fetch changes nothing until `stale_seconds` after the last good one; from then on there are no keys. A key
    that an answer leaves out is gone at once.

    Args:
        algorithms: keys of others are passed over.
        refresh_seconds: from one fetch to the next, at most; they are spread below it.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        issuer: str,
        address: str,
        *,
        algorithms: frozenset[Algorithm] = ALGORITHMS,
        refresh_seconds: float = 600,
        stale_seconds: float = 86_400,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._issuer = issuer
        self._address = address
        self._algorithms = algorithms
        self._refresh_seconds = refresh_seconds
        self._stale_seconds = stale_seconds
        self._clock = clock
        self.on_withdrawn: Callable[[], None] = _nobody
        """Called when a key is no longer good, after it is gone: what it verified is not, either."""
        # What was fetched last:
        self._keys: Mapping[str | None, VerificationKey] = {}
        self._passed_over: tuple[str, ...] = ()
        self._good_until = clock()
        self._failures = 0
        # The next fetch:
        self._due = clock()
        self._ask_from = clock()
        self._wanted = asyncio.Event()
        self._coming: asyncio.Future[None] | None = None

    def named(self, kid: str | None) -> VerificationKey:
        """As `auth.keys.Keys` says. While the issuer can't be reached, a key that is not here may still be one."""
        if not self._keys or self._clock() >= self._good_until:
            raise KeysUnavailable(self._issuer, self)
        if kid is None:
            if len(self._keys) > 1:
                raise KeyNotNamed
            return next(iter(self._keys.values()))
        key = self._keys.get(kid)
        if key is not None:
            return key
        if self._failures:
            raise KeysUnavailable(self._issuer, self)
        raise UnknownKey(self)

    async def ask(self) -> bool:
        """Wait for the fetch that is under way, or have one made; at most one in `ASK_AGAIN_SECONDS`.

        False without any wait if that time has not passed yet. A fetch that fails is an answer, too.
        """
        if self._coming is None:
            now = self._clock()
            if now < self._ask_from:
                return False
            self._ask_from = now + ASK_AGAIN_SECONDS
            self._coming = asyncio.get_running_loop().create_future()
            self._wanted.set()
        await asyncio.wait({self._coming}, timeout=2 * FETCH_SECONDS)
        return True

    async def run(self) -> None:
        """Fetch now, whenever it is due, and when somebody asks; until cancelled."""
        # It takes as long to be imported as a process otherwise needs to start, and most have no published keys.
        from auth.fetching import client, fetch

        async with client(FETCH_SECONDS) as http:
            while True:
                self._wanted.clear()
                if self._coming is None:
                    self._coming = asyncio.get_running_loop().create_future()
                try:
                    await self._refresh(fetch(http, self._address, timeout=FETCH_SECONDS, max_bytes=MAX_BYTES))
                finally:
                    self._coming.set_result(None)
                    self._coming = None
                await self._until_due()

    async def _refresh(self, answer: Awaitable[bytes]) -> None:
        try:
            self._take(read_key_set(await answer, self._algorithms))
        except (FetchFailed, ValueError) as error:
            self._failures += 1
            _log.warning("keys.fetch_failed", issuer=self._issuer, reason=str(error), failures=self._failures)
            self._due = self._clock() + self._retry_seconds()

    def _take(self, found: KeySet) -> None:
        now = self._clock()
        before, self._keys = self._keys, found.keys
        self._good_until = now + self._stale_seconds
        self._due = now + self._refresh_seconds * random.uniform(0.8, 1)  # noqa: S311 - spreads load, guards nothing
        if self._failures or before != found.keys:
            _log.info("keys.fetched", issuer=self._issuer, keys=len(found.keys))
        self._failures = 0
        if found.passed_over != self._passed_over:
            self._passed_over = found.passed_over
            for reason in found.passed_over:
                _log.warning("keys.passed_over", issuer=self._issuer, reason=reason)
        if any(found.keys.get(kid) != key for kid, key in before.items()):
            self.on_withdrawn()

    def _retry_seconds(self) -> float:
        first, most = RETRY_SECONDS
        delay = min(self._refresh_seconds, most, first * 2.0 ** min(self._failures - 1, 10))
        return delay * random.uniform(0.8, 1)  # noqa: S311 - likewise

    async def _until_due(self) -> None:
        while not self._wanted.is_set():
            now = self._clock()
            if self._keys and now >= self._good_until:
                self._keys = {}
                _log.error("keys.too_old", issuer=self._issuer, stale_seconds=self._stale_seconds)
                self.on_withdrawn()
            if now >= self._due:
                return
            next_time = min(self._due, self._good_until) if self._keys else self._due
            with suppress(TimeoutError):
                async with asyncio.timeout(next_time - now):
                    await self._wanted.wait()


async def verify_asking(verifier: Verifier, token: str) -> Claims:
    """What `token` says. Where its key is not here, its issuer is asked for it; all else goes without any wait.

    Raises:
        Unauthorized
        KeysUnavailable: there is no telling, and it will pass.
    """
    try:
        return verifier.verify(token)
    except (UnknownKey, KeysUnavailable) as refusal:
        if refusal.keys is None or not await refusal.keys.ask():
            raise
    return verifier.verify(token)


def _nobody() -> None:
    """Has verified anything with the keys."""
