"""What handlers find in `app.state` where the log is empty and the process knows it: nothing was ever revoked."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

from litestar.datastructures import State

from streams.facts import Facts
from streams.overlay import Overlay
from streams.tokens import TOKENS, RevokedTokens

if TYPE_CHECKING:
    from streams.log import Log
    from streams.snapshots import States


def empty_log() -> State:
    """Facts that answer from memory, of an application without a broker and a database."""
    overlay = Overlay(0)
    overlay.remember(TOKENS.name(()), RevokedTokens())
    facts = Facts(cast("States", None), overlay, cast("Log", None), "epoch")
    return State({"gateway": SimpleNamespace(facts=facts)})
