"""`python -m bench`: run cases, tell what goes on, and end with a table."""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import sys
import tempfile
import time
from pathlib import Path

import click
import msgspec
import structlog

from bench import report
from bench.bench import Bench
from bench.cases import CASES
from bench.errors import BenchError
from bench.figures import Figure
from bench.network import congestion_control, enter_own_network
from bench.processes import Cores
from bench.report import Result


@click.command
@click.option("--quick", is_flag=True, help="Fewer runs of smaller sizes: whether it works, not what it reaches.")
@click.option("--only", multiple=True, metavar="CASE", help="This case; may be given several times.")
@click.option("--list", "list_only", is_flag=True, help="Name the cases, and run none.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write all runs of all figures.")
@click.option("--markdown", "markdown_file", type=click.Path(path_type=Path), help="Write a table for the README.")
def main(quick: bool, list_only: bool, only: tuple[str, ...], **files: Path | None) -> None:
    """Measure Passline from outside. Ends with 1 if a case failed; a figure that missed its mark is no failure."""
    if unknown := [name for name in only if name not in CASES]:
        raise click.BadParameter(f"{', '.join(unknown)}; there are {', '.join(CASES)}", param_hint="--only")
    names = [name for name in CASES if name in only or not only]
    if list_only:
        for name in names:
            click.echo(f"{name:12} {(inspect.getdoc(CASES[name]) or '').partition(chr(10))[0]}")
        return
    if not enter_own_network():
        click.echo(f"not root: this shares the machine's network, whose congestion control is {congestion_control()}")
    machine = report.this_machine()
    results = asyncio.run(_run(names, quick=quick))
    click.echo(f"\n{machine}{', quick' if quick else ''}\n\n{report.table(results)}")
    if (json_file := files["json_file"]) is not None:
        json_file.write_bytes(report.document(results, machine, quick=quick))
    if (markdown_file := files["markdown_file"]) is not None:
        markdown_file.write_text(report.markdown(results, machine))
    if any(result.failure for result in results):
        sys.exit(1)


async def _run(names: list[str], *, quick: bool) -> list[Result]:
    # Our own connections to the broker tell of each loss, also where a case takes the broker away.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    cores = Cores.divide()
    os.sched_setaffinity(0, cores.others)
    results = []
    for name in names:
        with tempfile.TemporaryDirectory(prefix="passline-bench-") as directory:
            began = time.monotonic()

            def progress(text: str, case: str = name, began: float = began) -> None:
                click.echo(f"[{case} {time.monotonic() - began:5.1f} s] {text}")

            results.append(await _run_case(name, Bench(Path(directory), cores, quick=quick, progress=progress)))
    return results


async def _run_case(name: str, bench: Bench) -> Result:
    figures: list[Figure] = []
    failure = None
    began = time.monotonic()
    try:
        async for figure in CASES[name](bench):
            bench.progress(f"{figure.name}: {report.number(figure.median)} {figure.unit}")
            # What must be reached is said of the whole sizes.
            figures.append(msgspec.structs.replace(figure, at_most=None, at_least=None) if bench.quick else figure)
    except BenchError as error:
        failure = f"{type(error).__name__}: {error}"
        bench.progress(f"FAILED: {failure}")
    return Result(name, tuple(figures), time.monotonic() - began, failure)


if __name__ == "__main__":
    main()
