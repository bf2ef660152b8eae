"""How a process logs: one line a record on stderr, an event name and fields, for people or for machines."""

from __future__ import annotations

import logging
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, TextIO, cast

import structlog

if TYPE_CHECKING:
    from structlog.typing import Processor

    from gateway.settings import Settings


class _NeverFailing:
    """A stream for the log. A line that can't be written, since the disk is full or the terminal is gone, is lost: it
    must not take a request or a drain with it.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        with suppress(OSError):
            self._stream.write(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()

    def isatty(self) -> bool:
        return self._stream.isatty()


def configure_logging(settings: Settings, stream: TextIO | None = None) -> None:
    """Log as `settings` say, to `stream` or stderr, and say first what an operator should know of the settings.

    Standard output stays free for what a command prints. Libraries speak from warnings on and in the same form, but
    for uvicorn's access log, which would contain query strings.
    """
    stream = cast("TextIO", _NeverFailing(stream or sys.stderr))
    as_json = settings.log_format == "json" or (settings.log_format == "auto" and not stream.isatty())
    common: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    rendering = _for_machines() if as_json else _for_people(stream)
    structlog.configure(
        processors=[*common, *rendering],
        wrapper_class=structlog.make_filtering_bound_logger(settings.log_level),
        logger_factory=structlog.WriteLoggerFactory(stream),
        cache_logger_on_first_use=True,  # so nothing may be logged before this; putting one together takes 5 µs
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendering],
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *common],
        )
    )
    logging.basicConfig(handlers=[handler], level=max(logging.WARNING, _level(settings)), force=True)
    logging.getLogger("uvicorn.access").disabled = True
    for notice in settings.notices:
        structlog.get_logger().warning("settings.notice", notice=notice)


def _for_machines() -> list[Processor]:
    return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]


def _for_people(stream: TextIO) -> list[Processor]:
    # The default formatter of tracebacks shows local variables, and tokens are among them.
    plain = structlog.dev.plain_traceback
    return [structlog.dev.ConsoleRenderer(colors=stream.isatty(), exception_formatter=plain)]


def _level(settings: Settings) -> int:
    return logging.getLevelNamesMapping()[settings.log_level.upper()]
