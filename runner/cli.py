"""The command line: reads options, calls the library, prints. No logic, and no heavy imports, live here."""

from __future__ import annotations

import errno
import json
import os
import shlex
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperGroup

from runner import api, collector, display
from runner.arguments import (
    Address,
    AsJson,
    CellsPerBatch,
    DoneArgument,
    Executor,
    ExecutorName,
    FailFast,
    Kind,
    MaxCells,
    Mlflow,
    OneCell,
    Profiled,
    Results,
    RetryFailed,
    Samples,
    Seeds,
    Set,
    SweepArgument,
    Tracking,
    Workers,
)
from runner.errors import ModesweepError, NoResultsError, SweepError
from runner.executors import setup
from runner.options import Options
from runner.progress import Silent, Terminal

OK, NOT_OK, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130
UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EPIPE}


class _Commands(TyperGroup):
    """Ctrl-C ends any command with its own exit code and how to continue, of which Typer would say nothing."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            told = f"\nInterrupted: what was written is kept. To continue: {_command()}"
            Console(stderr=True, markup=False).print(told, highlight=False, soft_wrap=True)
            raise typer.Exit(INTERRUPTED) from None


app = typer.Typer(
    name="modesweep",
    cls=_Commands,
    help="What does a divergence make a model keep? Sweeps of KL fits and VAEs: mode coverage and sharpness.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _console() -> Console:
    """As wide as the terminal; wide enough for tables where there is none, as in a log file."""
    known = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(width=None if known else 120, markup=False)


@app.command()
def run(
    sweep: SweepArgument,
    results: Results = Path("results"),
    executor: Executor = ExecutorName.tune,
    workers: Workers = None,
    address: Address = None,
    set_: Set = None,
    seeds: Seeds = None,
    cells_per_batch: CellsPerBatch = None,
    tracking_uri: Tracking = None,
    mlflow: Mlflow = None,
    retry_failed: RetryFailed = False,
    fail_fast: FailFast = False,
    max_cells: MaxCells = 1_000_000,
    samples: Samples = True,
    profile: Profiled = False,
    cell: OneCell = None,
    json_: AsJson = False,
) -> None:
    """Run the cells of a sweep that are not done yet, log them to MLflow, write tables and report."""
    from runner import hints, lookup
    from runner.provenance import redact

    options = Options(
        results=results,
        executor=executor.value,
        workers=workers,
        address=address,
        cells_per_batch=cells_per_batch,
        tracking_uri=tracking_uri,
        mlflow=None if mlflow is None else mlflow.value,
        retry_failed=retry_failed,
        fail_fast=fail_fast,
        max_cells=max_cells,
        samples=samples,
        profile=profile,
        cell=cell,
        command=_command(),
    )
    console = _console()
    report = api.run(api.load_sweep(sweep, set_ or (), seeds), options, Silent() if json_ else Terminal(console))
    if json_:
        print(json.dumps(api.report_json(report)))
    else:
        looking = hints.looking(results, redact(tracking_uri or ""))
        console.print(display.report_view(report, *lookup.findings(report.folder), looking), crop=False)
        if profile:
            from runner.profile import FILE, read

            path = report.folder / FILE
            console.print(display.pairs_view(f"\nWhere the time went, from {path}", read(path)), highlight=False)
    if report.stopped == "interrupted":
        raise typer.Exit(INTERRUPTED)
    asked = report.all_ok if cell is None else set(report.ran) == {"ok"}
    raise typer.Exit(OK if asked else NOT_OK)


@app.command()
def plan(
    sweep: SweepArgument,
    results: Results = Path("results"),
    executor: Executor = ExecutorName.tune,
    workers: Workers = None,
    address: Address = None,
    set_: Set = None,
    seeds: Seeds = None,
    cells_per_batch: CellsPerBatch = None,
    tracking_uri: Tracking = None,
    mlflow: Mlflow = None,
    retry_failed: RetryFailed = False,
    fail_fast: FailFast = False,
    max_cells: MaxCells = 1_000_000,
    samples: Samples = True,
    cell: OneCell = None,
    json_: AsJson = False,
) -> None:
    """Show what `run` would do: cells, batches, what is done, how long. Starts nothing."""
    options = Options(
        results=results,
        workers=workers,
        address=address,
        cells_per_batch=cells_per_batch,
        tracking_uri=tracking_uri,
        mlflow=None if mlflow is None else mlflow.value,
        retry_failed=retry_failed,
        max_cells=max_cells,
        cell=cell,
    )
    planned = api.plan(api.load_sweep(sweep, set_ or (), seeds), options)
    count = 1 if executor is ExecutorName.inline else workers or setup.cores()
    gpus = setup.gpus()
    begun = api.begun(planned, options)
    batches = api.batches(planned, options, count, gpus, begun)
    if json_:
        print(json.dumps(display.plan_json(planned, batches, count, gpus, len(begun))))
        return
    elsewhere = str(results / planned.sweep.name)
    _console().print(display.plan_view(planned, batches, count, gpus, elsewhere, len(begun)))


@app.command()
def status(sweep: DoneArgument, results: Results = Path("results"), json_: AsJson = False) -> None:
    """Show how far a sweep is: cells by status, and who is working on it."""
    from runner import lookup

    found = lookup.status(sweep, results)
    if json_:
        print(json.dumps(found))
        return
    _console().print(display.pairs_view(f"{found.pop('sweep')}", {"status": found}))


@app.command()
def summary(sweep: DoneArgument, results: Results = Path("results"), json_: AsJson = False) -> None:
    """Print the coverage-sharpness table of a finished sweep again."""
    from runner import lookup

    if json_:
        print(lookup.summary_json(sweep, results))
        return
    parts, warnings = lookup.summary(sweep, results)
    _console().print(display.comparison_view(parts))
    for warning in warnings:
        _console().print(warning, style="yellow", highlight=False, soft_wrap=True)


@app.command()
def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="A sweep's name, or the path of its results folder.")],
    b: Annotated[str, typer.Argument(metavar="B", help="Another.")],
    results: Results = Path("results"),
    json_: AsJson = False,
) -> None:
    """Show what B's results differ by from A's, paired by seed."""
    from runner import lookup

    found = lookup.compare_sweeps(a, b, results)
    if json_:
        print(json.dumps(display.difference_json(found)))
        return
    _console().print(display.difference_view(found))


@app.command()
def report(sweep: DoneArgument, results: Results = Path("results")) -> None:
    """Draw the figures and write report.html of a finished sweep again."""
    from runner.report import write_report
    from runner.store.reading import find_folder

    _console().print(str(write_report(find_folder(sweep, results))), soft_wrap=True, highlight=False)


@app.command()
def show(
    cell_id: Annotated[str, typer.Argument(metavar="CELL_ID", help="A cell's id, or the beginning of one.")],
    results: Results = Path("results"),
    json_: AsJson = False,
) -> None:
    """Print everything known of one cell."""
    title, sections = api.show(cell_id, results)
    if json_:
        print(json.dumps(display.plain(sections), default=str))
        return
    _console().print(display.pairs_view(title, sections))


@app.command("list")
def list_(
    kind: Annotated[Kind, typer.Argument(help="What to list.")],
    names: Annotated[bool, typer.Option("--names", help="Print the names alone, one a line.")] = False,
    target: Annotated[
        str | None, typer.Option(metavar="NAME", help="With references: the mixture target that they are fits of.")
    ] = None,
    json_: AsJson = False,
) -> None:
    """List what a sweep file may name, and what the columns mean.

    `list references --target grid25` shows what the metrics say of fits that are known: the target itself, without
    some of its modes, at half and at double width, and one Gaussian of its mean and covariance. On this ladder any
    fit's metrics have a place. docs/metrics has a page for each column, docs/divergences for each divergence.
    """
    if kind is Kind.references:
        found = api.references(target)
        if json_:
            print(json.dumps(display.references_json(found)))
        elif names:
            print("\n".join(name for name, _ in found))
        else:
            console = _console()
            console.print(display.references_view(found, console.width), highlight=False)
        return
    if target is not None:
        raise SweepError("--target goes with `list references` alone")
    columns, rows = api.listing(kind.value)
    if json_:
        print(json.dumps([dict(zip(columns, row, strict=True)) for row in rows]))
    elif names:
        print("\n".join(dict.fromkeys(row[0] for row in rows)))
    else:
        view = display.parameters_view if kind is Kind.experiments else display.names_view
        _console().print(view(rows, columns))


@app.command()
def verify(
    topics: Annotated[
        list[str] | None,
        typer.Argument(metavar="[TOPIC]...", help=r"Beginnings of the names of rows. \[default: all]"),
    ] = None,
    results: Results = Path("results"),
    quick: Annotated[bool, typer.Option("--quick", help="Leave out the rows that take long.")] = False,
    json_: AsJson = False,
) -> None:
    """Compare numbers that are known with those that modesweep obtains; of all topics, write verify.parquet and .md."""
    from runner.verification import as_json, view

    console = _console()
    with nullcontext() if json_ else console.status("fitting") as line:
        say = line.update if line else (lambda done: None)
        found, folder = api.verify(results, quick, topics or (), say)
    if json_:
        print(json.dumps(as_json(found, folder)))
    else:
        console.print(view(found), highlight=False)
        if folder:
            console.print(f"The table is in {folder}/", soft_wrap=True, highlight=False)
    raise typer.Exit(OK if all(result.passed for result in found) else NOT_OK)


@app.command()
def ui(
    results: Results = Path("results"),
    tracking_uri: Tracking = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="The first port to try.")] = 5000,
) -> None:
    """Browse every run in MLflow's web page, on this machine alone."""
    from runner.tracking.ui import serve

    raise typer.Exit(serve(tracking_uri, results, port))


@app.command()
def export(
    sweep: DoneArgument,
    results: Results = Path("results"),
    tracking_uri: Tracking = None,
    mlflow: Mlflow = None,
) -> None:
    """Write a sweep's records into any MLflow; what is there already is not written twice."""
    console = _console()
    with console.status("exporting") as line:
        report = api.export(
            sweep,
            results,
            tracking_uri,
            None if mlflow is None else mlflow.value,
            lambda n, m: line.update(f"exporting {n:,} of {m:,}"),
        )
    console.print(f"MLflow has {report.counted}; {report.written:,} runs written now.", highlight=False)
    for problem in report.problems:
        console.print(problem, style="yellow", highlight=False)


def main() -> None:
    """Run the command line; errors become one screen of text and an exit code."""
    collector.relax()
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # as it is where the shell has closed it
            nowhere = open(os.devnull, "w")  # noqa: SIM115, it is for as long as the process
            os.set_inheritable(nowhere.fileno(), True)  # or what a child opens first would get the number
            setattr(sys, name, nowhere)
        elif stream.errors == "strict":
            stream.reconfigure(errors="replace")  # a sign that the encoding lacks must not end a run
    try:
        try:
            app()
        finally:
            sys.stdout.flush()  # what cannot be written is to be known here, and not when Python has ended
    except SweepError as error:
        _fail(str(error), BAD_INPUT)
    except NoResultsError as error:
        _fail(api.explain_no_results(error), BAD_INPUT)
    except ModesweepError as error:
        _fail(str(error), NOT_OK)
    except OSError as error:
        if error.filename is not None:
            _fail(f"{error.filename}: {error.strerror}", NOT_OK)
        if error.errno not in UNWRITABLE:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # where Python writes the rest as it ends
        if error.errno != errno.EPIPE:  # which `| head` causes when it has read enough
            _fail(f"cannot write to standard output: {error.strerror}", NOT_OK)
        sys.exit(NOT_OK)


def _fail(said: str, code: int) -> None:
    console = Console(stderr=True, markup=False)
    console.print("modesweep: ", style="bold red", end="")
    console.print(said, highlight=False, soft_wrap=True)
    sys.exit(code)


def _command() -> str:
    """This command as a person would type it again, without its secrets."""
    from runner.provenance import redact

    return " ".join(["modesweep", *(shlex.quote(redact(part)) for part in sys.argv[1:])])


if __name__ == "__main__":
    main()
