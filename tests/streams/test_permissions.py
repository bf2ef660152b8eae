"""Who may do what to the streams, by nats.conf: on real servers."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from streams import broker
from streams.credentials import ROLES, inbox_prefix
from streams.entry import judge
from streams.events import Role as StaffRole
from streams.events import StaffAssigned, encode
from streams.log import EVENTS, Log
from streams.provision import DEAD
from tests.support.nats import PLACED, api, client, eventually, publish

if TYPE_CHECKING:
    from nats.aio.msg import Msg

    from streams.credentials import Role
    from streams.embedded import EmbeddedNats

SECOND = 1_000_000_000


READS = ("$JS.API.STREAM.INFO.EVENTS", "$JS.API.STREAM.MSG.GET.EVENTS", "$JS.API.CONSUMER.CREATE.EVENTS")
ONE_ENTRY = "$JS.API.STREAM.MSG.GET.EVENTS"
MORE_READS = tuple(subject for subject in READS if subject != ONE_ENTRY)
# Nobody destroys, copies or takes over, and nobody speaks for the server.
NOBODY = (
    *("$JS.API.STREAM.DELETE.EVENTS", "$JS.API.STREAM.PURGE.EVENTS", "$JS.API.STREAM.MSG.DELETE.EVENTS"),
    *("$JS.API.STREAM.DELETE.DEAD", "$JS.API.STREAM.SNAPSHOT.EVENTS", "$JS.API.STREAM.RESTORE.EVENTS"),
    *("$JS.API.STREAM.CREATE.OTHER", "$JS.API.STREAM.LIST", "$JS.API.CONSUMER.DURABLE.CREATE.EVENTS.d"),
    *("$JS.ACK.EVENTS.c.1.1.1.1.0", "$SYS.REQ.SERVER.PING", "_INBOX_someone.x", "anything"),
    *("$JS.API.STREAM.DELETE.COMMANDS", "$JS.API.STREAM.PURGE.COMMANDS", "$JS.API.STREAM.MSG.DELETE.IDEMPOTENCY"),
    # Its answer is the entry's bare body, and who asks chooses where it goes: on the subject of another event, say.
    *("$JS.API.DIRECT.GET.EVENTS", "$JS.API.DIRECT.GET.EVENTS.orders.r.c.o.E"),
)
TAKING = (
    *("$JS.API.CONSUMER.CREATE.COMMANDS.s", "$JS.API.CONSUMER.DURABLE.CREATE.COMMANDS.s"),
    *("$JS.API.CONSUMER.INFO.COMMANDS.s", "$JS.API.CONSUMER.MSG.NEXT.COMMANDS.s", "$JS.ACK.COMMANDS.s.1.1.1.1.0"),
)
ONE_COMMAND = "$JS.API.STREAM.MSG.GET.COMMANDS"
GIVING_UP = (ONE_COMMAND, "$JS.API.STREAM.MSG.DELETE.COMMANDS")
ONE_KEY = "$JS.API.STREAM.MSG.GET.IDEMPOTENCY"
SENDING = ("commands.r.o.accept", "idempotency.k", ONE_KEY)
PROVISIONING = ("$JS.API.STREAM.CREATE.EVENTS", "$JS.API.STREAM.UPDATE.EVENTS", "$JS.API.STREAM.UPDATE.DEAD")
SUBJECTS = ("orders.r.c.o.E", "carts.c.E", "workflows.w.E", "finance.r.E", "coupons.c.E", "access.r.E", "dead.e-1")

# Of what gateways ask each other the worker may ask one thing, and answers nothing.
BETWEEN_GATEWAYS = (
    *("passline.presence.alive", "passline.presence.restaurant", "passline.presence.order"),
    *("passline.answers.worker.x", "passline.signals.typing.r.c.o"),
)

MAY_NOT_PUBLISH: dict[Role, tuple[str, ...]] = {
    "publisher": (
        *("workflows.w.WorkflowBound", "access.r.E", "dead.e-1", "passline.x"),
        *(*MORE_READS, *PROVISIONING, *SENDING, *TAKING, *GIVING_UP),
    ),
    "access": (
        *(s for s in SUBJECTS if s != "access.r.E"),
        *("passline.x", *MORE_READS, *PROVISIONING, *SENDING, *TAKING, *GIVING_UP),
    ),
    "orders": (
        *(s for s in SUBJECTS if s != "orders.r.c.o.E"),
        *("passline.x", *MORE_READS, *PROVISIONING, *SENDING, *GIVING_UP),
    ),
    "gateway": ("dead.e-1", *PROVISIONING, *TAKING, *GIVING_UP),
    "worker": (
        *(s for s in SUBJECTS if s not in ("orders.r.c.o.E", "dead.e-1")),
        *("passline.x", *BETWEEN_GATEWAYS, *PROVISIONING, *SENDING, *TAKING),
    ),
    "admin": (
        *(*SUBJECTS, "passline.x", *(s for s in READS if s != "$JS.API.STREAM.INFO.EVENTS")),
        *(*SENDING, *TAKING, *GIVING_UP),
    ),
}


class Refusals:
    """What the broker refuses one connection, in the words of the protocol."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def bind(self, **_: object) -> Refusals:
        return self

    def warning(self, event: str, *, reason: str = "", **_: object) -> None:
        self.told.append(reason)

    debug = info = error = warning


@pytest.fixture
def refusals(monkeypatch: pytest.MonkeyPatch) -> Refusals:
    refusals = Refusals()
    monkeypatch.setattr(broker, "log", refusals)
    return refusals


@pytest.mark.parametrize("role", ROLES)
async def test_user_may_not_publish_beyond_its_part(log_server: EmbeddedNats, refusals: Refusals, role: Role) -> None:
    forbidden = (*MAY_NOT_PUBLISH[role], *NOBODY)
    async with client(log_server, role) as nc:
        for subject in forbidden:
            await nc.publish(subject)
        wanted = [f'nats: permissions violation for publish to "{subject.lower()}"' for subject in forbidden]
        await eventually(lambda: len(refusals.told) >= len(wanted))
    assert refusals.told == wanted
    async with client(log_server, "gateway") as gateway:
        assert (await Log(gateway).state()).last == 0


@pytest.mark.parametrize("role", ROLES)
async def test_user_may_listen_to_nothing_but_its_own_inboxes(
    log_server: EmbeddedNats, refusals: Refusals, role: Role
) -> None:
    inboxes = [f"{inbox_prefix(other)}.>" for other in ROLES if other != role]
    forbidden = [*inboxes, "_INBOX.>", ">", "*.>", "orders.>", "access.>", "dead.>", "commands.>", "$JS.>", "$SYS.>"]
    if role != "gateway":
        forbidden += ["passline.>", "passline.answers.>", "passline.answers.gateway.>", "passline.presence.*"]
    async with client(log_server, role) as nc:
        for subject in forbidden:
            await nc.subscribe(subject)
        wanted = [f'nats: permissions violation for subscription to "{subject.lower()}"' for subject in forbidden]
        await eventually(lambda: len(refusals.told) >= len(wanted))
    assert refusals.told == wanted


@pytest.mark.parametrize(
    ("role", "subjects"),
    [
        ("publisher", ["orders.r.c.o.E", "carts.c.E", "workflows.w.E", "finance.r.E", "coupons.c.E"]),
        ("access", ["access.r.E"]),
        ("orders", ["orders.r.c.o.E"]),
        ("gateway", [subject for subject in SUBJECTS if not subject.startswith("dead")]),
        ("worker", ["orders.r.c.o.E", "dead.e-1"]),
    ],
)
async def test_user_may_publish_its_part(log_server: EmbeddedNats, role: Role, subjects: list[str]) -> None:
    async with client(log_server, role) as nc:
        for subject in subjects:
            assert (await publish(nc, subject))["stream"] == (DEAD if subject.startswith("dead") else EVENTS)


@pytest.mark.parametrize(("role", "subject"), [("publisher", PLACED), ("access", "access.r.E")])
async def test_publisher_may_look_up_what_stands_in_the_log(
    log_server: EmbeddedNats, refusals: Refusals, role: Role, subject: str
) -> None:
    async with client(log_server, role) as nc:
        await publish(nc, subject, b'{"first":1}')
        await publish(nc, subject, b'{"second":2}')
        log = Log(nc)
        first = await log.next_match(0, subject)
        assert first is not None
        assert (first.sequence, first.data) == (1, b'{"first":1}')
        second = await log.get(2)
        assert second is not None
        assert second.data == b'{"second":2}'
        assert await log.next_match(2, subject) is None
    assert refusals.told == []


async def test_answer_to_a_look_up_is_no_event_wherever_it_is_sent(log_server: EmbeddedNats) -> None:
    """Who asks chooses the subject of the answer: it must not become a fact that this user may not publish."""
    owner = StaffAssigned(
        event_id="a",
        occurred_on_utc=datetime(2026, 11, 20, tzinfo=UTC),
        restaurant_id="r1",
        subject="me",
        role=StaffRole.OWNER,
    )
    async with client(log_server, "publisher") as nc, client(log_server, "gateway") as gateway:
        await publish(nc, PLACED, encode(owner))
        await nc.publish("$JS.API.STREAM.MSG.GET.EVENTS", b'{"seq":1}', reply=owner.log_subject())
        log = Log(gateway)

        async def is_stored() -> bool:
            return (await log.state()).last == 2

        await eventually(is_stored)
        answer = await log.get(2)
        assert answer is not None
        assert answer.subject == owner.log_subject()
        assert judge(answer.sequence, answer.time, answer.subject, answer.data).event is None


@pytest.mark.parametrize("role", ["gateway", "worker"])
async def test_reader_may_read_by_a_flow_controlled_push_consumer(
    log_server: EmbeddedNats, refusals: Refusals, role: Role
) -> None:
    count = 300
    async with client(log_server, "publisher") as publisher:
        for _ in range(count):
            await publisher.publish(PLACED, b"x" * 60_000)
        await publisher.flush()
    async with client(log_server, role) as nc:
        sequences, controls = [], []

        async def receive(message: Msg) -> None:
            if message.headers is None:
                sequences.append(int(message.reply.split(".")[5]))
            elif message.reply:
                controls.append(message.reply)
                await nc.publish(message.reply)

        inbox = nc.new_inbox()
        await nc.subscribe(inbox, cb=receive, pending_bytes_limit=0)
        made = await api(
            nc,
            "CONSUMER.CREATE.EVENTS",
            {
                "stream_name": EVENTS,
                "config": {
                    "deliver_subject": inbox,
                    "deliver_policy": "all",
                    "ack_policy": "none",
                    "mem_storage": True,
                    "flow_control": True,
                    "idle_heartbeat": SECOND,
                    "num_replicas": 1,
                },
            },
        )
        await eventually(lambda: len(sequences) == count, within=20)
        assert sequences == list(range(1, count + 1))
        assert controls
        assert all(subject.startswith("$JS.FC.EVENTS.") for subject in controls)
        assert (await api(nc, f"CONSUMER.INFO.EVENTS.{made['name']}"))["name"] == made["name"]
        assert (await api(nc, f"CONSUMER.DELETE.EVENTS.{made['name']}"))["success"]
        assert (await Log(nc).state()).last == count
    assert not [reason for reason in refusals.told if "permissions" in reason]


@pytest.mark.parametrize("operation", ["STREAM.DELETE.EVENTS", "STREAM.PURGE.EVENTS", "STREAM.MSG.DELETE.EVENTS"])
async def test_acknowledgement_sent_to_the_api_destroys_nothing(log_server: EmbeddedNats, operation: str) -> None:
    """A publisher chooses where its acknowledgement goes, and permissions don't reach that."""
    async with client(log_server, "publisher") as publisher, client(log_server, "gateway") as gateway:
        await publisher.publish(PLACED, b"{}", reply=f"$JS.API.{operation}")
        await publisher.publish(PLACED, b"{}", reply=f"$JS.API.{operation}")
        log = Log(gateway)

        async def both_stored() -> bool:
            return (await log.state()).last == 2

        await eventually(both_stored)
        assert await log.get(1)
        assert await log.get(2)
