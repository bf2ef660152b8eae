"""Servers that are measured, each a context manager that yields a `Server`."""

from __future__ import annotations

from typing import Protocol

from bench.messages import Message


class Server(Protocol):
    """A server of one topic that runs.

    Attributes:
        name: for figures and progress.
        pid: of the one process that is measured.
        port: where it takes requests for streams.
        request: a whole GET request for a stream of the topic.
    """

    @property
    def name(self) -> str: ...

    @property
    def pid(self) -> int: ...

    @property
    def port(self) -> int: ...

    @property
    def request(self) -> bytes: ...

    async def publish(self, message: Message) -> None:
        """Hand the message over, and wait until the server has taken it."""
        ...
