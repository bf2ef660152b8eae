"""Loaded by Python at its start where this directory is in PYTHONPATH: counts the SQL statements of a gateway process.

The process itself is run as it is shipped. The count stands in the file that BENCH_SQL_COUNT names, as eight bytes, and
can be read there at any time.
"""

from __future__ import annotations

import mmap
import os
import struct
import sys
from pathlib import Path


def _count_into(path: Path) -> None:
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    count = struct.Struct("=Q")
    with path.open("r+b") as file:
        shared = mmap.mmap(file.fileno(), count.size)

    def on_statement(*_: object) -> None:
        count.pack_into(shared, 0, count.unpack_from(shared)[0] + 1)

    event.listen(Engine, "before_cursor_execute", on_statement)


if {"gateway.child", "gateway"} <= set(sys.orig_argv):
    _count_into(Path(os.environ["BENCH_SQL_COUNT"]))
