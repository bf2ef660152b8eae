"""What can go wrong with a benchmark; a case that fails has no figures, and says so."""

from __future__ import annotations

_SHOWN_LINES = 3


class BenchError(Exception):
    """The base of all of them."""


class ProcessEnded(BenchError):
    """A process ended that should not have. `output` is what it wrote to its standard error."""

    def __init__(self, name: str, output: str) -> None:
        last = output.strip().splitlines()[-_SHOWN_LINES:]
        super().__init__(f"{name} ended: {' / '.join(last) or 'without a word'}")
        self.name = name
        self.output = output


class NotInstalled(BenchError):
    """A program that a case needs is not there. `program` is its name."""

    def __init__(self, program: str) -> None:
        super().__init__(f"{program} is not installed: run deploy/install-bench-packages")
        self.program = program


class NotCompiled(BenchError):
    """A C program of the benchmark does not compile. `output` is what the compiler said."""

    def __init__(self, source: str, output: str) -> None:
        super().__init__(f"{source} does not compile: {output}")
        self.output = output


class StreamsMissing(BenchError):
    """Streams were refused, cut, or did not open in time."""


class EventsCoalesced(BenchError):
    """Events that were to be delivered one by one went out together."""


class DeliveryMissing(BenchError):
    """An event did not arrive where it should have, or arrived twice."""
