"""The checker is only worth what it finds: a faultless history has no finding, and no single fault in it gets away."""

from __future__ import annotations

import time
from random import Random
from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.support.checker import check
from tests.support.findings import Broken
from tests.support.histories import Town, at
from tests.support.records import ClientLog, Connection, Grant, History, Lost, Opened, Published, Received

if TYPE_CHECKING:
    from collections.abc import Callable

R1, O1 = "restaurants/r1", "orders/o1"
RANDOM = st.builds(Random, st.integers(0, 2**32))


# -- a faultless history, and one fault in it --------------------------------------------------------------------------


class Target:
    """A block of a history that somebody owed a client: of an acknowledged event, and counted by the client."""

    def __init__(self, random: Random) -> None:
        town = Town(random)
        self.random = random
        self.history = town.history(clients=4)
        acknowledged = {attempt.event_id for attempt in self.history.published if attempt.outcome == "ok"}
        found = [
            (connection, index)
            for client in self.history.clients
            for connection in client.connections
            for index, block in enumerate(connection.blocks)
            if block.event_id in acknowledged and _is_counted(connection.blocks, index)
        ]
        assume(found)
        self.all = found
        self.connection, self.index = random.choice(found)

    @property
    def block(self) -> Received:
        return self.connection.blocks[self.index]

    def change(self, **fields: str | None) -> None:
        self.connection.blocks[self.index] = msgspec.structs.replace(self.block, **fields)


def _is_counted(blocks: list[Received], index: int) -> bool:
    """Whether the entry of this block was not cut before its id."""
    return any(block.id is not None for block in blocks[index:] if block.event_id == blocks[index].event_id)


def drop(target: Target) -> None:
    del target.connection.blocks[target.index]


def double(target: Target) -> None:
    later = target.random.randint(target.index, len(target.connection.blocks))
    target.connection.blocks.insert(later, target.block)


def swap(target: Target) -> None:
    others = [(each, index) for each, index in target.all if each.blocks[index] != target.block]
    assume(others)
    connection, index = target.random.choice(others)
    mine, other = target.block, connection.blocks[index]
    connection.blocks[index], target.connection.blocks[target.index] = mine, other


def move_to_another_client(target: Target) -> None:
    owner = next(client for client in target.history.clients if target.connection in client.connections)
    client = target.random.choice([each for each in target.history.clients if each is not owner])
    connection = target.random.choice(client.connections)
    connection.blocks.insert(target.random.randint(0, len(connection.blocks)), target.block)
    drop(target)


def alter_id(target: Target) -> None:
    others = [None, "", "k3f9", "other-3", *(at(sequence) for sequence in range(1, 40))]
    target.change(id=target.random.choice([each for each in others if each != target.block.id]))


def alter_event(target: Target) -> None:
    others = {attempt.event_id for attempt in target.history.published} | {"never"}
    target.change(event_id=target.random.choice(sorted(others - {str(target.block.event_id)})))


def alter_topic(target: Target) -> None:
    others = {R1, "restaurants/r2", O1, "orders/o2", "orders/of-nobody"} - {str(target.block.topic)}
    target.change(topic=target.random.choice(sorted(others)))


def forget_that_it_was_published(target: Target) -> None:
    target.history.published = [each for each in target.history.published if each.event_id != target.block.event_id]


def say_that_it_failed(target: Target) -> None:
    attempts = [each for each in target.history.published if each.event_id == target.block.event_id]
    forget_that_it_was_published(target)
    target.history.published += [Published(each.event_id, each.topics, "failed") for each in attempts]


def acknowledge_it_elsewhere(target: Target) -> None:
    attempt = next(each for each in target.history.published if each.event_id == target.block.event_id and each.cursor)
    forget_that_it_was_published(target)
    target.history.published.append(msgspec.structs.replace(attempt, cursor=at(1000)))


def ask_for_all_but_its_topic(target: Target) -> None:
    asked = target.connection.topics
    assert asked is not None
    target.connection.topics = tuple(topic for topic in asked if topic != target.block.topic)


def take_its_topic_back_before(target: Target) -> None:
    owner = next(client for client in target.history.clients if target.connection in client.connections)
    others = tuple(grant for grant in owner.grants if grant.topic != target.block.topic)
    owner.grants = (*others, Grant(str(target.block.topic), upto=at(0)))


FAULTS = [
    ask_for_all_but_its_topic,
    take_its_topic_back_before,
    drop,
    double,
    swap,
    move_to_another_client,
    alter_id,
    alter_event,
    alter_topic,
    forget_that_it_was_published,
    say_that_it_failed,
    acknowledge_it_elsewhere,
]


@given(RANDOM)
def test_a_faultless_history_has_no_finding(random: Random) -> None:
    report = check(Town(random).history(clients=4))

    report.assert_clean()
    assert report.clients == 4


@pytest.mark.parametrize("fault", FAULTS)
@given(random=RANDOM)
def test_one_fault_in_a_faultless_history_is_found(fault: Callable[[Target], None], random: Random) -> None:
    target = Target(random)
    fault(target)

    assert check(target.history).findings


@given(RANDOM)
def test_a_history_can_be_written_down_and_judged_later(random: Random) -> None:
    history = Town(random).history(clients=2)

    read = msgspec.json.decode(msgspec.json.encode(history), type=History)

    assert check(read) == check(history)


def test_three_thousand_events_for_a_hundred_clients_are_judged_in_seconds() -> None:
    history = Town(Random(1), events=3000, restaurants=1, orders=300).history(clients=100)
    began = time.process_time()

    report = check(history)

    assert time.process_time() - began < 6
    report.assert_clean()
    assert report.owed > 50_000


# -- one fault at a time, by name --------------------------------------------------------------------------------------


def published(*ids: str, topics: tuple[str, ...] = (R1,)) -> list[Published]:
    """Acknowledged events at the positions 1, 2, 3…"""
    return [Published(each, topics, "ok", at(sequence)) for sequence, each in enumerate(ids, start=1)]


def event(event_id: str, sequence: int | None, topic: str = R1) -> Received:
    return Received(None if sequence is None else at(sequence), "ReceiveOrderStatusChanged", event_id, topic)


def heartbeat(sequence: int) -> Received:
    return Received(at(sequence))


def snapshot(sequence: int | None, topic: str = R1) -> Received:
    return Received(None if sequence is None else at(sequence), "snapshot", None, topic)


def fresh(*blocks: Received, start: int | None = 0) -> Connection:
    return Connection(1, opened=Opened("fresh", None if start is None else at(start)), blocks=list(blocks))


def resumed(asked: int, *blocks: Received, number: int = 2) -> Connection:
    opened = Opened("resumed", at(asked), at(asked), at(99))
    return Connection(number, asked=at(asked), opened=opened, blocks=list(blocks))


def reset(asked: str, opened: Opened, *blocks: Received, number: int = 2) -> Connection:
    return Connection(number, asked=asked, opened=opened, blocks=list(blocks))


def broken(
    attempts: list[Published],
    *connections: Connection,
    grants: tuple[Grant, ...] = (Grant(R1),),
    until: str | None = None,
) -> set[Broken]:
    """The kinds of finding in a run of one client."""
    client = ClientLog("ada", grants, list(connections), until)
    return {finding.broken for finding in check(History(attempts, [client])).findings}


def test_a_hole_between_two_events_is_found() -> None:
    assert broken(published("a", "b", "c"), fresh(event("a", 1), event("c", 3))) == {Broken.MISSING}


def test_a_hole_under_a_heartbeat_is_found() -> None:
    assert broken(published("a", "b"), fresh(event("a", 1), heartbeat(2))) == {Broken.MISSING}


def test_a_hole_over_a_resume_is_found() -> None:
    attempts = published("a", "b", "c")

    assert broken(attempts, fresh(event("a", 1)), resumed(1, event("c", 3))) == {Broken.MISSING}


def test_a_heartbeat_moves_the_position_from_which_a_client_asks() -> None:
    attempts = [*published("a"), Published("b", (R1,), "ok", at(8))]

    assert not broken(attempts, fresh(event("a", 1), heartbeat(7)), resumed(7, event("b", 8)))


def test_a_client_is_owed_nothing_before_its_start_and_after_its_end() -> None:
    assert not broken(published("a", "b", "c"), fresh(event("b", 2), start=1))


def test_a_client_is_owed_all_up_to_where_the_run_waited_for_it() -> None:
    assert broken(published("a", "b"), fresh(event("a", 1)), until=at(2)) == {Broken.MISSING}


def test_a_client_that_never_got_a_position_is_behind() -> None:
    assert broken(published("a"), fresh(start=None), until=at(1)) == {Broken.BEHIND}


def test_a_client_that_never_heard_of_the_new_log_is_behind() -> None:
    assert broken(published("a"), fresh(event("a", 1)), until="new-1") == {Broken.BEHIND}


def test_a_repeated_event_is_found() -> None:
    found = broken(published("a", "b"), fresh(event("a", 1), event("a", 1), event("b", 2)))

    assert found == {Broken.ORDER, Broken.TWICE}


def test_an_event_repeated_after_a_resume_is_found() -> None:
    found = broken(published("a", "b"), fresh(event("a", 1), event("b", 2)), resumed(2, event("b", 2)))

    assert found == {Broken.ORDER, Broken.TWICE}


def test_a_repeated_heartbeat_is_no_fault() -> None:
    assert not broken(published("a"), fresh(event("a", 1), heartbeat(1), heartbeat(1)))


def test_a_heartbeat_that_goes_back_is_found() -> None:
    assert broken(published("a", "b"), fresh(event("a", 1), event("b", 2), heartbeat(1))) == {Broken.ORDER}


def test_an_entry_cut_before_its_id_does_not_count_and_comes_again() -> None:
    attempts = published("a", topics=(R1, O1))
    both = (event("a", None), event("a", 1, O1))
    again = Connection(2, asked=at(0), opened=Opened("resumed", at(0), at(0)), blocks=list(both))

    assert not broken(attempts, fresh(both[0]), again, grants=(Grant(R1), Grant(O1)))


def test_a_block_repeated_after_its_entry_was_complete_is_found_even_if_it_was_cut() -> None:
    both = (event("a", None), event("a", 1, O1))

    found = broken(published("a", topics=(R1, O1)), fresh(*both, both[0]), grants=(Grant(R1), Grant(O1)))

    assert found == {Broken.TWICE}


def test_an_entry_that_never_got_its_id_is_found() -> None:
    found = broken(published("a", "b"), fresh(event("a", None), event("b", 2)))

    assert found == {Broken.ENTRY, Broken.MISSING}


def test_an_event_on_one_of_its_two_topics_only_is_found() -> None:
    attempts = published("a", topics=(R1, O1))

    assert broken(attempts, fresh(event("a", 1, O1)), grants=(Grant(R1), Grant(O1))) == {Broken.MISSING}


def test_another_topic_than_those_granted_is_found() -> None:
    attempts = published("a", topics=(R1, O1))

    assert broken(attempts, fresh(event("a", 1, O1)), grants=(Grant(O1),)) == set()
    assert broken(attempts, fresh(event("a", None, R1), event("a", 1, O1)), grants=(Grant(O1),)) == {Broken.FORBIDDEN}


def test_a_foreign_block_is_found_even_if_its_entry_was_cut() -> None:
    assert broken(published("a", topics=(O1,)), fresh(event("a", None, O1))) == {Broken.FORBIDDEN}


def test_a_foreign_snapshot_is_found() -> None:
    assert broken([], fresh(snapshot(None, O1), snapshot(3), start=None)) == {Broken.FORBIDDEN}


def test_after_a_revocation_nothing_more_may_come_and_nothing_more_is_owed() -> None:
    attempts, grants = published("a", "b", "c"), (Grant(R1, upto=at(2)),)

    assert not broken(attempts, fresh(event("a", 1)), grants=grants, until=at(3))
    assert broken(attempts, fresh(event("a", 1), event("b", 2), event("c", 3)), grants=grants) == {Broken.FORBIDDEN}


def test_before_a_grant_nothing_may_come() -> None:
    attempts, grants = published("a", "b"), (Grant(R1, after=at(1)),)

    assert not broken(attempts, fresh(event("b", 2)), grants=grants, until=at(2))
    assert broken(attempts, fresh(event("a", 1), event("b", 2)), grants=grants) == {Broken.FORBIDDEN}


def test_a_topic_that_a_connection_did_not_ask_for_is_neither_owed_nor_allowed_on_it() -> None:
    attempts = published("a", topics=(R1, O1))
    grants = (Grant(R1), Grant(O1))
    one, both = fresh(event("a", 1)), fresh(event("a", None), event("a", 1, O1))
    one.topics = both.topics = (R1,)

    assert not broken(attempts, one, grants=grants, until=at(1))
    assert broken(attempts, both, grants=grants) == {Broken.FORBIDDEN}


def test_one_cursor_stands_for_whatever_topics_are_asked_for_next() -> None:
    attempts = [*published("a", topics=(R1, O1)), Published("b", (R1, O1), "ok", at(2))]
    first, second = fresh(event("a", 1)), resumed(1, event("b", None), event("b", 2, O1))
    first.topics = (R1,)

    assert not broken(attempts, first, second, grants=(Grant(R1), Grant(O1)), until=at(2))
    second.blocks = [heartbeat(2)]
    assert broken(attempts, first, second, grants=(Grant(R1), Grant(O1))) == {Broken.MISSING}


CART = (Grant(R1, after=at(1), upto=at(3)), Grant(R1, after=at(5)))
"""In a cart from 1 to 3, and again from 5 on."""


def at_head(head: int, connection: Connection) -> Connection:
    assert connection.opened is not None
    connection.opened = msgspec.structs.replace(connection.opened, head=at(head))
    return connection


def test_who_comes_back_to_a_cart_sees_it_from_their_latest_joining_on() -> None:
    attempts = published("1", "2", "3", "4", "5", "6")
    first = at_head(2, fresh(event("2", 2), start=1))
    back = Connection(2, asked=at(2), opened=Opened("resumed", at(5), at(5), at(6)), blocks=[event("6", 6)])

    assert not broken(attempts, first, back, grants=CART, until=at(6))


def test_what_a_member_missed_before_they_left_is_theirs_no_more() -> None:
    attempts = published("1", "2", "3", "4", "5", "6")
    first = at_head(2, fresh(event("2", 2), start=1))
    back = at_head(6, resumed(2, event("3", 3), event("6", 6)))

    assert broken(attempts, first, back, grants=CART) == {Broken.FORBIDDEN}
    assert broken(attempts, first, at_head(6, resumed(2, heartbeat(6))), grants=CART) == {Broken.MISSING}


def test_only_a_joining_excuses_that_a_stream_goes_on_further_ahead() -> None:
    attempts = published("1", "2", "3", "4", "5", "6", "7")
    first = at_head(2, fresh(event("2", 2), start=1))
    ahead = Connection(2, asked=at(2), opened=Opened("resumed", at(6), at(6), at(7)), blocks=[event("7", 7)])

    assert Broken.VERDICT in broken(attempts, first, ahead, grants=CART)
    elsewhere = msgspec.structs.replace(ahead, opened=Opened("resumed", at(5), at(5), at(7)))
    assert Broken.VERDICT in broken(attempts, first, elsewhere, grants=(*CART, Grant(O1)))


def test_a_state_from_before_or_after_a_grant_is_found() -> None:
    for sequence, found in ((0, {Broken.FORBIDDEN}), (1, set()), (3, set()), (4, {Broken.FORBIDDEN})):
        assert broken([], at_head(4, fresh(snapshot(sequence), start=None)), grants=CART[:1]) == found


def test_an_entry_that_was_cut_is_counted() -> None:
    both = (event("a", None), event("a", 1, O1))
    again = Connection(2, asked=at(0), opened=Opened("resumed", at(0), at(0)), blocks=list(both))
    client = ClientLog("ada", (Grant(R1), Grant(O1)), [fresh(both[0]), again])

    assert check(History(published("a", topics=(R1, O1)), [client])).halves == 1


def test_an_event_that_nobody_published_is_found() -> None:
    assert broken(published("a"), fresh(event("a", 1), event("x", 2))) == {Broken.INVENTED}


def test_an_event_whose_publisher_was_refused_is_found() -> None:
    attempts = [Published("a", (R1,), "failed")]

    assert broken(attempts, fresh(event("a", 1))) == {Broken.DENIED}


def test_a_failed_attempt_that_was_tried_again_is_no_fault() -> None:
    attempts = [Published("a", (R1,), "failed"), *published("a")]

    assert not broken(attempts, fresh(event("a", 1)))


def test_an_event_of_unknown_outcome_may_come_or_not() -> None:
    attempts = [Published("a", (R1,), "unknown")]

    assert not broken(attempts, fresh(event("a", 1)), until=at(2))
    assert not broken(attempts, fresh(), until=at(2))


def test_an_event_of_unknown_outcome_may_come_once_only() -> None:
    attempts = [Published("a", (R1,), "unknown")]

    assert broken(attempts, fresh(event("a", 1), event("a", 2))) == {Broken.PLACE}


def test_an_event_of_unknown_outcome_that_came_to_some_only_is_found() -> None:
    attempts = [Published("a", (R1,), "unknown")]
    some = ClientLog("ada", (Grant(R1),), [fresh(event("a", 1))])
    others = ClientLog("bob", (Grant(R1),), [fresh(heartbeat(1))])

    assert [each.broken for each in check(History(attempts, [some, others])).findings] == [Broken.UNEVEN]


def test_an_event_at_another_position_than_acknowledged_is_found() -> None:
    found = broken(published("a", "b"), fresh(event("b", 1), event("a", 2)))

    assert found == {Broken.PLACE, Broken.MISSING}


def test_two_events_acknowledged_at_one_position_are_found() -> None:
    attempts = [*published("a"), *published("b")]

    assert Broken.CLASH in broken(attempts, fresh(event("a", 1)))


def test_an_event_acknowledged_twice_outside_the_deduplication_window_comes_twice() -> None:
    attempts = [*published("a", "b"), Published("a", (R1,), "ok", at(3))]

    assert not broken(attempts, fresh(event("a", 1), event("b", 2), event("a", 3)))
    assert broken(attempts, fresh(event("a", 1), event("b", 2), heartbeat(3))) == {Broken.MISSING}


def test_a_reset_excuses_the_hole_that_it_tells() -> None:
    attempts = published("a", "b", "c", "d")
    expired = Opened("reset", at(3), reason="expired", lost=Lost(at(2), at(3)))

    assert not broken(attempts, fresh(event("a", 1)), reset(at(1), expired, event("d", 4)), until=at(4))


def test_a_snapshot_after_a_reset_excuses_all_up_to_its_id() -> None:
    attempts = published("a", "b", "c", "d")
    expired = Opened("reset", reason="expired")

    assert not broken(attempts, fresh(event("a", 1)), reset(at(1), expired, snapshot(3), event("d", 4)), until=at(4))
    assert broken(attempts, fresh(event("a", 1)), reset(at(1), expired, snapshot(2), event("d", 4))) == {Broken.MISSING}


def test_a_snapshot_cut_before_its_id_moves_nobody() -> None:
    expired = Opened("reset", reason="expired")
    cut, again = reset(at(1), expired), reset(at(1), expired, snapshot(3), number=3)

    assert not broken(published("a", "b", "c"), fresh(event("a", 1)), cut, again, until=at(3))


def test_a_snapshot_does_not_excuse_a_hole_on_a_resumed_stream() -> None:
    found = broken(published("a", "b"), fresh(event("a", 1)), resumed(1, snapshot(2)))

    assert found == {Broken.VERDICT}


def test_a_reset_to_another_log_begins_anew_there() -> None:
    attempts = [*published("a", "b"), Published("c", (R1,), "ok", "new-1")]
    epoch = Opened("reset", "new-0", reason="epoch")

    assert not broken(attempts, fresh(event("a", 1)), reset(at(1), epoch, Received("new-1", "E", "c", R1)))


def test_another_log_without_a_reset_is_found() -> None:
    attempts = [*published("a"), Published("c", (R1,), "ok", "new-1")]

    assert broken(attempts, fresh(event("a", 1), Received("new-1", "E", "c", R1))) == {Broken.ORDER}


@pytest.mark.parametrize(
    "connection",
    [
        Connection(2, asked=at(1), opened=Opened("fresh", at(1))),
        Connection(2, asked=at(1), opened=Opened("resumed", at(2), at(2))),
        Connection(2, asked=at(1), opened=Opened("resumed", None)),
        Connection(2, asked=at(1), opened=Opened("perhaps", at(1))),
        Connection(2, asked=at(1), opened=Opened("reset", at(5))),
        Connection(2, asked=at(1), opened=Opened("reset", at(5), reason="mood")),
        Connection(2, asked=at(1), opened=Opened("reset", at(5), reason="epoch")),
        Connection(2, asked=at(1), opened=Opened("reset", at(5), reason="expired", lost=Lost(at(4), at(5)))),
        Connection(2, asked=at(1), blocks=[event("b", 2)]),
    ],
)
def test_a_verdict_that_does_not_fit_the_question_is_found(connection: Connection) -> None:
    assert Broken.VERDICT in broken(published("a", "b"), fresh(event("a", 1)), connection)


def test_a_new_client_can_be_neither_resumed_nor_reset() -> None:
    for opened in (Opened("resumed", at(0)), Opened("reset", at(0), reason="invalid")):
        assert broken([], Connection(1, opened=opened)) == {Broken.VERDICT}


def test_a_client_that_asks_by_time_begins_where_it_is_told() -> None:
    connection = Connection(1, since=True, opened=Opened("resumed", at(1), at(1)), blocks=[event("b", 2)])

    assert not broken(published("a", "b"), connection)


def test_a_client_that_brings_a_cursor_is_owed_what_follows_it() -> None:
    attempts = published("a", "b", "c")

    assert not broken(attempts, resumed(1, event("b", 2), event("c", 3), number=1))
    assert broken(attempts, resumed(1, event("c", 3), number=1)) == {Broken.MISSING}


def test_a_client_that_asks_from_elsewhere_than_its_last_id_contradicts_itself() -> None:
    assert broken(published("a", "b"), fresh(event("a", 1), event("b", 2)), resumed(1, number=2)) == {Broken.CLIENT}


def test_refused_connections_change_nothing() -> None:
    refused = Connection(2, asked=at(1), status=200)

    assert not broken(published("a", "b"), fresh(event("a", 1)), refused, resumed(1, event("b", 2), number=3))


def test_signals_and_closings_stand_outside_the_log() -> None:
    attempts = published("a", topics=(R1, O1))
    signal, closing = Received(None, "ReceiveSignal", None, O1), Received(None, "stream.closing")

    assert not broken(
        attempts, fresh(event("a", None), signal, event("a", 1, O1), closing), grants=(Grant(R1), Grant(O1))
    )


def test_an_event_that_stands_for_a_faulty_view_is_a_delivery() -> None:
    assert not broken(published("a"), fresh(Received(at(1), "stream.gap", "a", R1)), until=at(1))


def test_a_report_reads_well_and_counts_what_it_checked() -> None:
    client = ClientLog("ada", (Grant(R1),), [fresh(event("a", 1), event("c", 3))])
    report = check(History(published("a", "b", "c"), [client]))

    assert str(report) == (
        "1 findings: 1 clients, 3 events, 3 deliveries owed, 2 made, 0 resumed, 0 reset\n"
        "  1 x an acknowledged event was not delivered\n"
        "  - ada: b at k3f9-2 on restaurants/r1 (an acknowledged event was not delivered)"
    )
    with pytest.raises(AssertionError, match="ada: b at k3f9-2"):
        report.assert_clean()


def test_an_acknowledgement_without_a_position_is_no_record() -> None:
    with pytest.raises(ValueError, match="position"):
        Published("a", (R1,), "ok")
