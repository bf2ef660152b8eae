"""`passline serve`."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any, TypeVar

import click

from gateway.commands.context import data_dir_option, read_settings
from gateway.supervisor import Supervisor, supervise

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

F = TypeVar("F", bound="Callable[..., Any]")


def listening_options(command: F) -> F:
    """The options of what serves."""
    for option in (
        data_dir_option,
        click.option("--workers", type=int, metavar="N", help="Gateway processes that share the port.  [default: 1]"),
        click.option("--port", type=int, help="TCP port; 0 takes any free one.  [default: 8000]"),
        click.option("--host", help="Address to listen on.  [default: 127.0.0.1]"),
    ):
        command = option(command)
    return command


@click.command
@listening_options
def serve(host: str | None, port: int | None, workers: int | None, data_dir: Path | None) -> None:
    """Serve streams: an embedded broker, the worker and the gateway processes.

    With PASSLINE_NATS_URL an existing broker is used. SIGTERM or Ctrl-C ends the open streams over the drain window,
    then everything else; a second one ends at once. SIGHUP replaces the worker and the gateway processes by new ones,
    one after the other.

    \b
    Example:
      passline serve --port 8000 --workers 2 --data-dir /var/lib/passline
    """
    settings = read_settings("info", host=host, port=port, workers=workers, data_dir=data_dir)
    if not asyncio.run(supervise(settings, _serve)):
        sys.exit(1)


async def _serve(supervisor: Supervisor) -> None:
    await supervisor.wait_ready()
    click.echo(f"passline is listening on {supervisor.url}")
    await supervisor.run()
