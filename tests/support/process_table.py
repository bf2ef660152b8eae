"""Which processes of a run of Passline there are, by Linux's /proc.

A process belongs to a run if its arguments or its environment name the run's data directory, so those are found, too,
whose parent has died.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import signal

Role = Literal["supervisor", "gateway", "worker", "broker", "other"]


@dataclass(frozen=True)
class RunningProcess:
    """One process of a run, as it was when it was looked for."""

    pid: int
    role: Role
    arguments: tuple[str, ...]

    def send(self, number: signal.Signals) -> None:
        """Harmless if it has ended."""
        try:
            os.kill(self.pid, number)
        except ProcessLookupError:
            pass

    def __str__(self) -> str:
        return f"{self.role} {self.pid} ({' '.join(self.arguments)})"


def processes_of(data_dir: Path, first: int | None) -> list[RunningProcess]:
    """All that belong to the run in `data_dir`; `first` is the process that was started for it."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            arguments = (entry / "cmdline").read_bytes().split(b"\0")[:-1]
            environment = (entry / "environ").read_bytes().split(b"\0")[:-1]
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue  # it has ended, or is nobody of ours
        values = [each.partition(b"=")[2] for each in environment]
        if any(_is_within(each, os.fsencode(data_dir)) for each in (*arguments, *values)):
            texts = tuple(os.fsdecode(each) for each in arguments)
            role = "supervisor" if first == int(entry.name) else _role(texts)
            found.append(RunningProcess(int(entry.name), role, texts))
    return found


def _is_within(value: bytes, directory: bytes) -> bool:
    return value == directory or value.startswith(directory + b"/")


def _role(arguments: tuple[str, ...]) -> Role:
    if arguments and Path(arguments[0]).name == "nats-server":
        return "broker"
    after = arguments[arguments.index("gateway.child") + 1 :] if "gateway.child" in arguments else ()
    match after[:1]:
        case ("gateway",):
            return "gateway"
        case ("worker",):
            return "worker"
    return "other"
