"""`passline demo`."""

from __future__ import annotations

import asyncio
import secrets
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table

from auth.claims import Role
from gateway.commands.context import connection, read_settings
from gateway.commands.serve import listening_options
from gateway.demo import TownAtWork
from gateway.dinner import Diners, Dinner
from gateway.minting import mint_token
from gateway.order_service import OrderService
from gateway.supervisor import Supervisor, supervise
from gateway.town import CUSTOMERS, RESTAURANTS, Town
from streams.cursor import Cursor
from streams.subjects import identity_key

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from gateway.settings import Settings
    from streams.log import Log

TOKEN_SECONDS = 12 * 3600

_STATUS_SECONDS = 1.0
_PLAIN_STATUS_SECONDS = 10.0
_CLEAR_LINE = "\r\x1b[2K"


@click.command
@listening_options
@click.option(
    "--rate",
    type=click.FloatRange(0.1, 6000),
    default=30,
    show_default=True,
    metavar="N",
    help="Orders per minute.",
)
@click.option(
    "--restaurants",
    type=click.IntRange(1, len(RESTAURANTS)),
    default=3,
    show_default=True,
    metavar="N",
    help="Restaurants in the town.",
)
def demo(
    rate: float, restaurants: int, host: str | None, port: int | None, workers: int | None, data_dir: Path | None
) -> None:
    """Serve a simulated town: restaurants, customers, and orders on their way, with lines to paste.

    \b
    Example:
      passline demo --rate 60 --restaurants 5
    """
    settings = read_settings(
        "warning", host=host, port=port, workers=workers, data_dir=data_dir, team_carts="true", show_platform_fee="true"
    )
    town = Town(seed=secrets.randbits(64), restaurants=restaurants, orders_per_minute=rate)
    if not asyncio.run(supervise(settings, partial(_demo, settings, town))):
        sys.exit(1)


async def _demo(settings: Settings, town: Town, supervisor: Supervisor) -> None:
    async with (
        connection(settings, "gateway", supervisor.broker_url("gateway")) as broker,
        connection(settings, "orders", supervisor.broker_url("orders")) as services_broker,
    ):
        work = TownAtWork(town, broker)
        order_service = OrderService(services_broker.command_consumer(), services_broker.history)
        tasks = (
            asyncio.create_task(supervisor.run()),
            asyncio.create_task(order_service.run()),
            asyncio.create_task(work.run()),
            asyncio.create_task(_tell(settings, town, work, supervisor, broker.log)),
            asyncio.create_task(_dine(settings, town, work, supervisor)),
        )
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:  # none should ever be
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def _dine(settings: Settings, town: Town, work: TownAtWork, supervisor: Supervisor) -> None:
    """Friends have dinner in the town, by way of the gateway."""
    await supervisor.wait_ready()
    await work.first_stored.wait()

    def tell(about: str, line: str) -> None:
        click.echo(f"{_CLEAR_LINE if sys.stdout.isatty() else ''}\n# {about}\n{line}\n")

    host, friend = CUSTOMERS[2:4]
    diners = Diners(town.restaurants[0], host, friend, partial(_token, settings))
    await Dinner(_local(supervisor.url), diners, tell).run()


def _token(settings: Settings, subject: str, **claims: Any) -> str:
    life = min(TOKEN_SECONDS, settings.token_max_life_seconds)
    token, _ = mint_token(settings, subject=subject, life_seconds=life, **claims)
    return token


# -- What is shown -----------------------------------------------------------------------------------------------------


async def _tell(settings: Settings, town: Town, work: TownAtWork, supervisor: Supervisor, log: Log) -> None:
    await supervisor.wait_ready()
    await work.first_stored.wait()
    state = await log.state()
    click.echo(f"passline is listening on {supervisor.url}\n")
    is_live = sys.stdout.isatty()
    url = _local(supervisor.url)
    # Wide enough for any address: a terminal that is not goes on in the next line and leaves it whole.
    Console(highlight=False, width=160).print(_addresses(town, url))
    for about, line in _lines(settings, town, url, str(Cursor(state.epoch, state.last))):
        click.echo(f"\n# {about}\n{line}")
    click.echo()
    try:
        while True:
            status = _status(work, supervisor)
            click.echo(f"{_CLEAR_LINE}{status}" if is_live else status, nl=not is_live)
            await asyncio.sleep(_STATUS_SECONDS if is_live else _PLAIN_STATUS_SECONDS)
    finally:
        if is_live:
            click.echo()


def _local(url: str) -> str:
    """The address for this machine, where all of its addresses are listened on."""
    return url.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")


def _status(work: TownAtWork, supervisor: Supervisor) -> str:
    statuses = supervisor.statuses
    streams = sum(each.streams for each in statuses)
    cursor = max((each.cursor for each in statuses), key=_sequence, default="-")
    return f"{work.orders_last_minute} orders in the last minute · {streams} open streams · log at {cursor}"


def _sequence(cursor: str) -> int:
    return int(cursor.rpartition("-")[2])


def _addresses(town: Town, url: str) -> Table:
    table = Table("", "Who may open it", "Stream", title="The town", title_justify="left", box=None)
    for each in town.restaurants:
        who = ", ".join((f"{each.owner} (owner)", *each.staff))
        table.add_row(each.name, who, f"{url}/api/v1/restaurants/{each.id}/events")
    order = town.first_order
    table.add_row("The first order", order.customer.identity, f"{url}/api/v1/orders/{order.id}/events")
    waiting = town.waiting_order
    table.add_row("One that waits for you", waiting.customer.identity, f"{url}/api/v1/orders/{waiting.id}/events")
    table.add_row("Health", "everybody", f"{url}/health/ready")
    table.add_row("OpenAPI", "everybody", f"{url}/schema/openapi.json")
    return table


def _lines(settings: Settings, town: Town, url: str, cursor: str) -> Iterator[tuple[str, str]]:
    """What to paste, each after what it does."""
    restaurant, order = town.restaurants[0], town.first_order

    def bearer(subject: str, **more: Any) -> str:
        return f"Authorization: Bearer {_token(settings, subject, **more)}"

    stream = f"/api/v1/restaurants/{restaurant.id}/events"
    staff = bearer(restaurant.staff[0])
    owner = bearer(restaurant.owner, restaurants={restaurant.id: Role.OWNER})
    customer = bearer(order.customer.identity)
    yield f"The kitchen of {restaurant.name}, live", f'curl -N -H "{staff}" {url}{stream}'
    yield (
        "The same from a position on: put in the last id that you saw, and nothing is missed",
        f'curl -N -H "{owner}" -H "Last-Event-ID: {cursor}" {url}{stream}',
    )
    yield (
        f"One order, for {order.customer.name}, who placed it",
        f'curl -N -H "{customer}" {url}/api/v1/orders/{order.id}/events',
    )
    yield (
        f"Order {town.waiting_order.number} waits until you accept it: watch the kitchen, and the town go on with it",
        f'curl -X POST -H "{staff}" {url}/api/v1/orders/{town.waiting_order.id}/accept',
    )
    manager = bearer(restaurant.owner, restaurants={each.id: Role.OWNER for each in town.restaurants})
    topics = "&".join(f"topic=restaurants/{each.id}" for each in town.restaurants)
    yield (
        "All of the town's restaurants, and the bookings of one, on one stream",
        f'curl -N -H "{manager}" "{url}/api/v1/events?{topics}&topic=finance/{restaurant.id}"',
    )
    yield (
        f"Every order of {order.customer.name}",
        f'curl -N -H "{customer}" {url}/api/v1/customers/{identity_key(order.customer.identity)}/events',
    )
    yield (
        f"Who is connected to {restaurant.name}, in all processes",
        f'curl -H "{owner}" {url}/api/v1/restaurants/{restaurant.id}/devices',
    )
    now = "'$(date +%s)'", "'$(date -u +%Y-%m-%dT%H:%M:%SZ)'"  # the shell's, between two quoted parts
    placed = (
        f'{{"type":"OrderPlaced","eventId":"mine-{now[0]}","occurredOnUtc":"{now[1]}","orderId":"mine-{now[0]}",'
        f'"restaurantId":"{restaurant.id}","customerId":"{order.customer.identity}"}}'
    )
    service = bearer("order-service", scopes=["events:publish"])
    yield (
        "An order of your own: watch it arrive in the kitchen",
        f'curl -X POST -H "{service}" -H "Content-Type: application/json" -d \'{placed}\' {url}/api/v1/events',
    )
    name, _, credentials = staff.partition(": ")
    session = f"await fetch('/api/v1/session', {{method: 'POST', headers: {{{name}: '{credentials}'}}}})"
    listen = f"new EventSource('{stream}').addEventListener('ReceiveOrderPlaced', event => console.log(event.data))"
    yield f"A browser: open {url}/health/live, and in its console", f"{session}; {listen}"
