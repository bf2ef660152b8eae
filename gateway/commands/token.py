"""`passline token`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from auth.claims import Role
from gateway.commands.context import data_dir_option, read_settings
from gateway.errors import GatewayError
from gateway.minting import mint_token
from gateway.opening import parse_since
from streams.subjects import is_id

if TYPE_CHECKING:
    from pathlib import Path


class _Life(click.ParamType[int]):
    name = "span"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Seconds; the same spans as in `?since=`, which are before a moment."""
        try:
            seconds = -int(parse_since(str(value), 0.0))
        except ValueError:
            seconds = 0
        if seconds <= 0:
            self.fail(f"{value!r} is not a span such as 90s, 15m, 1h or 1d", param, ctx)
        return seconds


class _Restaurant(click.ParamType[tuple[str, Role]]):
    name = "id:role"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Role]:
        restaurant, _, role = str(value).rpartition(":")
        if not is_id(restaurant) or role not in list(Role):
            self.fail(f"{value!r} is not a restaurant's id, ':' and a role ({', '.join(Role)})", param, ctx)
        return restaurant, Role(role)


@click.command
@click.option("--subject", required=True, metavar="S", help="Who it is for.")
@click.option(
    "--restaurant",
    "restaurants",
    type=_Restaurant(),
    multiple=True,
    metavar="ID:ROLE",
    help="A restaurant and what the subject is there: owner or staff. Repeatable.",
)
@click.option("--scope", "scopes", multiple=True, metavar="SCOPE", help="events:publish or access:publish. Repeatable.")
@click.option("--expires", type=_Life(), default="1h", show_default=True, metavar="SPAN", help="How long it is valid.")
@data_dir_option
def token(
    subject: str,
    restaurants: tuple[tuple[str, Role], ...],
    scopes: tuple[str, ...],
    expires: int,
    data_dir: Path | None,
) -> None:
    """Make a token, signed with the development key of the data directory.

    The token alone goes to standard output. Who it is in paths and topics, its key, is told on standard error.

    \b
    Example:
      TOKEN=$(passline token --subject marco --restaurant pizzeria-roma:staff)
      curl -N -H "Authorization: Bearer $TOKEN" http://127.0.0.1:8000/api/v1/restaurants/pizzeria-roma/events
    """
    if len(dict(restaurants)) < len(restaurants):
        raise GatewayError("a restaurant is named twice; a token has one role in each")
    settings = read_settings(data_dir=data_dir)
    made, claims = mint_token(
        settings, subject=subject, life_seconds=expires, restaurants=dict(restaurants), scopes=scopes
    )
    click.echo(f"key: {claims.key}", err=True)
    click.echo(made)
