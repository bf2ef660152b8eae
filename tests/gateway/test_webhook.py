"""The webhook: what a receiver gets of an alarm, how it knows that it is ours, and how often it is tried."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from gateway.signing import read_keys, signature
from gateway.webhook import FIRST_RETRY_SECONDS, LONGEST_RETRY_SECONDS, Webhook, http_client, retry_seconds
from streams.database import open_database
from streams.deliveries import CLAIM_SECONDS, GIVEN_UP_SECONDS, Deliveries
from streams.events import Alarm, OrderAccepted, OrderDelayed, OrderPlaced, OrderUnattended
from streams.projection import Projection
from streams.rebuild import rebuild
from tests.streams.alarm_model import TimedLog, minutes
from tests.streams.histories import EPOCH
from tests.support.nats import eventually
from tests.support.scripted_server import Exchange, Request, answer, serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from sqlalchemy.ext.asyncio import AsyncEngine

    from streams.entry import Entry

pytestmark = pytest.mark.ways("postgresql")

SECRET = "whsec_" + "c2l4dGVlbiB0aW1lcyB0d28gYnl0ZXMgYXMgYSBrZXk="
OTHER_SECRET = "whsec_" + "YW5vdGhlciBrZXkgb2YgdGhpcnR5LXR3byBieXRlcyE="
DAY = 86_400


def documented() -> Callable[[dict[str, str], bytes, str], dict[str, Any]]:
    """The check that the documentation gives to receivers."""
    text = (Path(__file__).parents[2] / "docs/operating.md").read_text()
    [snippet] = [each for each in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "webhook-id" in each]
    defined: dict[str, Any] = {}
    exec(snippet, defined)
    verified: Callable[[dict[str, str], bytes, str], dict[str, Any]] = defined["verified"]
    return verified


class Receiver:
    """Answers as `script` says, one attempt after the other; the last one again and again. `taken` are the bodies."""

    def __init__(self, script: Sequence[bytes | None]) -> None:
        self.script = list(script)
        self.url = ""
        self.requests: list[tuple[Request, bytes]] = []

    async def __call__(self, exchange: Exchange) -> None:
        body = await exchange.body()
        said = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        self.requests.append((exchange.request, body))
        if said is None:
            await exchange.gone()
        else:
            await exchange.send(said)

    @property
    def ids(self) -> list[str]:
        return [request.headers["webhook-id"] for request, _ in self.requests]


OK = answer("204 No Content")
HANGS = None


@asynccontextmanager
async def receiving(*script: bytes | None) -> AsyncIterator[Receiver]:
    receiver = Receiver(script)
    async with serving(receiver) as server:
        receiver.url = f"{server.url}/hooks/orders"
        yield receiver


async def ignore(entry: Entry, reason: str) -> None: ...


class Town:
    """A log whose alarms are read back by a worker with a webhook; and a clock of its own."""

    def __init__(self, engine: AsyncEngine, receiver: Receiver) -> None:
        self.engine = engine
        self.log = TimedLog()
        self.log.now = self.now = float(int(time.time()))
        self.receiver = receiver

    def alarm(self, number: int, order_id: str = "o1") -> None:
        """One more in the log."""
        if all(entry.order_id != order_id for entry in self.log.entries):
            self.log.order(OrderPlaced, order_id, customer_id="ada", customer_name="Ada Lovelace")
        said: dict[str, Any] = {"event_id": f"alarm-{number}", "alarm": Alarm.ACCEPT, "due_at": minutes(0)}
        self.log.order(OrderDelayed, order_id, customer_id="ada", **said)

    async def apply(self, *, delivers_alarms: bool = True) -> None:
        projection = Projection(self.engine, delivers_alarms=delivers_alarms)
        found = await projection.position()
        after = 0 if found is None else found.sequence
        await projection.apply(EPOCH, after, self.log.after(after), self.log.head, ignore)

    async def rebuild(self) -> None:
        async def read(after: int) -> AsyncIterator[Sequence[Entry]]:
            yield self.log.after(after)

        await rebuild(self.engine, epoch=EPOCH, first=1, read=read, progress=lambda _: None, delivers_alarms=True)

    async def attempts(self, *secrets: str, engine: AsyncEngine | None = None) -> int:
        """What a worker that has just started does now; how many attempts that are."""
        deliveries = Deliveries(engine or self.engine)
        keys = read_keys(",".join(secrets or (SECRET,)))
        webhook = Webhook(deliveries, self.receiver.url, keys, clock=lambda: self.now, attempt_seconds=0.5)
        made = 0
        async with http_client(0.5) as http:
            while some := await webhook.deliver_due(http):
                made += some
        return made


# -- The signature ---------------------------------------------------------------------------------------------------


def test_signature_is_that_of_the_specifications_own_libraries() -> None:
    keys = read_keys("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    assert (
        signature(keys, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
        == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    )


@pytest.mark.parametrize(
    "secret", ["", "hunter2", "whsec_", "whsec_aHVudGVyMg==", "whsec_!", f"{SECRET},", f"x{SECRET}"]
)
def test_what_is_no_secret_is_refused_and_never_shown(secret: str) -> None:
    with pytest.raises(ValueError, match="openssl rand") as refused:
        read_keys(secret)
    assert "hunter2" not in str(refused.value)
    assert refused.value.__cause__ is None


async def test_receiver_that_follows_the_documentation_knows_the_alarm_and_nobody_elses(engine: AsyncEngine) -> None:
    verified = documented()
    async with receiving(OK) as receiver:
        town = Town(engine, receiver)
        town.alarm(1)
        town.log.order(OrderUnattended, event_id="alarm-2", customer_id="ada", customer_name="Ada Lovelace")
        await town.apply()
        assert await town.attempts(OTHER_SECRET, SECRET) == 2
        (delayed, body), (unattended, other_body) = sorted(receiver.requests, key=lambda each: each[1])
    for secret in (SECRET, OTHER_SECRET):
        assert verified(delayed.headers, body, secret)["type"] == "OrderDelayed"
    wrong = [
        (delayed.headers, body + b" ", SECRET),
        (delayed.headers | {"webhook-id": "alarm-9"}, body, SECRET),
        (delayed.headers | {"webhook-timestamp": str(int(town.now) - 1)}, body, SECRET),
        (delayed.headers | {"webhook-timestamp": str(int(town.now) - 3600)}, body, SECRET),
        (delayed.headers, body, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"),
    ]
    for each in wrong:
        with pytest.raises(ValueError):
            verified(*each)
    assert delayed.method == "POST"
    assert delayed.headers["content-type"] == "application/json"
    assert delayed.headers["webhook-id"] == "alarm-1"
    told = json.loads(body)
    assert told.pop("occurredOnUtc")
    assert told == {
        "type": "OrderDelayed",
        "eventId": "alarm-1",
        "restaurantId": "r1",
        "orderId": "o1",
        "alarm": "accept",
        "dueAt": minutes(0).isoformat().replace("+00:00", "Z"),
    }
    assert verified(unattended.headers, other_body, SECRET).keys() == {
        *("type", "eventId", "occurredOnUtc", "restaurantId", "orderId")
    }


# -- Again and again ---------------------------------------------------------------------------------------------------


async def test_alarm_is_tried_until_it_is_taken_over_restarts(database: str) -> None:
    elsewhere = answer("200 OK")
    async with receiving(elsewhere) as trap:
        script = [
            answer("500 Internal Server Error", b"a body that nobody reads"),
            HANGS,
            f"HTTP/1.1 302 Found\r\nLocation: {trap.url}\r\nContent-Length: 0\r\n\r\n".encode(),
            answer("401 Unauthorized"),
            b"nonsense\r\n\r\n",
            OK,
        ]
        async with receiving(*script) as receiver:
            for attempt in range(1, 7):
                async with open_database(database) as engine:  # each time a new worker
                    if attempt == 1:
                        town = Town(engine, receiver)
                        town.alarm(1)
                        await town.apply()
                    assert await town.attempts(engine=engine) == 1
                    assert await town.attempts(engine=engine) == 0  # not before its time
                    town.now += LONGEST_RETRY_SECONDS
            async with open_database(database) as engine:
                town.now += DAY
                assert await town.attempts(engine=engine) == 0
            assert receiver.ids == ["alarm-1"] * 6
            assert trap.requests == []
    stamps = [int(request.headers["webhook-timestamp"]) for request, _ in receiver.requests]
    assert [later - earlier for earlier, later in itertools.pairwise(stamps)] == [900] * 5
    assert len({request.headers["webhook-signature"] for request, _ in receiver.requests}) == 6


async def test_receiver_that_is_away_is_tried_again(engine: AsyncEngine) -> None:
    async with receiving(OK) as receiver:
        pass
    town = Town(engine, receiver)
    town.alarm(1)
    await town.apply()
    assert await town.attempts() == 1
    town.now += LONGEST_RETRY_SECONDS
    assert await town.attempts() == 1


async def test_410_gives_that_alarm_up_and_no_other(engine: AsyncEngine) -> None:
    async with receiving(answer("410 Gone"), OK) as receiver:
        town = Town(engine, receiver)
        town.alarm(1)
        await town.apply()
        assert await town.attempts() == 1
        town.alarm(2)
        await town.apply()
        town.now += LONGEST_RETRY_SECONDS
        assert await town.attempts() == 1
    assert receiver.ids == ["alarm-1", "alarm-2"]


async def test_alarm_is_given_up_when_it_is_a_day_old(engine: AsyncEngine) -> None:
    async with receiving(answer("503 Service Unavailable")) as receiver:
        town = Town(engine, receiver)
        town.alarm(1)
        await town.apply()
        town.now += GIVEN_UP_SECONDS - 10_000
        assert await town.attempts() == 1
        town.now += 10_000
        assert await town.attempts() == 1  # which is none: it is only taken out
        town.now += DAY
        assert await town.attempts() == 0
    assert receiver.ids == ["alarm-1"]


def test_pauses_grow_and_are_never_the_same_for_all() -> None:
    for attempt, longest in ((1, FIRST_RETRY_SECONDS), (2, 2 * FIRST_RETRY_SECONDS), (99, LONGEST_RETRY_SECONDS)):
        pauses = {retry_seconds(attempt) for _ in range(100)}
        assert longest / 2 <= min(pauses) < max(pauses) <= longest
        assert len(pauses) > 10


# -- Once ------------------------------------------------------------------------------------------------------------


async def test_two_workers_send_each_alarm_once(database: str) -> None:
    async with receiving(OK) as receiver, open_database(database) as one, open_database(database) as other:
        town = Town(one, receiver)
        for number in range(40):
            town.alarm(number, f"o{number % 7}")
        await town.apply()
        made = await asyncio.gather(town.attempts(engine=one), town.attempts(engine=other))
        assert sum(made) == 40
    assert sorted(receiver.ids) == sorted(f"alarm-{number}" for number in range(40))


async def test_worker_that_dies_over_an_attempt_leaves_it_to_the_next_one(engine: AsyncEngine) -> None:
    async with receiving(OK) as receiver:
        town = Town(engine, receiver)
        town.alarm(1)
        await town.apply()
        [claimed] = await Deliveries(engine).claim(town.now, 8)
        assert await town.attempts() == 0
        town.now += CLAIM_SECONDS
        assert await town.attempts() == 1
        await Deliveries(engine).again(claimed, town.now)  # and if it was only slow
        assert await town.attempts() == 0
    assert receiver.ids == ["alarm-1"]


async def test_rebuild_sends_nothing_again_but_what_no_worker_has_read(engine: AsyncEngine) -> None:
    async with receiving(OK) as receiver:
        town = Town(engine, receiver)
        town.alarm(1)
        await town.apply()
        assert await town.attempts() == 1
        town.alarm(2)  # in the log, and the worker is not there yet
        await town.rebuild()
        await town.rebuild()
        assert await town.attempts() == 1
        town.log.order(OrderAccepted)
        await town.apply()
        assert await town.attempts() == 0
    assert receiver.ids == ["alarm-1", "alarm-2"]


async def test_alarm_that_the_log_has_twice_is_sent_once(engine: AsyncEngine) -> None:
    async with receiving(OK) as receiver:
        town = Town(engine, receiver)
        town.alarm(1)
        town.alarm(1)
        await town.apply()
        assert await town.attempts() == 1
        town.alarm(1)
        await town.apply()
        assert await town.attempts() == 0


async def test_without_a_webhook_nothing_is_queued(engine: AsyncEngine) -> None:
    async with receiving(OK) as receiver:
        town = Town(engine, receiver)
        town.alarm(1)
        await town.apply(delivers_alarms=False)
        town.alarm(2)
        await town.apply()
        assert await town.attempts() == 1
    assert receiver.ids == ["alarm-2"]


async def test_receiver_that_hangs_holds_up_neither_the_projection_nor_the_end(engine: AsyncEngine) -> None:
    async with receiving(HANGS) as receiver:
        town = Town(engine, receiver)
        town.alarm(1)
        await town.apply()
        running = asyncio.create_task(Webhook(Deliveries(engine), receiver.url, read_keys(SECRET)).run())
        await eventually(lambda: len(receiver.requests) == 1)
        town.alarm(2)
        await town.apply()
        found = await Projection(engine).position()
        assert found is not None
        assert found.sequence == town.log.last
        await eventually(lambda: len(receiver.requests) == 2)
        running.cancel()
        await asyncio.wait({running}, timeout=5)
        assert running.cancelled()
