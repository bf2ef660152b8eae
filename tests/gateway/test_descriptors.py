"""What the limit on descriptors leaves for streams and for the connections beside them."""

from __future__ import annotations

import resource
from collections.abc import Iterator

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from gateway.descriptors import (
    MAX_DESCRIPTORS,
    connection_room,
    descriptor_limit,
    raise_descriptor_limit,
    stream_limits,
    stream_room,
)
from gateway.settings import Settings
from streams.limits import Limits


@pytest.fixture
def hard_limit() -> Iterator[int]:
    """The process's own limits are put back."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def soft_limit_of_1024(hard_limit: int) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard_limit))


@pytest.mark.usefixtures("soft_limit_of_1024")
def test_soft_limit_is_raised_to_what_is_allowed(hard_limit: int) -> None:
    raise_descriptor_limit()
    assert descriptor_limit() == (MAX_DESCRIPTORS if hard_limit == resource.RLIM_INFINITY else hard_limit)


def test_limit_that_is_no_less_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    monkeypatch.setattr(resource, "setrlimit", pytest.fail)
    raise_descriptor_limit()
    assert descriptor_limit() == MAX_DESCRIPTORS


@given(st.integers(16, MAX_DESCRIPTORS))
def test_with_all_streams_open_there_is_room_for_other_connections_and_for_what_the_process_opens(limit: int) -> None:
    assert limit // 2 <= stream_room(limit) < connection_room(limit) < limit


def test_of_a_thousand_descriptors_a_quarter_is_kept_clear() -> None:
    assert (connection_room(1024), stream_room(1024)) == (960, 768)


@pytest.mark.usefixtures("soft_limit_of_1024")
@pytest.mark.parametrize("wanted", [16_000, 769, 0])
def test_process_takes_no_more_streams_than_its_descriptors_allow_and_says_so(wanted: int) -> None:
    settings = Settings(max_per_process=wanted)
    with capture_logs() as logs:
        limits = stream_limits(settings)
    assert limits == Limits(per_process=768)
    assert logs == [
        {
            "event": "streams.limited_by_descriptors",
            "log_level": "warning",
            "streams": 768,
            "wanted": wanted or None,
            "limit": 1024,
        }
    ]


@pytest.mark.usefixtures("soft_limit_of_1024")
def test_limits_are_as_they_are_set_where_descriptors_suffice() -> None:
    values = dict(zip(Limits.__struct_fields__, range(1, 7), strict=True))
    settings = msgspec.structs.replace(Settings(), **{f"max_{name}": value for name, value in values.items()})
    with capture_logs() as logs:
        assert stream_limits(settings) == Limits(**values)
    assert logs == []
