"""What a person does at a shell beside a running Passline: commands, pasted lines, and their output line by line."""

from __future__ import annotations

import asyncio
import json
import os
import sysconfig
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from tests.support.processes import run_passline
from tests.support.sse_client import StreamRequest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from contextlib import AbstractAsyncContextManager

    from tests.support.processes import PasslineProcess

KITCHEN = "/api/v1/restaurants/pizzeria-roma/events"

PASSLINE = str(Path(sysconfig.get_path("scripts")) / "passline")


async def passline(*arguments: str, data_dir: Path, stdin: bytes = b"") -> str:
    """What a command that succeeds says on standard output."""
    done = await run_passline(*arguments, "--data-dir", str(data_dir), stdin=stdin)
    assert done.returncode == 0, done.stderr
    return done.stdout


async def refused(*arguments: str, data_dir: Path, stdin: bytes = b"") -> str:
    """The one line that a command says which fails; before it there may be lines for single events or of the log."""
    done = await run_passline(*arguments, "--data-dir", str(data_dir), stdin=stdin)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr.splitlines()[-1]


def event(number: int, kind: str = "OrderAccepted", **more: Any) -> dict[str, Any]:
    """An event of the order o-1."""
    return {
        "type": kind,
        "eventId": f"e-{number}",
        "occurredOnUtc": "2026-11-20T10:00:00Z",
        "orderId": "o-1",
        "restaurantId": "pizzeria-roma",
        "customerId": "ada",
        **more,
    }


def lines(*events: dict[str, Any]) -> bytes:
    """NDJSON."""
    return b"".join(json.dumps(each).encode() + b"\n" for each in events)


async def publish(at: PasslineProcess, *events: dict[str, Any]) -> str:
    """Publish over HTTP; the cursor of the last one."""
    token = await passline("token", "--subject", "order-service", "--scope", "events:publish", data_dir=at.data_dir)
    async with httpx.AsyncClient(trust_env=False, timeout=10) as client:
        headers = {"authorization": f"Bearer {token.strip()}"}
        answer = await client.post(f"{at.url}/api/v1/events", json=list(events), headers=headers)
    assert answer.status_code == 200, answer.text
    cursor: str = answer.json()["results"][-1]["cursor"]
    return cursor


async def is_published(at: PasslineProcess, published: dict[str, Any]) -> bool:
    """Whether it could be published now."""
    done = await run_passline("publish", "-", "--data-dir", str(at.data_dir), stdin=lines(published))
    return done.returncode == 0


async def is_applied(at: PasslineProcess, cursor: str) -> bool:
    """Whether the projection is there now."""
    done = await run_passline("projection", "position", "--data-dir", str(at.data_dir))
    return done.stdout.startswith(f"{cursor} ")


async def kitchen(at: PasslineProcess, **options: Any) -> StreamRequest:
    """A request for the pizzeria's stream, with a token from the command."""
    arguments = ("--subject", "giulia", "--restaurant", "pizzeria-roma:owner")
    token = await passline("token", *arguments, data_dir=at.data_dir)
    return StreamRequest(at.url + KITCHEN, token=token.strip(), **options)


@asynccontextmanager
async def running(*command: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process with its output in pipes, which does not outlive the block."""
    process = await asyncio.create_subprocess_exec(
        *command,
        env={name: value for name, value in os.environ.items() if not name.startswith("PASSLINE_")},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


def tailing(at: PasslineProcess, *arguments: str) -> AbstractAsyncContextManager[asyncio.subprocess.Process]:
    """`passline tail`, until the block is left."""
    return running(PASSLINE, "tail", *arguments, "--data-dir", str(at.data_dir))


def pasted(line: str) -> AbstractAsyncContextManager[asyncio.subprocess.Process]:
    """What a person does with a line, until the block is left."""
    return running("sh", "-c", f"exec {line}")


async def run_in_shell(line: str) -> bytes:
    """What a line that succeeds says on standard output."""
    async with running("sh", "-c", line) as process:
        output, errors = await process.communicate()
        assert process.returncode == 0, errors
        return output


async def next_line(process: asyncio.subprocess.Process) -> str:
    """Waits for it."""
    return await until(process, "")


async def until(process: asyncio.subprocess.Process, text: str) -> str:
    """The next line with `text` in it."""
    assert process.stdout is not None
    async with asyncio.timeout(10):
        while line := (await process.stdout.readline()).decode():
            if text in line:
                return line
    assert process.stderr is not None
    raise AssertionError(f"ended without {text!r}: {(await process.stderr.read()).decode()}")
