"""The command `passline`. Each subcommand is an object of its name in a module of its name in `gateway.commands`."""

from __future__ import annotations

from importlib import import_module

import click

from auth.errors import AuthError
from gateway.errors import GatewayError
from streams.errors import StreamsError

COMMANDS = ("serve", "demo", "token", "publish", "tail", "export", "outbox", "projection", "epoch", "schema")


class _Passline(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        """Imported when it is asked for: what one command needs is half a second that another one need not wait."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = getattr(import_module(f"gateway.commands.{cmd_name}"), cmd_name)
        return command

    def invoke(self, ctx: click.Context) -> object:
        """What is wrong is said in one line; a traceback is for what nobody expected."""
        try:
            return super().invoke(ctx)
        except (GatewayError, StreamsError, AuthError) as error:
            raise click.ClickException("; ".join(str(error).splitlines())) from error


@click.group(cls=_Passline, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="passline", message="%(prog)s %(version)s")
def main() -> None:
    """Order events from one durable log to every browser that may see them.

    \b
    passline demo         a simulated town, with curl lines to paste
    passline serve        the same without the town

    Settings are PASSLINE_… variables; options stand before them.
    """
