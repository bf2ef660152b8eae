"""The key that signs passes: one of our own, on every machine the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from auth.keys import load_signing_key, pass_key
from auth.passes import Passes

if TYPE_CHECKING:
    from gateway.settings import Settings

_log = structlog.get_logger()


def passes_of(settings: Settings) -> Passes:
    """Makes and checks this gateway's passes.

    Raises:
        KeyUnusable
    """
    if settings.pass_key_file is not None:
        return Passes(load_signing_key(settings.pass_key_file))
    return Passes(pass_key(settings.data_dir))


def prepare_passes(settings: Settings) -> None:
    """Make the key where that is ours to do. What is wrong with it is told here, once. Raises KeyUnusable."""
    passes_of(settings)
    if settings.pass_key_file is None and settings.nats_url is not None:
        _log.warning("passes.key_of_this_machine", reason="other machines' passes are refused here, and ours there")
