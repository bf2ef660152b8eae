"""The C programs of the benchmark, compiled where and when it runs."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from bench.errors import NotCompiled, NotInstalled

SOURCES = Path(__file__).parent / "native"


def compile_program(name: str, directory: Path) -> Path:
    """The program of bench/native/<name>.c, in `directory`. Raises NotInstalled, NotCompiled."""
    program, source = directory / name, SOURCES / f"{name}.c"
    compiler = shutil.which("cc")
    if compiler is None:
        raise NotInstalled("cc")
    options = ["-O2", "-march=native", "-std=gnu17", "-Wall", "-Wextra", "-Werror", "-o"]
    command = [compiler, *options, str(program), str(source)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise NotCompiled(source.name, result.stderr)
    return program
