"""The cases, in the order in which they run. One module for each family."""

from __future__ import annotations

from bench.bench import Case
from bench.cases import connect, fan_out, flood, growth, latency, memory, stalled, storm, tail

CASES: dict[str, Case] = {
    "fan-out": fan_out.against_send,
    "nchan": fan_out.against_nchan,
    "litestar": fan_out.against_litestar,
    "flood": flood.flood,
    "growth": growth.growth,
    "stalled": stalled.stalled,
    "memory": memory.idle,
    "connect": connect.cost,
    "storm": storm.all_at_once,
    "tail": tail.reading,
    "latency": latency.everyday,
}
