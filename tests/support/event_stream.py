"""A client's side of Server-Sent Events: bytes to blocks, by the HTML Living Standard, sections 9.2.5 and 9.2.6. Pure.

Shares no code with the gateway's encoder, so that one mistake can't hide in both.
"""

from __future__ import annotations

from dataclasses import dataclass

_BOM = b"\xef\xbb\xbf"
_MAX_DIGITS = 18  # of a `retry`: beyond this no browser has a number, either


@dataclass(frozen=True, slots=True)
class Block:
    """What stood before one blank line: at least one field that the standard knows.

    `id` is what this block itself said (None: it said nothing, so the client did not move), `last_event_id` is what
    the client would send after it. `data` is None where there was no `data` field: then no event fires, and `event` is
    without effect; an empty one fires with "". `retry_ms` is None where the block had no valid `retry`.
    """

    id: str | None
    event: str | None
    data: str | None
    retry_ms: int | None
    last_event_id: str

    @property
    def type(self) -> str:
        """The type of the event that fires in a browser."""
        return self.event or "message"


class EventStreamParser:
    """Feed it a response body in pieces of any size.

    `last_event_id` is the client's from before the connection. The standard begins each connection with an empty
    buffer; browsers begin with what they had, so that an event without an id does not forget it. So does this.
    """

    def __init__(self, last_event_id: str = "") -> None:
        self.last_event_id = last_event_id
        self.retry_ms: int | None = None  # takes effect when its line ends, even if the block is cut
        self.comments = 0
        # The stream so far:
        self._at_start = True
        self._line = bytearray()
        self._after_cr = False
        self._id_buffer = last_event_id
        # The block being read:
        self._id: str | None = None
        self._event = ""
        self._data: list[str] = []
        self._retry_ms: int | None = None
        self._fields = 0

    @property
    def inside_block(self) -> bool:
        """Whether the body ended here would end inside a block, which a client then drops."""
        return self._fields > 0 or bool(self._line)

    def feed(self, data: bytes) -> list[Block]:
        """The blocks that `data` completes."""
        found: list[Block] = []
        for line in self._lines(data):
            if line:
                self._take(line.decode("utf-8", "replace"))
            elif self._fields:
                found.append(self._dispatch())
        return found

    def _lines(self, data: bytes) -> list[bytes]:
        """The lines that `data` ends: at CR LF, at LF, at CR, which does not wait for what follows it."""
        if self._after_cr and data:
            self._after_cr = False
            data = data.removeprefix(b"\n")
        if data.endswith(b"\r"):
            self._after_cr = True
        self._line += data
        if b"\r" in data or b"\n" in data:
            *lines, rest = bytes(self._line).replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
            self._line = bytearray(rest)
        else:
            lines = []
        if lines and self._at_start:
            self._at_start = False
            lines[0] = lines[0].removeprefix(_BOM)
        return lines

    def _take(self, line: str) -> None:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        match name:
            case "":
                self.comments += 1
                return
            case "event":
                self._event = value
            case "data":
                self._data.append(value)
            case "id" if "\0" not in value:
                self._id = self._id_buffer = value
            case "retry" if value.isascii() and value.isdigit() and len(value) <= _MAX_DIGITS:
                self.retry_ms = self._retry_ms = int(value)
            case _:
                return
        self._fields += 1

    def _dispatch(self) -> Block:
        self.last_event_id = self._id_buffer
        block = Block(
            id=self._id,
            event=self._event or None,
            data="\n".join(self._data) if self._data else None,
            retry_ms=self._retry_ms,
            last_event_id=self.last_event_id,
        )
        self._id, self._event, self._data, self._retry_ms, self._fields = None, "", [], None, 0
        return block
