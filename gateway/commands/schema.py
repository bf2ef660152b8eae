"""`passline schema`: documents, made of the structs and tables that the gateway runs on."""

from __future__ import annotations

from typing import Any

import click
import msgspec

from gateway.asyncapi import document, json_schemas
from gateway.reference import page


@click.group
def schema() -> None:
    """Print what there is to send and to receive, as documents."""


@schema.command("asyncapi")
def asyncapi_command() -> None:
    """The AsyncAPI 3.0 document: streams, the log's subjects, commands. A gateway serves it, too.

    \b
    Example:
      passline schema asyncapi > asyncapi.json
    """
    _print(document())


@schema.command("json")
def json_command() -> None:
    """Every event, view and command as one JSON Schema.

    \b
    Example:
      passline schema json > passline.schema.json
    """
    _print(json_schemas())


@schema.command("topics")
def topics_command() -> None:
    """Every topic, event, view and policy as a page, in Markdown: docs/topics.md.

    \b
    Example:
      passline schema topics > topics.md
    """
    click.echo(page(), nl=False)


def _print(what: dict[str, Any]) -> None:
    click.echo(msgspec.json.format(msgspec.json.encode(what), indent=2))
