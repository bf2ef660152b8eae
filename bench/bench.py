"""What a case is given: a directory, cores, programs, and how big to make it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TypeAlias, TypeVar

from bench.compiling import compile_program
from bench.figures import Figure
from bench.processes import Cores

T = TypeVar("T")


class Bench:
    """One run of the benchmark.

    `directory` is its own and goes away with it; `progress` is told what goes on.
    """

    def __init__(self, directory: Path, cores: Cores, *, quick: bool, progress: Callable[[str], None]) -> None:
        self.directory = directory
        self.cores = cores
        self.quick = quick
        self.progress = progress

    def pick(self, full: T, quick: T) -> T:
        """A size or a number of runs: of the whole benchmark, or of the quick one."""
        return quick if self.quick else full

    def program(self, name: str) -> Path:
        """The compiled bench/native/<name>.c. Raises NotInstalled, NotCompiled."""
        program = self.directory / name
        return program if program.exists() else compile_program(name, self.directory)


Case: TypeAlias = Callable[[Bench], AsyncIterator[Figure]]
"""An asynchronous generator that starts what it needs, measures, and yields figures. It raises BenchError where what it
measured is not what it meant to measure. The first line of its docstring says what it is.
"""
