"""Speed, side by side with what people use today: `python -m benchmarks [SECTION ...] [--quick]`, or `make bench`."""

from __future__ import annotations

import argparse
import compileall
import os
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.commands import ROOT
from benchmarks.figures import DOCUMENT, FOLDER, Figure, page, renewed, save
from benchmarks.sections import batch_size, fits, gpu, gpu_sweep, growth, mlflow, startup, vae

SECTIONS = {
    "fits": fits,
    "vae": vae,
    "mlflow": mlflow,
    "startup": startup,
    "growth": growth,
    "batch_size": batch_size,
    "gpu": gpu,
    "gpu_sweep": gpu_sweep,
}


def main() -> None:
    """Run the sections asked for, print a table of each, and renew the pages that show what is kept."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("section", nargs="*", help=f"of {', '.join(SECTIONS)} [all]")
    parser.add_argument("--quick", action="store_true", help="small sizes: does it run, not how fast")
    parser.add_argument("--out", type=Path, default=FOLDER, help="where the figures are kept")
    options = parser.parse_args()
    unknown = set(options.section) - set(SECTIONS)
    if unknown:
        parser.error(f"no section {', '.join(sorted(unknown))}; there are {', '.join(SECTIONS)}")
    console = Console()
    options.out.mkdir(parents=True, exist_ok=True)
    _as_installed()
    for name in options.section or SECTIONS:
        section, started = SECTIONS[name], time.perf_counter()
        # A short path: Ray's sockets lie below the temporary folder.
        with tempfile.TemporaryDirectory(prefix="bench-", dir="/tmp", ignore_cleanup_errors=True) as folder:
            figures = section.run(Path(folder), options.quick)
        if not figures:
            console.print(f"{name}: nothing to measure here; what is kept stays\n")
            continue
        save(name, section.__doc__ or "", figures, options.quick, options.out)
        console.print(table(name, figures))
        console.print(f"{time.perf_counter() - started:.0f} s\n", style="dim")
    (options.out / "README.md").write_text(page(tuple(SECTIONS), options.out))
    if options.out == FOLDER:
        DOCUMENT.write_text(renewed(DOCUMENT.read_text()))
    console.print(f"Kept in {options.out}")


def _as_installed() -> None:
    """Compile the packages, as installing does: else every process of a command would, where it may not keep that."""
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    for package in ("runner", "experiments", "benchmarks"):
        compileall.compile_dir(ROOT / package, quiet=1)


def table(name: str, figures: list[Figure]) -> Table:
    """One section on the terminal."""
    shown = Table(title=name, title_justify="left", box=None, pad_edge=False)
    shown.add_column("")
    shown.add_column("measured", justify="right")
    shown.add_column("bar")
    for figure in figures:
        shown.add_row(figure.title, figure.text, figure.verdict, style="red" if figure.verdict.endswith("NO") else None)
    return shown


if __name__ == "__main__":
    main()
