"""The command `passline`: its subcommands are in `gateway.commands`."""

from __future__ import annotations

import click

from auth.errors import AuthError
from gateway.commands.demo import demo
from gateway.commands.epoch import epoch
from gateway.commands.projection import projection
from gateway.commands.publish import publish
from gateway.commands.serve import serve
from gateway.commands.tail import tail
from gateway.commands.token import token
from gateway.errors import GatewayError
from streams.errors import StreamsError


class _Passline(click.Group):
    def invoke(self, ctx: click.Context) -> object:
        """What is wrong is said in one line; a traceback is for what we did not expect."""
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


for each in (serve, demo, token, publish, tail, projection, epoch):
    main.add_command(each)
