"""`passline demo`: what it prints works, and it outlives what may happen to it."""

from __future__ import annotations

import asyncio
import json
import re
import signal
from typing import TYPE_CHECKING

from tests.e2e.commands import next_line, pasted, run_in_shell, tailing, until
from tests.support.nats import eventually
from tests.support.processes import PasslineProcess

if TYPE_CHECKING:
    from pathlib import Path


async def test_demo_prints_lines_that_work_when_they_are_pasted(tmp_path: Path) -> None:
    async with PasslineProcess("demo", "--rate", "600", data_dir=tmp_path / "data") as it:
        await eventually(lambda: "open streams" in it.output)
        told = it.output.splitlines()
        assert told.count(f"passline is listening on {it.url}") == 1
        lines = [line for line in told if line.startswith("curl ")]
        kitchen_line, resumed_line, order_line, accept_line, several_line, customer_line, present_line, publish_line = (
            lines[:8]
        )
        assert any(line.startswith("await fetch('/api/v1/session'") for line in told)

        async with pasted(kitchen_line) as shown:
            await until(shown, '"verdict":"fresh"')
            await until(shown, "event: snapshot")
            await until(shown, "event: ReceiveOrder")
            answer = await run_in_shell(publish_line)
            mine = json.loads(answer)["results"][0]
            assert mine["status"] == "stored"
            await until(shown, mine["eventId"])
        async with pasted(resumed_line) as shown:
            await until(shown, '"verdict":"resumed"')
            await until(shown, mine["eventId"])
        async with pasted(order_line) as shown:
            await until(shown, "event: snapshot")
        async with pasted(several_line) as shown:
            await until(shown, '"topics":["restaurants/pizzeria-roma","restaurants/sushi-kumo"')
            assert json.loads(await run_in_shell(present_line))["connected"] >= 1
        async with pasted(customer_line) as shown:
            await until(shown, '"topic":"customers/ada"')
        await eventually(lambda: "fill a cart together" in it.output)
        cart_line = next(line for line in it.output.splitlines() if "/api/v1/carts/" in line)
        async with pasted(cart_line) as shown:
            await until(shown, "event: ReceiveTeamCart")
        async with pasted(kitchen_line) as shown:
            await until(shown, '"orders":[')
            sent = json.loads(await run_in_shell(accept_line))
            assert '"status":"Accepted"' in await until(shown, f'"orderId":"{sent["orderId"]}"')
            assert '"status":"Preparing"' in await until(shown, f'"orderId":"{sent["orderId"]}"')
            again = json.loads(await run_in_shell(accept_line))
            await until(shown, f'"commandId":"{again["commandId"]}"')

        began = asyncio.get_running_loop().time()
        it.terminate()
        assert await it.exited() == 0
        assert asyncio.get_running_loop().time() - began < 5
        assert it.processes() == []
        assert "Traceback" not in it.output


async def test_demo_tells_how_it_goes_and_outlives_its_broker(tmp_path: Path) -> None:
    async with PasslineProcess("demo", "--rate", "600", data_dir=tmp_path / "data") as it:
        await eventually(lambda: "open streams" in it.output)
        assert re.search(r"^\d+ orders in the last minute · 0 open streams · log at \w+-\d+$", it.output, re.MULTILINE)
        [broker] = it.processes("broker")
        broker.send(signal.SIGKILL)
        await eventually(lambda: broker.pid not in {each.pid for each in it.processes("broker")})
        async with tailing(it, "restaurants/pizzeria-roma") as shown:
            await next_line(shown)
