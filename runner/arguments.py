"""The arguments and options of the command line: what each is called, may be, and means."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from runner.provenance import redact

T = TypeVar("T")


class ExecutorName(StrEnum):
    """Where batches run."""

    tune = "tune"
    inline = "inline"


class MlflowMode(StrEnum):
    """What becomes an MLflow run."""

    cells = "cells"
    groups = "groups"
    off = "off"


class Kind(StrEnum):
    """What ``list`` lists."""

    targets = "targets"
    divergences = "divergences"
    families = "families"
    experiments = "experiments"
    sweeps = "sweeps"
    metrics = "metrics"
    data = "data"
    references = "references"


def _text(given: T) -> T:
    """Refuse a name of bytes that are no text: neither the manifest nor MLflow could hold it."""
    try:
        str(given).encode()
    except UnicodeEncodeError:
        shown = str(given).encode(errors="backslashreplace").decode()
        raise typer.BadParameter(f"'{redact(shown)}' is not text in UTF-8; choose another name") from None
    return given


SweepArgument = Annotated[
    str, typer.Argument(metavar="SWEEP", help="A shipped sweep's name, or the path of a YAML file.")
]
DoneArgument = Annotated[
    str, typer.Argument(metavar="SWEEP", help="A sweep's name, or the path of its results folder.")
]
Results = Annotated[Path, typer.Option(callback=_text, help="The folder that holds a folder for each sweep.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="AXIS=V1,V2", help="Replace a parameter's values. Repeatable."),
]
Seeds = Annotated[int | None, typer.Option(help="How many seeds, in place of the file's.")]
Executor = Annotated[ExecutorName, typer.Option(help="As Ray Tune trials, or in this process.")]
Workers = Annotated[int | None, typer.Option(min=1, help=r"Batches at a time. \[default: the number of cores]")]
Address = Annotated[str | None, typer.Option(help="An existing Ray cluster: auto, or HOST:PORT.")]
CellsPerBatch = Annotated[int | None, typer.Option(min=1, help="In place of a number chosen from workers and memory.")]
Tracking = Annotated[
    str | None,
    typer.Option(
        help=r"MLflow tracking URI. \[default: mlflow.db in the results folder]",
        callback=_text,
        envvar="MLFLOW_TRACKING_URI",
        show_default=False,
    ),
]
Mlflow = Annotated[
    MlflowMode | None,
    typer.Option(help=r"An MLflow run for each cell, for each configuration, or none. \[default: by size]"),
]
RetryFailed = Annotated[bool, typer.Option("--retry-failed", help="Also run cells whose record is not ok.")]
FailFast = Annotated[bool, typer.Option("--fail-fast", help="Stop at the first cell that is not ok.")]
MaxCells = Annotated[int, typer.Option(min=1, help="Refuse a larger sweep.")]
Samples = Annotated[bool, typer.Option("--samples/--no-samples", help="Write samples.parquet.")]
Profiled = Annotated[bool, typer.Option("--profile", help="Write profile.json: where the time goes.")]
OneCell = Annotated[str | None, typer.Option("--cell", metavar="ID", help="Run one cell, finished or not.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on standard output.")]
