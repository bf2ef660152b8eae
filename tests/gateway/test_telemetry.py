from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

# In a process of its own: logging is the whole process's.
PROGRAM = """
import logging
import structlog
from gateway.settings import Settings
from gateway.telemetry import configure_logging

log = structlog.get_logger()
configure_logging(Settings.from_environment({"PASSLINE_LOG_FORMAT": "<format>", "PASSLINE_CORS_ORIGIN": "x"}))

def fail():
    token = "eyJhbGciOi"
    raise ValueError("out of order")

log.debug("not.told")
log.info("stream.opened", topic="orders/o1")
try:
    fail()
except ValueError:
    log.exception("request.failed")
    logging.getLogger("asyncio").exception("task died")
logging.getLogger("uvicorn.access").warning("GET /?token=eyJhbGciOi")
logging.getLogger("httpx").info("GET http://gate.example/?token=eyJhbGciOi")
print("the answer of a command")
"""


def run(log_format: str) -> list[str]:
    program = PROGRAM.replace("<format>", log_format)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=20, check=True)
    assert done.stdout == "the answer of a command\n"
    assert "not.told" not in done.stderr
    assert "eyJhbGciOi" not in done.stderr
    return done.stderr.splitlines()


@pytest.mark.parametrize("log_format", ["json", "auto"])
def test_without_a_terminal_each_line_is_json_with_a_name_and_fields(log_format: str) -> None:
    notice, opened, failed, died = [json.loads(line) for line in run(log_format)]
    assert (notice["event"], notice["level"]) == ("settings.notice", "warning")
    assert notice["notice"] == "PASSLINE_CORS_ORIGIN is no setting; is PASSLINE_CORS_ORIGINS meant?"
    assert (opened["event"], opened["level"], opened["topic"]) == ("stream.opened", "info", "orders/o1")
    assert opened["timestamp"].endswith("Z")
    assert failed["exception"].endswith("ValueError: out of order")
    assert (died["event"], died["logger"]) == ("task died", "asyncio")


def test_for_people_a_traceback_shows_no_variables() -> None:
    lines = run("console")
    assert any("stream.opened" in line and "topic=orders/o1" in line for line in lines)
    assert "ValueError: out of order" in lines


def test_line_that_can_not_be_written_is_lost_and_nothing_else() -> None:
    """As when the disk is full, or the terminal has gone: no request and no drain may fail of that."""
    program = PROGRAM.replace("<format>", "json")
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=full, timeout=20, check=False
        )
    assert done.stdout == b"the answer of a command\n"
