"""Whether streams begin as they are meant to: the sink counts events, and does not look into them."""

from __future__ import annotations

import asyncio

from bench.errors import BenchError

ANSWER_SECONDS = 10.0


class WrongVerdict(BenchError):
    """A stream did not begin with the verdict that the case is about."""

    def __init__(self, wanted: str, began: bytes) -> None:
        super().__init__(f"not {wanted}, but: {began.decode(errors='replace')[-500:]}")


async def check_verdict(port: int, request: bytes, wanted: str) -> None:
    """Open one stream, and see that its first block says `wanted` ("fresh", "resumed"). Raises WrongVerdict."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    began = b""
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            writer.write(request)
            while b"data: " not in began or not began.endswith(b"\n"):
                if not (part := await reader.read(65_536)):
                    break
                began += part
    except TimeoutError:
        pass
    finally:
        writer.close()
    if b'event: stream.opened\ndata: {"verdict":"%b"' % wanted.encode() not in began:
        raise WrongVerdict(wanted, began)
