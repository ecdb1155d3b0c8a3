"""The command line that the baselines share, and the line of JSON that each prints."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks import measure

Row = Mapping[str, object]


def main(
    about: str | None,
    run: Callable[[argparse.Namespace], Sequence[Row]],
    switches: Mapping[str, str] | None = None,
) -> None:
    """Run the fits that the command line asks for, and print what they cost: one line of JSON.

    ``wall`` and ``cpu`` are seconds of the whole program, imports and the end of its daemons included;
    ``startup`` is the part of ``wall`` before the first fit begins.

    Args:
        about: the help text.
        run: gives a row per fit, each with ``began``, in seconds since the epoch.
        switches: further options that are on or off, with their help.
    """
    options = parse(about, switches or {})
    if measure.MARK in os.environ:
        results = run(options)
        if options.out:
            write(results, options.out)
        first = min(float(str(row["began"])) for row in results)
        print(json.dumps({"fits": len(results), "startup": first - measure.process_started()}), flush=True)
        return
    # A program cannot see the daemons that it has let go of, so it is run again, watched from outside.
    usage = measure.run([sys.executable, *sys.orig_argv[1:]])
    if usage.exit_code:
        sys.exit(usage.errors)
    line = {
        "wall": usage.wall,
        "cpu": usage.cpu,
        **json.loads(usage.output.splitlines()[-1]),
        "driver_peak_mb": usage.driver_peak / 1e6,
        "largest_peak_mb": usage.largest_peak / 1e6,
    }
    print(json.dumps({name: round(value, 2) for name, value in line.items()}))


def parse(about: str | None, switches: Mapping[str, str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fits", type=positive, default=8, help="how many fits of the grid to run [8]")
    parser.add_argument("--kind", choices=("kl", "vae"), default="kl", help="what to fit [kl]")
    parser.add_argument("--workers", type=positive, default=os.cpu_count(), help="processes, where there are any")
    parser.add_argument("--out", type=Path, help="write the results to this parquet file")
    for name, about_it in switches.items():
        parser.add_argument(name, action="store_true", help=about_it)
    return parser.parse_args()


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def write(rows: Sequence[Row], path: Path) -> None:
    import pandas as pd

    pd.DataFrame(rows).to_parquet(path)
