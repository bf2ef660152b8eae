"""What a new stream costs: connection, request, token, authorization, head and first frame, at a steady rate.

Everybody has a token of their own. The gateway has seen it before, or not. The client either returns with a cursor that
the window covers, as nearly all do who connect, or begins anew with a snapshot.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from bench.figures import Figure
from bench.population import Population, make_known
from bench.processes import cpu_seconds
from bench.servers.passline import passline
from bench.settling import closed, sockets
from bench.sink import Sink, sink
from bench.verdict import check_verdict

if TYPE_CHECKING:
    from bench.bench import Bench
    from bench.servers.passline import Passline

RATE = 2000
"""Streams opened a second, as far as the server keeps up with it: the most that a process takes by default."""

AT_ONCE = 16
"""Streams that wait for their first frame at a time: a server is measured that is busy, not one that is overrun."""

RETURNING, FRESH = "returning", "fresh, with snapshot"
SEEN, UNSEEN = "token seen before", "new token"


async def cost(bench: Bench) -> AsyncIterator[Figure]:
    """CPU per stream: connect, authorize, first frame."""
    people = bench.pick(Population(50, 10, 500), Population(10, 10, 100))
    found: dict[str, list[float]] = {}
    async with passline(bench) as server:
        cursor = str(await make_known(server, people.founding()))
        for number in range(bench.pick(3, 1)):
            # Tokens are made anew each time.
            returning = people.requests(server, cursor=cursor)
            fresh = people.requests(server, snapshot=True)
            await check_verdict(server.port, returning[0], "resumed")
            await check_verdict(server.port, fresh[0], "fresh")
            for who, requests, events in ((RETURNING, returning, 1), (FRESH, fresh, 2)):
                async with sink(bench, server.port, requests) as clients:
                    for token in (UNSEEN, SEEN):
                        cost = await _per_stream(server, clients, len(people), events)
                        found.setdefault(f"{who}, {token}", []).append(cost)
            bench.progress(
                f"run {number + 1}: {', '.join(f'{name} {each[-1]:.0f} µs' for name, each in found.items())}"
            )
    note = f"{len(people):,} streams, {RATE} a second, each with a token of its own; half staff, half customers"
    for who, token in ((RETURNING, SEEN), (RETURNING, UNSEEN), (FRESH, SEEN), (FRESH, UNSEEN)):
        name = f"{who}, {token}"
        must = 250 if (who, token) == (RETURNING, SEEN) else None
        yield Figure(name=name, unit="µs", runs=tuple(found[name]), at_most=must, note=note if must else "")


async def _per_stream(server: Passline, clients: Sink, streams: int, events: int) -> float:
    """Open all, see that each gets its first frames, which are so many events, and close them again.

    Microseconds for one of them. Raises StreamsMissing, DeliveryMissing, NotSettled.
    """
    before = sockets(server.pid)
    await clients.reset()
    cpu = cpu_seconds(server.pid)
    await clients.open(streams, rate=RATE, at_once=AT_ONCE)
    cpu = cpu_seconds(server.pid) - cpu
    await clients.until_each_has(events)
    await clients.close()
    await closed(server.pid, before)
    return cpu / streams * 1e6
