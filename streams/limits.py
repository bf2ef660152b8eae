"""How many streams one process takes, of whom, and how fast. Pure.

Every cap is counted in one process and knows nothing of the others: with N gateway processes a subject may have N times
as many streams. What is over a cap is refused softly: the client comes back, and finds room if there is some by then.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

import msgspec

from streams.errors import StreamsError, SubscriptionRefused

BURST_SECONDS = 1
"""A bucket that was left alone lets the tokens of so many seconds through at once.

So a storm of returning clients is not held up for as long as it is no larger than that, and in any t seconds no more
than rate * (t + BURST_SECONDS) get through.
"""


RATES_REMEMBERED: Final = 10_000
"""Buckets of a `Rates`, about 3 MB. The one that was left alone longest goes first: within a second it is full."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """The most streams that are open at once, and new ones in a second. 0 is no limit.

    An address counts as `gateway.peers` tells it; a subject or an address that is empty counts for nothing.
    """

    per_subject_topic: int = 4
    per_subject: int = 32
    per_address: int = 1_000
    per_topic: int = 10_000
    per_process: int = 16_000
    new_per_second: int = 2_000


class OverLimit(SubscriptionRefused):
    """There are as many as may be. `limit` names the field of `Limits`, `cap` is its value."""

    def __init__(self, limit: str, cap: int) -> None:
        self.limit, self.cap = limit, cap
        super().__init__(limit, f"over max_{limit} ({cap})")


def check_room(limit: str, cap: int, present: int) -> None:
    """Whether there is room for one more beside `present`.

    Raises:
        OverLimit
    """
    if 0 < cap <= present:
        raise OverLimit(limit, cap)


class TokenBucket:
    """Lets `per_second` through, on the whole, and `BURST_SECONDS` worth of that at once. 0 lets everything through.

    `now` is in seconds of a monotonic clock.
    """

    def __init__(self, per_second: int, now: float) -> None:
        self.per_second = per_second
        self._most = float(per_second * BURST_SECONDS)
        self._tokens = self._most
        self._filled_at = now

    def take(self, now: float) -> bool:
        """Take a token, and tell whether there was one."""
        if not self.per_second:
            return True
        self._tokens = min(self._most, self._tokens + (now - self._filled_at) * self.per_second)
        self._filled_at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class RateExceeded(StreamsError):
    """Somebody does something more often than they may. `per_second` is the rate, `retry_after_seconds` a wait."""

    def __init__(self, per_second: int) -> None:
        self.per_second = per_second
        self.retry_after_seconds = 1
        super().__init__(f"at most {per_second} in a second; wait a little")


class Rates:
    """A `TokenBucket` for each of many texts, as far as they are remembered."""

    def __init__(self, per_second: int, *, most: int = RATES_REMEMBERED) -> None:
        self._per_second = per_second
        self._most = most
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, text: str, now: float) -> None:
        """Take a token of this text's.

        Raises:
            RateExceeded: there was none.
        """
        bucket = self._buckets.get(text)
        if bucket is None:
            bucket = self._buckets[text] = TokenBucket(self._per_second, now)
            if len(self._buckets) > self._most:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(text)
        if not bucket.take(now):
            raise RateExceeded(self._per_second)
