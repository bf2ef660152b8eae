"""What a Passline asks of others: SQL statements of its gateway process, and what that sends to the broker."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import httpx
import msgspec

from bench.errors import BenchError

if TYPE_CHECKING:
    from bench.bench import Bench
    from bench.servers.passline import Passline

_LISTENER = Path(__file__).parents[1] / "counting"
_COUNT = struct.Struct("=Q")


class NotCounted(BenchError):
    """Something is not counted: no process starts without asking anything."""


class Asked(msgspec.Struct, frozen=True):
    """Counts since the start of the processes.

    Attributes:
        sql: statements that the gateway process has executed.
        jetstream: requests to JetStream's API in the broker's account, of the worker and ours as well.
        sent: messages that the gateway process has sent to the broker: requests to JetStream's API, direct reads of the
            log, and answers to flow control.
    """

    sql: int
    jetstream: int
    sent: int

    def since(self, before: Self) -> Asked:
        """What came between the two."""
        return Asked(self.sql - before.sql, self.jetstream - before.jetstream, self.sent - before.sent)


class Counting:
    """`passline(bench, counting.environment)` counts, `await counting.asked(server)` tells."""

    def __init__(self, bench: Bench) -> None:
        self._file = bench.directory / "statements"
        self._file.write_bytes(_COUNT.pack(0))
        path = os.environ.get("PYTHONPATH")
        self.environment = {
            "PYTHONPATH": f"{_LISTENER}:{path}" if path else str(_LISTENER),
            "BENCH_SQL_COUNT": str(self._file),
        }

    async def asked(self, server: Passline) -> Asked:
        """The counts now. Raises NotCounted."""
        ports = msgspec.json.decode(next((server.data_dir / "nats").glob("*.ports")).read_bytes())
        async with httpx.AsyncClient(base_url=ports["monitoring"][0]) as monitoring:
            connections: list[dict[str, Any]] = (
                (await monitoring.get("/connz")).raise_for_status().json()["connections"]
            )
            jetstream: dict[str, Any] = (await monitoring.get("/jsz")).raise_for_status().json()
        asked = Asked(
            sql=_COUNT.unpack(self._file.read_bytes())[0],
            jetstream=jetstream["api"]["total"],
            sent=sum(each["in_msgs"] for each in connections if each.get("name") == "passline-gateway"),
        )
        if 0 in (asked.sql, asked.jetstream, asked.sent):
            raise NotCounted(str(asked))
        return asked
