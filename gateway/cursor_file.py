"""Where a follower of the log keeps its position between its runs."""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from gateway.errors import GatewayError
from streams.cursor import Cursor, InvalidCursor

if TYPE_CHECKING:
    from collections.abc import Iterator


class Place(NamedTuple):
    """A position in the log, and the log's time (Unix seconds) of the entry there, None where it is not known."""

    cursor: Cursor
    time: float | None = None


class CursorFileUnusable(GatewayError):
    """A file that holds no position, or can't be read or written."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"the cursor file {path}: {reason}")
        self.path = path


class _Kept(msgspec.Struct):
    cursor: str
    time: float | None = None


class CursorFile:
    """A file with one position in it, as JSON. Saving replaces it as a whole: after any crash it is the old or the new.

    Raises CursorFileUnusable in every method.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._beside = path.with_name(f"{path.name}.new")

    @contextmanager
    def held(self) -> Iterator[None]:
        """For one process at a time: two that save to one file would take the position from each other."""
        try:
            descriptor = os.open(self._path.with_name(f"{self._path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise CursorFileUnusable(self._path, error.strerror or str(error)) from error
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise CursorFileUnusable(self._path, "another process is using it") from error
            yield
        finally:
            os.close(descriptor)

    def load(self) -> Place | None:
        """What was saved last, None before the first time."""
        try:
            kept = msgspec.json.decode(self._path.read_bytes(), type=_Kept)
            return Place(Cursor.parse(kept.cursor), kept.time)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise CursorFileUnusable(self._path, error.strerror or str(error)) from error
        except (msgspec.DecodeError, UnicodeDecodeError, InvalidCursor) as error:
            raise CursorFileUnusable(self._path, f"it holds no position (reset: invalid); {error}") from error

    def save(self, place: Place) -> None:
        """It is on the disk when this returns."""
        body = msgspec.json.encode(_Kept(str(place.cursor), place.time)) + b"\n"
        try:
            with self._beside.open("wb") as file:
                file.write(body)
                file.flush()
                os.fsync(file.fileno())
            self._beside.replace(self._path)
            directory = os.open(self._path.parent, os.O_RDONLY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
        except OSError as error:
            raise CursorFileUnusable(self._path, error.strerror or str(error)) from error
