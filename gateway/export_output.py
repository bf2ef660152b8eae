"""Where an export goes: standard output, or an address that takes batches over HTTP."""

from __future__ import annotations

import asyncio
import os
import random
import stat
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Protocol

import httpx
import msgspec
import structlog

from gateway.errors import GatewayError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.export_records import Form, Record

CURSOR_HEADER = "passline-cursor"
"""The position after the batch: the same batch sent again has the same, unless it has grown meanwhile."""

ATTEMPT_SECONDS = 30.0
FIRST_RETRY_SECONDS = 0.5
LONGEST_RETRY_SECONDS = 60.0
LONGEST_WISH_SECONDS = 600.0
"""The most that a receiver's `Retry-After` is heeded."""

_LONGEST_LINE = 1024 * 1024  # an event has at most 64 KB, and its view says less
_PASSES = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS})
_log = structlog.get_logger()


class BatchRefused(GatewayError):
    """A receiver that will not take a batch, however often it is sent."""

    def __init__(self, status: int, cursor: str) -> None:
        super().__init__(f"the receiver has refused the batch up to {cursor} with status {status}")
        self.status, self.cursor = status, cursor


class Output(Protocol):
    """Takes batches, one at a time."""

    async def send(self, records: Sequence[Record], cursor: str) -> bool:
        """True: whoever takes them has them. False: the export was stopped before that was known."""
        ...


class StandardOutput:
    """A line for each record. A regular file is flushed to the disk before a batch counts as sent."""

    def __init__(self, form: Form, descriptor: int) -> None:
        self._form = form
        self._descriptor = descriptor
        self._is_file = stat.S_ISREG(os.fstat(descriptor).st_mode)
        if self._is_file:
            _mend_last_line(descriptor, form.beginning)

    async def send(self, records: Sequence[Record], cursor: str) -> bool:  # noqa: ARG002 - each line has its own
        """Raises BrokenPipeError: nobody reads any more."""
        body = b"".join(map(self._form.line, records))
        await asyncio.to_thread(self._write, body)  # a reader may take its time, and the broker must be heard meanwhile
        return True

    def _write(self, body: bytes) -> None:
        left = memoryview(body)
        while left:
            left = left[os.write(self._descriptor, left) :]
        if self._is_file:
            os.fsync(self._descriptor)


def _mend_last_line(descriptor: int, beginning: bytes) -> None:
    """An export that was killed may have left a part of a line, which would spoil the next one, too: it is cut off.

    What is no part of a record (`beginning` is how they begin) is not ours: it gets the line end that it lacks.
    """
    try:
        reading = os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY)
    except OSError:
        return  # not ours to read: then it stays as it is
    try:
        end = os.fstat(reading).st_size
        last = os.pread(reading, _LONGEST_LINE, max(0, end - _LONGEST_LINE)).rpartition(b"\n")[2]
    finally:
        os.close(reading)
    if not last:
        return
    if (last.startswith(beginning) or beginning.startswith(last)) and not _is_json(last):
        os.ftruncate(descriptor, end - len(last))
    else:
        os.write(descriptor, b"\n")


def _is_json(line: bytes) -> bool:
    try:
        msgspec.json.decode(line, type=msgspec.Raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True


class HttpReceiver:
    """Posts each batch to `url` until it is taken: a status from 200 to 299 acknowledges it.

    What may pass (no connection, 408, 425, 429, 5xx) is tried again, with a growing, jittered time between, or after
    the answer's `Retry-After`. Redirects are not followed. `authorization` is the value of that header.
    """

    def __init__(
        self,
        form: Form,
        url: str,
        stopping: asyncio.Event,
        *,
        authorization: str | None = None,
        first_retry_seconds: float = FIRST_RETRY_SECONDS,
    ) -> None:
        self._form = form
        self._url = url
        self._stopping = stopping
        self._first_retry_seconds = first_retry_seconds
        self._headers = {"content-type": form.media_type}
        if authorization is not None:
            self._headers["authorization"] = authorization
        self._client = httpx.AsyncClient(timeout=ATTEMPT_SECONDS)

    async def __aenter__(self) -> HttpReceiver:
        await self._client.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def send(self, records: Sequence[Record], cursor: str) -> bool:
        """Raises BatchRefused."""
        body = self._form.batch(records)
        headers = {**self._headers, CURSOR_HEADER: cursor}
        failures = 0
        while True:
            wish = 0.0
            try:
                answer = await self._client.post(self._url, content=body, headers=headers)
            except httpx.TransportError as error:
                reason = type(error).__name__
            else:
                if answer.is_success:
                    return True
                if not answer.is_server_error and answer.status_code not in _PASSES:
                    raise BatchRefused(answer.status_code, cursor)
                reason, wish = str(answer.status_code), _wish(answer)
            level = _log.warning if failures == 0 else _log.debug
            level("export.not_taken", cursor=cursor, reason=reason)
            backoff = min(self._first_retry_seconds * 2**failures, LONGEST_RETRY_SECONDS)
            failures = min(failures + 1, 20)
            if await self._stopped_within(max(wish, backoff * random.uniform(0.5, 1))):  # noqa: S311 - spreads load
                return False

    async def _stopped_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            return False
        return True


def _wish(answer: httpx.Response) -> float:
    """Seconds of `Retry-After` (RFC 9110, section 10.2.3), 0 without one."""
    text = answer.headers.get("retry-after", "")
    if text.isascii() and text.isdigit():
        seconds = float(text[:9])
    else:
        try:
            seconds = (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError):
            return 0.0
    return min(max(seconds, 0.0), LONGEST_WISH_SECONDS)
